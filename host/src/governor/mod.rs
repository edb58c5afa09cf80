//! What the machine has, and what a job may take of it.

pub mod memory;
