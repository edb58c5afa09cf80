//! Everything the governor knows at one moment, for people: the machine, the desk, the workers.
//!
//! Read-only. Deliberately absent: history (whoever wants it takes several) and any decision.

use serde::Serialize;

use super::admission::{ADMISSION, AdmissionNow, Budget, Caps};
use super::cgroup::Cgroup;
use super::levels::{Level, Levels};
use super::machine::{Memory, memory_now};
use super::memory::{descendants, machine_memory, process_memory};
use super::pressure::{PressureNow, pressure_now};
use crate::domain::budget;

/// Whose workers to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those of this process.
    Ours,
    /// Those of any assayd on this machine.
    Machine,
}

/// One look.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Snapshot {
    pub memory: Memory,
    /// Share of the memory that is taken, in percent; null where the kernel does not say.
    pub used_percent: Option<u8>,
    pub level: Option<Level>,
    pub levels: Levels,
    /// Null where the kernel keeps no averages.
    pub pressure: Option<PressureNow>,
    pub cgroup: Cgroup,
    /// What a job could get now, and which limit says so.
    pub budget: Budget,
    /// What was promised to jobs of this process.
    pub admission: AdmissionNow,
    /// The largest first.
    pub workers: Vec<WorkerNow>,
}

/// A worker process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct WorkerNow {
    pub pid: u32,
    pub rss_anon_bytes: u64,
    pub rss_file_bytes: u64,
    pub rss_shmem_bytes: u64,
}

impl Snapshot {
    pub fn take(scope: Scope) -> Self {
        Self::with(scope, Levels::default())
    }

    pub fn with(scope: Scope, levels: Levels) -> Self {
        let percent = machine_memory().map(|machine| machine.used_percent());
        Self {
            memory: memory_now(),
            used_percent: percent,
            level: percent.map(|percent| levels.of(percent)),
            levels,
            pressure: pressure_now(),
            cgroup: super::cgroup(),
            budget: Budget::now(Caps::default()),
            admission: ADMISSION.now(),
            workers: workers(scope),
        }
    }
}

fn workers(scope: Scope) -> Vec<WorkerNow> {
    let candidates = match scope {
        Scope::Ours => descendants(std::process::id()),
        Scope::Machine => std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect(),
    };
    let mut found: Vec<WorkerNow> = candidates
        .into_iter()
        .filter(|pid| is_worker(*pid))
        .filter_map(|pid| {
            let memory = process_memory(pid)?;
            Some(WorkerNow {
                pid,
                rss_anon_bytes: memory.rss_anon_bytes,
                rss_file_bytes: memory.rss_file_bytes,
                rss_shmem_bytes: memory.rss_shmem_bytes,
            })
        })
        .collect();
    found.sort_by_key(|worker| std::cmp::Reverse((worker.rss_anon_bytes, worker.pid)));
    found.truncate(budget::WATCHED_PROCESSES);
    found
}

/// By its first argument. Good enough to show it; nothing is ever ended by what it is called.
fn is_worker(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(b"__worker")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_has_numbers_and_no_workers_that_are_not_there() {
        let now = Snapshot::take(Scope::Ours);
        assert!(now.memory.total_bytes > 0 && now.used_percent.is_some() && now.level.is_some());
        assert!(now.workers.is_empty(), "{:?}", now.workers);
        let json = serde_json::to_value(&now).unwrap();
        for key in ["memory", "used_percent", "level", "pressure", "cgroup", "budget", "admission", "workers"]
        {
            assert!(json.get(key).is_some(), "{key}");
        }
    }
}
