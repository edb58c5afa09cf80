//! The guarded child process that loads and runs one model.
//!
//! A worker is this same binary with a hidden sub-command. It serves one model and exits; a
//! crash, an out-of-memory kill or an endless load ends the worker, never its parent, and the
//! way it ended becomes a typed [`WorkerEnd`]. The parent trusts nothing that comes back:
//! frames are bounded and traces are checked. Deliberately absent: any second use of a worker,
//! and any retry.

mod child;
mod parent;
mod process;
mod protocol;

pub use child::serve;
pub use parent::{Progress, Stage, Worker, WorkerLimits, WorkerSummary};
pub use process::{Ending, WorkerEnd};

/// The hidden sub-command that turns this binary into a worker.
pub const WORKER_COMMAND: &str = "__worker";
