//! `GET /`: what there is, what runs, and what was found out, on one page that needs
//! neither scripts nor anything from elsewhere. A short script keeps it fresh.

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use jiff::Timestamp;

use super::artifacts::name;
use super::extract::{Nothing, Params};
use super::reply::ApiError;
use super::{Api, Progress};
use crate::domain::inspection::{Finding, Severity, Status};
use crate::domain::size::ByteSize;
use crate::domain::text;
use crate::store::{Artifact, ArtifactState, Assay, AssayState};

/// Style, script and connections of this daemon only; whatever a model's name or metadata
/// holds is escaped by the template, and could not run or load anything if it were not.
pub const PAGE_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                               base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Rows shown of each table.
const ROWS: usize = 200;
/// Findings shown of each artifact.
const FINDINGS: usize = 20;

#[derive(Template)]
#[template(path = "page.html")]
struct Page {
    version: &'static str,
    folders: Vec<String>,
    artifacts: Vec<Row>,
    more_artifacts: usize,
    ignored: Vec<(String, String)>,
    assays: Vec<Job>,
    busy: bool,
    stopping: bool,
    writable: bool,
}

struct Row {
    name: String,
    path: String,
    about: String,
    badge: Badge,
    note: String,
    findings: Vec<(&'static str, Finding)>,
    more_findings: usize,
    verdict: Option<Verdict>,
}

/// A word in a colour.
struct Badge {
    word: &'static str,
    class: &'static str,
}

struct Verdict {
    badge: Badge,
    against: String,
    report: Option<String>,
}

struct Job {
    candidate: String,
    reference: String,
    badge: Badge,
    report: Option<String>,
    progress: Option<Progress>,
    error: String,
    when: String,
    took: String,
}

pub async fn css() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("page.css")).into_response()
}

pub async fn js() -> Response {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("page.js")).into_response()
}

pub async fn page(State(api): State<Api>, _: Params<Nothing>) -> Result<Response, ApiError> {
    let mut artifacts = api.reader.artifacts().await?;
    let assays = api.reader.assays(i64::try_from(ROWS).unwrap_or(i64::MAX), None, None).await?;
    artifacts.retain(|artifact| artifact.state != ArtifactState::Gone);
    let (ignored, mut artifacts): (Vec<_>, Vec<_>) =
        artifacts.into_iter().partition(|artifact| artifact.state == ArtifactState::Ignored);
    let more_artifacts = artifacts.len().saturating_sub(ROWS);
    artifacts.truncate(ROWS);
    let page = Page {
        version: env!("CARGO_PKG_VERSION"),
        folders: api.folders.iter().map(|folder| folder.display().to_string()).collect(),
        artifacts: artifacts.iter().map(|artifact| row(artifact, &assays)).collect(),
        more_artifacts,
        ignored: ignored
            .into_iter()
            .take(ROWS)
            .map(|artifact| (name(&artifact), artifact.note.unwrap_or_default()))
            .collect(),
        busy: assays.iter().any(|assay| !assay.state.is_final()),
        assays: assays.iter().map(|assay| job(&api, assay)).collect(),
        stopping: *api.stopping.borrow(),
        writable: api.writable.load(std::sync::atomic::Ordering::Relaxed),
    };
    let html =
        page.render().map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(text::page(&html))).into_response())
}

fn row(artifact: &Artifact, assays: &[Assay]) -> Row {
    let inspection = artifact.inspection.as_ref();
    let bytes = artifact.stamps.iter().map(|stamp| stamp.bytes).sum();
    let mut about: Vec<String> = Vec::new();
    if let Some(found) = inspection {
        about.extend(found.architecture.clone());
        about.extend(found.parameters.map(count));
        about.extend(found.quantization.clone());
    }
    if bytes > 0 {
        about.push(ByteSize(bytes).to_string());
    }
    let findings = inspection.map_or(&[][..], |found| &found.findings);
    // Newest first, so the first one found is the present verdict.
    let latest = assays.iter().find(|assay| assay.artifact == Some(artifact.id));
    Row {
        name: name(artifact),
        path: artifact.path.display().to_string(),
        about: about.join(" · "),
        badge: badge(artifact),
        // The verdict says itself what it was compared with.
        note: match latest {
            Some(_) if artifact.reference.is_some() && artifact.assayed_for.is_some() => String::new(),
            _ => artifact.note.clone().unwrap_or_default(),
        },
        findings: findings
            .iter()
            .take(FINDINGS)
            .map(|finding| (severity(finding.severity), finding.clone()))
            .collect(),
        more_findings: findings.len().saturating_sub(FINDINGS),
        verdict: latest.map(|assay| Verdict {
            badge: outcome(assay),
            against: assay.reference.as_deref().map(last).unwrap_or_default(),
            report: report(assay),
        }),
    }
}

fn badge(artifact: &Artifact) -> Badge {
    let status = artifact.inspection.as_ref().map(|inspection| inspection.status);
    let (word, class) = match (artifact.state, status) {
        (ArtifactState::Inspected, Some(Status::Accept)) => ("accepted", "good"),
        (ArtifactState::Inspected, Some(Status::Warn)) => ("warned", "warn"),
        (ArtifactState::Inspected, Some(Status::Reject)) => ("rejected", "bad"),
        (ArtifactState::Inspected, None) => ("unknown", "warn"),
        (ArtifactState::Waiting, _) => ("waiting", "idle"),
        (ArtifactState::Inspecting, _) => ("inspecting", "busy"),
        (ArtifactState::Failed, _) => ("unreadable", "bad"),
        (ArtifactState::Ignored, _) => ("ignored", "idle"),
        (ArtifactState::Gone, _) => ("gone", "idle"),
    };
    Badge { word, class }
}

/// A verdict where there is one, else the state of the job. Only a SAME is green.
fn outcome(assay: &Assay) -> Badge {
    let (word, class) = match (assay.state, assay.decision.as_deref()) {
        (AssayState::Done, Some("SAME")) => ("SAME", "good"),
        (AssayState::Done, Some("DIFFERENT")) => ("DIFFERENT", "bad"),
        (AssayState::Done, Some("UNDECIDED")) if assay.reference.is_none() => ("measured", "idle"),
        (AssayState::Done, Some("UNDECIDED")) => ("UNDECIDED", "warn"),
        (AssayState::Done, _) => ("ERROR", "bad"),
        (AssayState::Queued, _) => ("queued", "idle"),
        (AssayState::Running, _) => ("running", "busy"),
        (AssayState::Failed, _) => ("failed", "bad"),
        (AssayState::Cancelled, _) => ("cancelled", "idle"),
    };
    Badge { word, class }
}

fn job(api: &Api, assay: &Assay) -> Job {
    Job {
        candidate: last(&assay.candidate),
        reference: assay.reference.as_deref().map_or_else(|| "n/a".to_owned(), last),
        badge: outcome(assay),
        report: report(assay),
        progress: api.live.get(assay.id),
        error: assay.error.clone().unwrap_or_default(),
        when: assay.created_at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        took: match (assay.started_at, assay.finished_at) {
            (Some(from), Some(to)) => seconds(from, to),
            (Some(from), None) if assay.state == AssayState::Running => seconds(from, Timestamp::now()),
            _ => String::new(),
        },
    }
}

fn report(assay: &Assay) -> Option<String> {
    (assay.state == AssayState::Done).then(|| format!("/api/assays/{}/report", assay.id))
}

fn last(path: &std::path::Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn seconds(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.duration_since(from).as_secs_f64();
    if seconds < 90.0 { format!("{seconds:.1} s") } else { format!("{:.1} min", seconds / 60.0) }
}

/// 7.24 B parameters, as model names have it.
fn count(parameters: u64) -> String {
    let value = parameters as f64;
    match parameters {
        0..=999_999 => format!("{:.0} K", value / 1e3),
        1_000_000..=999_999_999 => format!("{:.1} M", value / 1e6),
        _ => format!("{:.2} B", value / 1e9),
    }
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "bad",
        Severity::Warning => "warn",
        Severity::Info => "idle",
    }
}
