//! What the daemon is told to do: a TOML file, the command line, and what holds without either.
//!
//! Invariants: an unknown key is an error that names the line and the nearest known key; a
//! relative path means relative to the file it stands in; a [`Config`] that exists is usable
//! (folders named, address allowed). `host/docs/config.schema.json` is made from
//! [`ConfigFile`], and a test keeps it true.

mod file;
mod resolve;
mod rules;
mod text;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use file::{ConfigFile, RuleEntry, Sidecar, schema};
pub use resolve::{Overrides, load};
pub use rules::{Chosen, Rules};
pub use text::parse;

use serde_json::Value;

use crate::domain::modes::ModeName;
use crate::domain::size::ByteSize;
use crate::governor::Enforcement;
use crate::governor::admission::Guardrail;

/// Everything the daemon needs to know to start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from, if any.
    pub file: Option<PathBuf>,
    pub models: Vec<PathBuf>,
    pub listen: SocketAddr,
    pub state: PathBuf,
    pub settle: Duration,
    pub rescan: Duration,
    pub mode: ModeName,
    /// Whether what is compared with nothing is run and measured.
    pub measure: bool,
    pub threads: Option<u32>,
    pub gpu_layers: Option<i32>,
    pub max_memory: Option<ByteSize>,
    /// Memory that must stay free on the machine.
    pub min_free: Option<ByteSize>,
    pub guardrail: Option<Guardrail>,
    pub enforcement: Option<Enforcement>,
    /// Bytes that the bundles of judged assays may take together; 0 keeps none.
    pub bundles: u64,
    pub plugins: Option<PathBuf>,
    pub api_key: Option<ApiKey>,
    /// What hash checks hold every candidate to: their parameters, by plugin id.
    pub hash_checks: BTreeMap<String, Value>,
    pub rules: Rules,
}

/// A secret that never appears in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

#[cfg(test)]
mod tests;
