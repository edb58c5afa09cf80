//! Scores, decisions, and what a decider says after each score.

use serde::{Deserialize, Serialize};

/// The statistical decision over the scores so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Decision {
    Same,
    Different,
    Undecided,
}

impl Decision {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "SAME",
            Self::Different => "DIFFERENT",
            Self::Undecided => "UNDECIDED",
        }
    }
}

/// What a person is told in the end: the statistical decision, or that none was possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum FinalDecision {
    Same,
    Different,
    Undecided,
    Error,
}

impl FinalDecision {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "SAME",
            Self::Different => "DIFFERENT",
            Self::Undecided => "UNDECIDED",
            Self::Error => "ERROR",
        }
    }

    /// 0 same, 1 different, 3 undecided, 4 could not be judged.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Same => 0,
            Self::Different => 1,
            Self::Undecided => 3,
            Self::Error => 4,
        }
    }
}

/// One scored challenge: a value in [0, 1] and named details in natural units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub value: f64,
    pub notes: Vec<(String, f64)>,
}

/// What a decider says after the scores so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Number of scores seen.
    pub n: u64,
    pub decision: Decision,
    /// Confidence bounds on the mean score, if the decider has them.
    pub lower: Option<f64>,
    pub upper: Option<f64>,
    /// ln of the evidence against "mean >= delta" and against "mean <= gamma".
    pub log_e_same: Option<f64>,
    pub log_e_different: Option<f64>,
}

/// `1 - x`, from alpha to confidence and back, without what the subtraction adds: 1 - 0.99 is
/// 0.010000000000000009.
pub fn complement(x: f64) -> f64 {
    ((1.0 - x) * 1e12).round() / 1e12
}

/// What a decider is asked to decide.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DecisionParams {
    /// Error probability; confidence is `1 - alpha`.
    pub alpha: f64,
    /// DIFFERENT means: the mean is above this.
    pub gamma: f64,
    /// SAME means: the mean is below this; `gamma <= delta`.
    pub delta: f64,
    /// Most scores that will be asked for.
    pub n_max: u64,
}
