//! `assayd verify --bundle`, `bundle verify`, `bundle show` and `keys` through the real binary
//! on the example models; then everything that someone could change about a bundle.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on must stop"
)]

#[path = "bundle/forgeries.rs"]
mod forgeries;
#[path = "hostile/mod.rs"]
mod hostile;
#[path = "bundle/keys.rs"]
mod keys;
#[expect(dead_code, reason = "each test file uses a part of it")]
mod place;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
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
