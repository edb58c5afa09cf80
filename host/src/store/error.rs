//! What can go wrong with the database, in words that say what to do.

use std::path::Path;

use crate::domain::{Problem, ProblemKind};

/// A failed query. The transaction it belonged to left no trace.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the disk is full")]
    Full,
    #[error("it cannot be written")]
    ReadOnly,
    #[error("it cannot be opened")]
    CannotOpen,
    #[error("it is damaged or not a database: {0}")]
    Corrupt(String),
    #[error("it was written by a newer assayd (schema {found}, this one knows {known})")]
    Newer { found: i64, known: i64 },
    #[error("a stored value cannot be understood: {0}")]
    Value(String),
    #[error("{0}")]
    Other(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // SQLite's primary result code is the low byte of the extended one.
        let code = error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .and_then(|code| code.parse::<u32>().ok())
            .map(|code| code & 0xff);
        match code {
            Some(13) => Self::Full,
            Some(3 | 8) => Self::ReadOnly,
            Some(14) => Self::CannotOpen,
            Some(11 | 26) => Self::Corrupt(error.to_string()),
            _ => Self::Other(error.to_string()),
        }
    }
}

impl StoreError {
    /// The problem as told to a person, about the database `file`.
    pub fn at(&self, file: &Path) -> Problem {
        let problem = Problem::machine(format!("the state database {}: {self}", file.display()));
        match self {
            Self::Full => problem.hint("free some disk space; nothing that was told is lost"),
            Self::ReadOnly | Self::CannotOpen => {
                problem.hint("make the state folder writable, or choose another with --state DIR")
            }
            Self::Corrupt(_) => {
                problem.hint("move the file away to start afresh; keep a copy if its reports matter to you")
            }
            Self::Newer { .. } => Problem { kind: ProblemKind::Usage, ..problem }
                .hint("run the newer assayd, or choose another state folder with --state DIR"),
            Self::Value(_) | Self::Other(_) => problem,
        }
    }
}
