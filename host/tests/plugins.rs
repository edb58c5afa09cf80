//! The plugin host through its production path: every built-in plugin loads, answers the
//! same on every thread, and hostile components end in typed faults and nothing else.
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on must stop"
)]

#[path = "hostile/mod.rs"]
mod hostile;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use assayd::domain::score::{Decision, DecisionParams};
use assayd::domain::trace::{Distribution, Trace};
use assayd::plugin::{
    Evidence, FaultClass, HashTarget, Origin, Outcome, PluginFault, PluginKind, PluginSet, RefusalKind,
    TargetFile, TargetManifest, Trusted, trust,
};
use hostile::case;

const PARAMS: DecisionParams = DecisionParams { alpha: 0.01, gamma: 0.05, delta: 0.2, n_max: 200 };

/// Logits that differ from row to row and token to token; `tilt` bends the candidate's.
fn trace(rows: u32, vocab: u32, tilt: f32) -> Arc<Trace> {
    let logit = |row: u32, token: u32| {
        let wave = ((row * 31 + token * 17) % 97) as f32 / 24.0;
        wave + tilt * ((token % 5) as f32 - 2.0)
    };
    let table: Vec<Vec<f32>> =
        (0..rows).map(|row| (0..vocab).map(|token| logit(row, token)).collect()).collect();
    let log_sum_exp: Vec<f64> =
        table.iter().map(|row| row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln()).collect();
    let tokens: Vec<u32> = (0..=rows).map(|i| i % vocab).collect();
    let token_logprobs = table
        .iter()
        .zip(&log_sum_exp)
        .zip(&tokens[1..])
        .map(|((row, lse), &token)| f64::from(row[token as usize]) - lse)
        .collect();
    let argmax = table.iter().map(|row| {
        (0..vocab).fold(0, |best, token| if row[token as usize] > row[best as usize] { token } else { best })
    });
    Arc::new(Trace {
        tokens,
        scored_from: 1,
        vocab,
        token_logprobs,
        entropy: vec![1.0; rows as usize],
        argmax: argmax.collect(),
        log_sum_exp,
        distribution: Distribution::Full { logits: table.concat() },
    })
}

fn evidence(tilt: f32) -> Evidence {
    Evidence { challenge: "c0".into(), reference: trace(16, 512, 0.0), candidate: trace(16, 512, tilt) }
}

/// The value that `kl` should give, computed here from the definition.
fn kl_by_definition(evidence: &Evidence) -> f64 {
    let probabilities = |trace: &Trace, row: usize| -> Vec<f64> {
        let Distribution::Full { logits } = &trace.distribution else { panic!("full traces only") };
        let width = trace.vocab as usize;
        logits[row * width..(row + 1) * width]
            .iter()
            .map(|&x| f64::from(x) - trace.log_sum_exp[row])
            .collect()
    };
    let rows = evidence.reference.rows();
    let total: f64 = (0..rows)
        .flat_map(|row| {
            let (p, q) = (probabilities(&evidence.reference, row), probabilities(&evidence.candidate, row));
            p.into_iter().zip(q).map(|(p, q)| p.exp() * (p - q)).collect::<Vec<_>>()
        })
        .sum();
    total / rows as f64
}

#[test]
fn every_builtin_plugin_loads_and_is_what_its_section_says() {
    let set = PluginSet::builtin().unwrap();
    let listed = set.list();
    let has = |kind, id: &str| listed.iter().any(|plugin| plugin.kind == kind && plugin.id == id);
    for (kind, id) in [
        (PluginKind::Scorer, "kl"),
        (PluginKind::Scorer, "delta-ce"),
        (PluginKind::Scorer, "symmetric-kl"),
        (PluginKind::Scorer, "js"),
        (PluginKind::Scorer, "tv"),
        (PluginKind::Scorer, "top1"),
        (PluginKind::Scorer, "exact-text"),
        (PluginKind::Decider, "grid5"),
        (PluginKind::Decider, "hedged"),
        (PluginKind::Decider, "prpl-eb"),
        (PluginKind::Decider, "stitched"),
        (PluginKind::Decider, "binomial"),
        (PluginKind::Decider, "fixed-eb"),
        (PluginKind::HashCheck, "allow-list"),
        (PluginKind::HashCheck, "root-pin"),
        (PluginKind::HashCheck, "sha256-manifest"),
        (PluginKind::HashCheck, "tensor-manifest"),
        (PluginKind::HashCheck, "tlsh-similarity"),
        (PluginKind::Report, "markdown"),
        (PluginKind::Report, "html"),
        (PluginKind::Report, "card"),
    ] {
        assert!(has(kind, id), "{id} is missing");
    }
    let wanted: Vec<_> = listed.iter().map(|plugin| (plugin.kind, plugin.id.as_str())).collect();
    set.prepare(&wanted).unwrap();
    for plugin in &listed {
        assert!(!plugin.summary.is_empty() && plugin.version == env!("CARGO_PKG_VERSION"), "{plugin:?}");
        assert_eq!(set.record(plugin.kind, &plugin.id).unwrap(), *plugin);
    }
    assert!(set.skipped().is_empty());
}

#[test]
fn a_set_is_ready_at_once() {
    let began = Instant::now();
    let set = PluginSet::builtin().unwrap();
    assert!(!set.list().is_empty());
    // Nothing is compiled for this; a second is what a daemon has in all.
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn kl_through_the_sandbox_is_the_definition_bit_for_bit_on_every_thread() {
    let set = PluginSet::builtin().unwrap();
    let scorer = set.scorer("kl").unwrap();
    let evidence = evidence(0.05);
    let (first, usage) = scorer.score_measured(&evidence, "").unwrap();
    let mean = first.notes.iter().find(|(name, _)| name == "mean_kl_nats").unwrap().1;
    assert!((mean - kl_by_definition(&evidence)).abs() < 1e-12, "{mean}");
    assert!(first.value > 0.0 && first.value < 1.0 && usage.fuel > 0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..12 {
                    let (again, same) = scorer.score_measured(&evidence, r#"{"clip_nats":0.1}"#).unwrap();
                    assert_eq!(again.value.to_bits(), first.value.to_bits());
                    assert_eq!(again.notes, first.notes);
                    // The parameters are parsed this time, which costs a little.
                    assert!(same.fuel.abs_diff(usage.fuel) < 50_000);
                }
            });
        }
    });
    let identical = Evidence { candidate: Arc::clone(&evidence.reference), ..evidence };
    assert_eq!(scorer.score(&identical, "").unwrap().value.to_bits(), 0);
}

/// Scorers answer to the definition of what they measure, and none is another in disguise.
#[test]
fn every_scorer_is_zero_on_itself_and_grows_with_the_difference() {
    let set = PluginSet::builtin().unwrap();
    let mut values = Vec::new();
    for plugin in set.list().iter().filter(|plugin| plugin.kind == PluginKind::Scorer) {
        let scorer = set.scorer(&plugin.id).unwrap();
        let value = |tilt| scorer.score(&evidence(tilt), "").unwrap().value;
        assert_eq!(value(0.0).to_bits(), 0, "{}", plugin.id);
        let (small, large) = (value(0.02), value(1.5));
        assert!(small <= large && large > 0.05, "{}: {small} and {large}", plugin.id);
        // A small difference moves every divergence; preferences may stay as they are.
        if !["top1", "exact-text"].contains(&plugin.id.as_str()) {
            values.push((plugin.id.clone(), value(0.05)));
        }
    }
    for (i, (one, a)) in values.iter().enumerate() {
        for (other, b) in values.iter().skip(i + 1) {
            assert!((a - b).abs() > 1e-9, "{one} and {other} give the same");
        }
    }
    let between = |id: &str, evidence: &Evidence| set.scorer(id).unwrap().score(evidence, "").unwrap().value;
    let turned = |evidence: Evidence| Evidence {
        reference: evidence.candidate,
        candidate: evidence.reference,
        ..evidence
    };
    for id in ["symmetric-kl", "js", "tv", "top1"] {
        let (one, other) = (between(id, &evidence(0.3)), between(id, &turned(evidence(0.3))));
        assert!((one - other).abs() < 1e-12, "{id}: {one} and {other}");
    }
}

#[test]
fn refusals_of_a_scorer_are_faults_that_say_why() {
    let set = PluginSet::builtin().unwrap();
    let scorer = set.scorer("kl").unwrap();
    let good = evidence(0.0);
    let refused = |evidence: &Evidence, params: &str, kind: RefusalKind| {
        let fault = scorer.score(evidence, params).unwrap_err();
        assert!(matches!(&fault.class, FaultClass::Refused { kind: got, .. } if *got == kind), "{fault}");
    };
    refused(&good, r#"{"clip":1}"#, RefusalKind::InvalidParams);
    refused(&good, "{", RefusalKind::InvalidParams);
    refused(&Evidence { candidate: trace(16, 256, 0.0), ..good.clone() }, "", RefusalKind::InvalidEvidence);
    refused(&Evidence { candidate: trace(8, 512, 0.0), ..good.clone() }, "", RefusalKind::InvalidEvidence);
    let bare = Arc::new(Trace { distribution: Distribution::Summary, ..(*good.reference).clone() });
    let both = Evidence { challenge: "c".into(), reference: Arc::clone(&bare), candidate: bare };
    refused(&both, "", RefusalKind::Unsupported);
    // A trace that is shorter than its rows is our mistake, not the plugin's.
    let Distribution::Full { mut logits } = good.candidate.distribution.clone() else {
        panic!("full traces only")
    };
    logits.truncate(700);
    let cut = Trace { distribution: Distribution::Full { logits }, ..(*good.candidate).clone() };
    let fault = scorer.score(&Evidence { candidate: Arc::new(cut), ..good }, "").unwrap_err();
    assert!(matches!(fault.class, FaultClass::HostCall(_)), "{fault}");
}

#[test]
fn a_decider_is_a_fold_whatever_the_grouping() {
    let set = PluginSet::builtin().unwrap();
    let decider = set.decider("grid5").unwrap();
    let start = decider.start(&PARAMS).unwrap();
    let zeros = vec![0.0; 100];
    let (state, steps) = decider.step(&start, &zeros).unwrap();
    let decided = steps.iter().find(|step| step.decision != Decision::Undecided).unwrap();
    assert_eq!((decided.decision, decided.n), (Decision::Same, 24));
    assert_eq!(steps.len(), 100);
    let (mut piecewise, mut all) = (start, Vec::new());
    for scores in zeros.chunks(7) {
        // A new set each time, as after a restart.
        let fresh = PluginSet::builtin().unwrap().decider("grid5").unwrap();
        let (next, steps) = fresh.step(&piecewise, scores).unwrap();
        piecewise = next;
        all.extend(steps);
    }
    assert_eq!((piecewise, all), (state, steps));
    for bad in [f64::NAN, -0.5, 1.5] {
        assert!(decider.step(&decider.start(&PARAMS).unwrap(), &[0.5, bad]).is_err(), "{bad}");
    }
    assert!(decider.step(b"nonsense", &[0.5]).is_err());
    assert!(decider.start(&DecisionParams { gamma: 0.5, ..PARAMS }).is_err());
}

#[test]
fn every_decider_tells_identical_from_opposite_in_every_mode() {
    let set = PluginSet::builtin().unwrap();
    for plugin in set.list().iter().filter(|plugin| plugin.kind == PluginKind::Decider) {
        let decider = set.decider(&plugin.id).unwrap();
        for mode in assayd::domain::modes::MODES {
            let start = decider.start(&mode.params).unwrap();
            for (score, verdict) in [(0.0, Decision::Same), (1.0, Decision::Different)] {
                let scores = vec![score; usize::try_from(mode.params.n_max).unwrap()];
                let (state, steps) = decider.step(&start, &scores).unwrap();
                assert_eq!(steps.last().unwrap().decision, verdict, "{} {mode:?}", plugin.id);
                let decided = steps.iter().position(|step| step.decision == verdict).unwrap();
                assert!(steps[..decided].iter().all(|step| step.decision == Decision::Undecided));
                assert!(state.len() <= 4096, "{} bytes of state", state.len());
            }
        }
    }
}

/// All that `hedged` can hold goes through the limits of a call.
#[test]
fn the_longest_run_of_the_hedged_decider_stays_within_its_limits() {
    let set = PluginSet::builtin().unwrap();
    let decider = set.decider("hedged").unwrap();
    let params = DecisionParams { n_max: 4096, ..PARAMS };
    let scores: Vec<f64> = (0..4096_u32).map(|i| f64::from(i * 7919 % 101) / 1000.0).collect();
    let (state, steps) = decider.step(&decider.start(&params).unwrap(), &scores).unwrap();
    assert_eq!(steps.len(), 4096);
    assert!(steps.iter().all(|step| step.lower < step.upper));
    let fault = decider.step(&state, &[0.5]).unwrap_err();
    assert!(matches!(fault.class, FaultClass::Refused { kind: RefusalKind::Unsupported, .. }), "{fault}");
}

#[test]
fn a_hash_check_judges_what_the_host_digests() {
    let set = PluginSet::builtin().unwrap();
    let check = set.hash_check("sha256-manifest").unwrap();
    let target = HashTarget {
        name: "m".into(),
        files: vec![TargetFile { name: "m.gguf".into(), path: "/nowhere/m.gguf".into(), bytes: 3 }],
        manifests: vec![TargetManifest { name: "m.gguf.sha256".into(), text: "11".repeat(32) }],
    };
    let run = |digest: u8| {
        let mut asked = Vec::new();
        let outcome = check.run(&target, "", &mut |request| {
            asked.push(request.clone());
            Ok(vec![digest; 32])
        });
        assert_eq!((asked.len(), asked[0].file, asked[0].algorithm.as_str()), (1, 0, "sha256"));
        outcome.unwrap()
    };
    assert_eq!(run(0x11).outcome, Outcome::Passed);
    let failed = run(0x12);
    assert_eq!(failed.outcome, Outcome::Failed);
    assert_eq!(failed.findings[0].finding.code, "digest-mismatch");
    assert_eq!(failed.findings[0].finding.part.as_deref(), Some("m.gguf"));
    let unreadable = check.run(&target, "", &mut |_| Err(assayd::domain::Problem::input("gone")));
    assert!(matches!(unreadable.unwrap_err().class, FaultClass::HostCall(why) if why == "gone"));
}

#[test]
fn reports_render_a_document_and_refuse_another_schema() {
    let set = PluginSet::builtin().unwrap();
    for id in ["markdown", "html", "card"] {
        let format = set.report(id).unwrap();
        let files = format.render(r#"{"schema":"assayd.report/1","final_decision":"SAME"}"#, "").unwrap();
        assert!(String::from_utf8(files[0].body.clone()).unwrap().contains("SAME"));
        for bad in ["", "{}", r#"{"schema":"assayd.report/2"}"#] {
            let fault = format.render(bad, "").unwrap_err();
            assert!(matches!(fault.class, FaultClass::Refused { .. }), "{fault}");
        }
    }
}

#[test]
fn unknown_ids_name_the_known_ones() {
    let set = PluginSet::builtin().unwrap();
    let problem = set.scorer("kll").unwrap_err();
    assert_eq!(problem.exit_code(), 2);
    assert!(problem.hint.unwrap().contains("kl"));
}

// Hostile components

/// Trusts these bytes in a folder.
fn pin(folder: &Path, bytes: &[u8]) {
    let sha256 = assayd::digest::sha256(bytes);
    let id = sha256.to_string().chars().take(8).collect();
    trust(folder, Trusted { id, kind: PluginKind::Scorer, sha256 }).unwrap();
}

/// A set with one more plugin called `hostile`.
fn set_with(bytes: &[u8]) -> (PluginSet, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hostile.wasm"), bytes).unwrap();
    pin(folder.path(), bytes);
    (PluginSet::with_folder(Some(folder.path())).unwrap(), folder)
}

fn step_fault(name: &str) -> PluginFault {
    let (set, _folder) = set_with(&case("decider", name));
    let decider = set.decider("hostile").unwrap();
    let state = decider.start(&PARAMS).unwrap();
    assert_eq!(state, b"hostile");
    let fault = decider.step(&state, &[0.5]).unwrap_err();
    // The host is unharmed and the next call starts afresh.
    assert_eq!(decider.start(&PARAMS).unwrap(), b"hostile");
    assert_eq!(decider.step(&state, &[0.5]).unwrap_err().class, fault.class);
    fault
}

#[test]
fn hostile_calls_end_in_the_fault_they_deserve() {
    type Expected = fn(&FaultClass) -> bool;
    let cases: [(&str, Expected); 10] = [
        ("infinite-loop", |class| matches!(class, FaultClass::OutOfFuel { .. })),
        (
            "memory-bomb",
            |class| matches!(class, FaultClass::MemoryDenied { wanted, limit } if wanted > limit),
        ),
        ("table-bomb", |class| matches!(class, FaultClass::MemoryDenied { .. })),
        ("deep-recursion", |class| matches!(class, FaultClass::Trap(why) if why.contains("stack"))),
        ("huge-list", |class| matches!(class, FaultClass::OutputTooLarge(_))),
        ("wild-list", |class| matches!(class, FaultClass::Trap(_))),
        ("many-looks", |class| matches!(class, FaultClass::BadOutput(_))),
        ("bad-discriminant", |class| matches!(class, FaultClass::Trap(_))),
        ("not-utf8", |class| matches!(class, FaultClass::Trap(_))),
        ("panic", |class| {
            matches!(class, FaultClass::Panic { message, file, line: 42 }
                if message == "the reason" && file == "src/lib.rs")
        }),
    ];
    for (name, expected) in cases {
        let fault = step_fault(name);
        assert!(expected(&fault.class), "{name}: {fault:?}");
        assert_eq!((fault.plugin.as_str(), fault.call), ("decider hostile", "step"));
    }
}

#[test]
fn a_flood_of_log_lines_is_cut_and_counted() {
    let fault = step_fault("log-flood");
    assert_eq!(fault.log.len(), 65);
    assert_eq!(fault.log[0], "info: hostile");
    assert_eq!(fault.log[64], "(936 more lines)");
}

#[test]
fn hostile_scores_are_not_scores() {
    for name in ["nan-score", "high-score"] {
        let (set, _folder) = set_with(&case("scorer", name));
        let fault = set.scorer("hostile").unwrap().score(&evidence(0.0), "").unwrap_err();
        assert!(matches!(fault.class, FaultClass::BadOutput(_)), "{name}: {fault:?}");
    }
    let (set, _folder) = set_with(&case("scorer", "foreign-handle"));
    let fault = set.scorer("hostile").unwrap().score(&evidence(0.0), "").unwrap_err();
    assert!(matches!(fault.class, FaultClass::Trap(_)), "{fault:?}");
}

#[test]
fn a_start_function_that_never_ends_is_a_load_error() {
    let (set, _folder) = set_with(&case("decider", "start-loop"));
    let problem = set.decider("hostile").unwrap_err();
    assert!(problem.message.contains("describe") && problem.message.contains("fuel"), "{problem}");
}

#[test]
fn files_that_are_no_plugins_are_skipped_with_a_reason_and_a_remedy() {
    for (name, text, why, remedy) in [
        ("core", "(module)", "a core module, not a component", "plugin pack"),
        ("nothing", "(component)", "it exports no plugin interface", "SDK"),
        (
            "wasi",
            r#"(component (import "wasi:cli/environment@0.2.6" (instance))
                (instance $e) (export "assay:plugin/decider@0.1.0" (instance $e)))"#,
            "it imports wasi:cli/environment@0.2.6, which no decider gets",
            "wasm32-unknown-unknown",
        ),
        (
            "evidence",
            r#"(component (import "assay:plugin/evidence@0.1.0" (instance))
                (instance $e) (export "assay:plugin/decider@0.1.0" (instance $e)))"#,
            "it imports assay:plugin/evidence@0.1.0, which no decider gets",
            "wit/README.md",
        ),
        (
            "version",
            r#"(component (instance $e) (export "assay:plugin/decider@0.2.0" (instance $e)))"#,
            "it exports assay:plugin/decider@0.2.0, and this assayd serves assay:plugin@0.1.0",
            "rebuild",
        ),
        (
            "two-kinds",
            r#"(component (instance $e) (export "assay:plugin/decider@0.1.0" (instance $e))
                (export "assay:plugin/report@0.1.0" (instance $e)))"#,
            "it exports several plugin interfaces",
            "one component per kind",
        ),
    ] {
        let (set, _folder) = set_with(&wat::parse_str(text).unwrap());
        let [skipped] = set.skipped() else { panic!("{name}: {:?}", set.skipped()) };
        assert!(skipped.why.starts_with(why), "{name}: {}", skipped.why);
        assert!(skipped.hint.as_ref().unwrap().contains(remedy), "{name}: {:?}", skipped.hint);
        assert!(skipped.sha256.is_some());
        assert!(set.list().iter().all(|plugin| plugin.id != "hostile"));
    }
    let (set, _folder) = set_with(b"");
    assert_eq!(set.skipped().len(), 1);
}

#[test]
fn the_right_name_with_the_wrong_shape_is_refused_when_it_is_used() {
    let bytes =
        wat::parse_str(r#"(component (instance $e) (export "assay:plugin/decider@0.1.0" (instance $e)))"#);
    let (set, _folder) = set_with(&bytes.unwrap());
    let problem = set.decider("hostile").unwrap_err();
    assert!(problem.message.contains("shape of the interface"), "{problem}");
    let listed = set.list();
    let record = listed.iter().find(|plugin| plugin.id == "hostile").unwrap();
    assert_eq!(record.version, "n/a");
    assert!(set.decider("grid5").is_ok(), "the others are not touched");
}

#[test]
fn a_folder_adds_and_replaces_and_must_exist() {
    let builtin = PluginSet::builtin().unwrap();
    let count = builtin.list().len();
    // The file's name does not matter where a section gives the id.
    let (set, _folder) = set_with(&case("decider", "panic"));
    assert_eq!(set.list().len(), count + 1);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("grid5.wasm"), case("decider", "panic")).unwrap();
    std::fs::write(folder.path().join("Bad Name.wasm"), case("decider", "panic")).unwrap();
    std::fs::write(folder.path().join("readme.txt"), "not looked at").unwrap();
    let set = PluginSet::with_folder(Some(folder.path())).unwrap();
    assert_eq!((set.list().len(), set.skipped().len()), (count, 2));
    let grid5 = |set: &PluginSet| set.record(PluginKind::Decider, "grid5").unwrap().origin;
    assert_eq!(grid5(&set), Origin::Builtin, "nobody trusted the file yet");
    let quarantined = set.skipped().iter().find(|file| file.path.ends_with("grid5.wasm")).unwrap();
    assert!(quarantined.why.contains("nobody trusted"), "{quarantined:?}");
    assert!(quarantined.hint.as_ref().unwrap().contains("assayd plugin trust"));
    pin(folder.path(), &case("decider", "panic"));
    let set = set.again(Some(folder.path())).unwrap();
    assert_eq!((set.list().len(), set.skipped().len()), (count, 1));
    assert!(matches!(grid5(&set), Origin::File(_)));
    let error = set.decider("grid5").unwrap_err();
    assert!(error.message.contains("\"hostile\""), "it calls itself something else: {error}");
    assert!(PluginSet::with_folder(Some(&folder.path().join("none"))).is_err());
    assert!(PluginSet::builtin().unwrap().decider("grid5").is_ok());
    // One changed byte is another file, and a lock that cannot be read trusts nothing.
    let mut changed = case("decider", "panic");
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(folder.path().join("grid5.wasm"), changed).unwrap();
    let set = set.again(Some(folder.path())).unwrap();
    assert_eq!(grid5(&set), Origin::Builtin);
    std::fs::write(folder.path().join("plugins.lock"), "[[plugin").unwrap();
    assert!(set.again(Some(folder.path())).is_err());
}

/// A released interface never changes: a new one is a new folder.
#[test]
fn released_interfaces_are_frozen() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/deps/plugin-0.1.0");
    let mut found: Vec<(String, String)> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let digest = assayd::digest::sha256(&std::fs::read(entry.path()).unwrap());
            (entry.file_name().into_string().unwrap(), digest.to_string())
        })
        .collect();
    found.sort();
    let frozen = include_str!("frozen-wit.txt");
    let listed: String = found.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect();
    assert_eq!(listed, frozen, "assay:plugin@0.1.0 is released; put changes into a new version's folder");
}
