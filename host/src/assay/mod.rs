//! The pipeline: stages, the sequential loop, the decision table, reports.
//!
//! One way through, without back and forth: a key becomes challenges, challenges become
//! traces in a worker, traces become scores in a plugin, scores become a decision in a
//! plugin, and the decision with everything that led to it becomes a report. Invariants: the
//! challenges are committed to before a model is loaded; never two models in memory; the
//! truth table of [`decision`] has the last word; what failed is named, never counted.

pub mod band;
pub mod bundle;
pub mod cache;
pub mod canonical;
pub mod claim;
pub mod closing;
mod compare;
mod coverage;
pub mod decision;
mod draft;
mod endpoint;
pub mod events;
mod evidence;
mod halt;
mod hash_checks;
pub mod hidden;
pub mod judge;
mod load;
mod measure;
mod participants;
pub mod pipeline;
pub mod probe;
mod reference;
pub mod relationship;
pub mod report;
pub mod request;
pub mod round_trip;
pub mod runner;
#[cfg(test)]
mod tests;
pub mod transcript;

pub use canonical::constants_digest;
pub use draft::{artifact_root, name_of};
pub use events::{AssayEvent, Stage};
pub use hash_checks::{check as check_hash_checks, digest};
pub use pipeline::run;
pub use report::Report;
pub use request::{AssayContext, AssayRequest, KeyText};
pub use transcript::transcript_root;
