//! Everything that someone who knows the format could change about a bundle and seal anew.

use assayd::domain::trace::Distribution;

use super::*;

/// Someone who knows the format changes something and seals the file anew: only working the
/// verdict out again shows it.
#[test]
fn every_forgery_that_is_sealed_anew_is_caught() {
    type Edit = fn(&mut Parts);
    let place = Place::new();
    assay(&place, "finetuned.gguf", "a.bundle", &["--mode", "quick"]);
    let honest = Parts::read(&place.path("a.bundle"));
    let path = place.path("forged");
    honest.write(&path);
    assert_eq!(
        fs::read(&path).unwrap(),
        fs::read(place.path("a.bundle")).unwrap(),
        "the description is right"
    );
    let last = honest.report.records.len() as u64 + 1;
    assert_eq!(last, 9, "a round of eight");
    let edits: &[(&str, Edit, &str, Option<u64>)] = &[
        ("says SAME", |p| p.report.final_decision = FinalDecision::Same, "transcript", Some(9)),
        (
            "says SAME all over",
            |p| {
                p.report.final_decision = FinalDecision::Same;
                p.report.enhanced_diff.decision = Some(Decision::Same);
                p.report.because =
                    "the models answer the challenges alike, and their tokenizers are equal".into();
                p.report.grounds.as_mut().unwrap().statistics =
                    assayd::assay::decision::Statistics::Decided(Decision::Same);
            },
            "transcript",
            Some(9),
        ),
        (
            "says UNDECIDED",
            |p| p.report.enhanced_diff.decision = Some(Decision::Undecided),
            "transcript",
            Some(9),
        ),
        ("another claim", |p| p.report.enhanced_diff.claim.push('!'), "transcript", Some(9)),
        ("another interval", |p| p.report.enhanced_diff.ci_lower = Some(0.123), "transcript", Some(9)),
        ("another p-value", |p| p.report.enhanced_diff.p_different = Some(0.5), "transcript", Some(9)),
        ("another mean", |p| p.report.enhanced_diff.mean_nats = Some(0.001), "transcript", Some(9)),
        ("a score", |p| p.report.records[4].score = Some(0.25), "transcript", Some(5)),
        (
            "every score",
            |p| p.report.records.iter_mut().for_each(|r| r.score = Some(0.0)),
            "transcript",
            Some(1),
        ),
        (
            "a note",
            |p| {
                p.report.records[2].notes.insert("mean_kl_nats".into(), 0.0);
            },
            "transcript",
            Some(3),
        ),
        ("a look", |p| p.report.records[1].log_e_same = Some(9.0), "transcript", Some(2)),
        ("a bound", |p| p.report.records[1].upper = Some(0.01), "transcript", Some(2)),
        (
            "a prompt",
            |p| p.report.records[3].challenge = p.report.records[2].challenge.clone(),
            "transcript",
            Some(4),
        ),
        ("tokens", |p| p.report.records[0].tokens[0] += 1, "transcript", Some(1)),
        ("a summary", |p| p.report.records[0].candidate_summary = None, "transcript", Some(1)),
        // Without its traces it is seen by what follows, with them by the trace too many.
        (
            "a challenge left out",
            |p| {
                p.report.records.remove(3);
                p.evidence.drain(6..8);
            },
            "transcript",
            Some(8),
        ),
        (
            "a challenge left out, its traces forgotten",
            |p| drop(p.report.records.remove(7)),
            "transcript",
            Some(8),
        ),
        (
            "two challenges in another order",
            |p| {
                p.report.records.swap(2, 3);
                p.evidence.swap(4, 6);
                p.evidence.swap(5, 7);
            },
            "transcript",
            Some(3),
        ),
        (
            "an inconvenient challenge failed",
            |p| {
                let record = &mut p.report.records[0];
                (record.score, record.failure) = (None, Some("candidate: it did not answer".into()));
            },
            "transcript",
            Some(1),
        ),
        (
            "a failure without a reason",
            |p| {
                (p.report.records[7].candidate_trace, p.report.records[7].score) = (None, None);
            },
            "transcript",
            Some(8),
        ),
        (
            "the last challenges left out",
            |p| {
                p.report.records.truncate(1);
                p.evidence.truncate(2);
            },
            "transcript",
            None,
        ),
        (
            "no challenges at all",
            |p| {
                p.report.records.clear();
                p.evidence.clear();
            },
            "transcript",
            None,
        ),
        (
            "the key",
            |p| {
                p.report.challenges.as_mut().unwrap().key_revealed = Some("11".repeat(32));
            },
            "transcript",
            Some(0),
        ),
        ("no key", |p| p.report.challenges.as_mut().unwrap().key_revealed = None, "transcript", Some(9)),
        (
            "what is no key",
            |p| {
                p.report.challenges.as_mut().unwrap().key_revealed = Some("xyz".into());
            },
            "transcript",
            Some(9),
        ),
        (
            "the commitment",
            |p| {
                p.report.challenges.as_mut().unwrap().commitment = Sha256([1; 32]);
            },
            "transcript",
            Some(0),
        ),
        ("gamma", |p| p.report.enhanced_diff.gamma = 0.2, "transcript", None),
        ("confidence", |p| p.report.enhanced_diff.confidence = 0.5, "transcript", None),
        ("constants", |p| p.report.constants["round"] = 4.into(), "transcript", Some(0)),
        ("a file's digest", |p| p.report.files[0].sha256 = Some(Sha256([2; 32])), "transcript", Some(0)),
        ("the candidate's root", |p| p.report.provenance.candidate_root = None, "transcript", Some(0)),
        (
            "the tokenizers",
            |p| {
                p.report.inspections.candidate.as_mut().unwrap().tokenizer_hash = Some(Sha256([3; 32]));
            },
            "transcript",
            Some(9),
        ),
        (
            "the grounds",
            |p| {
                p.report.grounds.as_mut().unwrap().tokenizer = assayd::assay::decision::Agreement::Unknown;
            },
            "transcript",
            Some(9),
        ),
        (
            "a candidate that answers like the reference",
            |p| {
                let reference = p.report.records[0].reference_trace;
                p.report.records[0].candidate_trace = reference;
                p.evidence.remove(1);
            },
            "transcript",
            Some(1),
        ),
        ("logits of the candidate", |p| p.change_trace(1, other_logit), "transcript", Some(1)),
        (
            "tokens of the candidate's trace",
            |p| p.change_trace(1, |trace| trace.tokens[0] += 1),
            "evidence",
            Some(1),
        ),
        ("a trace under another's name", |p| p.evidence[2][40] ^= 1, "evidence", Some(2)),
        ("a trace too many", |p| p.evidence.push(b"more".to_vec()), "evidence", Some(16)),
        ("a trace missing", |p| drop(p.evidence.pop()), "transcript", Some(8)),
        ("traces in another order", |p| p.evidence.swap(0, 1), "evidence", Some(0)),
        (
            "another plugin",
            |p| {
                let at = p.plugins.iter().position(|bytes| named(bytes) == "kl").unwrap();
                p.plugins[at] = BUILTIN.bytes(PluginKind::Scorer, "tv").unwrap().to_vec();
            },
            "plugin",
            None,
        ),
        (
            "another plugin, named by its digest",
            |p| {
                let at = p.plugins.iter().position(|bytes| named(bytes) == "kl").unwrap();
                p.plugins[at] = BUILTIN.bytes(PluginKind::Scorer, "tv").unwrap().to_vec();
                let entry = p.report.plugins.iter_mut().find(|plugin| plugin.id == "kl").unwrap();
                entry.sha256 = sha256(&p.plugins[at]);
            },
            "plugin",
            None,
        ),
        ("a plugin missing", |p| drop(p.plugins.remove(0)), "transcript", Some(0)),
        (
            "a plugin that is in no report",
            |p| {
                p.plugins.push(BUILTIN.bytes(PluginKind::Scorer, "js").unwrap().to_vec());
            },
            "plugin",
            Some(3),
        ),
    ];
    for (name, edit, section, record) in edits {
        let mut forged = honest.clone();
        edit(&mut forged);
        forged.write(&path);
        let found = check(&path, &Trust::default());
        let Some(place) = &found.mismatch else { panic!("{name}: {found:?}") };
        assert_eq!(found.outcome, Outcome::Mismatch, "{name}");
        assert_eq!(place.section.unwrap().as_str(), *section, "{name}: {place:?}");
        assert!(record.is_none_or(|record| record == place.record), "{name}: {place:?}");
        assert!(found.verdict.is_none(), "{name}: no verdict is told");
        // The place is in the record that it names.
        let bytes = fs::read(&path).unwrap();
        let of: Vec<_> =
            records(&bytes).into_iter().filter(|r| Some(r.0) == place.section.map(|s| s.byte())).collect();
        let (_, start, end) = of[usize::try_from(place.record).unwrap()];
        assert!(start as u64 <= place.offset && place.end <= end as u64, "{name}: {place:?}");
    }
}

/// A measured band follows from its challenges as the verdict does from the others, and so do the
/// answers to the user's own prompts.
#[test]
fn every_forgery_of_a_band_or_of_a_probe_is_caught() {
    type Edit = fn(&mut Parts);
    let place = Place::new();
    fs::write(place.path("own.txt"), "A prompt of my own\nAnother one\nAnother one\n").unwrap();
    let more = ["--mode", "quick", "--band", "auto", "--probe", "own.txt", "--decider", "prpl-eb"];
    let (code, _) = assay(&place, "reference-q8_0.gguf", "a.bundle", &more);
    assert_eq!(code, 0);
    let honest = Parts::read(&place.path("a.bundle"));
    assert_eq!(honest.report.calibration.len(), 72);
    assert_eq!(honest.report.enhanced_diff.clip_nats, 0.1, "an honest Q8_0 needs no wider clip");
    assert_eq!(honest.report.probes.as_ref().unwrap().failed, 1, "one is there twice");
    let path = place.path("forged");
    honest.write(&path);
    assert_eq!(check(&path, &Trust::default()).outcome, Outcome::Verified);
    let edits: &[(&str, Edit, &str)] = &[
        ("a wider band", |p| p.report.band.as_mut().unwrap().width = 0.3, "transcript"),
        (
            "another band",
            |p| {
                let band = p.report.band.as_mut().unwrap();
                (band.gamma, band.delta) = (0.5, 0.7);
                (p.report.enhanced_diff.gamma, p.report.enhanced_diff.delta) = (0.5, 0.7);
            },
            "transcript",
        ),
        ("another mean", |p| p.report.band.as_mut().unwrap().mean = 0.0, "transcript"),
        (
            "another clip",
            |p| {
                p.report.band.as_mut().unwrap().clip_nats = 10.0;
                p.report.enhanced_diff.clip_nats = 10.0;
                p.report.enhanced_diff.scorer_params = "{\"clip_nats\":10.0}".into();
            },
            "transcript",
        ),
        ("a longer pilot", |p| p.report.band.as_mut().unwrap().pilot = 16, "transcript"),
        ("a calibration score", |p| p.report.calibration[20].score = Some(0.9), "transcript"),
        (
            "a calibration challenge left out",
            |p| {
                p.report.calibration.remove(71);
                p.evidence.drain(142..144);
            },
            "transcript",
        ),
        (
            "a calibration challenge asked twice",
            |p| {
                p.report.calibration[9].challenge = p.report.calibration[8].challenge.clone();
            },
            "transcript",
        ),
        ("an honest quantisation that answered otherwise", |p| p.change_trace(41, other_logit), "transcript"),
        ("no calibration", |p| p.report.calibration.clear(), "transcript"),
        (
            "no band",
            |p| {
                p.report.band = None;
                p.report.calibration.clear();
                p.evidence.drain(..144);
            },
            "transcript",
        ),
        ("a probe's score", |p| p.report.probes.as_mut().unwrap().results[0].score = Some(0.0), "transcript"),
        ("a probe's text", |p| p.report.probes.as_mut().unwrap().results[1].prompt.push('!'), "transcript"),
        ("a probe left out", |p| drop(p.report.probes.as_mut().unwrap().results.remove(0)), "evidence"),
    ];
    for (name, edit, section) in edits {
        let mut forged = honest.clone();
        edit(&mut forged);
        forged.write(&path);
        let found = check(&path, &Trust::default());
        let Some(place) = &found.mismatch else { panic!("{name}: {found:?}") };
        assert_eq!((found.outcome, place.section.unwrap().as_str()), (Outcome::Mismatch, *section), "{name}");
        assert!(found.verdict.is_none(), "{name}: no verdict is told");
    }
    // Failures are taken as stated, so only so many may be.
    let mut forged = honest.clone();
    for at in (30..72).rev() {
        let record = &mut forged.report.calibration[at];
        (record.candidate_trace, record.candidate_summary, record.score) = (None, None, None);
        record.failure = Some("candidate: it did not answer".into());
        forged.evidence.remove(2 * at + 1);
    }
    forged.write(&path);
    let what = check(&path, &Trust::default()).mismatch.unwrap().what;
    assert!(what.contains("42 of 64 calibration challenges failed"), "{what}");
}

/// Scores that are all 1 weigh the same whatever delta is; these are small ones.
#[test]
fn another_demand_is_another_transcript() {
    let place = Place::new();
    assay(&place, "reference-q8_0.gguf", "a.bundle", &["--mode", "quick"]);
    let honest = Parts::read(&place.path("a.bundle"));
    let demand: &[fn(&mut Report)] = &[
        |report| report.enhanced_diff.delta = 0.9,
        |report| report.enhanced_diff.gamma = 0.01,
        |report| report.enhanced_diff.confidence = 0.9,
        |report| report.enhanced_diff.n_max = 4,
        |report| report.enhanced_diff.scorer = "tv".into(),
        // Nearly everything is alike on a scale that is wide enough.
        |report| report.enhanced_diff.scorer_params = "{\"clip_nats\": 50.0}".into(),
        |report| report.enhanced_diff.clip_nats = 0.01,
        |report| report.enhanced_diff.decider = "hedged".into(),
    ];
    for (i, demand) in demand.iter().enumerate() {
        let mut forged = honest.clone();
        demand(&mut forged.report);
        forged.write(&place.path("forged"));
        let found = check(&place.path("forged"), &Trust::default());
        assert_ne!(found.outcome, Outcome::Verified, "demand {i}: {found:?}");
        assert!(found.verdict.is_none(), "demand {i}");
    }
}

/// The model answered a little otherwise.
fn other_logit(trace: &mut Trace) {
    let Distribution::Full { logits } = &mut trace.distribution else { panic!() };
    logits[0] += 1.0;
}

/// Id of a component, from the custom section that the SDK writes.
fn named(bytes: &[u8]) -> String {
    assayd::plugin::inspect(bytes).unwrap().info.unwrap().id
}

/// Report and transcript that tell different things, each sealed as it is.
#[test]
fn a_report_that_says_otherwise_than_the_transcript_is_caught() {
    let place = Place::new();
    assay(&place, "finetuned.gguf", "a.bundle", &["--mode", "quick"]);
    let bytes = fs::read(place.path("a.bundle")).unwrap();
    let bodies: Vec<(u8, Vec<u8>)> = records(&bytes)
        .into_iter()
        .filter(|record| record.0 != 5)
        .map(|(section, start, end)| (section, bytes[start + 5..end - 32].to_vec()))
        .collect();
    let path = place.path("forged");
    let forge = |change: &dyn Fn(&mut Report)| {
        let mut bodies = bodies.clone();
        let report = &mut bodies.last_mut().unwrap().1;
        let mut parsed: Report = serde_json::from_slice(report).unwrap();
        change(&mut parsed);
        *report = serde_json::to_vec(&parsed).unwrap();
        write_records(&path, &bodies, b"");
        check(&path, &Trust::default()).mismatch.unwrap()
    };
    let place = forge(&|report| report.final_decision = FinalDecision::Same);
    assert_eq!(
        (place.section.unwrap().as_str(), place.record, place.end),
        ("transcript", 9, place.offset + 1)
    );
    // The very byte: the transcript has DIFFERENT there.
    let at = usize::try_from(place.offset).unwrap();
    assert!(fs::read(&path).unwrap()[at..].starts_with(b"DIFFERENT"), "{place:?}");
    let place = forge(&|report| report.provenance.transcript_root = Some(Sha256([0; 32])));
    assert_eq!(place.section.unwrap().as_str(), "report");
    let at = usize::try_from(place.offset).unwrap();
    assert!(fs::read(&path).unwrap()[at..].starts_with(b"\"000000"), "{place:?}");

    for (last, section) in [(&b"{"[..], "report"), (b"", "report")] {
        let mut bodies = bodies.clone();
        last.clone_into(&mut bodies.last_mut().unwrap().1);
        write_records(&path, &bodies, b"");
        let place = check(&path, &Trust::default()).mismatch.unwrap();
        assert_eq!(place.section.unwrap().as_str(), section, "{place:?}");
    }
    write_records(&path, &bodies[..bodies.len() - 1], b"");
    assert!(check(&path, &Trust::default()).mismatch.unwrap().what.contains("0 reports"));
}

/// A plugin that nobody knows makes no pass, whatever it says; and a hostile one ends in a fault.
#[test]
fn an_unknown_plugin_is_run_and_never_trusted() {
    let place = Place::new();
    assay(&place, "finetuned.gguf", "a.bundle", &["--mode", "quick"]);
    let honest = Parts::read(&place.path("a.bundle"));
    let path = place.path("b");
    let replace = |kind: &str, id: &str, bytes: Vec<u8>| {
        let mut parts = honest.clone();
        let entry =
            parts.report.plugins.iter_mut().find(|plugin| plugin.kind == kind && plugin.id == id).unwrap();
        let at = parts.plugins.iter().position(|bytes| sha256(bytes) == entry.sha256).unwrap();
        entry.sha256 = sha256(&bytes);
        parts.plugins[at] = bytes;
        parts.write(&path);
        entry_digest(&parts, id)
    };
    // The same code with a custom section behind it: other bytes, the same answers.
    let mut other = BUILTIN.bytes(PluginKind::Scorer, "kl").unwrap().to_vec();
    other.extend(b"\x00\x05\x04note");
    let digest = replace("scorer", "kl", other);
    let found = check(&path, &Trust::default());
    assert_eq!(found.outcome, Outcome::CannotBeJudged, "{found:?}");
    assert!(found.reason.unwrap().contains("scorer kl"), "it says which");
    assert_eq!(found.plugins.iter().filter(|plugin| plugin.standing == Standing::Unknown).count(), 1);
    let named = Trust { plugins: vec![digest], ..Trust::default() };
    assert_eq!(check(&path, &named).outcome, Outcome::Verified);
    // The lock of a plugin folder.
    let folder = place.path("plugins");
    fs::create_dir(&folder).unwrap();
    let locked = Trust { plugin_folder: Some(folder.clone()), ..Trust::default() };
    assert_eq!(check(&path, &locked).outcome, Outcome::CannotBeJudged);
    let entry = assayd::plugin::Trusted { id: "kl".into(), kind: PluginKind::Scorer, sha256: digest };
    assayd::plugin::trust(&folder, entry).unwrap();
    let found = check(&path, &locked);
    assert_eq!(found.outcome, Outcome::Verified);
    assert!(found.plugins.iter().any(|plugin| plugin.standing == Standing::Lock));
    let (code, _) = place.json(&["bundle", "verify", "b", "--json", "--trust-plugin", &digest.to_string()]);
    assert_eq!(code, 0);

    // A decider that never comes back, consistently named: its fuel runs out, and that is no verdict.
    let endless = hostile::case("decider", "infinite-loop");
    let mut parts = honest.clone();
    let entry = parts.report.plugins.iter_mut().find(|plugin| plugin.id == "grid5").unwrap();
    let at = parts.plugins.iter().position(|bytes| sha256(bytes) == entry.sha256).unwrap();
    (entry.id, entry.version, entry.sha256) = ("hostile".into(), "1.0.0".into(), sha256(&endless));
    parts.report.enhanced_diff.decider = "hostile".into();
    parts.plugins[at] = endless;
    parts.write(&path);
    let found = check(&path, &Trust::default());
    assert_eq!(found.outcome, Outcome::CannotBeJudged);
    assert!(found.reason.as_ref().unwrap().contains("ran out of fuel"), "{found:?}");

    // Bytes that are no component, and a component of another kind.
    for bytes in [b"\0asm rubbish".to_vec(), BUILTIN.bytes(PluginKind::Report, "markdown").unwrap().to_vec()]
    {
        replace("scorer", "kl", bytes);
        assert_ne!(check(&path, &named).outcome, Outcome::Verified);
    }
}

fn entry_digest(parts: &Parts, id: &str) -> Sha256 {
    parts.report.plugins.iter().find(|plugin| plugin.id == id).unwrap().sha256
}
