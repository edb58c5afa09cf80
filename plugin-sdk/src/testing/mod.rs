//! For native tests of plugins: streams of scores with their error rates, and traces of toy
//! models, whole and broken.

mod streams;
mod traces;

pub use streams::{COVERED, Random, Rates, Stream, allowed, rates, steps, stop, worst_nulls};
pub use traces::{misfits, summary, toy};
