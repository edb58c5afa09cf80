//! How the pipeline runs a model: one session at a time, behind a trait, so that the loop
//! can be tested without processes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::trace::Trace;
use crate::engine::{LoadSpec, ModelInfo, QuantizeSpec, ScoreItem};
use crate::model::lineage::Quantizer;
use crate::worker::{
    self, Plan, Policy, Progress, RowQuantizer, Stamp, Worker, WorkerEnd, WorkerLimits, WorkerSummary,
};

/// Starts sessions.
pub trait Runner {
    /// Loads a model; blocks until it is loaded.
    ///
    /// # Errors
    /// The way the worker ended instead.
    fn start(
        &self,
        spec: &LoadSpec,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Box<dyn Session>, WorkerEnd>;

    /// Writes a quantised copy of a model; blocks until it is written.
    ///
    /// # Errors
    /// The way the worker ended instead.
    fn quantize(&self, spec: &QuantizeSpec) -> Result<(), WorkerEnd>;

    /// Who rounds rows of weights for a comparison; nobody where there are no workers.
    fn quantizer(&self) -> Option<Box<dyn Quantizer>> {
        None
    }

    /// Decides whether these models may be loaded one after the other, and with which settings.
    /// What is started later is held to the plan. `None` from a runner that loads nothing.
    ///
    /// # Errors
    /// They may not, with the numbers; or the way a dry run ended.
    fn plan(&self, _specs: &[LoadSpec], _stamps: &[Stamp]) -> Result<Option<Plan>, WorkerEnd> {
        Ok(None)
    }
}

/// One loaded model. Dropping it ends it.
pub trait Session {
    fn info(&self) -> &ModelInfo;

    /// Token ids of each text; `add_special` adds what the tokenizer adds by itself.
    ///
    /// # Errors
    /// The way the worker ended.
    fn tokenize(&mut self, texts: &[String], add_special: bool) -> Result<Vec<Vec<u32>>, WorkerEnd>;

    /// Greedy continuations of exactly `new_tokens` tokens.
    ///
    /// # Errors
    /// The way the worker ended.
    fn generate(&mut self, prompts: &[Vec<u32>], new_tokens: u32) -> Result<Vec<Vec<u32>>, WorkerEnd>;

    /// Teacher-forced traces, one by one and in order.
    ///
    /// # Errors
    /// The way the worker ended; what was handed over before stays valid.
    fn score(
        &mut self,
        items: &[ScoreItem],
        each: &mut dyn FnMut(usize, Result<Trace, String>),
    ) -> Result<(), WorkerEnd>;

    /// Frees the model and ends the worker.
    fn finish(self: Box<Self>) -> WorkerSummary;
}

/// Sessions in guarded worker processes.
#[derive(Debug)]
pub struct WorkerRunner {
    limits: Mutex<WorkerLimits>,
    policy: Policy,
}

impl WorkerRunner {
    pub fn new(limits: WorkerLimits, policy: Policy) -> Self {
        Self { limits: Mutex::new(limits), policy }
    }

    fn limits(&self) -> MutexGuard<'_, WorkerLimits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runner for WorkerRunner {
    fn start(
        &self,
        spec: &LoadSpec,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Box<dyn Session>, WorkerEnd> {
        let limits = self.limits().clone();
        Ok(Box::new(Worker::start(spec, &limits, progress)?))
    }

    fn plan(&self, specs: &[LoadSpec], stamps: &[Stamp]) -> Result<Option<Plan>, WorkerEnd> {
        let mut limits = self.limits().clone();
        limits.stamps = stamps.to_vec();
        let plan = worker::plan(specs, &limits, &self.policy)?;
        *self.limits() = plan.limits(limits, &self.policy);
        Ok(Some(plan))
    }

    fn quantize(&self, spec: &QuantizeSpec) -> Result<(), WorkerEnd> {
        let limits = self.limits().clone();
        Worker::quantize(spec, &limits)
    }

    fn quantizer(&self) -> Option<Box<dyn Quantizer>> {
        Some(Box::new(RowQuantizer::new(&self.limits())))
    }
}

impl Session for Worker {
    fn info(&self) -> &ModelInfo {
        Self::info(self)
    }

    fn tokenize(&mut self, texts: &[String], add_special: bool) -> Result<Vec<Vec<u32>>, WorkerEnd> {
        Self::tokenize(self, texts, add_special)
    }

    fn generate(&mut self, prompts: &[Vec<u32>], new_tokens: u32) -> Result<Vec<Vec<u32>>, WorkerEnd> {
        Self::generate(self, prompts, new_tokens, &mut |_| {})
    }

    fn score(
        &mut self,
        items: &[ScoreItem],
        each: &mut dyn FnMut(usize, Result<Trace, String>),
    ) -> Result<(), WorkerEnd> {
        Self::score(self, items, each)
    }

    fn finish(self: Box<Self>) -> WorkerSummary {
        (*self).finish()
    }
}
