//! The one error that reaches people: what failed, where, and what to do about it.

use std::fmt;

use super::text;

/// Who has to act; decides the exit code and the HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// The request itself is wrong: arguments, configuration, an impossible demand.
    Usage,
    /// Something asked for does not exist.
    NotFound,
    /// The request is fine but clashes with the present state (port taken, state folder in use).
    Conflict,
    /// A file or a model could not be read or judged.
    Input,
    /// The machine refused or failed: disk, memory, process, permission.
    Machine,
    /// A plugin failed.
    Plugin,
    /// Our own mistake.
    Internal,
}

/// An error with a place and a remedy. `message` is a lower-case fragment that names
/// the file or the argument; `hint` is one sentence on what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub kind: ProblemKind,
    pub message: String,
    pub hint: Option<String>,
}

impl Problem {
    pub fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { kind, message: text::bounded(message.into()), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(text::bounded(hint.into()));
        self
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ProblemKind::Usage, message)
    }

    pub fn input(message: impl Into<String>) -> Self {
        Self::new(ProblemKind::Input, message)
    }

    pub fn machine(message: impl Into<String>) -> Self {
        Self::new(ProblemKind::Machine, message)
    }

    pub fn plugin(message: impl Into<String>) -> Self {
        Self::new(ProblemKind::Plugin, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ProblemKind::Internal, message)
            .hint("this is a mistake in assayd itself; please report it with the command you ran")
    }

    /// An operating-system error on a path, with the usual remedy.
    pub fn io(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let problem = Self::new(
            if error.kind() == ErrorKind::NotFound { ProblemKind::NotFound } else { ProblemKind::Machine },
            format!("cannot {doing} {}: {error}", path.display()),
        );
        match error.kind() {
            ErrorKind::NotFound => problem.hint("check the path; the file may have been moved or deleted"),
            ErrorKind::PermissionDenied => {
                problem.hint("check the permissions of the file and of the folders above it")
            }
            ErrorKind::StorageFull => problem.hint("free some disk space and try again; nothing was lost"),
            _ => problem,
        }
    }

    /// 2 for what the caller must change, 4 for what could not be judged.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            ProblemKind::Usage | ProblemKind::Conflict => 2,
            ProblemKind::NotFound
            | ProblemKind::Input
            | ProblemKind::Machine
            | ProblemKind::Plugin
            | ProblemKind::Internal => 4,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}
