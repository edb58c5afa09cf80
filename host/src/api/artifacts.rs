//! `GET /api/artifacts`: what was found, its inspection, and why anything was left alone.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::extract::{Id, Nothing, Params};
use super::reply::ApiError;
use crate::store::{Artifact, ArtifactState};

/// Query of the listing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    state: Option<ArtifactState>,
}

pub async fn list(State(api): State<Api>, Params(filter): Params<Filter>) -> Result<Json<Value>, ApiError> {
    let artifacts = api.reader.artifacts().await?;
    // What is gone is on record, but is no part of what there is unless asked for.
    let wanted = |artifact: &&Artifact| match filter.state {
        Some(state) => artifact.state == state,
        None => artifact.state != ArtifactState::Gone,
    };
    let list: Vec<Value> = artifacts.iter().filter(wanted).map(shown).collect();
    Ok(Json(json!({"artifacts": list, "folders": *api.folders})))
}

pub async fn one(State(api): State<Api>, Id(id): Id, _: Params<Nothing>) -> Result<Json<Value>, ApiError> {
    let artifact = api.reader.artifact(id).await?.ok_or_else(|| ApiError::missing("artifact"))?;
    Ok(Json(shown(&artifact)))
}

/// An artifact as clients see it.
fn shown(artifact: &Artifact) -> Value {
    let inspection = artifact.inspection.as_ref();
    json!({
        "id": artifact.id,
        "path": artifact.path,
        "name": name(artifact),
        "state": artifact.state,
        "note": artifact.note,
        "kind": inspection.map(|inspection| inspection.kind),
        "status": inspection.map(|inspection| inspection.status),
        "bytes": artifact.stamps.iter().map(|stamp| stamp.bytes).sum::<u64>(),
        "reference": artifact.reference,
        "inspection": inspection,
        "found_at": artifact.found_at,
        "updated_at": artifact.updated_at,
    })
}

/// The last part of the path.
pub fn name(artifact: &Artifact) -> String {
    artifact.path.file_name().unwrap_or(artifact.path.as_os_str()).to_string_lossy().into_owned()
}
