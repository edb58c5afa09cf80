//! assayd judges LLM model files with evidence.
//!
//! The modules are floors of one house: a module uses only modules below it in
//! this list, and modules on one line do not know each other. `host/ARCHITECTURE.md`
//! explains the house, and `tests/tidy.rs` keeps it standing.

// Floors, top to bottom.
pub mod cli;

pub mod app;

pub mod api;

pub mod assay;
pub mod measure;

pub mod challenge;
pub mod worker;

pub mod engine;

pub mod model;

pub mod governor;
pub mod plugin;
pub mod store;
pub mod watch;

pub mod digest;

pub mod domain;
