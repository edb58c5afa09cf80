//! One guarded process: started in its own group, watched, ended, reaped and classified.

use std::io::Read;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::domain::{Problem, ProblemKind, budget};
use crate::governor::memory::{ProcessMemory, process_memory};

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Ending {
    Ok,
    /// Not started, or the engine declined the model with a reason.
    Refused,
    /// Killed by the kernel for memory.
    OomKilled,
    /// Killed by us for going over its memory limit.
    LimitKilled,
    /// Ended by a signal or with an error of its own.
    Crashed,
    /// No progress for too long, ended by us.
    Stalled,
    /// A remote engine went away.
    RemoteLost,
}

impl Ending {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Refused => "REFUSED",
            Self::OomKilled => "OOM_KILLED",
            Self::LimitKilled => "LIMIT_KILLED",
            Self::Crashed => "CRASHED",
            Self::Stalled => "STALLED",
            Self::RemoteLost => "REMOTE_LOST",
        }
    }
}

/// Why a worker gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("worker ended {}: {detail}", ending.as_str())]
pub struct WorkerEnd {
    pub ending: Ending,
    pub detail: String,
    pub hint: Option<String>,
}

impl WorkerEnd {
    pub(super) fn new(ending: Ending, detail: impl Into<String>) -> Self {
        let hint = match ending {
            Ending::Ok | Ending::Refused | Ending::RemoteLost => None,
            Ending::OomKilled => {
                Some("the machine ran out of memory; close other programs or use a smaller model or context")
            }
            Ending::LimitKilled => Some("raise --max-memory, or use a smaller model or context"),
            Ending::Crashed => Some(
                "the inference engine failed on this file; nothing else was harmed, and the file should not be trusted",
            ),
            Ending::Stalled => Some(
                "the engine made no progress; the file may be built to hang it, or the disk may be very slow",
            ),
        };
        Self { ending, detail: detail.into(), hint: hint.map(str::to_owned) }
    }
}

impl From<WorkerEnd> for Problem {
    fn from(end: WorkerEnd) -> Self {
        let kind = match end.ending {
            Ending::Refused | Ending::Crashed => ProblemKind::Input,
            _ => ProblemKind::Machine,
        };
        Problem { kind, message: end.to_string(), hint: end.hint }
    }
}

/// What the watchdog saw and did.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) peak_anon: AtomicU64,
    pub(super) peak_file: AtomicU64,
    pub(super) peak_all: AtomicU64,
    over_limit: AtomicBool,
    loaded: AtomicBool,
    stop: AtomicBool,
}

impl Watch {
    /// Raises the peaks to `memory` and returns its anonymous part; 0 when there is none to see.
    fn note(&self, memory: Option<ProcessMemory>) -> u64 {
        let memory = memory.unwrap_or_default();
        self.peak_anon.fetch_max(memory.rss_anon_bytes, Ordering::Relaxed);
        self.peak_file.fetch_max(memory.rss_file_bytes, Ordering::Relaxed);
        self.peak_all.fetch_max(memory.peak_rss_bytes.unwrap_or(0), Ordering::Relaxed);
        memory.rss_anon_bytes
    }
}

/// A running worker process. Dropping it kills its whole group and reaps it.
#[derive(Debug)]
pub(super) struct Guarded {
    child: Child,
    pid: Pid,
    log: Arc<Mutex<Vec<u8>>>,
    log_reader: Option<JoinHandle<()>>,
    pub(super) watch: Arc<Watch>,
    watchdog: Option<JoinHandle<()>>,
    limit: Option<u64>,
    reaped: bool,
}

/// Watchdog period while a model loads, when memory can grow by gigabytes a second.
const WATCH_LOADING: Duration = Duration::from_millis(20);
/// Watchdog period afterwards.
const WATCH_RUNNING: Duration = Duration::from_millis(100);
/// How long a worker may take to exit after it said it is done.
const EXIT_GRACE: Duration = Duration::from_secs(10);

impl Guarded {
    /// Starts `program __worker` in its own process group with a nearly empty environment.
    pub(super) fn start(
        program: Option<PathBuf>,
        threads: u32,
        limit: Option<u64>,
    ) -> Result<Self, WorkerEnd> {
        let refused = |what: String| WorkerEnd::new(Ending::Refused, what);
        let program = match program {
            Some(program) => program,
            None => std::env::current_exe()
                .map_err(|error| refused(format!("cannot find this program: {error}")))?,
        };
        let mut command = Command::new(&program);
        command
            .arg(super::WORKER_COMMAND)
            .env_clear()
            // Without it an abort starts a debugger, which inherits the worker's limits.
            .env("GGML_NO_BACKTRACE", "1")
            .env("OMP_NUM_THREADS", threads.to_string())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        for name in ["LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let mut child = command
            .spawn()
            .map_err(|error| refused(format!("cannot start a worker from {}: {error}", program.display())))?;
        let pid = Pid::from_child(&child);
        let log = Arc::new(Mutex::new(Vec::new()));
        let log_reader = child.stderr.take().map(|stderr| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || keep_tail(stderr, &log))
        });
        let watch = Arc::new(Watch::default());
        let watchdog = {
            let watch = Arc::clone(&watch);
            let id = child.id();
            std::thread::spawn(move || watch_memory(id, pid, limit, &watch))
        };
        Ok(Self { child, pid, log, log_reader, watch, watchdog: Some(watchdog), limit, reaped: false })
    }

    pub(super) fn pipes(&mut self) -> Option<(std::process::ChildStdin, std::process::ChildStdout)> {
        Some((self.child.stdin.take()?, self.child.stdout.take()?))
    }

    /// Takes note of the memory in use now, for peaks that come and go between two looks.
    pub(super) fn sample(&self) {
        self.watch.note(process_memory(self.child.id()));
    }

    /// From here on memory grows slowly, and the watchdog may look less often.
    pub(super) fn loaded(&self) {
        self.sample();
        self.watch.loaded.store(true, Ordering::Relaxed);
    }

    /// Kills the worker's own group; nothing outside it, and never by name.
    pub(super) fn kill(&self) {
        if !self.reaped {
            kill_group(self.pid);
        }
    }

    /// Waits for the end of a process that is expected to exit, killing it after a grace period.
    pub(super) fn reap(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + EXIT_GRACE;
        let mut pause = Duration::from_millis(1);
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() >= deadline => {
                    self.kill();
                    break self.child.wait().ok();
                }
                Ok(None) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err(_) => break None,
            }
        };
        // Descendants that outlived the worker still hold its group.
        self.finish_threads();
        status
    }

    fn finish_threads(&mut self) {
        if !self.reaped {
            self.reaped = true;
            kill_group(self.pid);
        }
        self.watch.stop.store(true, Ordering::Relaxed);
        if let Some(watchdog) = self.watchdog.take() {
            let _ = watchdog.join();
        }
        if let Some(reader) = self.log_reader.take() {
            let _ = reader.join();
        }
    }

    /// Turns an unexpected end into words: who ended the process and the last thing it said.
    pub(super) fn classify(&mut self) -> WorkerEnd {
        // It is no longer talking to us, so it must not live on.
        let early = self.child.try_wait().ok().flatten();
        let status = match early {
            Some(status) => {
                self.finish_threads();
                Some(status)
            }
            None => self.reap(),
        };
        let said = self.last_words();
        let said = if said.is_empty() { String::new() } else { format!("; it said: {said}") };
        if self.watch.over_limit.load(Ordering::Relaxed) {
            let used = self.watch.peak_anon.load(Ordering::Relaxed);
            return WorkerEnd::new(
                Ending::LimitKilled,
                format!("it used {} MiB and its limit is {} MiB", used >> 20, self.limit.unwrap_or(0) >> 20),
            );
        }
        match status.map(|status| (status.signal(), status.code())) {
            Some((Some(signal), _)) if signal == Signal::KILL.as_raw() => WorkerEnd::new(
                Ending::OomKilled,
                format!("it was killed from outside, most likely for memory{said}"),
            ),
            Some((Some(signal), _)) => {
                WorkerEnd::new(Ending::Crashed, format!("signal {signal} ({}){said}", signal_name(signal)))
            }
            Some((None, Some(code))) => WorkerEnd::new(Ending::Crashed, format!("exit code {code}{said}")),
            Some((None, None)) | None => WorkerEnd::new(Ending::Crashed, format!("unknown cause{said}")),
        }
    }

    /// The last lines of standard error, as one line of plain text.
    fn last_words(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&log);
        let mut lines: Vec<&str> =
            text.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
        lines.reverse();
        let line = lines.join(" | ");
        let clean: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect();
        clean.trim().to_owned()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.child.wait();
        }
        self.finish_threads();
    }
}

/// SIGKILL to the group led by `leader`. The leader is ours and not yet reaped (or was reaped
/// this instant), so the number cannot belong to anybody else.
fn kill_group(leader: Pid) {
    let _ = rustix::process::kill_process_group(leader, Signal::KILL);
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

/// Follows a worker's memory until told to stop, and kills its group when it goes over `limit`.
fn watch_memory(id: u32, leader: Pid, limit: Option<u64>, watch: &Watch) {
    while !watch.stop.load(Ordering::Relaxed) {
        let used = watch.note(process_memory(id));
        if limit.is_some_and(|limit| used > limit) {
            watch.over_limit.store(true, Ordering::Relaxed);
            kill_group(leader);
            return;
        }
        let loaded = watch.loaded.load(Ordering::Relaxed);
        std::thread::sleep(if loaded { WATCH_RUNNING } else { WATCH_LOADING });
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
