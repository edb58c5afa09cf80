//! What a worker is held to, and how it turned out to be held.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::guard::Confinement;
use super::stamp::Stamp;
use crate::domain::budget;
use crate::governor::Enforcement;
use crate::governor::admission::{Budget, Caps, Demand, Guardrail};
use crate::governor::group::GroupRoot;
use crate::governor::levels::{Alerts, Levels};

/// What a worker may take.
#[derive(Debug, Clone)]
pub struct WorkerLimits {
    /// Memory that only its end gives back; what can be had when it starts if `None`.
    pub memory_bytes: Option<u64>,
    /// How it is held to that.
    pub enforcement: Enforcement,
    /// Available memory of the machine below which the worker is ended;
    /// [`budget::MIN_FREE_BYTES`] if `None`.
    pub min_free_bytes: Option<u64>,
    /// Shares of its limit and of the machine's memory at which there are alerts, and an end.
    pub levels: Levels,
    /// Whether files, network and system calls are taken from it. Only tests say no.
    pub confine: bool,
    /// The files as they were when they were judged; looked at when it starts if empty.
    pub stamps: Vec<Stamp>,
    /// What it is predicted to take, and how much of what there is it may have.
    pub demand: Demand,
    pub guardrail: Guardrail,
    pub caps: Caps,
    /// Where control groups are; this machine's if `None`.
    pub groups: Option<GroupRoot>,
    /// Silence after which the worker is taken for hanging.
    pub stall: Duration,
    /// Ends the worker as soon as it becomes true.
    pub cancel: Option<Arc<AtomicBool>>,
    /// The program to start; this one if `None`.
    pub program: Option<PathBuf>,
}

impl Default for WorkerLimits {
    fn default() -> Self {
        Self {
            memory_bytes: None,
            enforcement: Enforcement::Auto,
            min_free_bytes: None,
            levels: Levels::default(),
            confine: true,
            stamps: Vec::new(),
            demand: Demand::default(),
            guardrail: Guardrail::Off,
            caps: Caps::default(),
            groups: None,
            stall: budget::WORKER_STALL,
            cancel: None,
            program: None,
        }
    }
}

impl WorkerLimits {
    /// The same with a limit in any case: where none was set, what can be had now.
    pub(super) fn bounded(&self) -> Self {
        let now = || Some(Budget::now(self.caps).bytes).filter(|bytes| *bytes > 0);
        Self { memory_bytes: self.memory_bytes.or_else(now), ..self.clone() }
    }
}

/// How a worker was held, and what it took.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WorkerMemory {
    pub limit_bytes: Option<u64>,
    /// The rungs in force, such as `cgroup-v1+rlimit+watchdog`.
    pub enforcement: String,
    /// What it was kept from, such as `landlock+seccomp`.
    pub confinement: Confinement,
    /// Why a rung that was wanted is not there.
    pub missing: Vec<String>,
    /// Most memory that only its end gave back.
    pub peak_held_bytes: u64,
    /// Most memory of its control group, file pages included.
    pub peak_group_bytes: Option<u64>,
    pub alerts: Alerts,
}
