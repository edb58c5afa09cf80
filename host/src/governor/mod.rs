//! What the machine has, what a job may take of it, and what holds a job to that.
//!
//! [`machine`], [`memory`] and [`pressure`] read; [`group`] makes limits; [`levels`] says how
//! full is too full; [`admission`] hands out memory, one load at a time on the machine (`turn`).
//! Deliberately absent: processes (they are the worker's) and models (a job is a number of bytes
//! here).

pub mod admission;
mod cgroup;
pub mod group;
pub mod ladder;
pub mod levels;
pub mod machine;
pub mod memory;
pub mod pressure;
pub mod snapshot;
mod turn;

pub use cgroup::{Cgroup, cgroup};
pub use ladder::Enforcement;
pub use machine::{Machine, resident_bytes};
