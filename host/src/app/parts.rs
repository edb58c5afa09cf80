//! What the daemon does its work with, as functions: the real ones, or a test's own.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use uuid::Uuid;

use crate::api::{ListPlugins, Progress, Render};
use crate::domain::Problem;
use crate::domain::inspection::Inspection;
use crate::watch::Listing;

/// How an assay ended that did end with a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The report as JSON text.
    pub report: String,
    /// Its `final_decision`.
    pub decision: String,
    /// Its first error.
    pub error: Option<String>,
}

/// Lists a folder.
pub type Discover = dyn Fn(&Path) -> Result<Listing, Problem> + Send + Sync;
/// Reads an artifact; calls back with bytes done and bytes in all.
pub type Inspect = dyn Fn(&Path, &mut dyn FnMut(u64, u64)) -> Result<Inspection, Problem> + Send + Sync;
/// Fills in and checks a request; what it returns is what is stored and run.
pub type Check = dyn Fn(Value) -> Result<Value, Problem> + Send + Sync;
/// Runs a checked request under the assay's id; ends soon after the flag becomes true.
pub type Assay =
    dyn Fn(Uuid, &Value, Arc<AtomicBool>, &dyn Fn(Progress)) -> Result<Ended, Problem> + Send + Sync;

/// Everything below the daemon, behind functions.
#[derive(Clone)]
pub struct Parts {
    pub discover: Arc<Discover>,
    pub inspect: Arc<Inspect>,
    pub check: Arc<Check>,
    pub assay: Arc<Assay>,
    pub render: Render,
    pub list_plugins: ListPlugins,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}
