//! `GET /metrics` in Prometheus' text format, and the counters behind it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::extract::{Nothing, Params};
use super::reply::ApiError;
use crate::governor;
use crate::store::{ArtifactState, AssayState};

/// Counters since the start. Labels come from fixed sets only, so their number is bounded.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests by method, route and status.
    requests: Mutex<BTreeMap<(String, String, u16), u64>>,
    answers: Mutex<Histogram>,
    jobs: Mutex<BTreeMap<(&'static str, String), u64>>,
    job_seconds: Mutex<Histogram>,
}

/// Upper bounds of the buckets, in seconds; the last one is open.
const BOUNDS: [f64; 12] = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];

#[derive(Debug, Default, Clone)]
struct Histogram {
    /// Observations up to each bound, not cumulative.
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some((_, bucket)) = BOUNDS.iter().zip(&mut self.buckets).find(|(bound, _)| seconds <= **bound)
        {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += seconds;
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, "histogram", help);
        let mut below = 0;
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            below += bucket;
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {}", self.sum, self.count);
    }
}

impl Metrics {
    /// An inspection or an assay ended. `outcome` is from a fixed set.
    pub fn job(&self, kind: &'static str, outcome: &str, took: Duration) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        *jobs.entry((kind, outcome.to_owned())).or_default() += 1;
        if kind == "assay" {
            self.job_seconds.lock().unwrap_or_else(PoisonError::into_inner).add(took);
        }
    }

    fn request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let key = (method.to_owned(), route.to_owned(), status);
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).add(took);
    }
}

/// Counts every request by its route, never by its path, which the client chooses.
pub async fn count(State(api): State<Api>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    // The client may invent methods, too.
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "DELETE") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let response = next.run(request).await;
    api.metrics.request(&method, &route, response.status().as_u16(), began.elapsed());
    response
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn gauge(out: &mut String, name: &str, help: &str, value: impl std::fmt::Display) {
    head(out, name, "gauge", help);
    let _ = writeln!(out, "{name} {value}");
}

/// A label's value with what the format reserves escaped.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

pub async fn metrics(State(api): State<Api>, _: Params<Nothing>) -> Result<Response, ApiError> {
    let artifacts = api.reader.artifacts().await?;
    let assays = api.reader.assay_counts().await?;
    let mut out = String::with_capacity(4096);
    head(&mut out, "assayd_build_info", "gauge", "Always 1; the labels say what runs.");
    let _ = writeln!(out, "assayd_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    gauge(
        &mut out,
        "assayd_uptime_seconds",
        "Seconds since the daemon started.",
        api.started.elapsed().as_secs_f64(),
    );
    if let Some(bytes) = governor::resident_bytes() {
        gauge(&mut out, "assayd_resident_memory_bytes", "Resident memory of the daemon.", bytes);
    }
    let writable = u8::from(api.writable.load(Ordering::Relaxed));
    gauge(&mut out, "assayd_state_writable", "1 while the state folder can be written.", writable);

    head(&mut out, "assayd_artifacts", "gauge", "Artifacts and ignored files by state.");
    for state in [
        ArtifactState::Waiting,
        ArtifactState::Inspecting,
        ArtifactState::Inspected,
        ArtifactState::Failed,
        ArtifactState::Ignored,
    ] {
        let number = artifacts.iter().filter(|artifact| artifact.state == state).count();
        let _ = writeln!(out, "assayd_artifacts{{state=\"{}\"}} {number}", state.as_str());
    }
    head(&mut out, "assayd_assays", "gauge", "Assays on record by state.");
    let count = |state: AssayState| {
        assays.iter().find(|(name, _)| name == state.as_str()).map_or(0, |(_, number)| *number)
    };
    for state in
        [AssayState::Queued, AssayState::Running, AssayState::Done, AssayState::Failed, AssayState::Cancelled]
    {
        let _ = writeln!(out, "assayd_assays{{state=\"{}\"}} {}", state.as_str(), count(state));
    }
    gauge(&mut out, "assayd_queue_depth", "Assays waiting to run.", count(AssayState::Queued));

    head(&mut out, "assayd_job_total", "counter", "Ended jobs since the start.");
    let jobs = api.metrics.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for ((kind, outcome), number) in &jobs {
        let outcome = label(outcome);
        let _ = writeln!(out, "assayd_job_total{{kind=\"{kind}\",outcome=\"{outcome}\"}} {number}");
    }
    head(&mut out, "assayd_http_requests_total", "counter", "Answered requests since the start.");
    let requests = api.metrics.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for ((method, route, status), number) in &requests {
        let _ = writeln!(
            out,
            "assayd_http_requests_total{{method=\"{method}\",route=\"{}\",status=\"{status}\"}} {number}",
            label(route)
        );
    }
    let answers = api.metrics.answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    answers.write(&mut out, "assayd_http_answer_seconds", "Seconds until an answer began.");
    let took = api.metrics.job_seconds.lock().unwrap_or_else(PoisonError::into_inner).clone();
    took.write(&mut out, "assayd_assay_seconds", "Seconds that assays ran.");
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], out).into_response())
}
