//! Committed snapshots for everybody.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use tokio::sync::broadcast;
use uuid::Uuid;

use super::{Artifact, Assay, AssayState, Event, StoreError};
use crate::domain::budget;

/// Reads the database; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    db: SqlitePool,
    events: broadcast::Sender<Event>,
}

/// Connections that read at the same time.
const READERS: u32 = 3;

impl Reader {
    pub(super) async fn open(file: &Path, events: broadcast::Sender<Event>) -> Result<Self, StoreError> {
        let options =
            SqliteConnectOptions::new().filename(file).read_only(true).busy_timeout(Duration::from_secs(5));
        let db = SqlitePoolOptions::new()
            .max_connections(READERS)
            .min_connections(0)
            .idle_timeout(Duration::from_secs(30))
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(options);
        Ok(Self { db, events })
    }

    /// All artifacts, by path. At most [`budget::ARTIFACTS`] exist.
    pub async fn artifacts(&self) -> Result<Vec<Artifact>, StoreError> {
        let rows: Vec<String> =
            sqlx::query_scalar("SELECT body FROM artifacts ORDER BY path").fetch_all(&self.db).await?;
        rows.iter().map(|row| from_json(row)).collect()
    }

    pub async fn artifact(&self, id: Uuid) -> Result<Option<Artifact>, StoreError> {
        let row: Option<String> = sqlx::query_scalar("SELECT body FROM artifacts WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.db)
            .await?;
        row.map(|row| from_json(&row)).transpose()
    }

    /// Assays, newest first, at most `limit`; only those older than `before` and in `state`.
    pub async fn assays(
        &self,
        limit: i64,
        before: Option<Uuid>,
        state: Option<AssayState>,
    ) -> Result<Vec<Assay>, StoreError> {
        let rows: Vec<String> = sqlx::query_scalar(
            "SELECT body FROM assays WHERE (?1 IS NULL OR id < ?1) AND (?2 IS NULL OR state = ?2)
             ORDER BY id DESC LIMIT ?3",
        )
        .bind(before.map(|id| id.to_string()))
        .bind(state.map(AssayState::as_str))
        .bind(limit)
        .fetch_all(&self.db)
        .await?;
        rows.iter().map(|row| from_json(row)).collect()
    }

    /// Every assay that is queued or running, oldest first.
    pub async fn unfinished(&self) -> Result<Vec<Assay>, StoreError> {
        let rows: Vec<String> =
            sqlx::query_scalar("SELECT body FROM assays WHERE state IN ('queued', 'running') ORDER BY id")
                .fetch_all(&self.db)
                .await?;
        rows.iter().map(|row| from_json(row)).collect()
    }

    /// The secrets of assays that have not ended.
    pub async fn keys(&self) -> Result<Vec<(Uuid, String)>, StoreError> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT assay, body FROM keys").fetch_all(&self.db).await?;
        let id = |text: &str| Uuid::parse_str(text).map_err(|error| StoreError::Value(error.to_string()));
        rows.into_iter().map(|(assay, key)| Ok((id(&assay)?, key))).collect()
    }

    pub async fn assay(&self, id: Uuid) -> Result<Option<Assay>, StoreError> {
        let row: Option<String> = sqlx::query_scalar("SELECT body FROM assays WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.db)
            .await?;
        row.map(|row| from_json(&row)).transpose()
    }

    /// The report of an assay, as the JSON text that was stored.
    pub async fn report(&self, assay: Uuid) -> Result<Option<String>, StoreError> {
        Ok(sqlx::query_scalar("SELECT body FROM reports WHERE assay = ?")
            .bind(assay.to_string())
            .fetch_optional(&self.db)
            .await?)
    }

    /// Number of assays in each state.
    pub async fn assay_counts(&self) -> Result<Vec<(String, i64)>, StoreError> {
        Ok(sqlx::query_as("SELECT state, COUNT(*) FROM assays GROUP BY state ORDER BY state")
            .fetch_all(&self.db)
            .await?)
    }

    /// Number of the newest event; 0 when there is none.
    pub async fn last_event(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar("SELECT COALESCE(MAX(seq), 0) FROM events").fetch_one(&self.db).await?)
    }

    /// Stored events after number `after`, oldest first, at most [`budget::EVENT_PAGE`].
    pub async fn events_after(&self, after: i64) -> Result<Vec<Event>, StoreError> {
        let rows: Vec<(i64, String, String, String, String)> = sqlx::query_as(
            "SELECT seq, at, kind, subject, data FROM events WHERE seq > ? ORDER BY seq LIMIT ?",
        )
        .bind(after)
        .bind(budget::EVENT_PAGE)
        .fetch_all(&self.db)
        .await?;
        rows.into_iter()
            .map(|(seq, at, kind, subject, data)| {
                Ok(Event {
                    seq: Some(seq),
                    at: parse(&at)?,
                    kind,
                    subject: parse(&subject)?,
                    data: from_json(&data)?,
                })
            })
            .collect()
    }

    /// Live events from now on. A listener that falls behind by more than
    /// [`budget::EVENT_BACKLOG`] is told so and reads [`Self::events_after`].
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Value(error.to_string()))
}

fn parse<T: FromStr>(text: &str) -> Result<T, StoreError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| StoreError::Value(error.to_string()))
}
