//! How the pipeline runs a model: one session at a time, behind a trait, so that the loop
//! can be tested without processes.

use crate::domain::trace::Trace;
use crate::engine::{LoadSpec, ModelInfo, QuantizeSpec, ScoreItem};
use crate::worker::{Progress, Worker, WorkerEnd, WorkerLimits, WorkerSummary};

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
    pub limits: WorkerLimits,
}

impl Runner for WorkerRunner {
    fn start(
        &self,
        spec: &LoadSpec,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Box<dyn Session>, WorkerEnd> {
        Ok(Box::new(Worker::start(spec, &self.limits, progress)?))
    }

    fn quantize(&self, spec: &QuantizeSpec) -> Result<(), WorkerEnd> {
        Worker::quantize(spec, &self.limits)
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
