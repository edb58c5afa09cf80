//! One guarded process: started in its own group, watched, ended, reaped and classified.

use std::io::Read;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use super::ending::{Ending, WorkerEnd, is_out_of_memory};
use super::leash::Leash;
use super::limits::WorkerLimits;
use super::stamp::{Stamp, difference};
use super::watchdog::{self, Orders, Watch};
use crate::domain::size::ByteSize;
use crate::domain::{budget, text};
use crate::governor::group::GroupRoot;
use crate::governor::memory::{ProcessMemory, process_memory};

/// A running worker process. Dropping it kills its whole group and reaps it.
#[derive(Debug)]
pub(super) struct Guarded {
    child: Child,
    leash: Arc<Leash>,
    log: Arc<Mutex<Vec<u8>>>,
    log_reader: Option<JoinHandle<()>>,
    pub(super) watch: Arc<Watch>,
    watchdog: Option<JoinHandle<()>>,
    limit: Option<u64>,
    data_limited: bool,
    /// The rungs in force, as reports name them, and why others are not.
    pub(super) enforcement: String,
    pub(super) missing: Vec<String>,
    /// The files it reads, as they were when it was started.
    pub(super) stamps: Vec<Stamp>,
}

/// What a worker gets of the environment: where its libraries are, and which devices it may use.
const PASSED_ON: [&str; 4] =
    ["LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES"];
/// How long a worker may take to exit after it said it is done.
const EXIT_GRACE: Duration = Duration::from_secs(10);
/// How long its last words may take to arrive.
const LOG_GRACE: Duration = Duration::from_secs(1);

impl Guarded {
    /// Starts `program __worker` in its own process group with a nearly empty environment,
    /// held to `limits` from its first byte on.
    pub(super) fn start(limits: &WorkerLimits, threads: u32, stamps: Vec<Stamp>) -> Result<Self, WorkerEnd> {
        let refused = |what: String| WorkerEnd::new(Ending::Refused, what);
        let program = match &limits.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()
                .map_err(|error| refused(format!("cannot find this program: {error}")))?,
        };
        let root = limits.groups.clone().unwrap_or_else(GroupRoot::here);
        let mut rungs = limits.enforcement.set_up(&root, limits.memory_bytes, threads).map_err(|reason| {
            refused(format!("the enforcement that was asked for is not there: {reason}"))
        })?;
        let mut command = Command::new(&program);
        command
            .arg(super::WORKER_COMMAND)
            .env_clear()
            // Without it an abort starts a debugger, which inherits the worker's limits.
            .env("GGML_NO_BACKTRACE", "1")
            .env("OMP_NUM_THREADS", threads.to_string())
            .env("RAYON_NUM_THREADS", threads.to_string())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let mut child = command
            .spawn()
            .map_err(|error| refused(format!("cannot start a worker from {}: {error}", program.display())))?;
        let forced = limits.enforcement != crate::governor::Enforcement::Auto;
        let mut failed = None;
        if let Some(Err(reason)) = rungs.group.as_ref().map(|group| group.add(child.id())) {
            failed = forced.then(|| reason.clone());
            rungs.group = None;
            rungs.missing.push(reason);
        }
        if let Some(data) = rungs.data_bytes {
            let pid = Pid::from_child(&child);
            let limit = Rlimit { current: Some(data), maximum: Some(data) };
            if let Err(error) = prlimit(Some(pid), Resource::Data, limit) {
                failed = failed.or_else(|| forced.then(|| format!("RLIMIT_DATA: {error}")));
                rungs.data_bytes = None;
                rungs.missing.push(format!("RLIMIT_DATA: {error}"));
            }
        }
        let enforcement = rungs.names();
        let data_limited = rungs.data_bytes.is_some();
        let leash = Arc::new(Leash::new(&child, rungs.group));
        let log = Arc::new(Mutex::new(Vec::new()));
        let log_reader = child.stderr.take().map(|stderr| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || keep_tail(stderr, &log))
        });
        let watch = Arc::new(Watch::default());
        let watchdog = {
            let (watch, leash) = (Arc::clone(&watch), Arc::clone(&leash));
            let orders = Orders {
                limit: limits.memory_bytes,
                floor: limits.min_free_bytes.unwrap_or(budget::MIN_FREE_BYTES),
                levels: limits.levels,
            };
            std::thread::spawn(move || watchdog::run(&orders, &leash, &watch))
        };
        let process = Self {
            child,
            leash,
            log,
            log_reader,
            watch,
            watchdog: Some(watchdog),
            limit: limits.memory_bytes,
            data_limited,
            enforcement,
            missing: rungs.missing,
            stamps,
        };
        match failed {
            // Dropping it ends the worker.
            Some(reason) => {
                Err(refused(format!("the enforcement that was asked for is not there: {reason}")))
            }
            None => Ok(process),
        }
    }

    pub(super) fn pipes(&mut self) -> Option<(std::process::ChildStdin, std::process::ChildStdout)> {
        Some((self.child.stdin.take()?, self.child.stdout.take()?))
    }

    /// Takes note of the memory in use now, for peaks that come and go between two looks.
    pub(super) fn sample(&self) {
        self.watch.look(self.child.id());
    }

    /// Memory in use now; `None` when it is gone.
    pub(super) fn memory(&self) -> Option<ProcessMemory> {
        process_memory(self.child.id())
    }

    /// From here on memory grows slowly, and the watchdog may look less often.
    pub(super) fn loaded(&self) {
        self.sample();
        self.watch.loaded();
    }

    /// Most memory of its control group, file pages included; `None` without one.
    pub(super) fn group_peak(&self) -> Option<u64> {
        self.leash.group()?.peak_bytes()
    }

    /// Kills the worker's own group; nothing outside it, and never by name.
    pub(super) fn kill(&self) {
        self.leash.kill();
    }

    /// Waits for the end of a process that is expected to exit, killing it after a grace period.
    pub(super) fn reap(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + EXIT_GRACE;
        let mut pause = Duration::from_millis(1);
        let mut killed = false;
        let status = loop {
            match self.leash.try_reap(&mut self.child) {
                Some(status) => break status.ok(),
                None => {
                    if !killed && Instant::now() >= deadline {
                        self.kill();
                        killed = true;
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
            }
        };
        self.finish_threads();
        status
    }

    fn finish_threads(&mut self) {
        self.watch.stop();
        if let Some(watchdog) = self.watchdog.take() {
            let _ = watchdog.join();
        }
        let Some(reader) = self.log_reader.take() else { return };
        // A process that slipped away may hold the pipe open; nobody waits for it.
        let deadline = Instant::now() + LOG_GRACE;
        while !reader.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if reader.is_finished() {
            let _ = reader.join();
        }
    }

    /// Turns an unexpected end into words: who ended the process and the last thing it said.
    pub(super) fn classify(&mut self) -> WorkerEnd {
        // It is no longer talking to us, so it must not live on.
        let status = self.reap();
        if let Some(reason) = self.watch.reason() {
            return WorkerEnd::new(Ending::LimitKilled, reason);
        }
        let said = self.last_words();
        let text = if said.is_empty() { String::new() } else { format!("; it said: {said}") };
        let limit = ByteSize(self.limit.unwrap_or(0));
        if self
            .leash
            .group()
            .and_then(crate::governor::group::Group::oom_kills)
            .is_some_and(|kills| kills > 0)
        {
            return WorkerEnd::new(
                Ending::OomKilled,
                format!("the kernel ended it at the {limit} of its control group"),
            );
        }
        if self.data_limited && is_out_of_memory(&said) {
            return self.refused_memory(&said);
        }
        match status.map(|status| (status.signal(), status.code())) {
            Some((Some(signal), _)) if signal == Signal::KILL.as_raw() => WorkerEnd::new(
                Ending::OomKilled,
                format!("it was killed from outside, most likely for memory{text}"),
            ),
            Some((Some(signal), _)) => {
                let why = (signal == Signal::BUS.as_raw()).then(|| difference(&self.stamps)).flatten();
                let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                let name = signal_name(signal);
                let mut end = WorkerEnd::new(Ending::Crashed, format!("signal {signal} ({name}){why}{text}"));
                // A driver that is refused memory may not look at what it got.
                if self.data_limited && self.watch.peak_held() >= limit.0 / 4 * 3 {
                    end.hint = Some(format!(
                        "it held {} of the {limit} it may have, so it may have been refused more; raise --max-memory",
                        ByteSize(self.watch.peak_held())
                    ));
                }
                end
            }
            Some((None, Some(code))) => WorkerEnd::new(Ending::Crashed, format!("exit code {code}{text}")),
            Some((None, None)) | None => WorkerEnd::new(Ending::Crashed, format!("unknown cause{text}")),
        }
    }

    /// The end of a worker that was given no more memory and said so.
    pub(super) fn refused_memory(&self, said: &str) -> WorkerEnd {
        let limit = ByteSize(self.limit.unwrap_or(0));
        WorkerEnd::new(Ending::LimitKilled, format!("it asked for more than its limit of {limit}: {said}"))
    }

    /// Whether RLIMIT_DATA is in force and a text is the complaint that it makes.
    pub(super) fn is_refused_memory(&self, said: &str) -> bool {
        self.data_limited && is_out_of_memory(said)
    }

    /// An assertion or a panic if there was one, and the last lines of standard error, as one
    /// line of plain text.
    fn last_words(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let said = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines.len().saturating_sub(3);
        let decisive = |line: &&str| DECISIVE.iter().any(|words| line.contains(words));
        let early = lines.iter().take(last).rfind(|line| decisive(line));
        let told: Vec<&str> = early.into_iter().chain(lines.iter().skip(last)).copied().collect();
        let line = told.join(" | ");
        let clean: String = line.chars().take(600).collect();
        text::plain(&clean).trim().to_owned()
    }
}

/// Lines that say why a process gave up, whatever it printed afterwards.
const DECISIVE: [&str; 4] = ["GGML_ASSERT", "panicked at", "what():", "memory allocation of"];

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
        self.reap();
    }
}

/// Reads a worker's standard error to its end and keeps the last part of it.
fn keep_tail(mut stderr: ChildStderr, log: &Mutex<Vec<u8>>) {
    let mut buffer = [0u8; 8192];
    while let Ok(n) = stderr.read(&mut buffer) {
        let Some(read) = buffer.get(..n).filter(|read| !read.is_empty()) else { return };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(read);
        let excess = log.len().saturating_sub(budget::WORKER_LOG_BYTES);
        log.drain(..excess);
    }
}

fn signal_name(signal: i32) -> &'static str {
    match Signal::from_named_raw(signal) {
        Some(Signal::ABORT) => "abort",
        Some(Signal::SEGV) => "segmentation fault",
        Some(Signal::BUS) => "bus error: the file shrank while it was mapped, or the disk failed",
        Some(Signal::ILL) => "illegal instruction",
        Some(Signal::FPE) => "arithmetic fault",
        Some(Signal::TERM) => "terminated",
        _ => "unexpected",
    }
}
