//! What is asked of an assay, and what it is allowed to touch.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::band::BandChoice;
use super::bundle::BundleWriter;
use super::events::AssayEvent;
use super::hash_checks;
use super::probe;
use crate::challenge::Key;
use crate::domain::modes::{DEFAULT_DECIDER, DEFAULT_SCORER, ModeName};
use crate::domain::score::DecisionParams;
use crate::domain::{Problem, Sha256};
use crate::engine::{EngineKind, LoadBits, remote};
use crate::governor::Enforcement;
use crate::governor::admission::Guardrail;
use crate::plugin::{PluginKind, PluginSet};

/// First-party scorers that an endpoint's answers are not enough for; others say so themselves.
const SCORERS_OF_DISTRIBUTIONS: [&str; 5] = ["kl", "symmetric-kl", "js", "tv", "exact-text"];

/// A challenge key as text; `Debug` withholds it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyText(pub String);

impl std::fmt::Debug for KeyText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyText(withheld)")
    }
}

/// One assay: a candidate, usually against a reference. A field that is not given takes
/// the mode's value; an unknown field is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssayRequest {
    pub candidate: PathBuf,
    /// Without one the candidate is inspected and measured, and nothing is compared.
    #[serde(default)]
    pub reference: Option<PathBuf>,
    /// A LoRA adapter that is put over the candidate.
    #[serde(default)]
    pub adapter: Option<PathBuf>,
    #[serde(default)]
    pub mode: ModeName,
    #[serde(default = "default_scorer")]
    pub scorer: String,
    #[serde(default = "default_decider")]
    pub decider: String,
    /// Challenge key in hexadecimal; a fresh random one if not given.
    #[serde(default)]
    pub key: Option<KeyText>,
    /// The candidate's root when `key` was drawn, for a key that assays share. A candidate
    /// with another one by now may know the key, and gets a fresh one.
    #[serde(default)]
    pub candidate_root: Option<Sha256>,
    #[serde(default)]
    pub n_max: Option<u64>,
    /// `1 - alpha`, such as 0.99.
    #[serde(default)]
    pub confidence: Option<f64>,
    #[serde(default)]
    pub gamma: Option<f64>,
    #[serde(default)]
    pub delta: Option<f64>,
    /// Where gamma and delta come from if they are not given.
    #[serde(default)]
    pub band: BandChoice,
    /// The user's own prompts, asked after the verdict and reported apart.
    #[serde(default)]
    pub probes: Vec<String>,
    /// Parameters of hash checks, by plugin id: what the candidate is held to.
    #[serde(default)]
    pub hash_checks: BTreeMap<String, Value>,
    /// Threads of a worker; if not given, what the engine finds best for the reference.
    #[serde(default)]
    pub threads: Option<u32>,
    /// Layers of both models on an accelerator; -1 for all.
    #[serde(default)]
    pub gpu_layers: i32,
    /// Layers, from the first on, whose experts stay on the CPU all the same.
    #[serde(default)]
    pub cpu_experts: u32,
    /// The candidate's weights are quantised to so many bits while they are loaded (8; safetensors
    /// folders only); the reference's never are.
    #[serde(default)]
    pub load_bits: Option<LoadBits>,
    /// Most memory of a worker, in bytes.
    #[serde(default)]
    pub max_memory_bytes: Option<u64>,
    /// Memory that must stay free on the machine, in bytes.
    #[serde(default)]
    pub min_free_bytes: Option<u64>,
    /// Go on although the memory estimate says no.
    #[serde(default)]
    pub force: bool,
    /// How careful to be with the memory estimate.
    #[serde(default)]
    pub guardrail: Guardrail,
    /// How a worker is held to its memory limit.
    #[serde(default)]
    pub enforcement: Enforcement,
    /// Keep whole distributions whatever the vocabulary.
    #[serde(default)]
    pub exact: bool,
}

fn default_scorer() -> String {
    DEFAULT_SCORER.to_owned()
}

fn default_decider() -> String {
    DEFAULT_DECIDER.to_owned()
}

impl AssayRequest {
    /// An audit of `candidate` against `reference` with every default.
    pub fn new(candidate: impl Into<PathBuf>, reference: Option<PathBuf>) -> Self {
        Self {
            candidate: candidate.into(),
            reference,
            adapter: None,
            mode: ModeName::default(),
            scorer: default_scorer(),
            decider: default_decider(),
            key: None,
            candidate_root: None,
            n_max: None,
            confidence: None,
            gamma: None,
            delta: None,
            band: BandChoice::default(),
            probes: Vec::new(),
            hash_checks: BTreeMap::new(),
            threads: None,
            gpu_layers: 0,
            cpu_experts: 0,
            load_bits: None,
            max_memory_bytes: None,
            min_free_bytes: None,
            force: false,
            guardrail: Guardrail::default(),
            enforcement: Enforcement::default(),
            exact: false,
        }
    }

    /// The demand on the verdict.
    ///
    /// # Errors
    /// Usage: out of range, or a demand that no method can meet.
    pub fn params(&self) -> Result<DecisionParams, Problem> {
        DecisionParams::resolve(self.mode, self.confidence, self.gamma, self.delta, self.n_max)
    }

    /// The challenge key: the given one, or a fresh one.
    ///
    /// # Errors
    /// Usage: not a key. Machine: no random source.
    pub fn challenge_key(&self) -> Result<Key, Problem> {
        match &self.key {
            Some(KeyText(text)) => Key::from_hex(text),
            None => Key::random(),
        }
    }

    /// An endpoint tells the log-probability of each token and no distribution, and has no files.
    fn check_endpoints(&self) -> Result<(), Problem> {
        if self.reference.as_deref().is_some_and(remote::is_url) {
            return Err(Problem::usage("an endpoint cannot be the reference, which has to continue prompts")
                .hint("name a file or folder as the reference, and the endpoint as the candidate"));
        }
        if !remote::is_url(&self.candidate) {
            return Ok(());
        }
        LoadBits::check(self.load_bits, EngineKind::Remote)?;
        if SCORERS_OF_DISTRIBUTIONS.contains(&self.scorer.as_str()) {
            let scorer = &self.scorer;
            return Err(Problem::usage(format!(
                "the scorer {scorer} needs whole distributions, and an endpoint tells only the probability of each token"
            ))
            .hint("use --scorer delta-ce, or --scorer top1 if the endpoint ranks tokens by id"));
        }
        let files = [
            ("--band auto", self.band == BandChoice::Auto),
            ("--adapter", self.adapter.is_some()),
            ("--exact", self.exact),
            ("--hash-check", !self.hash_checks.is_empty()),
        ];
        match files.iter().find(|(_, asked)| *asked) {
            Some((name, _)) => {
                Err(Problem::usage(format!("{name} needs the candidate's files, and it is an endpoint")))
            }
            None => Ok(()),
        }
    }

    /// Everything that can be said to be wrong before anything is read or run.
    ///
    /// # Errors
    /// Usage, naming the argument.
    pub fn check(&self, plugins: &PluginSet) -> Result<DecisionParams, Problem> {
        let params = self.params()?;
        if self.band == BandChoice::Auto && (self.gamma.is_some() || self.delta.is_some()) {
            return Err(Problem::usage(
                "band auto measures gamma and delta, so they cannot be given as well",
            )
            .hint("leave out --gamma, --delta and --strict-band, or leave out --band auto"));
        }
        self.check_endpoints()?;
        probe::check(&self.probes)?;
        hash_checks::check(plugins, &self.hash_checks)?;
        self.challenge_key()?;
        if self.threads == Some(0) {
            return Err(Problem::usage("threads must be at least 1"));
        }
        if self.gpu_layers < -1 {
            return Err(Problem::usage("gpu_layers must be -1, for all of them, or more"));
        }
        plugins.record(PluginKind::Scorer, &self.scorer)?;
        plugins.record(PluginKind::Decider, &self.decider)?;
        Ok(params)
    }
}

/// What an assay may use, and whom it tells.
pub struct AssayContext<'a> {
    pub plugins: Arc<PluginSet>,
    /// Folder of the reference trace cache; made if it is not there.
    pub cache_dir: PathBuf,
    /// Takes every trace that was scored, for the bundle of this assay.
    pub bundle: Option<&'a BundleWriter>,
    /// Ends the assay, and its worker, as soon as it becomes true.
    pub cancel: Arc<AtomicBool>,
    pub on_event: &'a dyn Fn(AssayEvent),
}

impl AssayContext<'_> {
    /// The same with another listener.
    pub fn listened_by<'b>(&'b self, on_event: &'b dyn Fn(AssayEvent)) -> AssayContext<'b> {
        AssayContext {
            plugins: Arc::clone(&self.plugins),
            cache_dir: self.cache_dir.clone(),
            cancel: Arc::clone(&self.cancel),
            on_event,
            bundle: self.bundle,
        }
    }
}

impl std::fmt::Debug for AssayContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AssayContext").field("cache_dir", &self.cache_dir).finish_non_exhaustive()
    }
}
