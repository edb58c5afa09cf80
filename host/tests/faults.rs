//! Workers that misbehave in every way there is, as real processes: what holds them, how they
//! end, and that nothing is left of them. Run one after the other: they measure this process.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that cannot go on must stop, and says what it measured"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use assayd::engine::{Detail, EngineKind, LoadSpec, ScoreItem};
use assayd::governor::Enforcement;
use assayd::worker::{Ending, Stamp, Worker, WorkerEnd, WorkerLimits};
use processes::{kib, stats, status};

mod processes;

/// One at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const MIB: u64 = 1 << 20;

fn limits() -> WorkerLimits {
    WorkerLimits {
        stall: Duration::from_secs(30),
        program: Some(PathBuf::from(env!("CARGO_BIN_EXE_assayd"))),
        ..WorkerLimits::default()
    }
}

fn script(folder: &Path, name: &str, extra: &str) -> PathBuf {
    let path = folder.join(format!("{name}.json"));
    let text = format!(r#"{{"schema":"assayd.scripted/1","vocab":32,"seed":7{extra}}}"#);
    std::fs::write(&path, text).unwrap();
    path
}

fn faults(folder: &Path, name: &str, faults: &str) -> PathBuf {
    script(folder, name, &format!(r#","faults":{{{faults}}}"#))
}

fn spec(path: PathBuf) -> LoadSpec {
    LoadSpec::judged(EngineKind::Scripted, vec![path], 256, 1)
}

fn start(path: PathBuf, limits: &WorkerLimits) -> Result<Worker, WorkerEnd> {
    Worker::start(&spec(path), limits, &mut |_| {})
}

/// Children of this process, dead or alive.
fn children() -> Vec<u32> {
    processes::children(std::process::id())
}

/// What an onlooker saw of a worker that ate past a limit.
#[derive(Debug)]
struct Death {
    /// From the first look that was over the limit to the first at which it held nothing.
    late: Duration,
    /// Most that was over.
    over: u64,
}

/// Looks at the only child every millisecond, from outside.
fn watch(limit: u64, stop: &AtomicBool) -> Option<Death> {
    let mut pid = None;
    let (mut crossed, mut most) = (None, 0);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(1));
        let Some(id) = pid.or_else(|| children().first().copied()) else { continue };
        pid = Some(id);
        let held = kib(id, "RssAnon:").map(|kib| kib * 1024);
        match (held, crossed) {
            (Some(held), _) if held > limit => {
                crossed = crossed.or_else(|| Some(Instant::now()));
                most = most.max(held);
            }
            (None, Some(at)) => return Some(Death { late: Instant::elapsed(&at), over: most - limit }),
            _ => {}
        }
    }
    // It was never seen over its limit: it died before anybody could look.
    crossed.map(|at: Instant| Death { late: at.elapsed(), over: most - limit })
}

fn eat(enforcement: Enforcement) -> (WorkerEnd, Option<Death>) {
    let folder = tempfile::tempdir().unwrap();
    let path = faults(folder.path(), "eat", r#""allocate_bytes":4294967296"#);
    let limit = 300 * MIB;
    let limits = WorkerLimits { memory_bytes: Some(limit), enforcement, ..limits() };
    let stop = Arc::new(AtomicBool::new(false));
    let onlooker = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || watch(limit, &stop))
    };
    let end = start(path, &limits).unwrap_err();
    stop.store(true, Ordering::Relaxed);
    (end, onlooker.join().unwrap())
}

#[test]
fn every_rung_stops_a_worker_that_eats_a_gigabyte_a_second() {
    let _alone = alone();
    for (enforcement, endings) in [
        (Enforcement::Auto, &[Ending::LimitKilled, Ending::OomKilled][..]),
        (Enforcement::CgroupV2, &[Ending::OomKilled, Ending::LimitKilled]),
        (Enforcement::CgroupV1, &[Ending::OomKilled, Ending::LimitKilled]),
        (Enforcement::Rlimit, &[Ending::LimitKilled]),
        (Enforcement::Watchdog, &[Ending::LimitKilled]),
    ] {
        let mut seen = Vec::new();
        // Other programs may keep an onlooker, or the watchdog, from a processor: three tries.
        for _ in 0..3 {
            let (end, death) = eat(enforcement);
            if end.ending == Ending::Refused {
                eprintln!("skipped {enforcement:?}: {}", end.detail);
                seen.clear();
                break;
            }
            assert!(endings.contains(&end.ending), "{enforcement:?}: {end}");
            assert!(end.hint.is_some() && end.detail.contains("300.00 MiB"), "{enforcement:?}: {end}");
            eprintln!("{enforcement:?}: {} {death:?}", end.ending.as_str());
            let in_time = death
                .as_ref()
                .is_none_or(|death| death.late <= Duration::from_millis(150) && death.over <= 64 * MIB);
            if in_time {
                seen.clear();
                break;
            }
            seen.push(death);
        }
        assert!(seen.is_empty(), "{enforcement:?} was late each time: {seen:?}");
    }
}

#[test]
fn every_end_is_typed_with_its_cause() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let short = WorkerLimits { stall: Duration::from_secs(2), ..limits() };
    for (name, text, ending, words) in [
        ("illegal", r#""signal_on_load":4"#, Ending::Crashed, "illegal instruction"),
        ("arithmetic", r#""signal_on_load":8"#, Ending::Crashed, "arithmetic fault"),
        ("abort", r#""abort_on_load":true"#, Ending::Crashed, "abort"),
        ("assert", r#""assert_on_load":true"#, Ending::Crashed, "GGML_ASSERT(n > 0) failed"),
        ("kill", r#""signal_on_load":9"#, Ending::OomKilled, "killed from outside"),
        ("hang", r#""hang_on_load":true"#, Ending::Stalled, "no progress"),
        ("stop", r#""signal_on_load":19"#, Ending::Stalled, "no progress"),
        ("fork", r#""fork_on_load":true"#, Ending::Stalled, "no progress"),
    ] {
        let end = start(faults(folder.path(), name, text), &short).unwrap_err();
        assert_eq!(end.ending, ending, "{name}: {end}");
        assert!(end.detail.contains(words), "{name}: {end}");
    }
    for (name, text) in
        [("progress", r#""flood_progress":300000"#), ("stderr", r#""flood_stderr_bytes":67108864"#)]
    {
        let worker = start(faults(folder.path(), name, text), &limits()).unwrap();
        assert_eq!(worker.finish().ending, Ending::Ok, "{name}");
    }
    assert_eq!(children(), Vec::<u32>::new());
}

/// The language's own handler lets a first segmentation fault return, to see it again.
#[test]
fn a_segmentation_fault_is_told_from_other_ends() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = faults(folder.path(), "hang", r#""hang_on_load":true"#);
    let running = std::thread::spawn(move || start(path, &limits()).unwrap_err());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !running.is_finished() {
        assert!(Instant::now() < deadline, "it did not end");
        for id in children() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::SEGV);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let end = running.join().unwrap();
    assert_eq!(end.ending, Ending::Crashed, "{end}");
    assert!(end.detail.contains("segmentation fault"), "{end}");
}

/// Processes that sleep for a time that nobody else sleeps for.
fn sleepers() -> Vec<u32> {
    let is_one = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line == b"sleep\x006113\x00"
    };
    stats().into_iter().map(|(pid, _)| pid).filter(is_one).collect()
}

/// Waits until none of them is left: a kill takes a moment.
fn no_sleepers() {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !sleepers().is_empty() {
        assert!(Instant::now() < deadline, "left behind: {:?}", sleepers());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_worker_that_forks_takes_its_children_along_also_those_that_left_its_group() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = faults(folder.path(), "fork", r#""fork_on_load":true"#);
    // Confined it cannot fork at all.
    let cancel = Arc::new(AtomicBool::new(false));
    // Without a control group only their descent tells whose they are.
    let rungs =
        [(true, Enforcement::Auto, 0), (false, Enforcement::Auto, 2), (false, Enforcement::Watchdog, 2)];
    for (confine, enforcement, expected) in rungs {
        cancel.store(false, Ordering::Relaxed);
        let limits = WorkerLimits { confine, enforcement, cancel: Some(Arc::clone(&cancel)), ..limits() };
        let path = path.clone();
        let running = std::thread::spawn(move || start(path, &limits).unwrap_err());
        let deadline = Instant::now() + Duration::from_secs(if expected == 0 { 2 } else { 20 });
        while sleepers().len() < 2 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(sleepers().len(), expected, "confined: {confine}");
        cancel.store(true, Ordering::Relaxed);
        running.join().unwrap();
        no_sleepers();
    }
}

#[test]
fn a_program_that_ignores_signals_and_says_nothing_is_ended() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("deaf");
    std::fs::write(&program, "#!/bin/sh\ntrap '' TERM INT HUP QUIT\nsleep 6113 &\nsleep 6113\n").unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let limits = WorkerLimits { program: Some(program), stall: Duration::from_secs(1), ..limits() };
    let end = start(script(folder.path(), "x", ""), &limits).unwrap_err();
    assert_eq!(end.ending, Ending::Stalled, "{end}");
    assert_eq!(children(), Vec::<u32>::new());
    no_sleepers();
}

#[test]
fn a_confined_worker_can_do_nothing_but_its_work() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("secret");
    std::fs::write(&outside, "secret").unwrap();
    let path = faults(folder.path(), "escape", &format!(r#""escape":{:?}"#, outside.to_str().unwrap()));
    let free = start(path.clone(), &WorkerLimits { confine: false, ..limits() }).unwrap();
    let let_through = free.info().description.clone();
    assert_eq!(free.memory().confinement.names(), "none");
    assert_eq!(
        let_through.split("; ").count(),
        8,
        "each attempt works where nothing forbids it: {let_through}"
    );
    std::fs::remove_file(outside.with_extension("written")).unwrap();
    drop(free);
    let kept = start(path, &limits()).unwrap();
    let confinement = kept.memory().confinement;
    if !confinement.missing.is_empty() {
        eprintln!("this machine lacks: {:?}", confinement.missing);
    }
    let mut forbidden = Vec::new();
    if confinement.in_force.iter().any(|name| name == "landlock") {
        forbidden.extend(["read another file", "wrote a file", "listed a folder"]);
    }
    if confinement.in_force.iter().any(|name| name == "seccomp") {
        forbidden.extend(["used the network", "started a program", "signalled its parent", "set a limit"]);
    }
    let done = &kept.info().description;
    assert!(!forbidden.iter().any(|what| done.contains(what)), "{forbidden:?}: {done}");
    if confinement.names() == "landlock+seccomp" {
        assert_eq!(done, "scripted");
    }
}

#[test]
fn a_worker_is_nice_first_to_go_and_has_few_threads() {
    let _alone = alone();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/reference.gguf");
    let spec = LoadSpec::judged(EngineKind::LlamaCpp, vec![example], 256, 2);
    let limits = WorkerLimits { memory_bytes: Some(1 << 30), ..limits() };
    let mut worker = Worker::start(&spec, &limits, &mut |_| {}).unwrap();
    let tokens = (1..100).collect::<Vec<u32>>();
    let items = vec![ScoreItem { tokens, scored_from: 1, detail: Detail::Summary }];
    worker.score(&items, &mut |_, trace| assert!(trace.is_ok(), "{trace:?}")).unwrap();
    let [pid] = children()[..] else { panic!("{:?}", children()) };
    let (_, fields) = stats().into_iter().find(|(id, _)| *id == pid).unwrap();
    assert_eq!(fields[16], "10", "nice");
    // Two that compute, and those for reading, writing and the heartbeat.
    let threads: u32 = status(pid, "Threads:").unwrap().parse().unwrap();
    assert!(threads <= 2 + 2 + 1, "{threads} threads");
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "1000");
    assert_eq!(status(pid, "NoNewPrivs:").unwrap(), "1");
    let memory = worker.memory();
    assert!(memory.enforcement.ends_with("rlimit+watchdog"), "{}", memory.enforcement);
    if memory.confinement.names().contains("seccomp") {
        assert_eq!(status(pid, "Seccomp:").unwrap(), "2");
    }
    let limit = std::fs::read_to_string(format!("/proc/{pid}/limits"));
    if let Ok(limit) = limit {
        let line = |name: &str| limit.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(line("Max core file size").contains(" 0 "), "{limit}");
        assert!(line("Max address space").contains("unlimited"), "never by address space: {limit}");
        assert!(!line("Max data size").contains("unlimited"), "{limit}");
    }
    assert_eq!(worker.finish().ending, Ending::Ok);
}

#[test]
fn the_file_judged_is_the_file_loaded() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = script(folder.path(), "model", "");
    let judged = WorkerLimits { stamps: vec![Stamp::of(&path).unwrap()], ..limits() };
    assert_eq!(start(path.clone(), &judged).unwrap().finish().changed, None);
    // Another file under the same name.
    let other = script(folder.path(), "other", r#","noise":0.5"#);
    std::fs::rename(&other, &path).unwrap();
    let end = start(path.clone(), &judged).unwrap_err();
    assert_eq!(end.ending, Ending::Refused, "{end}");
    assert!(end.detail.contains("another file"), "{end}");
    // The same file with other content, as long as before.
    let judged = WorkerLimits { stamps: vec![Stamp::of(&path).unwrap()], ..limits() };
    std::thread::sleep(Duration::from_millis(30));
    let text = std::fs::read_to_string(&path).unwrap().replace("0.5", "0.6");
    std::fs::write(&path, text).unwrap();
    let end = start(path.clone(), &judged).unwrap_err();
    assert!(end.detail.contains("written to"), "{end}");
    // Changed after it was loaded.
    let worker = start(path.clone(), &limits()).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    std::fs::write(&path, "{}").unwrap();
    assert!(worker.finish().changed.unwrap().contains("shrank"));
}

#[test]
fn a_file_that_shrinks_while_it_is_mapped_is_named() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/reference.gguf");
    std::fs::copy(example, &path).unwrap();
    let spec = LoadSpec::judged(EngineKind::LlamaCpp, vec![path.clone()], 256, 1);
    let mut worker = Worker::start(&spec, &limits(), &mut |_| {}).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(4096).unwrap();
    let item = ScoreItem { tokens: (1..50).collect(), scored_from: 1, detail: Detail::Summary };
    let end = worker.score(&[item], &mut |_, _| {}).unwrap_err();
    assert_eq!(end.ending, Ending::Crashed, "{end}");
    assert!(end.detail.contains("bus error") && end.detail.contains("shrank"), "{end}");
    assert!(end.detail.contains("model.gguf"), "{end}");
}

/// Descriptors, threads and resident memory of this process.
fn own() -> (usize, u64, u64) {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let me = std::process::id();
    let threads = status(me, "Threads:").unwrap().parse().unwrap();
    (descriptors, threads, kib(me, "VmRSS:").unwrap() * 1024)
}

/// Many workers that end in all ways; afterwards everything is as before.
fn many(count: usize) {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    // One that is called just as ours are, and is none of ours.
    let mut stranger = Command::new(env!("CARGO_BIN_EXE_assayd"))
        .arg("__worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ways = [
        faults(folder.path(), "ok", ""),
        faults(folder.path(), "illegal", r#""signal_on_load":4"#),
        faults(folder.path(), "abort", r#""abort_on_load":true"#),
        faults(folder.path(), "eat", r#""allocate_bytes":67108864"#),
        faults(folder.path(), "flood", r#""flood_stderr_bytes":1048576"#),
        faults(folder.path(), "progress", r#""flood_progress":1000"#),
    ];
    let limits = WorkerLimits { memory_bytes: Some(48 * MIB), ..limits() };
    let round = |count: usize| {
        for nth in 0..count {
            match start(ways[nth % ways.len()].clone(), &limits) {
                Ok(worker) if nth % 2 == 0 => drop(worker),
                Ok(worker) => assert_eq!(worker.finish().ending, Ending::Ok),
                Err(end) => assert_ne!(end.ending, Ending::Refused, "{end}"),
            }
        }
    };
    // The allocator's and the C library's own first-time costs.
    round(ways.len());
    let before = own();
    round(count);
    // Threads that read a pipe to its end need a moment to notice it.
    let deadline = Instant::now() + Duration::from_secs(20);
    let after = loop {
        let now = own();
        if (now.0 <= before.0 && now.1 <= before.1) || Instant::now() > deadline {
            break now;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    eprintln!("{count} workers: descriptors, threads, resident bytes before {before:?}, after {after:?}");
    assert!(after.0 <= before.0, "descriptors leak: {before:?} {after:?}");
    assert!(after.1 <= before.1, "threads leak: {before:?} {after:?}");
    assert!(after.2 <= before.2 + 8 * MIB, "memory grows: {before:?} {after:?}");
    assert_eq!(children(), [stranger.id()], "a zombie is left, or the stranger is gone");
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger was ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn fifty_workers_leave_nothing_behind() {
    many(50);
}

#[test]
#[ignore = "takes a minute or two"]
fn a_thousand_workers_leave_nothing_behind() {
    many(1_000);
}
