//! The whole pipeline over scripted models in this process: same code, no workers.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};

use super::bundle::{BundleWriter, Outcome, Trust, verify};
use super::events::AssayEvent;
use super::pipeline::judge;
use super::report::{Measurement, Report, Role};
use super::request::{AssayContext, AssayRequest, KeyText};
use super::transcript_root;
use crate::digest::sha256_parts;
use crate::domain::inspection::{ArtifactKind, Digests, FileRecord, Inspection, Status, TensorDigest};
use crate::domain::modes::{CLIP_NATS, ModeName};
use crate::domain::score::{Decision, FinalDecision};
use crate::domain::{Problem, Sha256};
use crate::plugin::PluginSet;
use crate::worker::Ending;

mod again;
mod beside;
mod calibration;
mod in_process;

use in_process::{InProcess, script};

/// Compiled once for all tests.
static PLUGINS: LazyLock<Arc<PluginSet>> = LazyLock::new(|| Arc::new(PluginSet::builtin().unwrap()));

/// A folder with a reference and a candidate script, and everything an assay needs.
struct Bench {
    folder: tempfile::TempDir,
    runner: InProcess,
    request: AssayRequest,
    tokenizers: [Option<Sha256>; 2],
    tensors: Vec<TensorDigest>,
    context_length: Option<u64>,
    cancel: Arc<AtomicBool>,
    events: RefCell<Vec<AssayEvent>>,
}

impl Bench {
    /// `difference` is what the candidate's script says besides the reference's.
    fn new(difference: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, more: &str| {
            std::fs::write(folder.path().join(name), script(more)).unwrap();
        };
        write("reference.json", "");
        write("candidate.json", difference);
        let mut request = AssayRequest::new(
            folder.path().join("candidate.json"),
            Some(folder.path().join("reference.json")),
        );
        request.key = Some(KeyText("42".repeat(32)));
        let tokenizer = Some(sha256_parts(&[b"tokenizer"]));
        Self {
            folder,
            runner: InProcess::default(),
            request,
            tokenizers: [tokenizer; 2],
            tensors: Vec::new(),
            context_length: None,
            cancel: Arc::default(),
            events: RefCell::default(),
        }
    }

    fn inspection(&self, role: Role, path: &Path) -> Result<Inspection, Problem> {
        let bytes = std::fs::read(path).map_err(|error| Problem::io("read", path, &error))?;
        let digest = Some(sha256_parts(&[&bytes]));
        Ok(Inspection {
            path: path.to_owned(),
            kind: ArtifactKind::Gguf,
            status: if bytes.is_empty() { Status::Reject } else { Status::Accept },
            findings: Vec::new(),
            format_version: Some(3),
            architecture: None,
            parameters: None,
            quantization: None,
            context_length: self.context_length,
            tensors: None,
            files: vec![FileRecord { path: path.to_owned(), bytes: bytes.len() as u64, sha256: digest }],
            merkle_root: None,
            digests: Digests { tensor_digests: self.tensors.clone(), ..Digests::default() },
            config_hash: digest,
            tokenizer_hash: self.tokenizers[usize::from(role == Role::Candidate)],
        })
    }

    fn run(&self) -> Report {
        self.run_into(None)
    }

    fn run_into(&self, bundle: Option<&BundleWriter>) -> Report {
        let log = Rc::clone(&self.runner.log);
        let on_event = |event: AssayEvent| {
            if let AssayEvent::Committed { .. } = event {
                log.borrow_mut().push("commit".to_owned());
            }
            self.events.borrow_mut().push(event);
        };
        let context = AssayContext {
            plugins: Arc::clone(&PLUGINS),
            cache_dir: self.folder.path().join("cache"),
            bundle,
            cancel: Arc::clone(&self.cancel),
            on_event: &on_event,
        };
        judge(&self.request, &context, &self.runner, &|role, path| self.inspection(role, path))
    }

    fn log(&self) -> Vec<String> {
        self.runner.log.take()
    }
}

#[test]
fn a_copy_is_the_same_and_scores_exactly_zero() {
    let bench = Bench::new("");
    let report = bench.run();
    assert_eq!(report.final_decision, FinalDecision::Same, "{:?}", report.error);
    assert_eq!(report.enhanced_diff.n_effective, 24, "statistics.md section 4");
    assert!(report.records.iter().all(|r| r.score.map(f64::to_bits) == Some(0)), "self check");
    assert!(report.records.iter().all(|r| r.reference_trace == r.candidate_trace));
    assert_eq!((report.enhanced_diff.mean_diff, report.enhanced_diff.effect_size), (Some(0.0), None));
    assert!(report.enhanced_diff.p_same.unwrap() <= 0.01 && report.enhanced_diff.p_different == Some(1.0));
    let certified = report.enhanced_diff.smallest_delta_certified.unwrap();
    assert!((0.175..=0.2).contains(&certified), "{certified}: the bound at 24 is .1745");
    assert!(report.enhanced_diff.stopped_early && report.success && report.error.is_none());
    assert_eq!(report.challenges.as_ref().unwrap().key_revealed, Some("42".repeat(32)));
    assert_eq!(bench.log(), ["commit", "load reference", "load candidate"]);
}

#[test]
fn another_model_is_different() {
    let bench = Bench::new(r#", "gross_share": 1.0"#);
    let report = bench.run();
    assert_eq!(report.final_decision, FinalDecision::Different);
    assert!(report.enhanced_diff.n_effective <= 5, "{}", report.enhanced_diff.n_effective);
    // What the round brought beyond the stop is listed and not counted.
    let counted = report.records.iter().filter(|r| r.counted).count() as u64;
    assert_eq!(counted, report.enhanced_diff.n_effective);
    assert_eq!(report.records.len(), 8);
    assert!(report.enhanced_diff.mean_nats.unwrap() > CLIP_NATS);
}

/// The worst case for a sloppy rule: a share of the prompts above delta answered grossly
/// otherwise, the rest exactly alike.
#[test]
fn a_model_that_differs_on_a_share_of_prompts_is_not_the_same() {
    let report = Bench::new(r#", "gross_share": 0.4"#).run();
    assert_eq!(report.final_decision, FinalDecision::Different);
    assert!(report.records.iter().any(|r| r.score == Some(0.0)), "some prompts are answered alike");
}

#[test]
fn rounding_noise_is_the_same() {
    let report = Bench::new(r#", "noise": 0.01, "noise_seed": 9"#).run();
    assert_eq!(report.final_decision, FinalDecision::Same);
    assert!(report.enhanced_diff.mean_diff.unwrap() > 0.0);
}

#[test]
fn the_cache_spares_the_reference_and_survives_damage() {
    let bench = Bench::new("");
    let first = bench.run();
    assert_eq!(bench.log(), ["commit", "load reference", "load candidate"]);
    let second = bench.run();
    assert_eq!(bench.log(), ["commit", "load candidate"], "the reference is not run again");
    assert_eq!(first.records, second.records);
    assert_eq!(first.provenance, second.provenance);

    let sets: Vec<PathBuf> = std::fs::read_dir(bench.folder.path().join("cache/traces"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(sets.len(), 1);
    std::fs::write(sets[0].join("3"), b"rubbish").unwrap();
    let third = bench.run();
    assert_eq!(
        bench.log(),
        ["commit", "load reference", "load candidate"],
        "the damaged round is made again"
    );
    assert_eq!(first.records, third.records);

    // Another key commits to other challenges, and their traces are not in the cache.
    let mut other = bench;
    other.request.key = Some(KeyText("43".repeat(32)));
    assert_ne!(other.run().challenges.unwrap().commitment, first.challenges.unwrap().commitment);
    assert_eq!(other.log(), ["commit", "load reference", "load candidate"]);
}

#[test]
fn undecided_brings_the_reference_back_and_says_what_is_needed() {
    // 23 challenges cannot do what needs 24.
    let mut bench = Bench::new("");
    bench.request.n_max = Some(23);
    let report = bench.run();
    assert_eq!(report.final_decision, FinalDecision::Undecided);
    assert_eq!(report.enhanced_diff.decision, Some(Decision::Undecided));
    assert_eq!(report.enhanced_diff.needed_n, Some(24));
    assert!(report.enhanced_diff.smallest_delta_certified.unwrap() > 0.2);

    // Noise that puts the mean on a strict band, where neither claim is true. The first block
    // holds 64 challenges.
    let mut bench = Bench::new(r#", "noise": 0.54, "noise_seed": 3"#);
    (bench.request.n_max, bench.request.gamma, bench.request.delta) = (Some(100), Some(0.1155), Some(0.1155));
    let report = bench.run();
    let loads: Vec<String> = bench.log();
    assert_eq!(report.final_decision, FinalDecision::Undecided);
    assert_eq!(report.enhanced_diff.n_effective, 100);
    assert_eq!(
        loads[..5],
        ["commit", "load reference", "load candidate", "load reference", "load candidate"]
    );
    // What went through several blocks is the same as what a cache gives in one go.
    assert_eq!(bench.run().records, report.records);
}

#[test]
fn one_failed_challenge_reduces_n_and_many_end_the_assay() {
    let mut bench = Bench::new("");
    bench.runner.refuse_nth = Some(3);
    let report = bench.run();
    assert_eq!(report.final_decision, FinalDecision::Same);
    assert_eq!((report.enhanced_diff.n_effective, report.enhanced_diff.n_failed), (24, 1));
    let failed: Vec<_> = report.records.iter().filter(|r| r.failure.is_some()).collect();
    assert_eq!(failed.len(), 1);
    assert!(failed[0].score.is_none() && failed[0].n.is_none() && !failed[0].counted);
    assert!(report.errors.iter().any(|e| e.contains("challenge 3 failed: candidate: refused on purpose")));

    // The script refuses one challenge of every round: an eighth is above the limit.
    let report = Bench::new(r#", "faults": {"fail_items": [0]}"#).run();
    assert_eq!(report.final_decision, FinalDecision::Error);
    assert!(report.error.unwrap().contains("challenges failed"));
    assert_eq!(report.challenges.unwrap().key_revealed, None);
}

/// In a context so small that prompts are cut to the same beginning, no prompt counts twice.
#[test]
fn prompts_that_became_equal_are_not_independent_evidence() {
    let mut bench = Bench::new("");
    bench.context_length = Some(64 + 12);
    let report = bench.run();
    assert_eq!(report.final_decision, FinalDecision::Error);
    let scored: Vec<_> = report.records.iter().filter(|r| r.score.is_some()).map(|r| &r.tokens).collect();
    let distinct: std::collections::HashSet<_> = scored.iter().collect();
    assert!(!scored.is_empty() && distinct.len() == scored.len());
    assert!(report.errors.iter().any(|error| error.contains("repeats an earlier one")));
    bench.context_length = Some(64);
    assert!(bench.run().error.unwrap().contains("no room"));
}

#[test]
fn tokenizers_decide_before_any_model_runs() {
    let mut bench = Bench::new("");
    bench.tokenizers[1] = Some(sha256_parts(&[b"other"]));
    let report = bench.run();
    assert_eq!(report.final_decision, FinalDecision::Different);
    assert_eq!(report.security.tokenizer.compatible, Some(false));
    assert_eq!(report.enhanced_diff.decision, None);
    assert!(bench.log().is_empty());

    bench.tokenizers = [None, None];
    bench.request.n_max = Some(40);
    // A vocabulary of 64 does not hold every raw token, so these challenges fail.
    assert_eq!(bench.run().final_decision, FinalDecision::Error);
}

#[test]
fn what_cannot_be_judged_is_an_error_with_its_reason() {
    let error_of = |bench: &Bench| {
        let report = bench.run();
        assert_eq!(report.final_decision, FinalDecision::Error);
        assert!(!report.success && report.constants_digest == super::constants_digest());
        report.error.unwrap()
    };
    let bench = Bench::new("");
    std::fs::write(bench.folder.path().join("candidate.json"), b"").unwrap();
    assert!(error_of(&bench).contains("candidate.json was rejected"));
    std::fs::remove_file(bench.folder.path().join("candidate.json")).unwrap();
    assert!(error_of(&bench).contains("candidate.json"));
    std::fs::write(bench.folder.path().join("candidate.json"), b"{}").unwrap();
    assert!(error_of(&bench).contains("candidate's worker ended"));

    let mut bench = Bench::new("");
    bench.request.scorer = "no-such".to_owned();
    assert!(error_of(&bench).contains("no-such"));
    let mut bench = Bench::new("");
    (bench.request.n_max, bench.request.confidence, bench.request.delta) =
        (Some(32), Some(0.999), Some(0.05));
    assert!(error_of(&bench).contains("0.194"));
    let bench = Bench::new("");
    bench.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(error_of(&bench).contains("cancelled"));
    assert!(bench.log().is_empty());
}

#[test]
fn a_refused_plan_loads_nothing() {
    let mut bench = Bench::new("");
    bench.runner.refuse_plan = true;
    let report = bench.run();
    assert_eq!(report.final_decision, FinalDecision::Error);
    assert!(report.error.unwrap().contains("not loaded: too large"));
    assert_eq!(report.workers[0].ending, Ending::Refused);
    assert_eq!(bench.log(), ["commit"], "nothing is loaded");
    bench.runner.refuse_plan = false;
    assert_eq!(bench.run().final_decision, FinalDecision::Same);
}

#[test]
fn without_a_reference_nothing_is_claimed() {
    let mut bench = Bench::new("");
    bench.request.reference = None;
    let report = bench.run();
    assert_eq!(report.final_decision, FinalDecision::Undecided);
    assert!(report.model1.is_none() && report.enhanced_diff.decision.is_none());
    assert_eq!(bench.log(), ["load candidate"]);
    // Figures that stay the same from day to day, and change with the model.
    let measured = report.measurement.unwrap();
    assert_eq!(measured.prompts, 8);
    let perplexity = measured.perplexity.unwrap();
    assert!(perplexity > 1.0 && (measured.mean_nll.unwrap().exp() - perplexity).abs() < 1e-9);
    let again = bench.run().measurement.unwrap();
    let kept = |m: &Measurement| (m.positions, m.mean_nll.map(f64::to_bits), m.written_sha256);
    assert_eq!(kept(&measured), kept(&again));
    let mut other = Bench::new(r#", "gross_share": 1.0"#);
    other.request.reference = None;
    assert_ne!(kept(&measured), kept(&other.run().measurement.unwrap()));
    // Raw tokens are no text, and what cannot load is an error.
    bench.tokenizers[1] = None;
    let raw = bench.run();
    assert_eq!((raw.measurement.unwrap().perplexity, raw.success), (None, true));
    std::fs::write(bench.folder.path().join("candidate.json"), "{}").unwrap();
    let failed = bench.run();
    assert_eq!((failed.final_decision, failed.measurement), (FinalDecision::Error, None));
}

/// A shared key may be known to whoever made the candidate after it was drawn.
#[test]
fn a_shared_key_is_only_for_the_bytes_it_was_drawn_for() {
    let mut bench = Bench::new("");
    let root = bench.run().provenance.candidate_root.unwrap();
    let revealed = |report: Report| report.challenges.unwrap().key_revealed.unwrap();
    bench.request.candidate_root = Some(root);
    let kept = bench.run();
    assert!(kept.remarks.iter().any(|remark| remark.contains("share it")), "{:?}", kept.remarks);
    assert_eq!(revealed(kept), "42".repeat(32));
    bench.request.candidate_root = Some(sha256_parts(&[b"other bytes"]));
    let fresh = revealed(bench.run());
    assert_ne!(fresh, "42".repeat(32));
    assert_ne!(fresh, revealed(bench.run()), "fresh every time");
}

/// Editing anything that a verdict follows from changes the root.
#[test]
fn the_transcript_root_covers_every_record() {
    let report = Bench::new(r#", "noise": 0.2, "noise_seed": 3"#).run();
    let root = report.provenance.transcript_root.unwrap();
    assert_eq!(transcript_root(&report).unwrap(), root);
    let last = report.records.len() - 1;
    let edits: [&dyn Fn(&mut Report); 10] = [
        &|r| r.records[last].score = Some(0.0),
        &|r| r.records[0].tokens[0] += 1,
        &|r| r.records[1].challenge.index += 1,
        &|r| r.records[0].candidate_trace = None,
        &|r| r.records[0].log_e_same = Some(9.0),
        &|r| drop(r.records.pop()),
        &|r| r.records.swap(0, 1),
        &|r| r.enhanced_diff.delta = 0.3,
        &|r| r.plugins[0].sha256 = Sha256([9; 32]),
        &|r| r.provenance.candidate_root = None,
    ];
    for (i, edit) in edits.iter().enumerate() {
        let mut edited = report.clone();
        edit(&mut edited);
        assert_ne!(transcript_root(&edited).unwrap(), root, "edit {i}");
    }
}

/// Before the key is revealed no file holds a byte of it, in whatever form; afterwards one does.
#[test]
fn a_bundle_holds_the_key_only_after_the_last_model_ran() {
    let place = tempfile::tempdir().unwrap();
    let (hex, raw) = ("42".repeat(32), [0x42; 32]);
    let holds = |bytes: &[u8]| {
        bytes.windows(64).any(|window| window == hex.as_bytes())
            || bytes.windows(32).any(|window| window == raw)
    };
    // A challenge of every round is refused: the run breaks off while models are asked.
    for (difference, revealed) in [(r#", "faults": {"fail_items": [0]}"#, false), ("", true)] {
        let path = place.path().join(format!("{revealed}.bundle"));
        let writer = BundleWriter::create(&path, 1 << 30).unwrap();
        let report = Bench::new(difference).run_into(Some(&writer));
        assert!(!path.exists(), "nothing is there before all of it is");
        writer.finish(&report, &PLUGINS, None).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() > 100_000, "traces are inside");
        assert_eq!(holds(&bytes), revealed);
        let found = verify(&path, &Trust::default(), &PLUGINS, &mut |_| {});
        let expected = if revealed { Outcome::Verified } else { Outcome::CannotBeJudged };
        assert_eq!(found.outcome, expected, "{found:?}");
    }
}

/// What a run with failed challenges says is worked out again, down to why they failed.
#[test]
fn a_bundle_with_failed_challenges_is_verified() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("b");
    let mut bench = Bench::new(r#", "noise": 0.2, "noise_seed": 3"#);
    bench.runner.refuse_nth = Some(3);
    let writer = BundleWriter::create(&path, 1 << 30).unwrap();
    let report = bench.run_into(Some(&writer));
    assert_eq!(report.enhanced_diff.n_failed, 1);
    writer.finish(&report, &PLUGINS, None).unwrap();
    let found = verify(&path, &Trust::default(), &PLUGINS, &mut |_| {});
    assert_eq!((found.outcome, found.verdict), (Outcome::Verified, Some(report.final_decision)), "{found:?}");
    assert_eq!(found.n, Some(report.enhanced_diff.n_effective));
}

/// A bundle that would be larger than it may be is not written, nor half of it.
#[test]
fn a_bundle_over_its_limit_is_not_there() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("b");
    let writer = BundleWriter::create(&path, 50_000).unwrap();
    let report = Bench::new("").run_into(Some(&writer));
    assert_eq!(report.final_decision, FinalDecision::Same, "the assay goes on");
    let problem = writer.finish(&report, &PLUGINS, None).unwrap_err();
    assert!(problem.message.contains("50000"), "{problem}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

/// All keys of the contract are there, whatever happened.
#[test]
fn every_key_is_always_there() {
    let mut broken = Bench::new("");
    broken.request.scorer = "no-such".to_owned();
    for report in [Bench::new("").run(), broken.run()] {
        let json = serde_json::to_value(&report).unwrap();
        let has = |path: &str, keys: &str| {
            let at = if path.is_empty() { &json } else { &json[path] };
            for key in keys.split_whitespace() {
                assert!(at.get(key).is_some(), "{path}.{key}");
            }
        };
        has(
            "",
            "schema assayd_version model1 model2 mode final_decision success error started_at finished_at",
        );
        has(
            "",
            "seconds enhanced_diff security lineage provenance files challenges plugins constants_digest",
        );
        has("", "engine memory peak_memory_gb workers errors timings measurement relationship band probes");
        has(
            "enhanced_diff",
            "decision confidence effect_size ci_lower ci_upper mean_diff std_diff n_effective",
        );
        has("enhanced_diff", "n_max gamma delta clip_nats claim p_same p_different smallest_delta_certified");
        has("enhanced_diff", "scorer decider stopped_early needed_n rare_difference outliers p_values_from");
        has("security", "config_hash fuzzy_hash tokenizer");
        has("provenance", "reference_root candidate_root transcript_root");
        has("memory", "limit_bytes predicted_bytes peak_bytes enforcement");
        assert_eq!(json["schema"], "assayd.report/1");
        assert!(json["timings"].as_object().unwrap().keys().all(|key| key.ends_with("_seconds")));
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }
}

#[test]
fn modes_change_the_demand() {
    let mut bench = Bench::new("");
    for (mode, n) in [(ModeName::Quick, 16), (ModeName::Audit, 24)] {
        bench.request.mode = mode;
        let report = bench.run();
        assert_eq!((report.final_decision, report.enhanced_diff.n_effective), (FinalDecision::Same, n));
    }
}
