//! `GET /v1/models`: what was inspected and not rejected, in OpenAI's shape.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Api;
use super::extract::{Nothing, Params};
use super::reply::ApiError;
use crate::domain::inspection::Status;
use crate::store::{Artifact, ArtifactState};

/// A model that can be asked for.
#[derive(Debug, Clone)]
pub struct Served {
    /// What clients call it.
    pub id: String,
    pub artifact: Artifact,
}

pub async fn list(State(api): State<Api>, _: Params<Nothing>) -> Result<Json<Value>, ApiError> {
    let list: Vec<Value> = served(&api.reader.artifacts().await?).iter().map(shown).collect();
    Ok(Json(json!({"object": "list", "data": list})))
}

/// All of them with their names: file names without ending.
pub fn served(artifacts: &[Artifact]) -> Vec<Served> {
    let usable = artifacts.iter().filter(|artifact| {
        let status = artifact.inspection.as_ref().map(|inspection| inspection.status);
        artifact.state == ArtifactState::Inspected && matches!(status, Some(Status::Accept | Status::Warn))
    });
    let mut taken: HashMap<String, u32> = HashMap::new();
    usable
        .map(|artifact| {
            let stem = stem(artifact);
            let seen = taken.entry(stem.clone()).or_default();
            *seen += 1;
            // The same name in two folders: the later ones are told apart by their number.
            let id = if *seen == 1 { stem } else { format!("{stem}@{seen}") };
            Served { id, artifact: artifact.clone() }
        })
        .collect()
}

fn stem(artifact: &Artifact) -> String {
    let stem = artifact.path.file_stem().unwrap_or(artifact.path.as_os_str());
    stem.to_string_lossy().into_owned()
}

fn shown(Served { id, artifact }: &Served) -> Value {
    let inspection = artifact.inspection.as_ref();
    json!({
        "id": id,
        "object": "model",
        "created": artifact.found_at.as_second(),
        "owned_by": "assayd",
        "meta": {
            "artifact": artifact.id,
            "path": artifact.path,
            "architecture": inspection.and_then(|found| found.architecture.clone()),
            "quantization": inspection.and_then(|found| found.quantization.clone()),
            "n_params": inspection.and_then(|found| found.parameters),
            "n_ctx_train": inspection.and_then(|found| found.context_length),
            "size": artifact.stamps.iter().map(|stamp| stamp.bytes).sum::<u64>(),
        },
    })
}
