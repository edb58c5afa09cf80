//! HTTP: bytes to a typed request and back. Decides nothing.
//!
//! Reads come from the store's committed snapshots; whatever changes something is a
//! [`Command`] to the daemon, which answers when the change is on disk. Invariants: every
//! wait and every length is bounded; an unknown parameter is an error that names it; text
//! from model files is data and never markup; a request that a foreign web page made is
//! refused. Deliberately absent: any path from a request to the file system; bundles are files
//! named by the ids of assays.

mod artifacts;
mod assays;
mod bundle;
mod chat;
mod completions;
mod control;
mod docs;
mod events;
mod extract;
mod generate;
mod governor;
mod guard;
mod health;
mod metrics;
mod models;
mod page;
mod plugins;
mod reply;
mod serve;
mod tokens;
mod work;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use axum::Router;
use axum::middleware;
use axum::routing::{get, post};
use tokio::sync::{Semaphore, mpsc, watch};

pub use bundle::bundle_path;
pub use control::{Command, Live, NewAssay, Progress, Refusal, Reply};
pub use metrics::Metrics;
pub use models::Served;
pub use plugins::{ListPlugins, Render, Rendered};
pub use reply::ApiError;
pub use serve::{Listener, listen};
pub use work::{Order, Orders, Task, Told, busy, told};

use crate::store::Reader;

/// What the handlers need to know; shared by all connections.
#[derive(Clone)]
pub struct Api {
    pub reader: Reader,
    pub commands: mpsc::Sender<Command>,
    pub live: Arc<Live>,
    pub metrics: Arc<Metrics>,
    pub render: Render,
    pub list_plugins: ListPlugins,
    /// Requests must carry it, if there is one.
    pub key: Option<Arc<str>>,
    /// Where the daemon listens; decides which `Host` names are its own.
    pub address: SocketAddr,
    pub folders: Arc<[PathBuf]>,
    /// Folder of the bundles of judged assays.
    pub bundles: Arc<Path>,
    pub started: Instant,
    /// Whether the last write to the state folder went through.
    pub writable: Arc<AtomicBool>,
    /// True from the moment the daemon is told to stop.
    pub stopping: watch::Receiver<bool>,
    /// Places for event streams.
    pub streams: Arc<Semaphore>,
    /// To the thread that holds the served model.
    pub orders: Orders,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("address", &self.address).finish_non_exhaustive()
    }
}

/// All endpoints. `docs::openapi` describes them, and a test compares the two.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/assets/page.css", get(page::css))
        .route("/assets/page.js", get(page::js))
        .route("/health", get(health::health))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(docs::openapi))
        .route("/docs", get(docs::docs))
        .route("/api/artifacts", get(artifacts::list))
        .route("/api/artifacts/{id}", get(artifacts::one))
        .route("/api/assays", get(assays::list).post(assays::create))
        .route("/api/assays/{id}", get(assays::one).delete(assays::cancel))
        .route("/api/assays/{id}/report", get(assays::report))
        .route("/api/assays/{id}/bundle", get(bundle::bundle))
        .route("/api/events", get(events::events))
        .route("/api/governor", get(governor::now))
        .route("/api/plugins", get(plugins::list))
        .route("/v1/models", get(models::list))
        .route("/v1/completions", post(completions::create))
        .route("/v1/chat/completions", post(chat::create))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/tokenizer_info", get(tokens::info))
        .fallback(reply::not_found)
        .method_not_allowed_fallback(reply::wrong_method)
        .layer(middleware::from_fn_with_state(api.clone(), guard::guard))
        .layer(middleware::from_fn_with_state(api.clone(), metrics::count))
        .with_state(api)
}

#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
