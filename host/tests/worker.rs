//! The worker through the real binary: answers, and every way to end.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use assayd::domain::trace::Distribution;
use assayd::engine::{Detail, EngineKind, LoadSpec, ScoreItem};
use assayd::worker::{Ending, Worker, WorkerEnd, WorkerLimits};

#[expect(dead_code, reason = "each test file uses a part of it")]
mod processes;

fn limits() -> WorkerLimits {
    WorkerLimits {
        stall: Duration::from_secs(30),
        program: Some(PathBuf::from(env!("CARGO_BIN_EXE_assayd"))),
        ..WorkerLimits::default()
    }
}

fn script(folder: &Path, extra: &str) -> PathBuf {
    let path = folder.join(format!("script-{}.json", extra.len()));
    let text = format!(r#"{{"schema":"assayd.scripted/1","vocab":32,"seed":7{extra}}}"#);
    std::fs::write(&path, text).unwrap();
    path
}

fn start(path: PathBuf, limits: &WorkerLimits) -> Result<Worker, WorkerEnd> {
    let spec = LoadSpec::judged(EngineKind::Scripted, vec![path], 256, 1);
    Worker::start(&spec, limits, &mut |_| {})
}

fn items(n: u32) -> Vec<ScoreItem> {
    (0..n)
        .map(|i| ScoreItem { tokens: vec![0, 3 + i, 5, 9, 2 + i], scored_from: 2, detail: Detail::Own })
        .collect()
}

#[test]
fn a_worker_answers_and_equal_scripts_agree_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let path = script(folder.path(), "");
    let run = || {
        let mut worker = start(path.clone(), &limits()).unwrap();
        let tokens = worker.tokenize(&["hello".to_owned()], true).unwrap();
        let grown = worker.generate(&tokens, 7, &mut |_| {}).unwrap();
        assert_eq!(grown[0].len(), 7);
        let mut traces = Vec::new();
        worker.score(&items(5), &mut |index, result| traces.push((index, result.unwrap()))).unwrap();
        let summary = worker.finish();
        assert_eq!(summary.ending, Ending::Ok);
        assert!(summary.peak_rss_anon_bytes > 0);
        (tokens, grown, traces)
    };
    let (first, second) = (run(), run());
    assert_eq!(first, second);
    assert_eq!(first.2.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    let trace = &first.2[0].1;
    let Distribution::Full { logits } = &trace.distribution else { panic!("not the whole distribution") };
    let p: f64 = logits[..32].iter().map(|&z| (f64::from(z) - trace.log_sum_exp[0]).exp()).sum();
    assert!((p - 1.0).abs() < 1e-9, "{p}");
}

#[test]
fn an_item_that_cannot_be_scored_is_an_error_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = script(folder.path(), r#","faults":{"fail_items":[1]}"#);
    let mut worker = start(path, &limits()).unwrap();
    let mut asked = items(3);
    asked.push(ScoreItem { tokens: vec![1, 99, 2], scored_from: 1, detail: Detail::Own });
    asked.push(ScoreItem { tokens: vec![1, 2], scored_from: 2, detail: Detail::Own });
    let mut outcomes = Vec::new();
    worker.score(&asked, &mut |_, result| outcomes.push(result.map(|trace| trace.rows()))).unwrap();
    assert_eq!(outcomes[0], Ok(3));
    assert_eq!(outcomes[1], Err("scripted failure".to_owned()));
    assert_eq!(outcomes[2], Ok(3));
    assert!(outcomes[3].as_ref().unwrap_err().contains("not in the vocabulary"));
    assert!(outcomes[4].as_ref().unwrap_err().contains("nothing to score"));
}

#[test]
fn every_bad_end_is_typed() {
    let folder = tempfile::tempdir().unwrap();
    let short = WorkerLimits { stall: Duration::from_secs(2), ..limits() };
    for (extra, ending, words) in [
        (r#","faults":{"abort_on_load":true}"#, Ending::Crashed, "abort"),
        (r#","faults":{"hang_on_load":true}  "#, Ending::Stalled, "no progress"),
        (r#","nonsense":1"#, Ending::Refused, "nonsense"),
    ] {
        let end = start(script(folder.path(), extra), &short).unwrap_err();
        assert_eq!(end.ending, ending, "{extra}: {end}");
        assert!(end.detail.contains(words), "{extra}: {end}");
    }
    // An abort takes along what was not yet written; a worker that hangs has delivered all it had.
    for (extra, ending, delivered) in [
        (r#","faults":{"abort_on_item":2}"#, Ending::Crashed, 0..=2),
        (r#","faults":{"hang_on_item":2} "#, Ending::Stalled, 2..=2),
    ] {
        let mut worker = start(script(folder.path(), extra), &short).unwrap();
        let mut seen = 0;
        let end = worker.score(&items(4), &mut |_, _| seen += 1).unwrap_err();
        assert_eq!(end.ending, ending, "{extra}: {end}");
        assert!(delivered.contains(&seen), "{extra}: {seen}");
    }
}

#[test]
fn a_memory_limit_kills_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = script(folder.path(), r#","faults":{"allocate_bytes":4294967296}"#);
    let limits = WorkerLimits { memory_bytes: Some(300 << 20), ..limits() };
    let end = start(path, &limits).unwrap_err();
    // By the watchdog or by the kernel, whichever of them is there and first.
    assert!(matches!(end.ending, Ending::LimitKilled | Ending::OomKilled), "{end}");
    assert!(end.detail.contains("300.00 MiB") && end.hint.is_some(), "{end:?}");
}

#[test]
fn a_flood_of_messages_is_drained_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let path = script(folder.path(), r#","faults":{"flood_stderr_bytes":67108864}"#);
    assert_eq!(start(path, &limits()).unwrap().finish().ending, Ending::Ok);
}

#[test]
fn a_program_that_is_no_worker_is_believed_in_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = script(folder.path(), "");
    for (program, ending) in [
        ("/bin/true", Ending::Crashed),
        ("/bin/false", Ending::Crashed),
        ("/usr/bin/yes", Ending::Crashed),
        ("/nowhere/assayd", Ending::Refused),
    ] {
        let limits =
            WorkerLimits { program: Some(program.into()), stall: Duration::from_secs(2), ..limits() };
        let end = start(path.clone(), &limits).unwrap_err();
        assert_eq!(end.ending, ending, "{program}: {end}");
    }
    // One that greets rightly and is of another version is not asked anything.
    let program = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/worker/other-version.sh"));
    let end = start(path, &WorkerLimits { program, ..limits() }).unwrap_err();
    assert!(end.ending == Ending::Crashed && end.detail.contains("another version"), "{end}");
}

#[test]
fn cancelling_ends_a_worker_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let cancel = Arc::new(AtomicBool::new(false));
    let limits = WorkerLimits { cancel: Some(Arc::clone(&cancel)), ..limits() };
    let path = script(folder.path(), r#","faults":{"hang_on_load":true}"#);
    let started = Instant::now();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        cancel.store(true, Ordering::Relaxed);
    });
    let end = start(path, &limits).unwrap_err();
    canceller.join().unwrap();
    assert!(end.detail.contains("cancelled"), "{end}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn bytes_that_are_no_model_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    std::fs::write(&path, b"not a model at all").unwrap();
    let spec = LoadSpec::judged(EngineKind::LlamaCpp, vec![path], 256, 1);
    let end = Worker::start(&spec, &limits(), &mut |_| {}).unwrap_err();
    assert_eq!(end.ending, Ending::Refused, "{end}");
    assert!(end.detail.contains("x.gguf"), "{end}");
}

/// Children of this process, dead or alive. Other tests of this file run in threads of the same
/// process, so only a count that never comes down to nothing is a leak.
/// Children of this process, dead or alive.
fn children() -> usize {
    processes::children(std::process::id()).len()
}

#[test]
fn no_zombie_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = script(folder.path(), "");
    for _ in 0..20 {
        drop(start(path.clone(), &limits()).unwrap());
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while children() > 0 {
        assert!(Instant::now() < deadline, "{} children are left", children());
        std::thread::sleep(Duration::from_millis(50));
    }
}
