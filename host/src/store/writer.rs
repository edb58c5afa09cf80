//! The one writer.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::broadcast;
use uuid::Uuid;

use super::{Artifact, Assay, Event, StoreError, schema};
use crate::domain::budget;

/// One thing to remember.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// Adds or replaces an artifact.
    Artifact(&'a Artifact),
    /// Adds or replaces an assay, together with its report where there is one.
    Assay(&'a Assay, Option<&'a str>),
    /// Keeps the secret of an assay on record until it has ended. Of this nobody is told.
    Key(&'a Assay, &'a str),
    /// Removes an artifact from the record.
    Forget(&'a Artifact),
}

/// Changes the database. When [`Writer::put`] returns `Ok`, the changes and their events
/// are on disk and the events were sent to whoever listens; when it returns an error,
/// nothing changed.
#[derive(Debug)]
pub struct Writer {
    file: PathBuf,
    /// None after a failed write, until the next one.
    db: Option<SqliteConnection>,
    events: broadcast::Sender<Event>,
    /// Writes since old rows were last pruned.
    unpruned: u32,
}

/// Writes between two prunings.
const PRUNE_EVERY: u32 = 256;

impl Writer {
    pub(super) async fn open(file: &Path, events: broadcast::Sender<Event>) -> Result<Self, StoreError> {
        let db = connect(file).await?;
        Ok(Self { file: file.to_owned(), db: Some(db), events, unpruned: PRUNE_EVERY })
    }

    /// Makes all changes, or none of them.
    pub async fn put(&mut self, changes: &[Change<'_>]) -> Result<(), StoreError> {
        let mut db = match self.db.take() {
            Some(db) => db,
            None => connect(&self.file).await?,
        };
        // After a failed COMMIT (a full disk) the transaction may be open or not, and what
        // comes later would be told and never committed. A connection that failed is
        // therefore dropped, which rolls back, and never used again.
        let events = write(&mut db, changes).await?;
        for event in events {
            // No listener is no error.
            let _ = self.events.send(event);
        }
        self.unpruned += 1;
        if self.unpruned >= PRUNE_EVERY {
            self.unpruned = 0;
            // The changes stand; a failed pruning is only tried again later.
            if let Err(error) = prune(&mut db).await {
                tracing::warn!(%error, "old rows could not be pruned");
                return Ok(());
            }
        }
        self.db = Some(db);
        Ok(())
    }

    /// Tells listeners of something that is only of the moment: not stored, no number.
    pub fn tell(&self, kind: &str, subject: Uuid, data: Value) {
        let event = Event { seq: None, at: Timestamp::now(), kind: kind.to_owned(), subject, data };
        let _ = self.events.send(event);
    }

    /// Writes the log back into the main file and closes.
    pub async fn close(self) -> Result<(), StoreError> {
        if let Some(mut db) = self.db {
            sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut db).await?;
            db.close().await?;
        }
        Ok(())
    }

    /// Runs a statement on this connection, to see what a full disk or a newer file does.
    #[cfg(test)]
    pub(super) async fn pragma(&mut self, text: &str) {
        let db = self.db.as_mut().unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(text.to_owned())).execute(db).await.unwrap();
    }
}

async fn connect(file: &Path) -> Result<SqliteConnection, StoreError> {
    // Keys of assays that run are in it; SQLite gives its log the same permissions.
    let ours = OpenOptions::new().append(true).create(true).mode(0o600).open(file);
    ours.and_then(|made| made.set_permissions(Permissions::from_mode(0o600))).map_err(sqlx::Error::Io)?;
    let mut db = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // FULL: a commit returns only after the log is on the disk itself.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .connect()
        .await?;
    schema::migrate(&mut db).await?;
    Ok(db)
}

/// One transaction, in plain statements: its end is what SQLite says, not what a counter
/// beside it believes.
async fn write(db: &mut SqliteConnection, changes: &[Change<'_>]) -> Result<Vec<Event>, StoreError> {
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *db).await?;
    let mut events = Vec::with_capacity(changes.len());
    for change in changes {
        events.push(match change {
            Change::Artifact(artifact) => put_artifact(db, artifact).await?,
            Change::Assay(assay, report) => put_assay(db, assay, *report).await?,
            Change::Forget(artifact) => forget(db, artifact).await?,
            Change::Key(assay, key) => {
                put_key(db, assay, key).await?;
                continue;
            }
        });
    }
    sqlx::raw_sql("COMMIT").execute(&mut *db).await?;
    Ok(events)
}

async fn prune(db: &mut SqliteConnection) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM events WHERE seq <= (SELECT MAX(seq) FROM events) - ?")
        .bind(budget::KEPT_EVENTS)
        .execute(&mut *db)
        .await?;
    // Ids are in order of time (uuid v7), so the smallest are the oldest.
    sqlx::query(
        "DELETE FROM assays WHERE state IN ('done', 'failed', 'cancelled') AND id NOT IN
         (SELECT id FROM assays ORDER BY id DESC LIMIT ?)",
    )
    .bind(budget::KEPT_ASSAYS)
    .execute(&mut *db)
    .await?;
    Ok(())
}

async fn put_artifact(db: &mut SqliteConnection, artifact: &Artifact) -> Result<Event, StoreError> {
    sqlx::query(
        "INSERT INTO artifacts (id, path, state, body, updated_at) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET path = excluded.path, state = excluded.state,
         body = excluded.body, updated_at = excluded.updated_at",
    )
    .bind(artifact.id.to_string())
    .bind(artifact.path.to_string_lossy().into_owned())
    .bind(artifact.state.as_str())
    .bind(to_json(artifact)?)
    .bind(artifact.updated_at.to_string())
    .execute(&mut *db)
    .await?;
    let data = json!({
        "id": artifact.id,
        "path": artifact.path,
        "state": artifact.state,
        "status": artifact.inspection.as_ref().map(|inspection| inspection.status),
        "note": artifact.note,
    });
    add_event(db, format!("artifact.{}", artifact.state.as_str()), artifact.id, data).await
}

async fn put_assay(
    db: &mut SqliteConnection,
    assay: &Assay,
    report: Option<&str>,
) -> Result<Event, StoreError> {
    sqlx::query(
        "INSERT INTO assays (id, state, body) VALUES (?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET state = excluded.state, body = excluded.body",
    )
    .bind(assay.id.to_string())
    .bind(assay.state.as_str())
    .bind(to_json(assay)?)
    .execute(&mut *db)
    .await?;
    if assay.state.is_final() {
        sqlx::query("DELETE FROM keys WHERE assay = ?").bind(assay.id.to_string()).execute(&mut *db).await?;
    }
    if let Some(report) = report {
        sqlx::query(
            "INSERT INTO reports (assay, body) VALUES (?, ?)
             ON CONFLICT (assay) DO UPDATE SET body = excluded.body",
        )
        .bind(assay.id.to_string())
        .bind(report)
        .execute(&mut *db)
        .await?;
    }
    let data = json!({
        "id": assay.id,
        "state": assay.state,
        "candidate": assay.candidate,
        "reference": assay.reference,
        "decision": assay.decision,
        "error": assay.error,
    });
    add_event(db, format!("assay.{}", assay.state.as_str()), assay.id, data).await
}

async fn put_key(db: &mut SqliteConnection, assay: &Assay, key: &str) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO keys (assay, body) VALUES (?, ?) ON CONFLICT (assay) DO UPDATE SET body = excluded.body",
    )
    .bind(assay.id.to_string())
    .bind(key)
    .execute(&mut *db)
    .await?;
    Ok(())
}

async fn forget(db: &mut SqliteConnection, artifact: &Artifact) -> Result<Event, StoreError> {
    sqlx::query("DELETE FROM artifacts WHERE id = ?").bind(artifact.id.to_string()).execute(&mut *db).await?;
    let data = json!({"id": artifact.id, "path": artifact.path, "state": "gone"});
    add_event(db, "artifact.forgotten".to_owned(), artifact.id, data).await
}

async fn add_event(
    change: &mut SqliteConnection,
    kind: String,
    subject: Uuid,
    data: Value,
) -> Result<Event, StoreError> {
    let at = Timestamp::now();
    let seq: i64 =
        sqlx::query_scalar("INSERT INTO events (at, kind, subject, data) VALUES (?, ?, ?, ?) RETURNING seq")
            .bind(at.to_string())
            .bind(&kind)
            .bind(subject.to_string())
            .bind(data.to_string())
            .fetch_one(change)
            .await?;
    Ok(Event { seq: Some(seq), at, kind, subject, data })
}

fn to_json<T: serde::Serialize>(row: &T) -> Result<String, StoreError> {
    serde_json::to_string(row).map_err(|error| StoreError::Value(error.to_string()))
}
