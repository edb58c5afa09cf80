//! How a worker ended, in one word, with the details and what to do about it.

use serde::{Deserialize, Serialize};

use crate::domain::{Problem, ProblemKind};

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Ending {
    Ok,
    /// Not started, or the engine declined the model with a reason.
    Refused,
    /// Killed by the kernel for memory.
    OomKilled,
    /// Ended at its memory limit, or for the machine's sake.
    LimitKilled,
    /// Ended by a signal or with an error of its own.
    Crashed,
    /// No progress for too long, ended by us.
    Stalled,
    /// A remote engine went away.
    RemoteLost,
}

impl Ending {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Refused => "REFUSED",
            Self::OomKilled => "OOM_KILLED",
            Self::LimitKilled => "LIMIT_KILLED",
            Self::Crashed => "CRASHED",
            Self::Stalled => "STALLED",
            Self::RemoteLost => "REMOTE_LOST",
        }
    }
}

/// Why a worker gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("worker ended {}: {detail}", ending.as_str())]
pub struct WorkerEnd {
    pub ending: Ending,
    pub detail: String,
    pub hint: Option<String>,
}

impl WorkerEnd {
    pub(super) fn new(ending: Ending, detail: impl Into<String>) -> Self {
        let hint = match ending {
            Ending::Ok | Ending::Refused => None,
            Ending::RemoteLost => {
                Some("check that the endpoint runs and can be reached from here, and start again")
            }
            Ending::OomKilled => {
                Some("the machine ran out of memory; close other programs or use a smaller model or context")
            }
            Ending::LimitKilled => {
                Some("free memory or raise --max-memory, or use a smaller model or context")
            }
            Ending::Crashed => Some(
                "the inference engine failed on this file; nothing else was harmed, and the file should not be trusted",
            ),
            Ending::Stalled => Some(
                "the engine made no progress; the file may be built to hang it, or the disk, or the accelerator it was given, may be very slow",
            ),
        };
        Self { ending, detail: detail.into(), hint: hint.map(str::to_owned) }
    }
}

impl From<WorkerEnd> for Problem {
    fn from(end: WorkerEnd) -> Self {
        let kind = match end.ending {
            Ending::Refused | Ending::Crashed => ProblemKind::Input,
            _ => ProblemKind::Machine,
        };
        Problem { kind, message: end.to_string(), hint: end.hint }
    }
}

/// What an allocator says when it is given no more, in any of the languages a worker runs.
const NO_MEMORY: [&str; 8] = [
    "out of memory",
    "memory allocation of",
    "bad_alloc",
    "insufficient memory",
    "failed to allocate",
    "unable to allocate",
    "cannot allocate",
    "Cannot allocate",
];

/// Whether a text is the complaint of an allocator.
pub(super) fn is_out_of_memory(text: &str) -> bool {
    NO_MEMORY.iter().any(|words| text.contains(words))
}
