//! The real parts: how the floors below do what the daemon wants done.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::config::Config;
use super::parts::Parts;
use crate::api::Rendered;
use crate::domain::Problem;
use crate::model::{self, InspectOptions};
use crate::plugin::PluginSet;
use crate::watch::{Found, Listing, SIDECAR_SUFFIX};

impl Parts {
    /// Model reading, assays and plugins as they are built in.
    ///
    /// # Errors
    /// The plugin folder cannot be read, or a thread cannot be started.
    pub fn real(config: &Config) -> Result<Self, Problem> {
        let plugins = Arc::new(PluginSet::with_folder(config.plugins.as_deref())?);
        for skipped in plugins.skipped() {
            tracing::warn!(path = %skipped.path.display(), why = skipped.why, "a plugin file is not used");
        }
        let (listed, rendering) = (plugins.clone(), plugins.clone());
        let absent = |what: &str| Problem::internal(format!("{what} is not part of this build"));
        Ok(Self {
            discover: Arc::new(discover),
            inspect: Arc::new(|path, progress| {
                // Every byte: a file that is dropped in has not been read by anybody yet.
                model::inspect(path, &InspectOptions { full: true }, progress)
            }),
            check: Arc::new(Ok),
            assay: Arc::new(move |_, _, _| Err(absent("the assay"))),
            render: Arc::new(move |format, report| render(&rendering, format, report)),
            list_plugins: Arc::new(move || serde_json::to_value(listed.list()).unwrap_or(Value::Null)),
        })
    }
}

/// A folder as the watcher wants it. Sidecars are looked at with their artifacts, and are
/// no files that were left alone.
fn discover(folder: &Path) -> Result<Listing, Problem> {
    let discovery = model::discover(folder)?;
    let found = discovery.artifacts.into_iter().map(|artifact| Found {
        path: artifact.path,
        files: artifact.files,
        missing: artifact.missing,
    });
    let ignored = discovery
        .ignored
        .into_iter()
        .filter(|ignored| !ignored.path.to_string_lossy().ends_with(SIDECAR_SUFFIX))
        .map(|ignored| (ignored.path, ignored.reason.explanation().to_owned()));
    Ok(Listing { found: found.collect(), ignored: ignored.collect() })
}

/// The first file of a report; a page that is served is one file.
fn render(plugins: &PluginSet, format: &str, report: &str) -> Result<Rendered, Problem> {
    let files = plugins.report(format)?.render(report, "")?;
    let first = files.into_iter().next();
    let file = first.ok_or_else(|| Problem::plugin(format!("the report plugin {format} gave nothing")))?;
    Ok(Rendered { media_type: file.media_type, body: file.body })
}
