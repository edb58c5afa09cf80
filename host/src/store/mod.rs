//! What is remembered on disk: artifacts, assays, reports, events; also keys, and how a file
//! is written whole or not at all.
//!
//! Invariants: one process holds a state folder ([`StateLock`]); one [`Writer`] exists and
//! is not `Clone`; every change and the event that tells of it are one transaction that is
//! fsynced before anybody hears of it; event numbers only grow. [`Reader`] sees committed
//! snapshots. Deliberately absent: any judgement about what a state means, and any
//! interpretation of requests and reports, which are opaque JSON here.

pub mod atomic;
mod error;
pub mod keyring;
mod lock;
mod reader;
mod records;
mod schema;
mod writer;

use std::path::Path;

use tokio::sync::broadcast;

pub use error::StoreError;
pub use lock::StateLock;
pub use reader::Reader;
pub use records::{Artifact, ArtifactState, Assay, AssayState, Event, Stamp};
pub use writer::{Change, Writer};

use crate::domain::{Problem, budget};

/// An opened state folder: the lock, the only writer, and a reader to clone from.
#[derive(Debug)]
pub struct Store {
    /// Held as long as the daemon lives.
    pub lock: StateLock,
    pub writer: Writer,
    pub reader: Reader,
}

impl Store {
    /// Creates or opens the state folder `dir`.
    ///
    /// Errors: the folder cannot be made or written, another daemon holds it, the database
    /// is damaged or was written by a newer assayd.
    pub async fn open(dir: &Path) -> Result<Self, Problem> {
        let lock = StateLock::take(dir)?;
        let file = dir.join("assayd.db");
        let place = |error: StoreError| error.at(&file);
        let (events, _) = broadcast::channel(budget::EVENT_BACKLOG);
        let writer = Writer::open(&file, events.clone()).await.map_err(place)?;
        let reader = Reader::open(&file, events).await.map_err(place)?;
        Ok(Self { lock, writer, reader })
    }
}

/// Removes the events up to number `upto` behind the daemon's back, as time does.
#[cfg(test)]
pub async fn forget_events(dir: &Path, upto: i64) {
    use sqlx::ConnectOptions as _;
    let file = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.join("assayd.db"));
    let mut db = file.connect().await.unwrap();
    sqlx::query("DELETE FROM events WHERE seq <= ?").bind(upto).execute(&mut db).await.unwrap();
}

#[cfg(test)]
mod tests;
