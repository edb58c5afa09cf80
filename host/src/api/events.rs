//! `GET /api/events`: every change of state as server-sent events. A client that comes
//! back with `Last-Event-ID` misses nothing that is still on record; one that was away for
//! too long is told so by an event `reset` and reads the lists anew.

use std::convert::Infallible;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Api;
use super::extract::Params;
use super::reply::ApiError;
use crate::domain::budget;
use crate::store::{Event, StoreError};

pub const PATH: &str = "/api/events";

/// Frames that wait for a slow client.
const WAITING: usize = 64;

/// Query of the stream.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// The same as `Last-Event-ID`, for clients that cannot set headers.
    after: Option<i64>,
}

type Out = mpsc::Sender<Result<Frame, Infallible>>;

/// The client went away, the daemon stops, or the database failed: the stream ends.
struct End;

pub async fn events(
    State(api): State<Api>,
    Params(query): Params<After>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let last = match headers.get("last-event-id") {
        None => query.after,
        Some(id) => {
            let id = id.to_str().ok().and_then(|id| id.trim().parse().ok());
            Some(id.ok_or_else(|| ApiError::bad(Some("Last-Event-ID"), "Last-Event-ID is not a number"))?)
        }
    };
    let place = api.streams.clone().try_acquire_owned().map_err(|_| {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too many event streams are open")
            .hint("close one and try again")
    })?;
    let (out, frames) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let mut stopping = api.stopping.clone();
        tokio::select! {
            _ = follow(&api, last, &out) => {}
            () = out.closed() => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        drop(place);
    });
    let keep_alive = KeepAlive::new().interval(budget::HTTP_PING);
    Ok(Sse::new(ReceiverStream::new(frames)).keep_alive(keep_alive).into_response())
}

async fn follow(api: &Api, last: Option<i64>, out: &Out) -> Result<(), End> {
    // Listening starts before the record is read, so that nothing falls in between.
    let mut live = api.reader.listen();
    let newest = api.reader.last_event().await.map_err(lost)?;
    send(out, Frame::default().comment("connected").retry(std::time::Duration::from_secs(2))).await?;
    let mut told = match last {
        None => newest,
        Some(last) if last > newest || !reaches_back(api, last).await? => {
            let frame = Frame::default().event("reset").id(newest.to_string()).data("{}");
            send(out, frame).await?;
            newest
        }
        Some(last) => replay(api, last, out).await?,
    };
    loop {
        match live.recv().await {
            // Already told from the record.
            Ok(event) if event.seq.is_some_and(|seq| seq <= told) => {}
            Ok(event) => {
                told = event.seq.unwrap_or(told);
                send(out, frame(&event)).await?;
            }
            Err(RecvError::Lagged(_)) => told = replay(api, told, out).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

/// Whether no event after `last` was pruned: numbers have no gaps.
async fn reaches_back(api: &Api, last: i64) -> Result<bool, End> {
    let newest = api.reader.last_event().await.map_err(lost)?;
    let next = api.reader.events_after(last).await.map_err(lost)?.first().and_then(|event| event.seq);
    Ok(newest == last || next == Some(last.saturating_add(1)))
}

/// Sends everything on record after `told`; returns the last number sent.
async fn replay(api: &Api, mut told: i64, out: &Out) -> Result<i64, End> {
    loop {
        let page = api.reader.events_after(told).await.map_err(lost)?;
        if page.is_empty() {
            return Ok(told);
        }
        for event in page {
            told = event.seq.unwrap_or(told);
            send(out, frame(&event)).await?;
        }
    }
}

fn frame(event: &Event) -> Frame {
    let body = serde_json::json!({"at": event.at, "subject": event.subject, "data": event.data});
    let frame = Frame::default().event(&event.kind).data(body.to_string());
    match event.seq {
        Some(seq) => frame.id(seq.to_string()),
        None => frame,
    }
}

async fn send(out: &Out, frame: Frame) -> Result<(), End> {
    out.send(Ok(frame)).await.map_err(|_| End)
}

/// The client sees the stream end, comes back, and loses nothing.
fn lost(error: StoreError) -> End {
    tracing::error!(%error, "an event stream ended: the record could not be read");
    End
}
