//! The real parts.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::config::Config;
use super::parts::Parts;
use crate::domain::Problem;
use crate::watch::{Found, Listing};

impl Parts {
    /// Model reading, assays and plugins as they are built in.
    pub fn real(_config: &Config) -> Result<Self, Problem> {
        let absent = |what: &str| Problem::internal(format!("{what} is not part of this build"));
        Ok(Self {
            discover: Arc::new(list),
            inspect: Arc::new(move |_, _| Err(absent("model reading"))),
            check: Arc::new(Ok),
            assay: Arc::new(move |_, _, _| Err(absent("the assay"))),
            render: Arc::new(move |_, _| Err(absent("rendering"))),
            list_plugins: Arc::new(|| json!([])),
            engine: Value::Null,
        })
    }
}

fn list(folder: &Path) -> Result<Listing, Problem> {
    let mut listing = Listing::default();
    let entries = std::fs::read_dir(folder).map_err(|error| Problem::io("list", folder, &error))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "gguf") {
            listing.found.push(Found { path: path.clone(), files: vec![path], missing: Vec::new() });
        }
    }
    Ok(listing)
}
