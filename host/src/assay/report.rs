//! The report: one typed record from which every table, page and card is rendered.
//!
//! Serialised it is the document `assayd.report/1` of `assayd verify --json`. All keys are
//! always there; evidence that is missing is null and `errors` says why. Units are in the
//! names. Nothing in here is computed: the pipeline fills it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::band::Band;
use super::decision::{Findings, HashChecks};
use super::hidden::Outlier;
use super::probe::ProbeReport;
use super::relationship::Relationship;
use crate::challenge::Challenge;
use crate::domain::inspection::{ArtifactKind, Finding, Status};
use crate::domain::score::{Decision, FinalDecision};
use crate::domain::{Sha256, schema_of};
use crate::engine::{EngineInfo, LoadBits};
use crate::governor::levels::Alert;
use crate::worker::Ending;

/// Names the shape of [`Report`].
pub const SCHEMA: &str = "assayd.report/1";

/// What an assay found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "assayd report")]
pub struct Report {
    pub schema: String,
    pub assayd_version: String,
    /// Path of the reference.
    pub model1: Option<PathBuf>,
    /// Path of the candidate.
    pub model2: PathBuf,
    /// The LoRA adapter that was put over the candidate.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub adapter: Option<PathBuf>,
    /// The comparison is of a quantised model: the candidate's weights were quantised to so many
    /// bits while they were loaded. Null: they were loaded as the files hold them, like the reference's.
    #[serde(default)]
    #[schemars(with = "Option<u8>")]
    pub load_bits: Option<LoadBits>,
    pub mode: String,
    pub final_decision: FinalDecision,
    /// The rule that made the final decision.
    pub because: String,
    /// What the truth table of the final decision looked at.
    pub grounds: Option<Findings>,
    /// Whether the assay came to an end by itself: everything but ERROR.
    pub success: bool,
    /// What went wrong, if it ended as ERROR.
    pub error: Option<String>,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub finished_at: String,
    pub seconds: f64,
    pub enhanced_diff: EnhancedDiff,
    pub security: Security,
    /// How the weights relate; null until they were compared.
    pub lineage: Option<Lineage>,
    /// How the candidate seems to have come about. Advisory: the verdict is reached without it.
    #[serde(default)]
    pub relationship: Option<Relationship>,
    /// The band measured by `--band auto`; null when gamma and delta come from elsewhere.
    #[serde(default)]
    pub band: Option<Band>,
    /// The challenges that the band was measured on, in order, the pilot's first. Their looks of
    /// the decider are null: nothing was judged by them.
    #[serde(default)]
    pub calibration: Vec<Record>,
    /// The user's own prompts, apart from everything that the verdict follows from.
    #[serde(default)]
    pub probes: Option<ProbeReport>,
    /// Of a candidate without a reference; null where one was given.
    pub measurement: Option<Measurement>,
    pub provenance: Provenance,
    pub files: Vec<ReportFile>,
    pub challenges: Option<Challenges>,
    pub plugins: Vec<ReportPlugin>,
    /// The table of modes and constants that held, as `assayd modes` prints it.
    pub constants: serde_json::Value,
    /// SHA-256 over its canonical form.
    pub constants_digest: Sha256,
    pub engine: Option<EngineInfo>,
    pub memory: Memory,
    pub peak_memory_gb: Option<f64>,
    pub workers: Vec<ReportWorker>,
    /// Reasons for everything that is null, and failed challenges.
    pub errors: Vec<String>,
    /// What a reader should know and what does not change the verdict.
    pub remarks: Vec<String>,
    /// Seconds by stage; every name ends in `_seconds`.
    pub timings: BTreeMap<String, f64>,
    pub inspections: Inspections,
    /// One row per challenge that was asked, in order.
    pub records: Vec<Record>,
}

/// The statistical comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnhancedDiff {
    /// Null when nothing was compared.
    pub decision: Option<Decision>,
    pub confidence: f64,
    /// d_z = mean / standard deviation of the scores; null without spread.
    pub effect_size: Option<f64>,
    /// Hedged confidence sequence for the mean score, valid at any stopping time.
    pub ci_lower: Option<f64>,
    pub ci_upper: Option<f64>,
    /// Mean score, in shares of the clip like gamma and delta.
    pub mean_diff: Option<f64>,
    pub std_diff: Option<f64>,
    /// Mean of the scorer's own value before clipping, in nats; null for scorers without one.
    pub mean_nats: Option<f64>,
    /// Scores that count: one per challenge, up to the stopping time.
    pub n_effective: u64,
    pub n_failed: u64,
    pub n_max: u64,
    pub gamma: f64,
    pub delta: f64,
    pub clip_nats: f64,
    /// How much of each distribution was scored, and what the rest can add; null when
    /// nothing was scored.
    pub coverage: Option<Coverage>,
    /// What the decision claims, in words.
    pub claim: String,
    /// Anytime p-value against "the mean is at least delta".
    pub p_same: Option<f64>,
    /// Anytime p-value against "the mean is at most gamma".
    pub p_different: Option<f64>,
    pub smallest_delta_certified: Option<f64>,
    pub scorer: String,
    /// Parameters the scorer was given, as JSON; empty for its defaults.
    #[serde(default)]
    pub scorer_params: String,
    pub decider: String,
    /// The decider whose evidence the p-values are: the one that decided, or `hedged` beside
    /// one without e-values.
    #[serde(default)]
    pub p_values_from: Option<String>,
    pub stopped_early: bool,
    /// For UNDECIDED: how many scores would probably decide.
    pub needed_n: Option<u64>,
    /// How rare a difference could still hide, in words.
    #[serde(default)]
    pub rare_difference: Option<String>,
    /// Challenges that stand out from the others, the farthest first.
    #[serde(default)]
    pub outliers: Vec<Outlier>,
}

/// How much of the distributions the scores are of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Coverage {
    pub kind: CoverageKind,
    /// Whether a score over the whole distributions could be higher.
    pub lower_bound: bool,
    /// The mean score over the whole distributions is at most this; null for a scorer of
    /// which that is not known.
    pub mean_at_most: Option<f64>,
    /// Mean share of the reference's probability on tokens that were not scored one by one.
    pub rest_mass: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CoverageKind {
    /// Every token.
    Full,
    /// Every token, in 16 bits.
    Half,
    /// The reference's likeliest tokens one by one, and the rest in buckets.
    Coarse,
}

/// Comparisons that need no model run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Security {
    pub config_hash: HashPair,
    pub fuzzy_hash: FuzzyHash,
    pub tokenizer: Tokenizer,
    /// Hash checks that had something to say or were given parameters, the reference's first.
    #[serde(default)]
    pub hash_checks: Vec<HashCheckReport>,
}

/// What one hash check came to for one artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HashCheckReport {
    pub plugin: String,
    pub artifact: String,
    /// SHA-256 over the parameters that it was given, as compact JSON with sorted keys; null
    /// without any.
    pub params_sha256: Option<Sha256>,
    pub outcome: HashChecks,
    /// Its findings in words.
    pub said: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct HashPair {
    pub reference: Option<Sha256>,
    pub candidate: Option<Sha256>,
    #[serde(rename = "match")]
    pub matches: Option<bool>,
    /// Key by key, `key: reference -> candidate`.
    #[serde(default)]
    pub differences: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct FuzzyHash {
    pub algorithm: Option<String>,
    pub distance: Option<u32>,
    pub similarity: Option<f64>,
    #[serde(rename = "match")]
    pub matches: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Tokenizer {
    /// Null when it is not known of both.
    pub compatible: Option<bool>,
    /// Key by key, `key: reference -> candidate`; chat templates too, which do not make
    /// tokenizers incompatible.
    pub differences: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Lineage {
    pub relation: crate::model::lineage::Relation,
    /// Why, in words, the strongest reason first.
    pub reasons: Vec<String>,
    pub tensors_compared: u64,
    pub tensors_identical: u64,
    pub max_excess_error: Option<f64>,
    pub worst_tensor: Option<String>,
    /// Tensors that only one side has, or in other shapes.
    #[serde(default)]
    pub tensors_unmatched: u64,
}

/// What a model does on fixed, public prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measurement {
    pub prompts: u64,
    /// Tokens that were predicted.
    pub positions: u64,
    /// Mean negative log-likelihood of the prompts' tokens in nats; null for raw tokens.
    pub mean_nll: Option<f64>,
    pub perplexity: Option<f64>,
    /// Of the first pass after loading, several sequences side by side.
    pub score_tokens_per_second: Option<f64>,
    pub generate_tokens_per_second: Option<f64>,
    /// Over the greedy continuations, token by token: equal if the model writes the same.
    pub written_sha256: Sha256,
}

/// RFC 6962 roots over the files of each side and over the records.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Provenance {
    pub reference_root: Option<Sha256>,
    pub candidate_root: Option<Sha256>,
    pub transcript_root: Option<Sha256>,
}

/// Which side of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Reference,
    Candidate,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Candidate => "candidate",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReportFile {
    pub role: Role,
    pub path: PathBuf,
    pub bytes: u64,
    pub sha256: Option<Sha256>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Challenges {
    /// Published before the first model was loaded.
    pub commitment: Sha256,
    /// The key in hexadecimal, revealed after the last model ran; null if the run broke off.
    pub key_revealed: Option<String>,
    /// Distinct prompts that were committed to.
    pub distinct: u64,
    pub space_size: u64,
    pub template_version: String,
    pub plan: crate::challenge::Plan,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReportPlugin {
    pub id: String,
    pub kind: String,
    pub version: String,
    pub sha256: Sha256,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Memory {
    pub limit_bytes: Option<u64>,
    /// What was predicted of `peak_bytes`, with the context filled.
    pub predicted_bytes: Option<u64>,
    /// Most anonymous resident memory of any worker.
    pub peak_bytes: Option<u64>,
    /// The rungs that held the workers, such as `cgroup-v1+rlimit+watchdog`.
    pub enforcement: Option<String>,
    /// What the workers were kept from, such as `landlock+seccomp`.
    #[serde(default)]
    pub confinement: Option<String>,
    /// Pages of files: predicted to be wanted, and seen at most.
    #[serde(default)]
    pub predicted_file_bytes: Option<u64>,
    #[serde(default)]
    pub peak_file_bytes: Option<u64>,
    /// What could be had when it was decided to load, and which limit said so.
    #[serde(default)]
    pub available_bytes: Option<u64>,
    #[serde(default)]
    pub limiting: Option<String>,
    #[serde(default)]
    pub guardrail: Option<String>,
    /// What was given up so that it fits, in order.
    #[serde(default)]
    pub given_up: Vec<String>,
    /// Levels that were entered while workers ran.
    #[serde(default)]
    pub alerts: Vec<Alert>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReportWorker {
    pub role: Role,
    pub ending: Ending,
    pub detail: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Inspections {
    pub reference: Option<InspectionSummary>,
    pub candidate: Option<InspectionSummary>,
}

impl Inspections {
    /// Whether one is GGUF and the other is not, so that their digests of tokenizer and
    /// configuration cannot agree.
    pub fn formats_differ(&self) -> bool {
        let gguf = |side: &Option<InspectionSummary>| Some(side.as_ref()?.kind?.is_gguf());
        gguf(&self.reference).zip(gguf(&self.candidate)).is_some_and(|(a, b)| a != b)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InspectionSummary {
    /// Null in reports of older versions.
    #[serde(default)]
    pub kind: Option<ArtifactKind>,
    pub status: Status,
    pub architecture: Option<String>,
    pub parameters: Option<u64>,
    pub quantization: Option<String>,
    pub tokenizer_hash: Option<Sha256>,
    pub findings: Vec<Finding>,
}

/// What a record says of a trace besides its digest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TraceSummary {
    /// Scored positions.
    pub rows: u64,
    /// Mean negative log-probability of the given tokens, in nats; null if it is not finite.
    pub nll_nats: Option<f64>,
    /// Mean entropy of the predictions, in nats; null if it is not finite.
    pub entropy_nats: Option<f64>,
}

/// One challenge with what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    #[serde(flatten)]
    pub challenge: Challenge,
    /// Null when it was scored; else why it was not, and it reduces n.
    pub failure: Option<String>,
    /// Tokens that both models were scored on, and how many of them were given.
    pub tokens: Vec<u32>,
    pub scored_from: u32,
    /// SHA-256 over each side's trace as it was measured.
    pub reference_trace: Option<Sha256>,
    pub candidate_trace: Option<Sha256>,
    pub reference_summary: Option<TraceSummary>,
    pub candidate_summary: Option<TraceSummary>,
    /// In [0, 1].
    pub score: Option<f64>,
    /// The scorer's details in natural units.
    pub notes: BTreeMap<String, f64>,
    /// Place among the scores, from 1; null if it failed.
    pub n: Option<u64>,
    /// Whether it counts: scored at or before the stopping time.
    pub counted: bool,
    /// Bounds on the mean score, and the decider's evidence, after this score.
    pub lower: Option<f64>,
    pub upper: Option<f64>,
    pub log_e_same: Option<f64>,
    pub log_e_different: Option<f64>,
    pub decision: Option<Decision>,
}

impl Record {
    /// A challenge of which nothing is known yet but, perhaps, why it cannot be scored.
    pub fn blank(challenge: &Challenge, failure: Option<String>) -> Self {
        Self {
            challenge: challenge.clone(),
            failure,
            tokens: Vec::new(),
            scored_from: 0,
            reference_trace: None,
            candidate_trace: None,
            reference_summary: None,
            candidate_summary: None,
            score: None,
            notes: BTreeMap::new(),
            n: None,
            counted: false,
            lower: None,
            upper: None,
            log_e_same: None,
            log_e_different: None,
            decision: None,
        }
    }

    /// Takes back what a decider said of it; it counts if it has a score.
    pub fn unjudge(&mut self) {
        (self.n, self.counted, self.decision) = (None, self.score.is_some(), None);
        (self.lower, self.upper) = (None, None);
        (self.log_e_same, self.log_e_different) = (None, None);
    }

    /// The scorer's own mean in nats, from a note named `mean_..._nats`.
    pub fn nats(&self) -> Option<f64> {
        let note = |(name, _): &(&String, &f64)| name.starts_with("mean_") && name.ends_with("_nats");
        self.notes.iter().find(note).map(|(_, value)| *value)
    }
}

/// The published JSON schema of a report, as it is written.
pub fn schema() -> String {
    schema_of::<Report>()
}
