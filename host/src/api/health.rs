//! `GET /health`: whether the daemon works. Never needs a key.

use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Api;
use super::extract::{Nothing, Params};

pub const PATH: &str = "/health";

pub async fn health(State(api): State<Api>, _: Params<Nothing>) -> (StatusCode, Json<Value>) {
    let readable = api.reader.last_event().await.is_ok();
    let writable = api.writable.load(Ordering::Relaxed);
    let (status, word) = match (readable && writable, *api.stopping.borrow()) {
        (true, false) => (StatusCode::OK, "ok"),
        (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "degraded"),
    };
    let detail = match (readable, writable) {
        (false, _) => Some("the state database cannot be read"),
        (_, false) => Some(
            "the state folder cannot be written (is the disk full?); nothing is lost, \
                            and work goes on when it can be written again",
        ),
        _ => None,
    };
    let body = json!({
        "status": word,
        "detail": detail,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": api.started.elapsed().as_secs_f64(),
    });
    (status, Json(body))
}
