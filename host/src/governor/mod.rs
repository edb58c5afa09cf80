//! What the machine has, and what a job may take of it.
//!
//! [`machine`] and [`memory`] read; they change nothing. Deliberately absent: any decision
//! about a job.

mod cgroup;
pub mod machine;
pub mod memory;

pub use cgroup::{Cgroup, cgroup};
pub use machine::{Machine, resident_bytes};
