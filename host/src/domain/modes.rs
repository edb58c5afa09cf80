//! The one table of modes and constants. Printed by `assayd modes`, hashed into every report.

use serde::{Deserialize, Serialize};

use super::score::DecisionParams;

/// Name of a row of [`MODES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ModeName {
    Quick,
    #[default]
    Audit,
    Extended,
}

/// A row of the table: the default demand on a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mode {
    pub name: ModeName,
    #[serde(flatten)]
    pub params: DecisionParams,
}

/// The modes (`statistics.md` section 4, "Suggested presets").
pub const MODES: [Mode; 3] = [
    Mode {
        name: ModeName::Quick,
        params: DecisionParams { alpha: 0.025, gamma: 0.05, delta: 0.25, n_max: 64 },
    },
    Mode {
        name: ModeName::Audit,
        params: DecisionParams { alpha: 0.01, gamma: 0.05, delta: 0.20, n_max: 200 },
    },
    Mode {
        name: ModeName::Extended,
        params: DecisionParams { alpha: 0.001, gamma: 0.02, delta: 0.10, n_max: 400 },
    },
];

impl ModeName {
    pub fn mode(self) -> Mode {
        let [quick, audit, extended] = MODES;
        match self {
            Self::Quick => quick,
            Self::Audit => audit,
            Self::Extended => extended,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Audit => "audit",
            Self::Extended => "extended",
        }
    }
}

/// A per-challenge divergence is clipped at this many nats and divided by it.
pub const CLIP_NATS: f64 = 0.1;
/// Scored positions per challenge.
pub const SCORED_POSITIONS: u32 = 64;
/// Challenges judged between two looks at the decider's answer; validity does not depend on it.
pub const ROUND: u64 = 8;
/// Share of failed challenges above which the assay ends as ERROR.
pub const MAX_FAILED_SHARE: f64 = 0.1;
/// The scorer and the decider used unless the caller names others.
pub const DEFAULT_SCORER: &str = "kl";
pub const DEFAULT_DECIDER: &str = "grid5";
