//! `assayd verify --bundle`, `bundle verify`, `bundle show` and `keys` through the real binary
//! on the example models; then everything that someone could change about a bundle.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on must stop"
)]

#[path = "hostile/mod.rs"]
mod hostile;
#[expect(dead_code, reason = "each test file uses a part of it")]
mod place;

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Output;
use std::sync::LazyLock;

use assayd::assay::bundle::{Outcome, SignedBy, Standing, Trust, Verification, verify};
use assayd::assay::report::Report;
use assayd::assay::{transcript, transcript_root};
use assayd::digest::{merkle_root, sha256, sha256_parts};
use assayd::domain::Sha256;
use assayd::domain::score::{Decision, FinalDecision};
use assayd::domain::trace::Trace;
use assayd::plugin::{PluginKind, PluginSet};
use place::{KEY, Place, command, example};
use serde_json::Value;

static BUILTIN: LazyLock<PluginSet> = LazyLock::new(|| PluginSet::builtin().unwrap());

/// Judges an example with a bundle.
fn assay(place: &Place, candidate: &str, bundle: &str, more: &[&str]) -> (i32, Value) {
    let more = [&["--key", KEY, "--bundle", bundle], more].concat();
    place.verify(&example(candidate), &example("reference.gguf"), &more)
}

fn check(path: &Path, trust: &Trust) -> Verification {
    verify(path, trust, &BUILTIN, &mut |_| {})
}

/// The format by its description in `docs/bundle.md`, apart from the code that is tested.
#[derive(Clone)]
struct Parts {
    evidence: Vec<Vec<u8>>,
    plugins: Vec<Vec<u8>>,
    report: Report,
    signature: Vec<u8>,
}

/// Section, first byte and end of every record.
fn records(bytes: &[u8]) -> Vec<(u8, usize, usize)> {
    let (mut at, mut found) = (16, Vec::new());
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at + 1..at + 5].try_into().unwrap()) as usize;
        let end = at + 5 + length + 32;
        assert_eq!(sha256(&bytes[at..end - 32]).0, bytes[end - 32..end]);
        found.push((bytes[at], at, end));
        at = end;
    }
    found
}

impl Parts {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        assert_eq!(&bytes[..16], b"assayd-bundle/1\n");
        let records = records(&bytes);
        let of = |section: u8| -> Vec<Vec<u8>> {
            let wanted = records.iter().filter(|record| record.0 == section);
            wanted.map(|(_, start, end)| bytes[start + 5..end - 32].to_vec()).collect()
        };
        let report: Report = serde_json::from_slice(&of(4)[0]).unwrap();
        assert_eq!(of(3), transcript::leaves(&report).unwrap());
        Self { evidence: of(1), plugins: of(2), report, signature: of(5)[0][32..].to_vec() }
    }

    /// Everything sealed anew, as someone would who knows the format.
    fn write(&self, path: &Path) {
        let mut report = self.report.clone();
        report.provenance.transcript_root = Some(transcript_root(&report).unwrap());
        let mut bodies: Vec<(u8, Vec<u8>)> = Vec::new();
        bodies.extend(self.evidence.iter().map(|body| (1, body.clone())));
        bodies.extend(self.plugins.iter().map(|body| (2, body.clone())));
        bodies.extend(transcript::leaves(&report).unwrap().into_iter().map(|body| (3, body)));
        bodies.push((4, serde_json::to_vec(&report).unwrap()));
        write_records(path, &bodies, &self.signature);
    }

    /// Decodes a trace, changes it, and names it anew wherever it is named.
    fn change_trace(&mut self, at: usize, change: impl Fn(&mut Trace)) {
        let name = |bytes: &[u8]| sha256_parts(&[b"assayd/trace/v1\0", bytes]);
        let before = name(&self.evidence[at]);
        let mut trace: Trace = postcard::from_bytes(&self.evidence[at]).unwrap();
        change(&mut trace);
        self.evidence[at] = postcard::to_stdvec(&trace).unwrap();
        let after = name(&self.evidence[at]);
        for record in self.report.calibration.iter_mut().chain(&mut self.report.records) {
            for digest in [&mut record.reference_trace, &mut record.candidate_trace] {
                *digest = digest.map(|digest| if digest == before { after } else { digest });
            }
        }
    }
}

fn write_records(path: &Path, bodies: &[(u8, Vec<u8>)], signature: &[u8]) {
    let mut bytes = b"assayd-bundle/1\n".to_vec();
    let mut digests = Vec::new();
    let mut put = |section: u8, body: &[u8]| {
        let start = bytes.len();
        bytes.push(section);
        bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend(body);
        let digest = sha256(&bytes[start..]);
        bytes.extend(digest.0);
        digest
    };
    for (section, body) in bodies {
        digests.push(put(*section, body).0);
    }
    put(5, &[&merkle_root(&digests).0[..], signature].concat());
    fs::write(path, bytes).unwrap();
}

#[test]
fn every_verdict_is_recomputed_and_is_the_same() {
    let place = Place::new();
    for (candidate, more, verdict, code, checked) in [
        ("copy.gguf", &[][..], "SAME", 0, 0),
        ("reference-q8_0.gguf", &["--mode", "quick"], "SAME", 0, 0),
        ("finetuned.gguf", &[], "DIFFERENT", 1, 0),
        ("finetuned.gguf", &["--scorer", "exact-text", "--decider", "binomial"], "DIFFERENT", 1, 0),
        ("reference-f16.gguf", &["--scorer", "js", "--decider", "prpl-eb"], "SAME", 0, 0),
        ("copy.gguf", &["--n-max", "22"], "UNDECIDED", 3, 0),
        // There is no verdict on a broken file that could be recomputed.
        ("truncated.gguf", &[], "ERROR", 4, 4),
    ] {
        let (exit, report) = assay(&place, candidate, "a.bundle", more);
        assert_eq!(
            (report["final_decision"].as_str().unwrap(), exit),
            (verdict, code),
            "{candidate} {more:?}"
        );
        let (exit, found) = place.json(&["bundle", "verify", "a.bundle", "--json"]);
        assert_eq!(exit, checked, "{candidate} {more:?}: {found:#}");
        assert_eq!(found["transcript_root"], report["provenance"]["transcript_root"]);
        assert_eq!(found["signature"]["by"], "nobody");
        if checked == 0 {
            assert_eq!(found["outcome"], "verified");
            assert_eq!(found["verdict"], verdict, "{candidate} {more:?}");
            assert_eq!(found["n"], report["enhanced_diff"]["n_effective"], "the stopping time");
            assert_eq!(found["claim"], report["enhanced_diff"]["claim"]);
            let plugins = found["plugins"].as_array().unwrap();
            assert!(plugins.len() >= 2 && plugins.iter().all(|plugin| plugin["standing"] == "first-party"));
        } else {
            assert!(found["reason"].as_str().unwrap().contains("truncated.gguf"), "{found:#}");
        }
        // What is inside is what was printed, and can be shown.
        let inside: Value =
            serde_json::from_slice(&place.run(&["bundle", "show", "a.bundle", "--report"]).stdout).unwrap();
        assert_eq!(inside, report);
        let screen = String::from_utf8(place.run(&["bundle", "show", "a.bundle"]).stdout).unwrap();
        assert!(
            screen.contains(verdict) && screen.contains("evidence") && screen.contains("not signed"),
            "{screen}"
        );
    }
    // A copy's traces are the reference's and are stored once.
    assay(&place, "copy.gguf", "copy.bundle", &["--mode", "quick"]);
    assay(&place, "reference-f16.gguf", "f16.bundle", &["--mode", "quick"]);
    let size = |name: &str| place.path(name).metadata().unwrap().len();
    assert!(
        size("copy.bundle") * 3 < size("f16.bundle") * 2,
        "{} {}",
        size("copy.bundle"),
        size("f16.bundle")
    );
}

/// Where no model, no cache and no key is: another folder, only the file.
#[test]
fn a_bundle_needs_nothing_but_itself() {
    let (place, elsewhere) = (Place::new(), Place::new());
    assay(&place, "finetuned.gguf", "a.bundle", &[]);
    fs::copy(place.path("a.bundle"), elsewhere.path("b")).unwrap();
    let output = elsewhere.run(&["bundle", "verify", "b"]);
    let screen = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{screen}");
    for part in ["VERIFIED: b: DIFFERENT", "first-party", "nobody signed it", "container", "scored again"] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    assert_eq!(fs::read_dir(elsewhere.0.path()).unwrap().count(), 1, "nothing was written");
}

/// Every k-th byte, and every byte of the first and the last record of each section.
#[test]
fn every_flipped_byte_is_caught_in_its_place() {
    let place = Place::new();
    place.run(&["keys", "new"]);
    assay(&place, "finetuned.gguf", "a.bundle", &["--mode", "quick"]);
    let path = place.path("a.bundle");
    assert_eq!(check(&path, &Trust::default()).outcome, Outcome::Verified);
    let whole = fs::read(&path).unwrap();
    let records = records(&whole);
    let mut places: Vec<usize> = (0..whole.len()).step_by(whole.len() / 300).collect();
    for section in 1..=5 {
        let of: Vec<_> = records.iter().filter(|record| record.0 == section).collect();
        assert!(!of.is_empty(), "section {section}");
        for (_, start, end) in [of[0], of[of.len() - 1]] {
            // Section, length, the body's ends and middle, the digest.
            places.extend(*start..start + 7);
            places.extend([(start + end) / 2, end - 33, end - 32, end - 1]);
        }
    }
    places.extend(0..16);
    let file = fs::File::options().write(true).open(&path).unwrap();
    for at in places {
        file.write_all_at(&[whole[at] ^ 0x10], at as u64).unwrap();
        let found = check(&path, &Trust::default());
        file.write_all_at(&[whole[at]], at as u64).unwrap();
        if at < 16 {
            assert_eq!(found.outcome, Outcome::CannotBeJudged);
            assert!(found.reason.unwrap().contains(&format!("byte {at} ")));
            continue;
        }
        assert_eq!(found.outcome, Outcome::Mismatch, "byte {at}");
        let named = found.mismatch.unwrap();
        assert!((named.offset..named.end).contains(&(at as u64)), "byte {at}: {named:?}");
        // It names the record that the byte is in.
        let (index, record) = records.iter().enumerate().find(|(_, r)| (r.1..r.2).contains(&at)).unwrap();
        let number = records[..index].iter().filter(|other| other.0 == record.0).count() as u64;
        if at != record.1 {
            assert_eq!(
                (named.section.unwrap().byte(), named.record),
                (record.0, number),
                "byte {at}: {named:?}"
            );
        }
    }
    assert_eq!(check(&path, &Trust::default()).outcome, Outcome::Verified, "restored");
    for cut in [16, 17, 40, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        let found = check(&path, &Trust::default());
        assert_eq!(found.outcome, Outcome::Mismatch, "cut at {cut}");
        assert!(found.mismatch.unwrap().what.contains(&format!("ends at byte {cut}")));
    }
    for (name, bytes) in [("empty", &b""[..]), ("not a bundle", b"PK\x03\x04 and so on and so on")] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(check(&path, &Trust::default()).outcome, Outcome::CannotBeJudged, "{name}");
    }
    let (code, found) = place.json(&["bundle", "verify", "missing", "--json"]);
    assert!(code == 4 && found["reason"].as_str().unwrap().contains("missing"), "{found:#}");
}

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
        (
            "logits of the candidate",
            |p| {
                p.change_trace(1, |trace| {
                    let assayd::domain::trace::Distribution::Full { logits } = &mut trace.distribution else {
                        panic!()
                    };
                    logits[0] += 1.0;
                })
            },
            "transcript",
            Some(1),
        ),
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
        (
            "an honest quantisation that answered otherwise",
            |p| {
                p.change_trace(41, |trace| {
                    let assayd::domain::trace::Distribution::Full { logits } = &mut trace.distribution else {
                        panic!()
                    };
                    logits[0] += 1.0;
                })
            },
            "transcript",
        ),
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

#[test]
fn keys_are_made_once_pinned_by_name_and_tell_who_signed() {
    let (alice, bob) = (Place::new(), Place::new());
    let line = |output: Output| {
        String::from_utf8(output.stdout).unwrap().lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(alice.run(&["keys", "show"]).status.code(), Some(2), "there is none yet");
    let public = line(alice.run(&["keys", "new"]));
    assert!(public.starts_with("ed25519:") && public.len() == 72, "{public}");
    assert_eq!(line(alice.run(&["keys", "show"])), public);
    let again = alice.run(&["keys", "new"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8(again.stderr).unwrap().contains("never overwritten"));
    assert_eq!(alice.path("keys/signing.key").metadata().unwrap().permissions().mode() & 0o777, 0o600);

    assay(&alice, "copy.gguf", "a.bundle", &["--mode", "quick"]);
    fs::copy(alice.path("a.bundle"), bob.path("a.bundle")).unwrap();
    let by = |place: &Place, more: &[&str]| {
        let (code, found) = place.json(&[&["bundle", "verify", "a.bundle", "--json"], more].concat());
        (code, found["signature"]["by"].as_str().unwrap().to_owned(), found)
    };
    assert_eq!(by(&alice, &["--require-signed"]).1, "own");
    let (code, who, found) = by(&bob, &[]);
    assert_eq!(
        (code, who.as_str(), found["signature"]["key"].as_str()),
        (0, "unknown", Some(public.as_str()))
    );
    let (code, _, found) = by(&bob, &["--require-signed"]);
    assert!(
        code == 1 && found["reason"].as_str().unwrap().contains("not signed by a trusted key"),
        "{found:#}"
    );
    assert_eq!(
        bob.run(&["bundle", "verify", "a.bundle", "--signed-by", "alice"]).status.code(),
        Some(2),
        "who?"
    );
    assert_eq!(bob.run(&["keys", "pin", "alice", "ed25519:00"]).status.code(), Some(2));
    assert_eq!(bob.run(&["keys", "pin", "alice", &public]).status.code(), Some(0));
    for more in [&["--require-signed"][..], &["--signed-by", "alice"]] {
        let (code, who, found) = by(&bob, more);
        assert_eq!((code, who.as_str(), found["signature"]["name"].as_str()), (0, "pinned", Some("alice")));
    }
    let (_, list) = bob.json(&["keys", "list", "--json"]);
    assert_eq!((&list["own"], list["pinned"][0]["key"].as_str()), (&Value::Null, Some(public.as_str())));

    // The same evidence under another's signature, and under none.
    bob.run(&["keys", "new"]);
    let parts = Parts::read(&bob.path("a.bundle"));
    assert_eq!(parts.signature.len(), 96);
    let mallory = Place::new();
    mallory.run(&["keys", "new"]);
    assay(&mallory, "copy.gguf", "a.bundle", &["--mode", "quick"]);
    fs::copy(mallory.path("a.bundle"), bob.path("a.bundle")).unwrap();
    let (code, who, _) = by(&bob, &["--signed-by", "alice"]);
    assert_eq!((code, who.as_str()), (1, "unknown"));
    // Alice's signature on what Mallory made.
    let mut moved = Parts::read(&mallory.path("a.bundle"));
    moved.signature.clone_from(&parts.signature);
    moved.write(&bob.path("a.bundle"));
    let (code, who, found) = by(&bob, &[]);
    assert_eq!((code, who.as_str(), found["mismatch"]["section"].as_str()), (1, "not-checked", Some("seal")));
    // Mallory's key in front of Alice's signature.
    let theirs = Parts::read(&mallory.path("a.bundle")).signature;
    let mut mixed = parts.clone();
    mixed.signature[..32].copy_from_slice(&theirs[..32]);
    mixed.write(&bob.path("a.bundle"));
    assert_eq!(by(&bob, &[]).0, 1);
    let mut stripped = parts;
    stripped.signature.clear();
    stripped.write(&bob.path("a.bundle"));
    assert_eq!((by(&bob, &[]).0, by(&bob, &["--require-signed"]).0), (0, 1));

    // A key that others may read is not used, and never left out silently.
    fs::set_permissions(alice.path("keys/signing.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let (copy, reference) = (example("copy.gguf"), example("reference.gguf"));
    let arguments = [
        "verify",
        copy.to_str().unwrap(),
        "--reference",
        reference.to_str().unwrap(),
        "--bundle",
        "c.bundle",
    ];
    let output = alice.run(&arguments);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("others may read"));
    assert!(!alice.path("c.bundle").exists());
    let (code, _) = assay(&alice, "copy.gguf", "c.bundle", &["--mode", "quick", "--unsigned"]);
    assert_eq!((code, check(&alice.path("c.bundle"), &Trust::default()).signature.by), (0, SignedBy::Nobody));
}

/// A limit on file sizes stands for a full disk: a write fails in the middle of the traces.
#[test]
fn a_full_disk_leaves_no_bundle_and_no_success() {
    let place = Place::new();
    let (copy, reference) = (example("copy.gguf"), example("reference.gguf"));
    let script = "trap '' XFSZ; ulimit -f 300; exec \"$@\"";
    let output = command("bash", place.0.path())
        .args(["-c", script, "bash", env!("CARGO_BIN_EXE_assayd"), "verify", copy.to_str().unwrap()])
        .args(["--reference", reference.to_str().unwrap(), "--json", "--bundle", "a.bundle"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{errors}");
    assert!(errors.contains("a.bundle"), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["final_decision"], "SAME", "the verdict is told all the same");
    let left: Vec<String> = fs::read_dir(place.0.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "cache")
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // A folder that is not there is said before anything runs.
    let arguments = ["verify", copy.to_str().unwrap(), "--reference", reference.to_str().unwrap()];
    let output = place.run(&[&arguments[..], &["--bundle", "none/a.bundle"]].concat());
    assert_ne!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty());
}
