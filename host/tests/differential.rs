//! Our reader against llama.cpp's, in a worker: what one accepts, the other must load, on the
//! examples, the corpus beside the project, and damaged headers. Where they disagree, the
//! disagreement must be one that `host/docs/reader-and-runtime.md` lists and decides.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that cannot go on must stop, and says what it left out"
)]

mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use assayd::domain::inspection::{Inspection, Severity, Status};
use assayd::engine::{EngineKind, LoadSpec};
use assayd::model::gguf::read_strict;
use assayd::model::{InspectOptions, inspect};
use assayd::worker::{Ending, Worker, WorkerLimits};
use random::Random;

/// Damaged headers in every run, and in the long one.
const CASES: u64 = 150;
const MANY_CASES: u64 = 3000;

/// What llama.cpp makes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Loaded {
    Yes,
    /// With a reason.
    Refused,
    /// The process ended, or hung.
    Died,
}

fn load(paths: Vec<PathBuf>) -> Loaded {
    let limits = WorkerLimits {
        memory_bytes: Some(2 << 30),
        stall: Duration::from_secs(20),
        program: Some(PathBuf::from(env!("CARGO_BIN_EXE_assayd"))),
        ..WorkerLimits::default()
    };
    match Worker::start(&LoadSpec::judged(EngineKind::LlamaCpp, paths, 64, 1), &limits, &mut |_| {}) {
        Ok(worker) => {
            worker.finish();
            Loaded::Yes
        }
        Err(end) if end.ending == Ending::Refused => Loaded::Refused,
        Err(_) => Loaded::Died,
    }
}

fn look(path: &Path, full: bool) -> Option<Inspection> {
    inspect(path, &InspectOptions { full }, &mut |_, _| {}).ok()
}

/// Codes that the document decides, by its two tables: rejected here although llama.cpp loads,
/// and accepted here although it does not.
fn decided() -> (BTreeSet<String>, BTreeSet<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reader-and-runtime.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (stricter, looser) = text.split_once("## Accepted here").unwrap();
    let codes = |part: &str| -> BTreeSet<String> {
        part.lines()
            .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
            .collect()
    };
    (codes(stricter), codes(looser))
}

#[derive(Default)]
struct Tally {
    agreed: BTreeMap<(bool, Loaded), u64>,
    undecided: Vec<String>,
    stricter: BTreeMap<String, u64>,
}

impl Tally {
    fn see(&mut self, what: &str, path: &Path, full: bool, decided: &(BTreeSet<String>, BTreeSet<String>)) {
        let Some(inspection) = look(path, full) else { return };
        let accepted = inspection.status != Status::Reject;
        let files = assayd::model::inspect::files_of(path);
        let loaded = load(files);
        *self.agreed.entry((accepted, loaded)).or_default() += 1;
        match (accepted, loaded) {
            (true, Loaded::Yes) | (false, Loaded::Refused | Loaded::Died) => {}
            (false, Loaded::Yes) => {
                let errors: BTreeSet<&str> = inspection
                    .findings
                    .iter()
                    .filter(|finding| finding.severity == Severity::Error)
                    .map(|finding| finding.code.as_str())
                    .collect();
                for code in &errors {
                    *self.stricter.entry((*code).to_owned()).or_default() += 1;
                }
                if !errors.iter().any(|code| decided.0.contains(*code)) {
                    self.undecided.push(format!("{what}: llama.cpp loads it, rejected here for {errors:?}"));
                }
            }
            (true, _) => {
                let known = inspection.findings.iter().any(|finding| decided.1.contains(&finding.code));
                if !known {
                    let codes: Vec<&str> =
                        inspection.findings.iter().map(|finding| finding.code.as_str()).collect();
                    self.undecided.push(format!("{what}: accepted here {codes:?}, llama.cpp: {loaded:?}"));
                }
            }
        }
    }

    fn close(self, what: &str) {
        eprintln!("{what}: {:?}; stricter {:?}", self.agreed, self.stricter);
        assert!(self.undecided.is_empty(), "{what}: {:#?}", self.undecided);
    }
}

#[test]
fn on_whole_models() {
    let decided = decided();
    let mut tally = Tally::default();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path()).collect();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    if corpus.join("manifest.json").is_file() {
        for folder in ["gguf", "malformed", "split/good", "split/part1-zeroed", "split/part2-missing"] {
            let entries = std::fs::read_dir(corpus.join(folder)).unwrap();
            paths.extend(entries.map(|entry| entry.unwrap().path()));
        }
    } else {
        eprintln!("skipped: the models beside the project are not there");
    }
    paths.retain(|path| path.extension().is_some_and(|end| end == "gguf"));
    paths.sort();
    // Any part names its set; one is enough.
    paths.retain(|path| {
        !path.to_string_lossy().contains("-of-") || path.to_string_lossy().contains("-00001-of-")
    });
    for path in &paths {
        tally.see(&path.display().to_string(), path, true, &decided);
    }
    assert!(tally.agreed.get(&(true, Loaded::Yes)).is_some_and(|&count| count >= 5), "{:?}", tally.agreed);
    tally.close("whole models");
}

const NASTY: [u64; 12] =
    [0, 1, 2, 31, 255, 65_536, 1 << 31, u32::MAX as u64, 1 << 40, 1 << 62, u64::MAX - 31, u64::MAX];

/// Changes a byte, a number or the end of a file, in its header.
fn damage(bytes: &mut Vec<u8>, places: &[usize], random: &mut Random) {
    let at = places[random.below(places.len())] + random.below(12);
    let nasty = NASTY[random.below(NASTY.len())];
    match random.below(6) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 => bytes[at..at + 4].copy_from_slice(&(nasty as u32).to_le_bytes()),
        3 => bytes[at..at + 8].copy_from_slice(&nasty.to_le_bytes()),
        4 => {
            let end = bytes.len() - random.below(4096);
            bytes.truncate(end);
        }
        _ => drop(bytes.remove(at)),
    }
}

fn damaged_headers(cases: u64, from: u64) {
    let decided = decided();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/reference-q8_0.gguf");
    let whole = std::fs::read(source).unwrap();
    let header = usize::try_from(read_strict(&whole.as_slice()).unwrap().data_offset).unwrap();
    // Vocabularies take most of a header; damage belongs around keys and tensor names, too.
    let mut places: Vec<usize> = (0..24).collect();
    for mark in ["general.", "example.", "tokenize", "blk.", "llama.", "output"].map(str::as_bytes) {
        let found = whole[..header].windows(mark.len()).enumerate().filter(|(_, window)| *window == mark);
        places.extend(found.map(|(at, _)| at.saturating_sub(8)).flat_map(|at| at..at + 56));
    }
    places.retain(|at| at + 24 < header);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut tally = Tally::default();
    for case in from..from + cases {
        let mut bytes = whole.clone();
        damage(&mut bytes, &places, &mut Random(case));
        std::fs::write(&path, &bytes).unwrap();
        tally.see(&format!("case {case}"), &path, false, &decided);
    }
    assert!(tally.agreed.keys().map(|(accepted, _)| *accepted).collect::<BTreeSet<_>>().len() == 2);
    tally.close("damaged headers");
}

#[test]
fn on_damaged_headers() {
    damaged_headers(CASES, 0);
}

#[test]
#[ignore = "some minutes: thousands of loads"]
fn on_many_damaged_headers() {
    damaged_headers(MANY_CASES, 1_000_000);
}
