//! The dry run: what a model would take, found out by a worker that allocates nothing large.
//!
//! Invariants: its own time and memory limit, however hostile the header; what the engine's
//! accounting leaves out (vocabulary, tables of cells, graphs, libraries) is what this very
//! process was seen to hold while it had the model open without weights. Deliberately absent:
//! any decision about the load.

use super::ending::{Ending, WorkerEnd};
use super::guard::Confinement;
use super::limits::WorkerLimits;
use super::parent::Worker;
use crate::domain::budget;
use crate::domain::footprint::Footprint;
use crate::engine::{EngineKind, LoadSpec};
use crate::governor::memory::ProcessMemory;

/// How a worker turned out to be held.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    pub enforcement: String,
    /// Why a rung that was wanted is not there.
    pub missing: Vec<String>,
    pub confinement: Confinement,
    pub memory: ProcessMemory,
}

/// Memory that running `spec` would take with its context filled.
///
/// # Errors
/// The way the worker ended instead; REFUSED for a model that the engine does not load.
pub fn dry_run(spec: &LoadSpec, limits: &WorkerLimits) -> Result<(Footprint, Seen), WorkerEnd> {
    let limits = WorkerLimits {
        memory_bytes: Some(budget::DRY_RUN_BYTES),
        stall: budget::DRY_RUN_STALL,
        ..limits.clone()
    };
    let (devices, seen) = Worker::estimate(spec, &limits).map_err(|end| told(end, spec))?;
    let footprint = Footprint {
        devices,
        process_bytes: seen.memory.held_bytes() + heap_bytes(spec),
        library_bytes: seen.memory.rss_file_bytes + kernel_bytes(spec),
    };
    Ok((footprint, seen))
}

/// Nothing was loaded yet, so an end says less about the file: a back end that allocates in blocks
/// of a greatest size gives up on a tensor that is larger, whose ever it is.
fn told(end: WorkerEnd, spec: &LoadSpec) -> WorkerEnd {
    if end.ending != Ending::Crashed || spec.gpu_layers == 0 {
        return end;
    }
    let hint = "the inference engine failed while it only counted memory: an accelerator may not take a tensor \
                as large as the cache or weights; try a shorter context, fewer --gpu-layers, or none, \
                and do not trust the file if that fails too";
    WorkerEnd { hint: Some(hint.to_owned()), ..end }
}

/// What computing takes from the heap and a dry run, which computes nothing, does not show:
/// a part that is always there, tables per token of a batch (llama.cpp's and ours), and traces
/// and inputs per token of the context. Measured over contexts from 256 to 8192; it shows
/// beside models of a few MiB only.
fn heap_bytes(spec: &LoadSpec) -> u64 {
    const ALWAYS: u64 = 384 << 10;
    const PER_BATCH_TOKEN: u64 = 300;
    const PER_TOKEN: u64 = 200;
    if spec.engine != EngineKind::LlamaCpp {
        return 0;
    }
    let tokens = u64::from(spec.context) * u64::from(spec.parallel);
    ALWAYS + PER_BATCH_TOKEN * tokens.min(BATCH) + PER_TOKEN * tokens
}

/// Pages of the kernels' code that only computing touches.
fn kernel_bytes(spec: &LoadSpec) -> u64 {
    if spec.engine == EngineKind::LlamaCpp { 1_280 << 10 } else { 0 }
}

/// Tokens of one call of the engine at most.
const BATCH: u64 = 2_048;

/// What a worker on this machine is kept from, found out by starting one that does nothing.
///
/// # Errors
/// The way it ended instead.
pub fn try_confinement() -> Result<Confinement, WorkerEnd> {
    let spec = LoadSpec::judged(EngineKind::Scripted, Vec::new(), 1, 1);
    dry_run(&spec, &WorkerLimits::default()).map(|(_, seen)| seen.confinement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_fails_on_an_accelerator_does_not_blame_the_file_alone() {
        let on =
            |gpu_layers| LoadSpec { gpu_layers, ..LoadSpec::judged(EngineKind::LlamaCpp, Vec::new(), 1, 1) };
        for (ending, gpu_layers, told_more) in
            [(Ending::Crashed, -1, true), (Ending::Crashed, 0, false), (Ending::Refused, 4, false)]
        {
            let end = WorkerEnd::new(ending, "abort");
            let said = told(end.clone(), &on(gpu_layers));
            assert_eq!(said.hint != end.hint, told_more, "{said:?}");
            assert_eq!(said.hint.is_some_and(|hint| hint.contains("fewer --gpu-layers")), told_more);
        }
    }
}
