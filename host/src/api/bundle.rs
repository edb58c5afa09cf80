//! `/api/assays/{id}/bundle`: the evidence of a judged assay, from disk.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::Api;
use super::extract::{Id, Nothing, Params};
use super::reply::ApiError;

/// Bytes read and sent at a time, and pieces that may wait for a slow client.
const PIECE: u64 = 256 << 10;
const PIECES: usize = 2;

/// Where the bundle of an assay is: an id makes the name, never a text of the client's.
pub fn bundle_path(folder: &Path, assay: Uuid) -> PathBuf {
    folder.join(format!("{assay}.bundle"))
}

pub async fn bundle(State(api): State<Api>, Id(id): Id, _: Params<Nothing>) -> Result<Response, ApiError> {
    let assay = api.reader.assay(id).await?.ok_or_else(|| ApiError::missing("assay"))?;
    if !assay.state.is_final() {
        let why = format!("this assay is {} and has no bundle yet", assay.state.as_str());
        return Err(ApiError::new(StatusCode::CONFLICT, why));
    }
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => ApiError::new(StatusCode::NOT_FOUND, "this assay has no bundle").hint(
            "bundles are kept for judged assays, and the oldest go first; `bundles` in the configuration",
        ),
        _ => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, format!("its bundle cannot be read: {error}")),
    };
    let file = File::open(bundle_path(&api.bundles, id)).await.map_err(failed)?;
    let bytes = file.metadata().await.map_err(failed)?.len();
    let (send, pieces) = mpsc::channel::<std::io::Result<Vec<u8>>>(PIECES);
    // Ends when the file does or the client is gone; a client that stays and reads nothing is
    // dropped by the connection's own limit.
    tokio::spawn(async move {
        let mut file = file.take(bytes);
        loop {
            let mut piece = Vec::new();
            let sent = match (&mut file).take(PIECE).read_to_end(&mut piece).await {
                Ok(0) => return,
                Ok(_) => send.send(Ok(piece)).await,
                Err(error) => {
                    let _ = send.send(Err(error)).await;
                    return;
                }
            };
            if sent.is_err() {
                return;
            }
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, bytes.to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.bundle\"")),
    ];
    Ok((headers, Body::from_stream(ReceiverStream::new(pieces))).into_response())
}
