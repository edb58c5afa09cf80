//! The rows, as the rest of the daemon and HTTP clients see them.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::inspection::Inspection;

/// Where an artifact stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactState {
    /// Seen, but still growing or incomplete; `note` says which.
    Waiting,
    /// Settled; its bytes are being read.
    Inspecting,
    /// `inspection` holds what was found.
    Inspected,
    /// Settled, but could not be read; `note` says why.
    Failed,
    /// Not something that can be judged; `note` says why.
    Ignored,
    /// It was there once.
    Gone,
}

/// Size and time of one file, by which a change is noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub path: PathBuf,
    pub bytes: u64,
    /// Modification time in nanoseconds since 1970.
    pub modified_ns: i128,
    /// Inode number, so that a file replaced by a rename is seen.
    pub inode: u64,
}

/// One thing found in a watched folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    pub id: Uuid,
    /// The file, the first part of a split set, or the model folder.
    pub path: PathBuf,
    pub state: ArtifactState,
    /// What a person should know about this state: what is missing, why it was ignored,
    /// why it is not compared with anything.
    pub note: Option<String>,
    /// The files as they were when taken; empty until then.
    pub stamps: Vec<Stamp>,
    pub inspection: Option<Inspection>,
    /// What it is compared with, if a rule or a sidecar says so.
    pub reference: Option<PathBuf>,
    /// What the last automatic assay was queued for, so that a restart does not repeat it.
    pub assayed_for: Option<String>,
    pub found_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Where an assay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AssayState {
    Queued,
    Running,
    /// It ended with a report, whatever the verdict.
    Done,
    /// It ended without a report; `error` says why.
    Failed,
    Cancelled,
}

impl AssayState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Nothing changes any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

impl ArtifactState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Inspecting => "inspecting",
            Self::Inspected => "inspected",
            Self::Failed => "failed",
            Self::Ignored => "ignored",
            Self::Gone => "gone",
        }
    }
}

/// One job. Its report, once there is one, is read apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assay {
    pub id: Uuid,
    pub state: AssayState,
    /// The artifact it is about, where it is a watched one.
    pub artifact: Option<Uuid>,
    pub candidate: PathBuf,
    pub reference: Option<PathBuf>,
    /// The whole request, as it will be run.
    pub request: serde_json::Value,
    /// `final_decision` of the report.
    pub decision: Option<String>,
    /// Why it failed, or the first error of the report.
    pub error: Option<String>,
    /// Times it was started.
    pub attempts: i64,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

/// A change of state that was committed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by at least one from event to event, and never repeats. Null for progress,
    /// which is only of the moment and not stored.
    pub seq: Option<i64>,
    pub at: Timestamp,
    /// `artifact.<state>`, `assay.<state>` or `assay.progress`.
    pub kind: String,
    /// Id of the artifact or assay.
    pub subject: Uuid,
    pub data: serde_json::Value,
}
