//! The dry run: what a model would take, found out by a worker that allocates nothing large.
//!
//! Invariants: its own time and memory limit, however hostile the header; what the engine's
//! accounting leaves out (vocabulary, tables of cells, graphs, libraries) is what this very
//! process was seen to hold while it had the model open without weights. Deliberately absent:
//! any decision about the load.

use super::ending::WorkerEnd;
use super::parent::{Worker, WorkerLimits};
use crate::domain::budget;
use crate::domain::footprint::Footprint;
use crate::engine::LoadSpec;

/// Memory that running `spec` would take with its context filled.
///
/// # Errors
/// The way the worker ended instead; REFUSED for a model that the engine does not load.
pub fn dry_run(spec: &LoadSpec, limits: &WorkerLimits) -> Result<Footprint, WorkerEnd> {
    let limits = WorkerLimits {
        memory_bytes: Some(budget::DRY_RUN_BYTES),
        stall: budget::DRY_RUN_STALL,
        ..limits.clone()
    };
    let (devices, seen) = Worker::estimate(spec, &limits)?;
    Ok(Footprint {
        devices,
        process_bytes: seen.rss_anon_bytes.saturating_add(seen.rss_shmem_bytes),
        library_bytes: seen.rss_file_bytes,
    })
}
