//! Write assayd plugins as plain Rust functions.
//!
//! A plugin judges: a *scorer* turns what two models did on one challenge into a score
//! in [0, 1], a *decider* folds scores into SAME, DIFFERENT or UNDECIDED, a *hash check*
//! judges digests, a *report* turns the report document into files. Each is one function
//! or one trait on plain types and one `export_...!` line:
//!
//! ```
//! use assayd_plugin_sdk::{Refusal, Score, Trial, export_scorer};
//! use serde::Deserialize;
//!
//! #[derive(Default, Deserialize)]
//! #[serde(default, deny_unknown_fields)]
//! struct Params {}
//!
//! /// Share of positions at which the two models prefer different tokens.
//! fn score(trial: &Trial, _params: &Params) -> Result<Score, Refusal> {
//!     let rows = trial.aligned_rows()?;
//!     let pairs = trial.reference.argmax().into_iter().zip(trial.candidate.argmax());
//!     let different = pairs.filter(|(reference, candidate)| reference != candidate).count();
//!     Ok(Score::new(different as f64 / rows as f64).note("rows", rows as f64))
//! }
//!
//! export_scorer!("my-top1", score);
//! # fn main() {}
//! ```
//!
//! Build it with `crate-type = ["cdylib", "rlib"]` for `wasm32-unknown-unknown` and run
//! `assayd plugin pack` on the result. The `export_...!` macros do nothing on other
//! targets, so `cargo test` exercises the same functions natively.
//!
//! Deliberately absent: files, network, clock and randomness. A plugin has nothing but
//! its arguments, and the same arguments give the same answer.

#![warn(missing_docs)]

#[doc(hidden)]
pub mod bindings;
mod decider;
mod diagnostics;
mod divergence;
mod error;
mod hash_check;
mod info;
pub mod layout;
mod report;
mod scorer;
#[cfg(feature = "testing")]
pub mod testing;
pub mod text;
mod trial;

#[doc(hidden)]
pub use decider::run as run_decider;
pub use decider::{Decider, Decision, DecisionParams, Step, Verdict};
#[doc(hidden)]
pub use diagnostics::install_panic_hook;
pub use diagnostics::{Level, log};
pub use divergence::{Divergence, kl_nats};
pub use error::{Refusal, Result};
#[doc(hidden)]
pub use hash_check::run as run_hash_check;
pub use hash_check::{Check, DigestRequest, File, Finding, HashCheck, Manifest, Model, Outcome, Severity};
#[doc(hidden)]
pub use info::section;
pub use report::Rendered;
#[doc(hidden)]
pub use report::run as run_report;
pub use scorer::Score;
#[doc(hidden)]
pub use scorer::run as run_scorer;
pub use trial::{Cells, Distribution, PlainTrace, Row, Trace, Trial};
