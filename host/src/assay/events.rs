//! What an assay tells while it runs.

use serde::Serialize;

use crate::domain::Sha256;
use crate::domain::score::Step;

/// Where an assay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Reading and digesting the files of the reference, in bytes.
    InspectingReference,
    /// Reading and digesting the files of the candidate, in bytes.
    InspectingCandidate,
    HashChecks,
    /// Comparing weights, in bytes of the candidate.
    Lineage,
    /// Deriving and committing to the challenges.
    Challenges,
    /// Measuring how different an honest quantisation is, in challenges.
    Calibrating,
    /// Loading, in thousandths.
    LoadingReference,
    /// Answering, in challenges.
    Reference,
    LoadingCandidate,
    Candidate,
    /// Asking the user's own prompts.
    Probing,
    /// Working out what the report says besides the verdict.
    Closing,
}

/// One event. Events come in order from the thread that runs the assay.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum AssayEvent {
    Stage {
        stage: Stage,
    },
    Progress {
        stage: Stage,
        done: u64,
        total: u64,
    },
    /// The challenges are fixed; no model has been loaded yet.
    Committed {
        commitment: Sha256,
        challenges: u64,
    },
    /// The measured band is fixed; the candidate has not been loaded yet.
    Frozen {
        /// SHA-256 of the band as the report has it.
        band: Sha256,
    },
    /// A challenge was scored.
    Scored {
        /// Place of the challenge in its set.
        index: u64,
        score: f64,
        step: Step,
    },
    /// A challenge could not be scored; it reduces n.
    Failed {
        index: u64,
        reason: String,
    },
}
