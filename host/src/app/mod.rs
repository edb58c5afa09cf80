//! The only place that constructs and wires everything for the daemon.
//!
//! One task, the supervisor, owns all state and the store's only writer; threads (watching,
//! inspecting, the running assay) and HTTP send it messages and are answered when the change
//! is on disk. The model that clients of completions ask is held by a thread of its own and goes
//! when an assay's turn comes. Invariants: one assay at a time; an assay is recorded as running before it
//! runs; a write that fails is kept and tried again, and nothing new starts meanwhile.
//! Deliberately absent: any judgement of models, which belongs to the assay.

mod artifacts;
mod bundles;
pub mod config;
mod daemon;
mod inspector;
mod jobs;
mod keys;
mod parts;
mod real;
mod requests;
mod serving;
mod supervisor;
mod turn;

pub use daemon::{Ready, Running, run, spawn};
pub use parts::{Ended, Parts};

#[cfg(test)]
mod tests;
