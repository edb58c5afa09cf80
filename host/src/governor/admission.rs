//! Who may load, and how much memory there is to hand out.
//!
//! Invariants: the sum of what was promised never exceeds the budget, unless somebody insisted;
//! two loads never overlap, not even those of two processes of one user; after an end, the next
//! load waits until the memory is really back, for a bounded time. A refusal names the numbers
//! and the limit that decides.
//! Deliberately absent: models; a job is two numbers of bytes here.

use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;
use super::memory::{MachineMemory, machine_memory};
use super::turn::{self, Turn};
use crate::domain::budget;
use crate::domain::size::ByteSize;

/// How careful to be with a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Guardrail {
    /// Never refuses; the limits still hold while it runs.
    Off,
    /// File pages may be pushed out; a small margin.
    Relaxed,
    /// Everything fits, with a margin of 5 % or 256 MiB.
    #[default]
    Balanced,
    /// As balanced, with a margin of 15 % or 1 GiB.
    Strict,
}

impl Guardrail {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Relaxed => "relaxed",
            Self::Balanced => "balanced",
            Self::Strict => "strict",
        }
    }

    /// What must be there for a job to start.
    pub fn needed_bytes(self, demand: Demand) -> u64 {
        let whole = demand.held_bytes.saturating_add(demand.mapped_bytes);
        let with = |base: u64, percent: u64, least: u64| {
            base.saturating_add((base / 100).saturating_mul(percent).max(least))
        };
        match self {
            Self::Off => 0,
            Self::Relaxed => with(demand.held_bytes, 2, 64 << 20),
            Self::Balanced => with(whole, 5, 256 << 20),
            Self::Strict => with(whole, 15, 1 << 30),
        }
    }

    /// The most that a job may take of what is free, all of it held.
    pub fn room(self, free_bytes: u64) -> u64 {
        let needed = |held_bytes| self.needed_bytes(Demand { held_bytes, mapped_bytes: 0 });
        let (mut least, mut most) = (0, free_bytes);
        while least < most {
            let middle = most - (most - least) / 2;
            if needed(middle) <= free_bytes { least = middle } else { most = middle - 1 }
        }
        least
    }
}

/// What a job will take, as predicted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Memory that only its end gives back.
    pub held_bytes: u64,
    /// File pages that it will want to keep.
    pub mapped_bytes: u64,
}

/// What a person set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    pub max_memory_bytes: Option<u64>,
    /// [`budget::MIN_FREE_BYTES`] if `None`.
    pub min_free_bytes: Option<u64>,
}

/// Which limit decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Limiting {
    /// `--max-memory`.
    MaxMemory,
    /// The machine's available memory, less what is to stay free (`--min-free`).
    Available,
    /// The control group that assayd lives in.
    Group,
    /// What is free on an accelerator.
    Accelerator,
}

impl Limiting {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxMemory => "max-memory",
            Self::Available => "available",
            Self::Group => "group",
            Self::Accelerator => "accelerator",
        }
    }

    /// What to do about it.
    fn remedy(self) -> &'static str {
        match self {
            Self::MaxMemory => "raise --max-memory, or use a smaller model or context",
            Self::Available => "close other programs, lower --min-free, or use a smaller model or context",
            Self::Group => "raise the memory limit of the container or control group",
            Self::Accelerator => {
                "place less on it with --gpu-layers, --n-cpu-moe or --cpu-moe, or end what else is on it"
            }
        }
    }
}

/// Memory that can be handed out, and what bounds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Budget {
    pub bytes: u64,
    pub limiting: Limiting,
}

impl Budget {
    /// The tightest of all limits. A machine that does not say how much it has gives nothing.
    pub fn of(machine: Option<MachineMemory>, group: &Cgroup, caps: Caps) -> Self {
        let floor = caps.min_free_bytes.unwrap_or(budget::MIN_FREE_BYTES);
        let available = machine.map_or(0, |machine| machine.available_bytes).saturating_sub(floor);
        let group = group.memory_limit_bytes.map(|limit| {
            // Pages of files in the group's use come back when they are wanted.
            limit
                .saturating_sub(group.memory_used_bytes.unwrap_or(0).saturating_sub(group.memory_cache_bytes))
        });
        let all = [
            Some(Self { bytes: available, limiting: Limiting::Available }),
            group.map(|bytes| Self { bytes, limiting: Limiting::Group }),
            caps.max_memory_bytes.map(|bytes| Self { bytes, limiting: Limiting::MaxMemory }),
        ];
        let first = Self { bytes: available, limiting: Limiting::Available };
        all.into_iter()
            .flatten()
            .fold(first, |least, next| if next.bytes < least.bytes { next } else { least })
    }

    /// As the machine is now.
    pub fn now(caps: Caps) -> Self {
        Self::of(machine_memory(), &super::cgroup(), caps)
    }
}

/// How well a job fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// With the margin of [`Guardrail::Balanced`].
    Green,
    /// Only with less margin, or with file pages pushed out: it may be slow.
    Yellow,
    Red,
}

impl Fit {
    pub fn of(demand: Demand, budget: Budget) -> Self {
        if Guardrail::Balanced.needed_bytes(demand) <= budget.bytes {
            Self::Green
        } else if demand.held_bytes <= budget.bytes {
            Self::Yellow
        } else {
            Self::Red
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
        }
    }
}

/// Why a job may not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it would take {} and up to {} of file pages, {} with the margin of the guardrail {}, and {} can be had ({})",
    ByteSize(demand.held_bytes), ByteSize(demand.mapped_bytes), ByteSize(*needed_bytes), guardrail.as_str(),
    ByteSize(budget.bytes), budget.limiting.as_str()
)]
pub struct Refusal {
    pub demand: Demand,
    pub needed_bytes: u64,
    pub budget: Budget,
    pub guardrail: Guardrail,
}

impl Refusal {
    /// What to do about it.
    pub fn hint(&self) -> String {
        format!(
            "{}; --guardrail relaxed is less careful, and --force loads it all the same",
            self.budget.limiting.remedy()
        )
    }
}

/// Whether a demand fits a budget at a guardrail.
///
/// # Errors
/// It does not, with the numbers.
pub fn check(demand: Demand, budget: Budget, guardrail: Guardrail) -> Result<(), Refusal> {
    let needed_bytes = guardrail.needed_bytes(demand);
    if needed_bytes <= budget.bytes {
        Ok(())
    } else {
        Err(Refusal { demand, needed_bytes, budget, guardrail })
    }
}

#[derive(Debug)]
struct State {
    /// Promised to jobs that run.
    promised: u64,
    jobs: u64,
    loading: bool,
    /// Available memory that the last end should bring back, and until when to wait for it.
    expected: Option<(u64, Instant)>,
}

/// The desk where jobs ask; one per process.
#[derive(Debug)]
pub struct Admission {
    state: Mutex<State>,
    changed: Condvar,
    /// The file by which desks of several processes take turns, if they do.
    turns: Option<fn() -> PathBuf>,
}

/// The desk of this process.
pub static ADMISSION: Admission = Admission::new(Some(turn::of_this_user));

/// What the desk is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AdmissionNow {
    pub promised_bytes: u64,
    pub jobs: u64,
    pub loading: bool,
}

impl Admission {
    /// A desk that takes turns by the file that `turns` names, or knows of no other.
    pub const fn new(turns: Option<fn() -> PathBuf>) -> Self {
        let state = State { promised: 0, jobs: 0, loading: false, expected: None };
        Self { state: Mutex::new(state), changed: Condvar::new(), turns }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> AdmissionNow {
        let state = self.state();
        AdmissionNow { promised_bytes: state.promised, jobs: state.jobs, loading: state.loading }
    }

    /// Waits for the right to load, and for room as long as others can give it back. `room` gets
    /// the bytes that are promised to others, and is asked again after every change.
    ///
    /// # Errors
    /// It cannot fit, or `cancelled` became true while it waited (`None`).
    pub fn ask(
        &self,
        demand: Demand,
        guardrail: Guardrail,
        room: &dyn Fn(u64) -> Budget,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Ticket<'_>, Option<Refusal>> {
        let needed = guardrail.needed_bytes(demand);
        let mut state = self.state();
        let turn = loop {
            if cancelled() {
                return Err(None);
            }
            if !state.loading
                && !self.must_settle(&mut state)
                && let Some(turn) = self.turn()
            {
                match check(demand, room(state.promised), guardrail) {
                    Ok(()) => break turn,
                    Err(refusal) if state.jobs == 0 => return Err(Some(refusal)),
                    // A running job will end and make room.
                    Err(_) => {}
                }
            }
            let waited = self.changed.wait_timeout(state, PAUSE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        state.loading = true;
        state.jobs += 1;
        state.promised = state.promised.saturating_add(needed);
        let before = machine_memory().map_or(0, |machine| machine.available_bytes);
        Ok(Ticket {
            desk: self,
            promised: needed,
            loading: Some(turn),
            available_before: before,
            held: demand.held_bytes,
        })
    }

    /// The turn to load; `None` while another process has it.
    fn turn(&self) -> Option<Turn> {
        self.turns.map_or(Some(Turn::free()), |file| Turn::try_take(&file()))
    }

    /// Whether memory of the last job is still on its way back.
    fn must_settle(&self, state: &mut State) -> bool {
        let Some((expected, until)) = state.expected else { return false };
        let back = machine_memory().is_none_or(|machine| machine.available_bytes >= expected);
        if back || Instant::now() >= until {
            state.expected = None;
            return false;
        }
        true
    }
}

/// What other programs may take meanwhile.
const SETTLE_SLACK_BYTES: u64 = 256 << 20;
const PAUSE: Duration = Duration::from_millis(20);

/// The right to run one job. Dropping it gives the memory back to the desk.
#[derive(Debug)]
pub struct Ticket<'desk> {
    desk: &'desk Admission,
    promised: u64,
    /// Until it is loaded.
    loading: Option<Turn>,
    available_before: u64,
    held: u64,
}

impl Ticket<'_> {
    /// The load is over: the next one may begin.
    pub fn loaded(&mut self) {
        if self.loading.take().is_some() {
            self.desk.state().loading = false;
            self.desk.changed.notify_all();
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.desk.state();
        state.promised = state.promised.saturating_sub(self.promised);
        state.jobs = state.jobs.saturating_sub(1);
        if self.loading.take().is_some() {
            state.loading = false;
        }
        // Of a small job nothing is noticed; of a large one three quarters, since other programs
        // take memory, too.
        if self.held >= budget::CULPRIT_BYTES {
            let back = self.available_before.saturating_sub(self.held / 4).saturating_sub(SETTLE_SLACK_BYTES);
            state.expected = Some((back, Instant::now() + budget::MEMORY_BACK));
        }
        drop(state);
        self.desk.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn demand(held: u64, mapped: u64) -> Demand {
        Demand { held_bytes: held * MIB, mapped_bytes: mapped * MIB }
    }

    #[test]
    fn the_tightest_limit_decides_and_is_named() {
        let machine = Some(MachineMemory { total_bytes: 16_384 * MIB, available_bytes: 8_192 * MIB });
        let caps = |max: Option<u64>, free: u64| Caps {
            max_memory_bytes: max.map(|max| max * MIB),
            min_free_bytes: Some(free * MIB),
        };
        let none = Cgroup::default();
        let group = Cgroup {
            memory_limit_bytes: Some(4_096 * MIB),
            memory_used_bytes: Some(2_048 * MIB),
            memory_cache_bytes: 1_024 * MIB,
            ..Cgroup::default()
        };
        for (group, caps, bytes, limiting) in [
            (&none, caps(None, 2_048), 6_144, Limiting::Available),
            (&none, caps(Some(1_000), 2_048), 1_000, Limiting::MaxMemory),
            (&group, caps(Some(5_000), 2_048), 3_072, Limiting::Group),
            (&group, caps(None, 9_000), 0, Limiting::Available),
        ] {
            assert_eq!(Budget::of(machine, group, caps), Budget { bytes: bytes * MIB, limiting });
        }
        assert_eq!(Budget::of(None, &none, caps(None, 0)).bytes, 0, "unknown is not plenty");
    }

    #[test]
    fn guardrails_and_colours() {
        let budget = Budget { bytes: 1_500 * MIB, limiting: Limiting::Available };
        let fits = |guardrail, demand| check(demand, budget, guardrail).is_ok();
        for (demand, expected) in [
            (demand(1_000, 100), [true, true, true, false]),
            (demand(1_000, 400), [true, true, false, false]),
            (demand(1_480, 0), [true, false, false, false]),
            (demand(1_000, 9_000), [true, true, false, false]),
        ] {
            let all = [Guardrail::Off, Guardrail::Relaxed, Guardrail::Balanced, Guardrail::Strict];
            assert_eq!(all.map(|guardrail| fits(guardrail, demand)), expected, "{demand:?}");
        }
        assert_eq!(Fit::of(demand(1_000, 100), budget), Fit::Green);
        assert_eq!(Fit::of(demand(1_400, 0), budget), Fit::Yellow);
        assert_eq!(Fit::of(demand(1_501, 0), budget), Fit::Red);
        let refusal = check(demand(1_400, 200), budget, Guardrail::Balanced).unwrap_err();
        let text = refusal.to_string();
        for part in ["1.37 GiB", "200.00 MiB", "1.81 GiB", "1.46 GiB", "available"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(refusal.hint().contains("--min-free") && refusal.hint().contains("--force"));
    }

    #[test]
    fn two_loads_never_overlap_and_promises_stay_within_the_budget() {
        static DESK: Admission = Admission::new(None);
        static LOADING: AtomicUsize = AtomicUsize::new(0);
        static RUNNING: AtomicUsize = AtomicUsize::new(0);
        let threads: Vec<_> = (0..6)
            .map(|_| {
                std::thread::spawn(|| {
                    let room = |promised| Budget {
                        bytes: (2_000 * MIB).saturating_sub(promised),
                        limiting: Limiting::MaxMemory,
                    };
                    let ask = demand(500, 0);
                    let mut ticket = DESK.ask(ask, Guardrail::Balanced, &room, &|| false).unwrap();
                    assert_eq!(LOADING.fetch_add(1, Ordering::SeqCst), 0, "two loads overlap");
                    assert!(RUNNING.fetch_add(1, Ordering::SeqCst) < 2, "more than fits");
                    std::thread::sleep(Duration::from_millis(20));
                    LOADING.fetch_sub(1, Ordering::SeqCst);
                    ticket.loaded();
                    std::thread::sleep(Duration::from_millis(30));
                    RUNNING.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(DESK.now(), AdmissionNow { promised_bytes: 0, jobs: 0, loading: false });
    }

    /// Two desks stand for two processes.
    #[test]
    fn desks_that_share_a_file_load_one_after_the_other() {
        fn file() -> PathBuf {
            std::env::temp_dir().join(format!("assayd-turns-{}", std::process::id()))
        }
        let desks = [(); 2].map(|()| Admission::new(Some(file)));
        let room = |_| Budget { bytes: 100 * MIB, limiting: Limiting::MaxMemory };
        let ask = |desk: usize, patience: u32| {
            let asked = std::cell::Cell::new(0);
            let cancelled = || asked.replace(asked.get() + 1) >= patience;
            desks[desk].ask(demand(1, 0), Guardrail::Off, &room, &cancelled)
        };
        // A process that is just being started beside us holds copies of our files for a moment.
        const LONG: u32 = 500;
        let mut first = ask(0, LONG).unwrap();
        assert!(ask(1, 3).unwrap_err().is_none(), "the first is loading");
        assert!(!desks[1].now().loading && desks[1].now().jobs == 0);
        first.loaded();
        let second = ask(1, LONG).unwrap();
        assert!(ask(0, 3).unwrap_err().is_none(), "the second is loading");
        drop(second);
        drop(ask(0, LONG).unwrap());
        std::fs::remove_file(file()).unwrap();
    }

    #[test]
    fn what_never_fits_is_refused_and_waiting_can_be_cancelled() {
        let desk = Admission::new(None);
        let room = |_| Budget { bytes: 100 * MIB, limiting: Limiting::MaxMemory };
        let refused = desk.ask(demand(500, 0), Guardrail::Balanced, &room, &|| false).unwrap_err();
        assert_eq!(refused.unwrap().budget.limiting, Limiting::MaxMemory);
        let held = desk.ask(demand(500, 0), Guardrail::Off, &room, &|| false).unwrap();
        let asked = std::cell::Cell::new(0);
        let cancelled = || {
            asked.set(asked.get() + 1);
            asked.get() > 3
        };
        assert!(desk.ask(demand(1, 0), Guardrail::Off, &room, &cancelled).unwrap_err().is_none());
        drop(held);
    }
}
