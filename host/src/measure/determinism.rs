//! Whether greedy generation repeats when only what must not matter changes.
//!
//! A first run is the baseline; every further run changes one thing (an axis) and passes when
//! it gives the same tokens for every prompt. Log-probabilities are compared too: they say how
//! near a run that passed came to failing. A run that cannot be made is an error, and an axis
//! that cannot be varied here is reported as such; neither ever passes. The rate comes with
//! its exact lower bound, never alone.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::prompts::{prompts, text};
use crate::domain::moments::rate_lower_bound;
use crate::domain::{Problem, budget};
use crate::engine::{EngineInfo, LoadSpec, RunRecord, RunSpec, default_threads, engine_for};
use crate::model::{InspectOptions, inspect};
use crate::worker::{Worker, WorkerLimits};

/// Share of runs that must pass for "mostly".
const MOSTLY: f64 = 0.8;
/// Error probability of the lower bound.
const ALPHA: f64 = 0.05;
/// Restarts of the worker process under the baseline's settings.
const RESTARTS: u64 = 2;
/// Prompt tokens computed at once: the baseline's, and what it is compared with.
const MICRO_BATCHES: [u32; 3] = [512, 8, 1];
/// Prompts side by side: the baseline's, and what it is compared with.
const PARALLEL: [u32; 2] = [1, 4];
/// Seeds: the baseline's, and what it is compared with.
const SEEDS: [u64; 3] = [0, 1, 42];

/// What the runs come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Decision {
    /// Every run gave the baseline's tokens.
    FullyDeterministic,
    /// At least four in five did.
    MostlyDeterministic,
    NonDeterministic,
}

/// The result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Determinism {
    pub model: PathBuf,
    pub decision: Decision,
    /// Runs that gave the baseline's tokens, and all runs but the baseline.
    pub passed: u64,
    pub total: u64,
    /// Exact lower bound on the rate of such runs, at 95 % confidence.
    pub lower_bound_95: f64,
    /// The same in words.
    pub claim: String,
    pub axes: Vec<Axis>,
    pub prompts: usize,
    pub new_tokens: u32,
    pub engine: EngineInfo,
}

/// One thing that must not matter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Axis {
    pub axis: &'static str,
    /// The baseline's first.
    pub values: Vec<Setting>,
    /// Null when it could not be varied; `reason` says why.
    pub identical: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_divergence: Option<Divergence>,
    /// Largest difference of a token's log-probability, up to where the tokens part.
    pub max_logprob_difference: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A value of an axis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Setting {
    Number(u64),
    Word(String),
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Word(word) => word.fmt(f),
        }
    }
}

/// The first token that is another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Divergence {
    /// Value of the axis under which it happened.
    pub value: Setting,
    pub prompt: usize,
    /// Index among the new tokens.
    pub token_index: usize,
    /// The baseline's token; null where the baseline had ended.
    pub expected: Option<u32>,
    pub got: Option<u32>,
    pub expected_text: Option<String>,
    pub got_text: Option<String>,
}

/// Receives what is being done, and how far the whole is, 0 to 1.
pub type Report<'a> = &'a mut dyn FnMut(&str, f64);

/// How a model is run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub new_tokens: u32,
    pub has_tokenizer: bool,
    pub limits: WorkerLimits,
}

/// Examines a model file.
///
/// # Errors
/// Usage: too many tokens. Otherwise: the model cannot be run, or a run failed.
pub fn examine(
    path: &Path,
    new_tokens: u32,
    threads: Option<u32>,
    limits: WorkerLimits,
    report: Report<'_>,
) -> Result<Determinism, Problem> {
    report("reading the model", 0.0);
    let inspection = inspect(path, &InspectOptions::default(), &mut |_, _| {})?;
    let (engine, paths) = engine_for(&inspection)?;
    let trained = inspection.context_length.and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX);
    let context = budget::MEASURED_CONTEXT.min(trained);
    if new_tokens >= context {
        return Err(Problem::usage(format!(
            "{new_tokens} new tokens leave no room for a prompt in {context}"
        ))
        .hint("ask for fewer with --new-tokens"));
    }
    let spec =
        LoadSpec::judged(engine, paths, context, threads.unwrap_or_else(|| default_threads(&inspection)));
    let plan = Plan { new_tokens, has_tokenizer: inspection.tokenizer_hash.is_some(), limits };
    Ok(Determinism { model: path.to_owned(), ..examine_spec(&spec, &plan, report)? })
}

/// As [`examine`], of what `spec` loads.
///
/// # Errors
/// As [`examine`].
pub fn examine_spec(spec: &LoadSpec, plan: &Plan, report: Report<'_>) -> Result<Determinism, Problem> {
    Examination::start(spec, plan, report)?.all()
}

struct Examination<'a> {
    spec: &'a LoadSpec,
    plan: &'a Plan,
    report: Report<'a>,
    run: RunSpec,
    baseline: RunRecord,
    engine: EngineInfo,
    /// The process of the baseline.
    worker: Worker,
    axes: Vec<Axis>,
    passed: u64,
    total: u64,
    expected_total: u64,
}

impl<'a> Examination<'a> {
    fn start(spec: &'a LoadSpec, plan: &'a Plan, report: Report<'a>) -> Result<Self, Problem> {
        report("loading", 0.0);
        let mut worker = Worker::start(spec, &plan.limits, &mut |_| {})?;
        let room = spec.context.saturating_sub(plan.new_tokens) as usize;
        let run = RunSpec {
            stop_at_end: true,
            micro_batch: MICRO_BATCHES[0],
            seed: SEEDS[0],
            logprobs: true,
            ..RunSpec::plain(&prompts(&mut worker, plan.has_tokenizer, room)?, plan.new_tokens, PARALLEL[0])
        };
        report("the baseline", 0.0);
        let baseline = worker.run(&run, &mut |_| {})?;
        let engine = worker.info().engine.clone();
        let expected_total =
            1 + (SEEDS.len() + MICRO_BATCHES.len() + PARALLEL.len()) as u64 - 3 + 1 + RESTARTS + 2;
        let (axes, passed, total) = (Vec::new(), 0, 0);
        Ok(Self { spec, plan, report, run, baseline, engine, worker, axes, passed, total, expected_total })
    }

    fn all(mut self) -> Result<Determinism, Problem> {
        let honoured = self.baseline.honoured;
        let base = self.run.clone();
        self.settings(
            "repeat",
            &[(Setting::Number(1), base.clone()), (Setting::Number(2), base.clone())],
            true,
        )?;
        let seeds = SEEDS.map(|seed| (Setting::Number(seed), RunSpec { seed, ..base.clone() }));
        self.settings("seed", &seeds, honoured.seed)?;
        let batches =
            MICRO_BATCHES.map(|n| (Setting::Number(n.into()), RunSpec { micro_batch: n, ..base.clone() }));
        self.settings("batch-size", &batches, honoured.micro_batch)?;
        let parallel = PARALLEL.map(|n| (Setting::Number(n.into()), RunSpec { parallel: n, ..base.clone() }));
        self.settings("parallel", &parallel, honoured.parallel)?;
        let caches = [("off", false), ("on", true)]
            .map(|(name, on)| (Setting::Word(name.to_owned()), RunSpec { prompt_cache: on, ..base.clone() }));
        self.settings("prompt-cache", &caches, honoured.prompt_cache)?;
        self.processes()?;
        self.threads()?;
        self.devices()?;
        self.conclude()
    }

    /// Varies a setting of a run within the baseline's process; the first value is the baseline's.
    fn settings(
        &mut self,
        axis: &'static str,
        runs: &[(Setting, RunSpec)],
        honoured: bool,
    ) -> Result<(), Problem> {
        let values = runs.iter().map(|(value, _)| value.clone()).collect();
        if !honoured {
            self.not_varied(axis, values, "this engine has no such setting");
            return Ok(());
        }
        let mut found = Vec::new();
        for (value, run) in runs.iter().skip(1) {
            self.say(&format!("{axis} {value}"));
            let record = self.worker.run(run, &mut |_| {})?;
            found.push((value.clone(), record));
        }
        self.take_down(axis, values, &found)
    }

    fn processes(&mut self) -> Result<(), Problem> {
        let values: Vec<Setting> = (1..=1 + RESTARTS).map(Setting::Number).collect();
        let mut found = Vec::new();
        for value in values.iter().skip(1) {
            self.say(&format!("process {value}"));
            found.push((value.clone(), self.elsewhere(self.spec)?.0));
        }
        self.take_down("process", values, &found)
    }

    fn threads(&mut self) -> Result<(), Problem> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut values = vec![self.spec.threads];
        for threads in [1, 2, u32::try_from(cores).unwrap_or(1)] {
            if !values.contains(&threads) {
                values.push(threads);
            }
        }
        let settings: Vec<Setting> = values.iter().map(|&n| Setting::Number(n.into())).collect();
        let mut found = Vec::new();
        for threads in values.into_iter().skip(1) {
            self.say(&format!("{threads} threads"));
            let record = self.elsewhere(&LoadSpec { threads, ..self.spec.clone() })?.0;
            found.push((Setting::Number(threads.into()), record));
        }
        self.take_down("threads", settings, &found)
    }

    fn devices(&mut self) -> Result<(), Problem> {
        let own = Setting::Word(self.engine.device.clone());
        if self.worker.info().accelerators == 0 || self.spec.gpu_layers != 0 {
            self.not_varied("device", vec![own], "there is no other device here");
            return Ok(());
        }
        self.say("another device");
        let (record, device) = self.elsewhere(&LoadSpec { gpu_layers: -1, ..self.spec.clone() })?;
        if device == self.engine.device {
            self.not_varied("device", vec![own], "this build of the engine cannot use the accelerator here");
            return Ok(());
        }
        let other = Setting::Word(device);
        self.take_down("device", vec![own, other.clone()], &[(other, record)])
    }

    /// The baseline's run in a process of its own, and the device it ran on.
    fn elsewhere(&self, spec: &LoadSpec) -> Result<(RunRecord, String), Problem> {
        let mut worker = Worker::start(spec, &self.plan.limits, &mut |_| {})?;
        let record = worker.run(&self.run, &mut |_| {})?;
        let device = worker.info().engine.device.clone();
        worker.finish();
        Ok((record, device))
    }

    fn say(&mut self, what: &str) {
        (self.report)(what, self.total as f64 / self.expected_total as f64);
    }

    fn not_varied(&mut self, axis: &'static str, values: Vec<Setting>, reason: &str) {
        self.axes.push(Axis {
            axis,
            values,
            identical: None,
            first_divergence: None,
            max_logprob_difference: None,
            reason: Some(reason.to_owned()),
        });
    }

    fn take_down(
        &mut self,
        axis: &'static str,
        values: Vec<Setting>,
        found: &[(Setting, RunRecord)],
    ) -> Result<(), Problem> {
        if found.is_empty() {
            self.not_varied(axis, values, "there is no other value here");
            return Ok(());
        }
        let mut first: Option<Divergence> = None;
        let mut difference: Option<f64> = None;
        for (value, record) in found {
            self.total += 1;
            match divergence(&self.baseline, record, value) {
                None => self.passed += 1,
                Some(divergence) => first = first.or(Some(divergence)),
            }
            difference = difference.max_with(logprob_difference(&self.baseline, record));
        }
        if let Some(divergence) = &mut first {
            let has_tokenizer = self.plan.has_tokenizer;
            let mut named = |token: Option<u32>| {
                token.map(|token| text(&mut self.worker, has_tokenizer, &[token])).transpose()
            };
            divergence.expected_text = named(divergence.expected)?;
            divergence.got_text = named(divergence.got)?;
        }
        self.axes.push(Axis {
            axis,
            values,
            identical: Some(first.is_none()),
            first_divergence: first,
            max_logprob_difference: difference,
            reason: None,
        });
        Ok(())
    }

    fn conclude(self) -> Result<Determinism, Problem> {
        let (passed, total) = (self.passed, self.total);
        let lower_bound_95 = rate_lower_bound(passed, total, ALPHA)
            .ok_or_else(|| Problem::internal("no run was compared with the baseline"))?;
        self.worker.finish();
        let decision = match passed as f64 / total as f64 {
            _ if passed == total => Decision::FullyDeterministic,
            rate if rate >= MOSTLY => Decision::MostlyDeterministic,
            _ => Decision::NonDeterministic,
        };
        let claim = format!(
            "{passed} of {total} runs gave the baseline's tokens; were such runs drawn at random, at least \
             {:.1} % of them would (exact bound at 95 % confidence)",
            // Rounded down: a bound must not be overstated.
            (1000.0 * lower_bound_95).floor() / 10.0
        );
        Ok(Determinism {
            model: self.spec.paths.first().cloned().unwrap_or_default(),
            decision,
            passed,
            total,
            lower_bound_95,
            claim,
            axes: self.axes,
            prompts: self.run.prompts.len(),
            new_tokens: self.plan.new_tokens,
            engine: self.engine,
        })
    }
}

/// The larger of two values that may be missing.
trait MaxWith {
    fn max_with(self, other: Self) -> Self;
}

impl MaxWith for Option<f64> {
    fn max_with(self, other: Self) -> Self {
        match (self, other) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        }
    }
}

/// Where a run parts from the baseline first: of all prompts, at the smallest token index.
fn divergence(baseline: &RunRecord, record: &RunRecord, value: &Setting) -> Option<Divergence> {
    let places = baseline.sequences.iter().zip(&record.sequences).enumerate();
    let parted = places.filter_map(|(prompt, (own, other))| {
        let longest = own.tokens.len().max(other.tokens.len());
        let token_index = (0..longest).find(|&at| own.tokens.get(at) != other.tokens.get(at))?;
        Some(Divergence {
            value: value.clone(),
            prompt,
            token_index,
            expected: own.tokens.get(token_index).copied(),
            got: other.tokens.get(token_index).copied(),
            expected_text: None,
            got_text: None,
        })
    });
    parted.min_by_key(|divergence| divergence.token_index)
}

/// Largest difference between log-probabilities of the same tokens.
fn logprob_difference(baseline: &RunRecord, record: &RunRecord) -> Option<f64> {
    let sequences = baseline.sequences.iter().zip(&record.sequences);
    let differences = sequences.flat_map(|(own, other)| {
        let same = own.tokens.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count();
        own.logprobs.iter().zip(&other.logprobs).take(same).map(|(a, b)| (a - b).abs())
    });
    differences.reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Honoured, RunSequence};

    fn record(sequences: &[&[u32]]) -> RunRecord {
        let sequences = sequences
            .iter()
            .map(|tokens| RunSequence {
                tokens: tokens.to_vec(),
                logprobs: tokens.iter().map(|&token| -f64::from(token)).collect(),
                ..RunSequence::default()
            })
            .collect();
        RunRecord { sequences, honoured: Honoured::default() }
    }

    #[test]
    fn the_first_parting_token_is_named() {
        let value = Setting::Number(8);
        let baseline = record(&[&[1, 2, 3, 4], &[5, 6, 7, 8]]);
        assert_eq!(divergence(&baseline, &baseline, &value), None);
        let other = record(&[&[1, 2, 3, 9], &[5, 6, 0, 8]]);
        let found = divergence(&baseline, &other, &value).unwrap();
        assert_eq!((found.prompt, found.token_index, found.expected, found.got), (1, 2, Some(7), Some(0)));
        // One that ends early parts where it ends.
        let short = record(&[&[1, 2], &[5, 6, 7, 8]]);
        let found = divergence(&baseline, &short, &value).unwrap();
        assert_eq!((found.prompt, found.token_index, found.expected, found.got), (0, 2, Some(3), None));
    }

    #[test]
    fn log_probabilities_count_up_to_the_parting() {
        let baseline = record(&[&[1, 2, 3]]);
        let mut other = record(&[&[1, 2, 9]]);
        other.sequences[0].logprobs = vec![-1.0, -2.25, -100.0];
        assert_eq!(logprob_difference(&baseline, &other), Some(0.25));
        assert_eq!(logprob_difference(&baseline, &record(&[&[4]])), None);
    }
}
