//! The one wasmtime engine, its clock, and how a call is made.
//!
//! Per call: a new store, its limits, an instance, the call, and the store is dropped.
//! That costs about 40 microseconds and buys replay, isolation and hot reload; after a
//! trap an instance could not be used again anyway.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use wasmtime::component::{Component, HasSelf, Instance, InstancePre, Linker, ResourceTable};
use wasmtime::{Config, Engine, EngineWeak, Store};

use super::bindings::assay::plugin::{artifact, diagnostics, evidence, types};
use super::bindings::exports::assay::plugin as exports;
use super::executor::{Executor, NoAnswer};
use super::fault::{Circumstances, FaultClass, PluginFault, classify};
use super::limits::Meter;
use super::load::PluginKind;
use crate::domain::Problem;
use crate::domain::budget::{
    PLUGIN_HANDLES, PLUGIN_LOG_LINE_BYTES, PLUGIN_LOG_LINES, PLUGIN_TICK, PluginLimits,
};

/// What a store holds: the resources of one call, and what happened during it.
#[derive(Debug)]
pub(super) struct CallState {
    pub(super) table: ResourceTable,
    meter: Meter,
    log: Vec<String>,
    dropped: u64,
    panic: Option<(String, String, u32)>,
}

/// What a call took.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Comparable only within one wasmtime version.
    pub fuel: u64,
    pub memory_bytes: usize,
    pub log: Vec<String>,
}

/// A compiled plugin, linked, with its exports found.
pub(super) struct Loaded {
    pub(super) pre: InstancePre<CallState>,
    pub(super) exports: Exports,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").finish_non_exhaustive()
    }
}

/// Where the functions of a plugin's one interface are. A new interface version is a new
/// variant here and an adapter beside the old one.
pub(super) enum Exports {
    Scorer(exports::scorer::GuestIndices),
    Decider(exports::decider::GuestIndices),
    HashCheck(exports::hash_check::GuestIndices),
    Report(exports::report::GuestIndices),
}

impl Exports {
    pub(super) fn find(kind: PluginKind, pre: &InstancePre<CallState>) -> wasmtime::Result<Self> {
        Ok(match kind {
            PluginKind::Scorer => Self::Scorer(exports::scorer::GuestIndices::new(pre)?),
            PluginKind::Decider => Self::Decider(exports::decider::GuestIndices::new(pre)?),
            PluginKind::HashCheck => Self::HashCheck(exports::hash_check::GuestIndices::new(pre)?),
            PluginKind::Report => Self::Report(exports::report::GuestIndices::new(pre)?),
        })
    }
}

/// The engine, a linker per kind (a capability that is not granted is an import that
/// does not exist), the clock and the threads.
pub(super) struct Runtime {
    pub(super) engine: Engine,
    scorer: Linker<CallState>,
    /// Deciders and reports get diagnostics only.
    pure: Linker<CallState>,
    hash_check: Linker<CallState>,
    clock: Arc<Clock>,
    executor: Executor,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

impl Runtime {
    pub(super) fn start() -> Result<Self, Problem> {
        let failed = |error: wasmtime::Error| Problem::internal(format!("cannot set up plugins: {error:#}"));
        let engine = Engine::new(&config()).map_err(failed)?;
        let (mut scorer, mut pure, mut hash_check) =
            (Linker::new(&engine), Linker::new(&engine), Linker::new(&engine));
        for linker in [&mut scorer, &mut pure, &mut hash_check] {
            types::add_to_linker::<_, HasSelf<CallState>>(linker, |state| state).map_err(failed)?;
            diagnostics::add_to_linker::<_, HasSelf<CallState>>(linker, |state| state).map_err(failed)?;
        }
        evidence::add_to_linker::<_, HasSelf<CallState>>(&mut scorer, |state| state).map_err(failed)?;
        artifact::add_to_linker::<_, HasSelf<CallState>>(&mut hash_check, |state| state).map_err(failed)?;
        let no_thread = |error| Problem::machine(format!("cannot start threads for plugins: {error}"));
        let clock = Arc::new(Clock::default());
        let (ticking, weak) = (Arc::clone(&clock), engine.weak());
        thread::Builder::new()
            .name("plugin-clock".into())
            .spawn(move || ticking.tick(&weak))
            .map_err(no_thread)?;
        let executor = Executor::start().map_err(no_thread)?;
        Ok(Self { engine, scorer, pure, hash_check, clock, executor })
    }

    /// Links a component of the given kind.
    pub(super) fn link(
        &self,
        kind: PluginKind,
        component: &Component,
    ) -> wasmtime::Result<InstancePre<CallState>> {
        match kind {
            PluginKind::Scorer => &self.scorer,
            PluginKind::Decider | PluginKind::Report => &self.pure,
            PluginKind::HashCheck => &self.hash_check,
        }
        .instantiate_pre(component)
    }

    /// Runs `body` in a fresh instance on a plugin thread. `body` gives an answer, or a
    /// class of fault for what it found wrong with it, or wasmtime's error.
    pub(super) fn call<R: Send + 'static>(
        self: &Arc<Self>,
        plugin: &Arc<Loaded>,
        label: &str,
        call: &'static str,
        limits: PluginLimits,
        body: impl FnOnce(&mut Store<CallState>, &Instance, &Exports) -> wasmtime::Result<Result<R, FaultClass>>
        + Send
        + 'static,
    ) -> Result<(R, Usage), PluginFault> {
        let (runtime, plugin) = (Arc::clone(self), Arc::clone(plugin));
        let answer = self.executor.run(move || {
            runtime.in_store(&plugin.pre, limits, |store, instance| body(store, instance, &plugin.exports))
        });
        let (outcome, usage) = answer.unwrap_or_else(|none| {
            let class = match none {
                NoAnswer::Busy => FaultClass::Busy,
                NoAnswer::Broken => FaultClass::HostCall("the plugin thread failed".into()),
            };
            (Err(class), Usage::default())
        });
        match outcome {
            Ok(value) => Ok((value, usage)),
            Err(class) => Err(PluginFault { plugin: label.into(), call, class, log: usage.log.into() }),
        }
    }

    /// Makes the store and the instance, runs `body` in them, and says how it went.
    fn in_store<R>(
        &self,
        plugin: &InstancePre<CallState>,
        limits: PluginLimits,
        body: impl FnOnce(&mut Store<CallState>, &Instance) -> wasmtime::Result<Result<R, FaultClass>>,
    ) -> (Result<R, FaultClass>, Usage) {
        let mut table = ResourceTable::new();
        table.set_max_capacity(PLUGIN_HANDLES);
        let state = CallState {
            table,
            meter: Meter::new(limits.memory_bytes),
            log: Vec::new(),
            dropped: 0,
            panic: None,
        };
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(limits.transfer_bytes);
        store.set_max_component_handles(PLUGIN_HANDLES);
        store.set_epoch_deadline(ticks(limits.deadline));
        let running = self.clock.run();
        let result = store
            .set_fuel(limits.fuel)
            .and_then(|()| plugin.instantiate(&mut store))
            .and_then(|instance| body(&mut store, &instance));
        drop(running);
        let fuel = limits.fuel.saturating_sub(store.get_fuel().unwrap_or(0));
        let mut state = store.into_data();
        let outcome = result.unwrap_or_else(|error| {
            let at = Circumstances { panic: state.panic.take(), denied: state.meter.denied, limits: &limits };
            Err(classify(&error, at))
        });
        if state.dropped > 0 {
            state.log.push(format!("({} more lines)", state.dropped));
        }
        (outcome, Usage { fuel, memory_bytes: state.meter.memory_bytes(), log: state.log })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.clock.stop();
    }
}

/// Deterministic execution: no threads, no relaxed SIMD, one NaN, and two meters.
fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .wasm_relaxed_simd(false);
    config
}

/// Ticks until a deadline; one more for the tick that is already running.
fn ticks(deadline: std::time::Duration) -> u64 {
    let ticks = deadline.as_millis().div_ceil(PLUGIN_TICK.as_millis().max(1));
    u64::try_from(ticks).unwrap_or(u64::MAX - 1) + 1
}

/// Advances the engine's epoch while calls run, and sleeps otherwise.
#[derive(Debug, Default)]
struct Clock {
    state: Mutex<ClockState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct ClockState {
    running: usize,
    stopped: bool,
}

impl Clock {
    fn lock(&self) -> MutexGuard<'_, ClockState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the clock going until the guard is dropped.
    fn run(self: &Arc<Self>) -> Running {
        self.lock().running += 1;
        self.changed.notify_one();
        Running(Arc::clone(self))
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    fn tick(&self, engine: &EngineWeak) {
        loop {
            {
                let mut state = self.lock();
                while state.running == 0 && !state.stopped {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.stopped {
                    return;
                }
            }
            thread::sleep(PLUGIN_TICK);
            let Some(engine) = engine.upgrade() else { return };
            engine.increment_epoch();
        }
    }
}

struct Running(Arc<Clock>);

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running = state.running.saturating_sub(1);
    }
}

/// At most `limit` bytes of a text, cut between characters.
pub(super) fn cut(mut text: String, limit: usize) -> String {
    text.truncate(text.floor_char_boundary(limit));
    text
}

impl types::Host for CallState {}

impl diagnostics::Host for CallState {
    fn log(&mut self, level: diagnostics::Level, message: String) -> wasmtime::Result<()> {
        if self.log.len() >= PLUGIN_LOG_LINES {
            self.dropped += 1;
            return Ok(());
        }
        let level = match level {
            diagnostics::Level::Debug => "debug",
            diagnostics::Level::Info => "info",
            diagnostics::Level::Warn => "warn",
            diagnostics::Level::Error => "error",
        };
        self.log.push(format!("{level}: {}", cut(message, PLUGIN_LOG_LINE_BYTES)));
        Ok(())
    }

    fn panicked(&mut self, message: String, file: String, line: u32) -> wasmtime::Result<()> {
        let (message, file) = (cut(message, PLUGIN_LOG_LINE_BYTES), cut(file, PLUGIN_LOG_LINE_BYTES));
        self.panic.get_or_insert((message, file, line));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::domain::budget::PROBE_LIMITS;

    const SPIN: &str = r#"(component
        (core module $m (func (export "spin") (loop (br 0))))
        (core instance $i (instantiate $m))
        (func (export "spin") (canon lift (core func $i "spin"))))"#;

    #[test]
    fn a_deadline_ends_what_fuel_would_not_and_the_next_call_works() {
        let runtime = Runtime::start().unwrap();
        let component = Component::new(&runtime.engine, wat::parse_str(SPIN).unwrap()).unwrap();
        let pre = runtime.link(PluginKind::Decider, &component).unwrap();
        let spin = |limits| {
            runtime.in_store(&pre, limits, |store, instance| {
                let spin = instance.get_typed_func::<(), ()>(&mut *store, "spin")?;
                spin.call(store, ())?;
                Ok(Ok(()))
            })
        };
        let deadline = Duration::from_millis(50);
        let began = Instant::now();
        let (outcome, _) = spin(PluginLimits { fuel: u64::MAX, deadline, ..PROBE_LIMITS });
        assert_eq!(outcome, Err(FaultClass::Deadline { limit: deadline }));
        assert!(began.elapsed() >= deadline && began.elapsed() < Duration::from_secs(20));
        let (outcome, usage) = spin(PluginLimits { fuel: 5_000, ..PROBE_LIMITS });
        assert_eq!(outcome, Err(FaultClass::OutOfFuel { limit: 5_000 }));
        assert_eq!(usage.fuel, 5_000);
        assert_eq!(runtime.clock.lock().running, 0, "the clock sleeps again");
    }

    #[test]
    fn one_tick_is_added_for_the_one_that_runs() {
        assert_eq!(ticks(Duration::from_millis(20)), 3);
        assert_eq!(ticks(Duration::from_millis(21)), 4);
        assert_eq!(ticks(Duration::ZERO), 1);
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut("aé".into(), 2), "a");
        assert_eq!(cut("aé".into(), 3), "aé");
    }
}
