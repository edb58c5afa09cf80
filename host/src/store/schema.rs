//! The tables, and how an older file becomes the present one.

use sqlx::{Connection as _, SqliteConnection};

use super::StoreError;

/// One step per version, applied in order; `user_version` is the number applied.
/// A released step never changes: a new one is added.
const STEPS: [(&str, &str); 2] = [
    (
        "
    CREATE TABLE artifacts (
        id TEXT PRIMARY KEY NOT NULL,
        path TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,
        body TEXT NOT NULL,
        updated_at TEXT NOT NULL
    ) STRICT;
    CREATE TABLE assays (
        id TEXT PRIMARY KEY NOT NULL,
        state TEXT NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX assays_by_state ON assays (state);
    CREATE TABLE reports (
        assay TEXT PRIMARY KEY NOT NULL REFERENCES assays (id) ON DELETE CASCADE,
        body TEXT NOT NULL
    ) STRICT;
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at TEXT NOT NULL,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        data TEXT NOT NULL
    ) STRICT;
    ",
        "PRAGMA user_version = 1",
    ),
    (
        "
    CREATE TABLE keys (
        assay TEXT PRIMARY KEY NOT NULL REFERENCES assays (id) ON DELETE CASCADE,
        body TEXT NOT NULL
    ) STRICT;
    ",
        "PRAGMA user_version = 2",
    ),
];

/// Brings the database up to date, each step in its own transaction.
pub(super) async fn migrate(db: &mut SqliteConnection) -> Result<(), StoreError> {
    let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *db).await?;
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    let done = usize::try_from(found).unwrap_or(0);
    for (tables, version) in STEPS.into_iter().skip(done) {
        let mut step = db.begin().await?;
        sqlx::raw_sql(tables).execute(&mut *step).await?;
        sqlx::raw_sql(version).execute(&mut *step).await?;
        step.commit().await?;
    }
    Ok(())
}
