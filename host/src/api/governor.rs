//! `GET /api/governor`: memory of the machine and of the workers, now.

use axum::Json;
use axum::extract::State;

use super::Api;
use super::extract::{Nothing, Params};
use crate::governor::snapshot::{Scope, Snapshot};

pub async fn now(State(_): State<Api>, _: Params<Nothing>) -> Json<Snapshot> {
    Json(Snapshot::take(Scope::Ours))
}
