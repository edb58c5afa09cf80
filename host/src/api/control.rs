//! What HTTP may ask of the daemon, and what the daemon shows of the moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::domain::Problem;
use crate::domain::modes::ModeName;
use crate::engine::LoadBits;
use crate::governor::Enforcement;
use crate::governor::admission::Guardrail;
use crate::store::Assay;

/// Why the daemon did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub problem: Problem,
    /// The field of the request that is to blame.
    pub param: Option<&'static str>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problem, param: None }
    }
}

/// Where the answer goes; it comes when the change is on disk.
pub type Reply = oneshot::Sender<Result<Assay, Refusal>>;

/// A change that a client asks for.
#[derive(Debug)]
pub enum Command {
    Submit(Box<NewAssay>, Reply),
    Cancel(Uuid, Reply),
}

/// Body of `POST /api/assays`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAssay {
    /// An artifact's id, a path inside a watched folder, or an absolute path.
    pub candidate: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ModeName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scorer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decider: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_max: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// Parameters of hash checks, by plugin id: what the candidate is held to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hash_checks: BTreeMap<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Layers of both models on an accelerator; -1 for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_layers: Option<i32>,
    /// The candidate's weights are quantised to so many bits while they are loaded: 8, of
    /// safetensors folders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_bits: Option<LoadBits>,
    /// Challenge key in hexadecimal; a fresh random one if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_free_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
    /// A LoRA adapter that is put over the candidate; named like it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Keep whole distributions whatever the vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    /// How careful to be with the memory estimate: `off`, `relaxed`, `balanced` or `strict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guardrail: Option<Guardrail>,
    /// How workers are held to their memory limit: `auto`, `cgroup-v2`, `cgroup-v1`, `rlimit` or `watchdog`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<Enforcement>,
}

/// How far the running assay is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Progress {
    /// What is being done, in a word or two.
    pub stage: String,
    pub done: u64,
    /// 0 while it is not known.
    pub total: u64,
    pub message: Option<String>,
}

/// Progress of what runs now, by assay. It is of the moment only, and not on disk.
#[derive(Debug, Default)]
pub struct Live {
    progress: Mutex<HashMap<Uuid, Progress>>,
}

impl Live {
    pub fn set(&self, assay: Uuid, progress: Progress) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).insert(assay, progress);
    }

    pub fn clear(&self, assay: Uuid) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).remove(&assay);
    }

    pub fn get(&self, assay: Uuid) -> Option<Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).get(&assay).cloned()
    }
}
