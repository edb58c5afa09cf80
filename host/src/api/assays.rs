//! `/api/assays`: jobs and their reports.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::extract::{Id, JsonBody, Nothing, Params};
use super::reply::ApiError;
use super::{Api, Command, NewAssay, Rendered, Reply};
use crate::domain::budget;
use crate::store::{Assay, AssayState};

/// Query of the listing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    limit: Option<i64>,
    /// Only assays that are older than this one.
    before: Option<Uuid>,
    state: Option<AssayState>,
}

pub async fn list(State(api): State<Api>, Params(page): Params<Page>) -> Result<Json<Value>, ApiError> {
    let limit = page.limit.unwrap_or(100);
    if !(1..=budget::LIST_ROWS).contains(&limit) {
        let why = format!("limit must be from 1 to {}", budget::LIST_ROWS);
        return Err(ApiError::bad(Some("limit"), why));
    }
    let assays = api.reader.assays(limit, page.before, page.state).await?;
    let full = i64::try_from(assays.len()).is_ok_and(|count| count == limit);
    let next = assays.last().filter(|_| full).map(|last| last.id);
    let list: Vec<Value> = assays.iter().map(|assay| shown(&api, assay)).collect();
    Ok(Json(json!({"assays": list, "next_before": next})))
}

pub async fn one(State(api): State<Api>, Id(id): Id, _: Params<Nothing>) -> Result<Json<Value>, ApiError> {
    let assay = api.reader.assay(id).await?.ok_or_else(|| ApiError::missing("assay"))?;
    Ok(Json(shown(&api, &assay)))
}

pub async fn create(
    State(api): State<Api>,
    _: Params<Nothing>,
    JsonBody(request): JsonBody<NewAssay>,
) -> Result<Response, ApiError> {
    let assay = ask(&api, |reply| Command::Submit(Box::new(request), reply)).await?;
    let place = [(header::LOCATION, format!("/api/assays/{}", assay.id))];
    Ok((StatusCode::ACCEPTED, place, Json(shown(&api, &assay))).into_response())
}

/// 200 when it is cancelled, 202 when a running one was told to stop.
pub async fn cancel(
    State(api): State<Api>,
    Id(id): Id,
    _: Params<Nothing>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let assay = ask(&api, |reply| Command::Cancel(id, reply)).await?;
    let status = if assay.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(shown(&api, &assay))))
}

/// Sends a command and waits for the daemon's answer; the guard bounds the wait.
async fn ask(api: &Api, command: impl FnOnce(Reply) -> Command) -> Result<Assay, ApiError> {
    let stopping = || ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping");
    let (reply, answer) = oneshot::channel();
    api.commands.send(command(reply)).await.map_err(|_| stopping())?;
    Ok(answer.await.map_err(|_| stopping())??)
}

/// Query of the report.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Format {
    format: Option<String>,
}

/// What a rendered report may do in a browser: show itself. It comes from a plugin, and
/// holds text from model files.
const REPORT_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox";

pub async fn report(
    State(api): State<Api>,
    Id(id): Id,
    Params(query): Params<Format>,
) -> Result<Response, ApiError> {
    let assay = api.reader.assay(id).await?.ok_or_else(|| ApiError::missing("assay"))?;
    let Some(report) = api.reader.report(id).await? else {
        let why = format!("this assay is {} and has no report", assay.state.as_str());
        let status = if assay.state.is_final() { StatusCode::NOT_FOUND } else { StatusCode::CONFLICT };
        return Err(ApiError { hint: assay.error, ..ApiError::new(status, why) });
    };
    let format = query.format.unwrap_or_else(|| "json".to_owned());
    if format == "json" {
        return Ok(([(header::CONTENT_TYPE, "application/json")], report).into_response());
    }
    let render = api.render.clone();
    let rendered = tokio::task::spawn_blocking(move || render(&format, &report)).await;
    let Rendered { media_type, body } =
        rendered.map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "rendering broke off"))??;
    let headers =
        [(header::CONTENT_TYPE, media_type), (header::CONTENT_SECURITY_POLICY, REPORT_POLICY.to_owned())];
    Ok((headers, body).into_response())
}

/// An assay as clients see it.
fn shown(api: &Api, assay: &Assay) -> Value {
    let report = (assay.state == AssayState::Done).then(|| format!("/api/assays/{}/report", assay.id));
    let mut request = assay.request.clone();
    // The key stays secret until the report reveals it.
    if let Some(key) = request.get_mut("key").filter(|key| !key.is_null()) {
        *key = "withheld".into();
    }
    json!({
        "id": assay.id,
        "state": assay.state,
        "candidate": assay.candidate,
        "reference": assay.reference,
        "artifact": assay.artifact,
        "request": request,
        "decision": assay.decision,
        "error": assay.error,
        "progress": api.live.get(assay.id),
        "attempts": assay.attempts,
        "created_at": assay.created_at,
        "started_at": assay.started_at,
        "finished_at": assay.finished_at,
        "report": report,
    })
}
