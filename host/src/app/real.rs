//! The real parts: how the floors below do what the daemon wants done.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize as _;
use serde_json::Value;

use super::bundles::Bundles;
use super::config::Config;
use super::parts::{Ended, Parts};
use crate::api::{Progress, Rendered};
use crate::assay::bundle::BundleWriter;
use crate::assay::{self, AssayContext, AssayEvent, AssayRequest, Report, Stage};
use crate::domain::Problem;
use crate::model::{self, InspectOptions};
use crate::plugin::PluginSet;
use crate::watch::{Found, Listing, SIDECAR_SUFFIX};

impl Parts {
    /// Model reading, assays and plugins as they are built in.
    ///
    /// # Errors
    /// The plugin folder cannot be read, a thread cannot be started, or a hash check does not
    /// understand what the configuration gives it.
    pub fn real(config: &Config) -> Result<Self, Problem> {
        let plugins = Arc::new(PluginSet::with_folder(config.plugins.as_deref())?);
        for skipped in plugins.skipped() {
            tracing::warn!(path = %skipped.path.display(), why = skipped.why, "a plugin file is not used");
        }
        for given in std::iter::once(&config.hash_checks).chain(config.rules.hash_checks()) {
            assay::check_hash_checks(&plugins, given)?;
        }
        let (listed, rendering, checking) = (plugins.clone(), plugins.clone(), plugins.clone());
        let cache = config.state.join("traces");
        let bundles = Bundles::open(config)?;
        Ok(Self {
            discover: Arc::new(discover),
            inspect: Arc::new(|path, progress| {
                // Every byte: a file that is dropped in has not been read by anybody yet.
                model::inspect(path, &InspectOptions { full: true }, progress)
            }),
            check: Arc::new(move |request| check(&checking, request)),
            assay: Arc::new(move |id, request, cancel, tell| {
                let on_event = |event| {
                    if let Some(progress) = shown(event) {
                        tell(progress);
                    }
                };
                let request = understood(request)?;
                let run = |bundle: Option<&BundleWriter>| {
                    let (plugins, cache_dir) = (plugins.clone(), cache.clone());
                    assay::run(
                        &request,
                        &AssayContext { plugins, cache_dir, bundle, cancel, on_event: &on_event },
                    )
                };
                ended(&match &bundles {
                    Some(bundles) => bundles.around(id, &plugins, run),
                    None => run(None),
                })
            }),
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

/// Everything that can be said to be wrong before it is queued; defaults are filled in, so
/// that a later change of them does not change what was asked for.
fn check(plugins: &PluginSet, request: Value) -> Result<Value, Problem> {
    let request = understood(&request)?;
    request.check(plugins)?;
    serde_json::to_value(&request).map_err(|error| Problem::internal(error.to_string()))
}

fn understood(request: &Value) -> Result<AssayRequest, Problem> {
    AssayRequest::deserialize(request).map_err(|error| Problem::usage(format!("in the request: {error}")))
}

fn ended(report: &Report) -> Result<Ended, Problem> {
    let text = serde_json::to_string(report).map_err(|error| Problem::internal(error.to_string()))?;
    Ok(Ended {
        report: text,
        decision: report.final_decision.as_str().to_owned(),
        error: report.error.clone(),
    })
}

/// An event as progress, if it is one.
fn shown(event: AssayEvent) -> Option<Progress> {
    let (stage, done, total) = match event {
        AssayEvent::Stage { stage } => (stage, 0, 0),
        AssayEvent::Progress { stage, done, total } => (stage, done, total),
        AssayEvent::Committed { .. }
        | AssayEvent::Frozen { .. }
        | AssayEvent::Scored { .. }
        | AssayEvent::Failed { .. } => return None,
    };
    let stage = match stage {
        Stage::InspectingReference => "reading the reference",
        Stage::InspectingCandidate => "reading the candidate",
        Stage::HashChecks => "checking digests",
        Stage::Lineage => "comparing weights",
        Stage::Challenges => "making challenges",
        Stage::LoadingReference => "loading the reference",
        Stage::Reference => "asking the reference",
        Stage::LoadingCandidate => "loading the candidate",
        Stage::Candidate => "asking the candidate",
        Stage::Calibrating => "measuring an honest quantisation",
        Stage::Probing => "asking your own prompts",
        Stage::Closing => "writing the report",
    };
    Some(Progress { stage: stage.to_owned(), done, total, message: None })
}

/// The first file of a report; a page that is served is one file.
fn render(plugins: &PluginSet, format: &str, report: &str) -> Result<Rendered, Problem> {
    let files = plugins.report(format)?.render(report, "")?;
    let first = files.into_iter().next();
    let file = first.ok_or_else(|| Problem::plugin(format!("the report plugin {format} gave nothing")))?;
    Ok(Rendered { media_type: file.media_type, body: file.body })
}
