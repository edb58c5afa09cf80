//! The watchdog: a thread that follows one worker's memory and the machine's, and ends the
//! worker in time.
//!
//! Invariants: it looks every 20 ms while a model loads, when memory can grow by gigabytes a
//! second, and every 100 ms afterwards, or at once when the kernel reports pressure. It ends
//! only its own worker. Overshoot is bounded by the period and by the time a kill takes; the
//! rungs above it catch what grows faster. Deliberately absent: any judgement of other
//! processes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::leash::Leash;
use crate::domain::budget;
use crate::domain::size::ByteSize;
use crate::governor::levels::{Alert, Alerts, Gauge, Level, Levels, Subject, percent_of};
use crate::governor::memory::{descendants_memory, machine_memory, process_memory};
use crate::governor::pressure::Pressure;

const WHILE_LOADING: Duration = Duration::from_millis(20);
const AFTERWARDS: Duration = Duration::from_millis(100);

/// What one worker is held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Orders {
    /// Memory that only its end gives back.
    pub(super) limit: Option<u64>,
    /// Available memory of the machine below which the worker goes.
    pub(super) floor: u64,
    pub(super) levels: Levels,
}

/// What the watchdog saw and did.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) peak_anon: AtomicU64,
    pub(super) peak_file: AtomicU64,
    /// All kinds together, as the kernel keeps it.
    pub(super) peak_all: AtomicU64,
    peak_held: AtomicU64,
    alerts: Mutex<Alerts>,
    /// Why it ended the worker.
    reason: Mutex<Option<String>>,
    loaded: AtomicBool,
    /// Whether the worker is known to be unable to fork.
    alone: AtomicBool,
    stop: AtomicBool,
}

impl Watch {
    /// Looks once: raises the peaks and returns what the worker holds; 0 when it is gone.
    pub(super) fn look(&self, id: u32) -> u64 {
        let mut memory = process_memory(id).unwrap_or_default();
        if !self.alone.load(Ordering::Relaxed) {
            let others = descendants_memory(id);
            memory.rss_anon_bytes = memory.rss_anon_bytes.saturating_add(others.rss_anon_bytes);
            memory.rss_shmem_bytes = memory.rss_shmem_bytes.saturating_add(others.rss_shmem_bytes);
        }
        let most_file = self.peak_file.fetch_max(memory.rss_file_bytes, Ordering::Relaxed);
        self.peak_anon.fetch_max(memory.peak_anon_bytes(most_file), Ordering::Relaxed);
        self.peak_all.fetch_max(memory.peak_rss_bytes.unwrap_or(0), Ordering::Relaxed);
        self.peak_held.fetch_max(memory.held_bytes(), Ordering::Relaxed);
        memory.held_bytes()
    }

    /// From here on memory grows slowly.
    pub(super) fn loaded(&self) {
        self.loaded.store(true, Ordering::Relaxed);
    }

    pub(super) fn alone(&self) {
        self.alone.store(true, Ordering::Relaxed);
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn peak_held(&self) -> u64 {
        self.peak_held.load(Ordering::Relaxed)
    }

    pub(super) fn alerts(&self) -> Alerts {
        self.alerts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why it ended the worker, if it did.
    pub(super) fn reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn end(&self, leash: &Leash, reason: String) {
        // Said before it is done: whoever sees the end must find the reason.
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        leash.kill();
    }

    fn alert(&self, alert: Alert) {
        self.alerts.lock().unwrap_or_else(PoisonError::into_inner).add(alert);
    }
}

/// Follows the worker until told to stop, or until it was ended.
pub(super) fn run(orders: &Orders, leash: &Leash, watch: &Watch) {
    let pressure = Pressure::watch();
    let started = Instant::now();
    let (mut worker, mut machine) = (Gauge::new(orders.levels), Gauge::new(orders.levels));
    while !watch.stop.load(Ordering::Relaxed) {
        let after = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let alert = |subject, level, percent, used_bytes| {
            watch.alert(Alert { subject, level, percent, used_bytes, after_milliseconds: after });
        };
        let held = watch.look(leash.id());
        if let Some(limit) = orders.limit {
            let percent = percent_of(held, limit);
            worker.rise(percent).into_iter().for_each(|level| alert(Subject::Worker, level, percent, held));
            if held > limit {
                let (used, limit) = (ByteSize(held), ByteSize(limit));
                watch.end(leash, format!("it used {used} and its limit is {limit}"));
                return;
            }
        }
        if let Some(now) = machine_memory() {
            let (percent, used) = (now.used_percent(), now.total_bytes.saturating_sub(now.available_bytes));
            machine.rise(percent).into_iter().for_each(|level| alert(Subject::Machine, level, percent, used));
            if held >= budget::CULPRIT_BYTES && now.available_bytes < orders.floor {
                let (left, floor) = (ByteSize(now.available_bytes), ByteSize(orders.floor));
                watch.end(
                    leash,
                    format!("only {left} of the machine's memory were left, and {floor} are to stay free"),
                );
                return;
            }
            if held >= budget::CULPRIT_BYTES && machine.level() == Level::Kill {
                let limit = orders.levels.kill;
                watch.end(
                    leash,
                    format!("{percent} % of the machine's memory were taken; the limit is {limit} %"),
                );
                return;
            }
        }
        let period = if watch.loaded.load(Ordering::Relaxed) { AFTERWARDS } else { WHILE_LOADING };
        if pressure.wait(period) {
            alert(Subject::Pressure, Level::Warning, 0, held);
        }
    }
}
