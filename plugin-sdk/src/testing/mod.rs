//! For native tests of plugins: streams of scores with their error rates, checks that every
//! decider passes, published vectors, and traces of toy models, whole and broken.

mod deciders;
mod scorers;
mod streams;
mod traces;

pub use deciders::{
    AUDIT, SHORT, covers, grouping_changes_no_bit, holds_its_error, holds_its_error_at_worst, interval_is,
    published_cases, published_vectors, steps, stop, varied,
};
pub use scorers::{loses_by_coarsening, note, refuses_what_does_not_fit, three_rows};
pub use streams::{COVERED, Random, Rates, Stream, allowed, rates, worst_nulls};
pub use traces::{misfits, summary, toy};
