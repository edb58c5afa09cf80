//! The guarded child process that loads and runs one model.
//!
//! A worker is this same binary with a hidden sub-command. It serves one model and exits; a
//! crash, an out-of-memory kill or an endless load ends the worker, never its parent, and the
//! way it ended becomes a typed [`WorkerEnd`]. The parent trusts nothing that comes back:
//! frames are bounded and traces are checked. Memory is held by the ladder of
//! `governor::ladder`, files and system calls by the worker itself before it reads a model.
//! Deliberately absent: any second use of a worker, and any retry.

mod admit;
mod answers;
mod chat;
mod child;
mod ending;
mod estimate;
mod guard;
mod leash;
mod limits;
mod parent;
mod process;
mod protocol;
mod rows;
mod stamp;
mod watchdog;

pub use admit::{GiveUp, Plan, Policy, demand_of, give_up, on_accelerators, plan};
pub use chat::{Conversation, Message, render};
pub use child::serve;
pub use ending::{Ending, WorkerEnd};
pub use estimate::{Seen, dry_run, try_confinement};
pub use guard::Confinement;
pub use limits::{WorkerLimits, WorkerMemory};
pub use parent::{Progress, Stage, Worker, WorkerSummary};
pub use rows::RowQuantizer;
pub use stamp::{Stamp, difference, stamps};

/// The hidden sub-command that turns this binary into a worker.
pub const WORKER_COMMAND: &str = "__worker";
