//! Measurements that are no verdict: what quantisation did to a model, whether greedy output
//! repeats, how fast a model runs and what memory it takes.
//!
//! Each runs models in guarded workers, one at a time, and gives one typed record. Nothing in
//! here decides whether something passes, and nothing prints.

pub mod bench;
pub mod beside;
pub mod chat;
pub mod compare;
pub mod complete;
pub mod determinism;
pub mod divergence;
mod prompts;
pub mod sanity;
mod spool;
