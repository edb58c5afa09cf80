//! `GET /api/plugins`, and how a report is rendered by one.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Api;
use super::extract::{Nothing, Params};
use crate::domain::Problem;

/// A report in the format that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub media_type: String,
    pub body: Vec<u8>,
}

/// Renders a report (its JSON text) in a format; an unknown format is a usage problem.
/// Blocking; called off the asynchronous threads.
pub type Render = Arc<dyn Fn(&str, &str) -> Result<Rendered, Problem> + Send + Sync>;

/// Lists the plugins as JSON.
pub type ListPlugins = Arc<dyn Fn() -> Value + Send + Sync>;

pub async fn list(State(api): State<Api>, _: Params<Nothing>) -> Json<Value> {
    Json(json!({"plugins": (api.list_plugins)()}))
}
