//! The damage that quantisation (or anything else) did to a model, on given tokens.
//!
//! The reference runs first and its whole distributions go to a temporary file; only when it
//! is gone is the candidate loaded and compared with them row by row. So there is never more
//! than one model, one row of the reference and a few parts of the candidate's distributions
//! in memory, whatever the vocabulary. Models over different tokens are refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::Serialize;

use super::divergence::{Position, Summary, kl, summarize};
use super::spool::{Rows, Spool};
use crate::domain::inspection::Inspection;
use crate::domain::trace::{Distribution, Trace};
use crate::domain::{Problem, budget};
use crate::engine::{Detail, EngineInfo, KvType, LoadBits, LoadSpec, ScoreItem, default_threads, engine_for};
use crate::model::{InspectOptions, inspect};
use crate::worker::{Worker, WorkerLimits};

/// Below so many positions the upper percentiles are little more than the largest value.
const FEW_POSITIONS: usize = 100;

/// What is compared, on which tokens and by which means.
#[derive(Debug)]
pub struct Request<'a> {
    pub candidate: &'a Path,
    pub reference: &'a Path,
    /// Taken as they are; no BOS is added.
    pub sequences: &'a [Vec<u32>],
    /// First position that is scored; at least 1.
    pub from: u32,
    pub threads: Option<u32>,
    pub kv_type: KvType,
    /// The candidate's weights are made this narrow while they are loaded; the reference's never.
    pub load_bits: Option<LoadBits>,
    /// Folder of the temporary file.
    pub temp: &'a Path,
    pub limits: WorkerLimits,
}

/// The result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub reference: PathBuf,
    pub candidate: PathBuf,
    #[serde(flatten)]
    pub summary: Summary,
    pub sequences: usize,
    pub kv_type: KvType,
    /// The candidate's weights were quantised to so many bits while they were loaded; null: as stored.
    pub load_bits: Option<LoadBits>,
    pub engine: EngineInfo,
    /// What limits how far the numbers can be trusted.
    pub warnings: Vec<String>,
    pub timings: Timings,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Timings {
    pub load_reference_seconds: f64,
    pub score_reference_seconds: f64,
    pub load_candidate_seconds: f64,
    pub score_candidate_seconds: f64,
}

/// Receives what is being done, and how far it is, 0 to 1.
pub type Report<'a> = &'a mut dyn FnMut(&str, f64);

/// What is kept of the reference's rows besides their logits.
#[derive(Debug, Clone, Copy)]
struct Head {
    log_sum_exp: f64,
    logprob: f64,
    argmax: u32,
}

/// Compares the two models.
///
/// # Errors
/// Usage: too many tokens. Input: a model cannot be run, the two are over different tokens,
/// or a sequence cannot be scored. Machine: no room for the temporary file.
pub fn compare(request: &Request<'_>, report: Report<'_>) -> Result<Comparison, Problem> {
    let sizes: Vec<usize> =
        request.sequences.iter().map(|s| s.len().saturating_sub(request.from as usize)).collect();
    let total: usize = sizes.iter().sum();
    if total > budget::COMPARED_POSITIONS {
        return Err(Problem::usage(format!(
            "{total} positions are more than the {} of one comparison",
            budget::COMPARED_POSITIONS
        ))
        .hint("score fewer tokens, or only their ends with --from"));
    }
    report("reading the reference", 0.0);
    let reference = inspect(request.reference, &InspectOptions::default(), &mut |_, _| {})?;
    report("reading the candidate", 0.0);
    let candidate = inspect(request.candidate, &InspectOptions::default(), &mut |_, _| {})?;
    LoadBits::check(request.load_bits, engine_for(&candidate)?.0)?;
    let mut warnings = same_tokens(&reference, &candidate)?;
    if total < FEW_POSITIONS {
        warnings.push(format!(
            "with {total} positions the 99 % and 99.9 % quantiles are little more than the largest value"
        ));
    }
    if request.sequences.len() < 2 {
        warnings.push(
            "a single sequence: its positions depend on each other, so the true errors are larger".to_owned(),
        );
    }
    // The same for both: how work is split over threads can move logits by rounding.
    let threads = request.threads.unwrap_or_else(|| default_threads(&reference));
    let mut timings = Timings::default();

    let mut side = Side::start("reference", request, &reference, None, threads, report)?;
    let vocab = side.worker.info().vocab;
    let mut spool = Spool::create(request.temp, total, vocab)?;
    let mut heads: Vec<Head> = Vec::with_capacity(total);
    timings.score_reference_seconds = side.score(request, total, report, &mut |trace| {
        heads.extend(heads_of(&trace));
        spool.append(logits_of(&trace)?)
    })?;
    timings.load_reference_seconds = side.worker.load_seconds();
    side.worker.finish();

    let mut side = Side::start("candidate", request, &candidate, request.load_bits, threads, report)?;
    let other = side.worker.info().vocab;
    if other != vocab {
        return Err(Problem::input(format!(
            "the vocabularies have {vocab} and {other} tokens; distributions over them cannot be compared"
        ))
        .hint("compare a model with one that has the same tokenizer"));
    }
    let mut rows = spool.into_rows()?;
    let mut row = vec![0.0f32; vocab as usize];
    let mut heads = heads.into_iter();
    let mut positions: Vec<Position> = Vec::with_capacity(total);
    timings.score_candidate_seconds = side.score(request, total, report, &mut |trace| {
        positions_of(&trace, &mut heads, &mut rows, &mut row, &mut positions)
    })?;
    timings.load_candidate_seconds = side.worker.load_seconds();
    let engine = side.worker.info().engine.clone();
    side.worker.finish();

    let summary = summarize(&positions, &sizes).filter(|_| positions.len() == total).ok_or_else(|| {
        Problem::internal(format!("{} of {total} positions were compared", positions.len()))
    })?;
    Ok(Comparison {
        reference: request.reference.to_owned(),
        candidate: request.candidate.to_owned(),
        summary,
        sequences: request.sequences.len(),
        kv_type: request.kv_type,
        load_bits: request.load_bits,
        engine,
        warnings,
        timings,
    })
}

/// Refuses two tokenizers; says so where one is not known.
fn same_tokens(reference: &Inspection, candidate: &Inspection) -> Result<Vec<String>, Problem> {
    let unknown =
        |which: &str| format!("{which} has no known tokenizer; only the vocabularies' sizes were compared");
    match (&reference.tokenizer_hash, &candidate.tokenizer_hash) {
        (Some(a), Some(b)) if a == b => Ok(Vec::new()),
        (Some(_), Some(_)) => Err(Problem::input(format!(
            "{} and {} have different tokenizers, so a token id does not mean the same to both",
            reference.path.display(),
            candidate.path.display()
        ))
        .hint(
            "compare a model with one that has the same tokens; `assayd inspect --json` shows tokenizer_hash",
        )),
        (Some(_), None) => Ok(vec![unknown("the candidate")]),
        (None, Some(_)) => Ok(vec![unknown("the reference")]),
        (None, None) => Ok(vec![unknown("neither model")]),
    }
}

/// One of the two models while it runs.
struct Side {
    name: &'static str,
    path: PathBuf,
    worker: Worker,
    stop: Arc<AtomicBool>,
}

impl Side {
    fn start(
        name: &'static str,
        request: &Request<'_>,
        inspection: &Inspection,
        load_bits: Option<LoadBits>,
        threads: u32,
        report: Report<'_>,
    ) -> Result<Self, Problem> {
        let (engine, paths) = engine_for(inspection)?;
        let longest = request.sequences.iter().map(Vec::len).max().unwrap_or(0);
        let judged = LoadSpec::judged(engine, paths, u32::try_from(longest).unwrap_or(u32::MAX), threads);
        let spec = LoadSpec {
            parallel: judged.parallel.min(u32::try_from(request.sequences.len()).unwrap_or(u32::MAX)),
            kv_type: request.kv_type,
            load_bits,
            ..judged
        };
        let stop = Arc::new(AtomicBool::new(false));
        let limits = WorkerLimits { cancel: Some(Arc::clone(&stop)), ..request.limits.clone() };
        let label = format!("loading the {name}");
        report(&label, 0.0);
        let worker =
            Worker::start(&spec, &limits, &mut |progress| report(&label, f64::from(progress.fraction)))
                .map_err(|end| named(name, &inspection.path, end.into()))?;
        Ok(Self { name, path: inspection.path.clone(), worker, stop })
    }

    /// Hands over every part of every sequence's trace, in order, and returns the seconds it took.
    /// The first failure ends the worker.
    fn score(
        &mut self,
        request: &Request<'_>,
        total: usize,
        report: Report<'_>,
        part: &mut dyn FnMut(Trace) -> Result<(), Problem>,
    ) -> Result<f64, Problem> {
        let label = format!("scoring with the {}", self.name);
        report(&label, 0.0);
        let items: Vec<ScoreItem> = request
            .sequences
            .iter()
            .map(|tokens| ScoreItem {
                tokens: tokens.clone(),
                scored_from: request.from,
                detail: Detail::Whole,
            })
            .collect();
        let started = Instant::now();
        let mut failure: Option<Problem> = None;
        let mut done = 0usize;
        let path = &self.path;
        let stop = &self.stop;
        let ended = self.worker.score(&items, &mut |index, result| {
            if failure.is_some() {
                return;
            }
            let outcome = match result {
                Ok(trace) => {
                    done += trace.rows();
                    report(&label, done as f64 / total.max(1) as f64);
                    part(trace)
                }
                Err(reason) => Err(Problem::input(format!("{}: sequence {index}: {reason}", path.display()))),
            };
            if let Err(problem) = outcome {
                failure = Some(problem);
                stop.store(true, Ordering::Relaxed);
            }
        });
        match (failure, ended) {
            (Some(problem), _) => Err(problem),
            (None, Err(end)) => Err(named(self.name, path, end.into())),
            (None, Ok(())) => Ok(started.elapsed().as_secs_f64()),
        }
    }
}

/// A problem of one side, which it names.
fn named(side: &str, path: &Path, problem: Problem) -> Problem {
    Problem { message: format!("the {side} {}: {}", path.display(), problem.message), ..problem }
}

fn logits_of(trace: &Trace) -> Result<&[f32], Problem> {
    match &trace.distribution {
        Distribution::Full { logits } => Ok(logits),
        _ => Err(Problem::internal("a whole distribution was asked for and is not there")),
    }
}

fn heads_of(trace: &Trace) -> impl Iterator<Item = Head> {
    let rows = trace.log_sum_exp.iter().zip(&trace.token_logprobs).zip(&trace.argmax);
    rows.map(|((&log_sum_exp, &logprob), &argmax)| Head { log_sum_exp, logprob, argmax })
}

/// Compares the rows of a part of the candidate's with the reference's next ones.
fn positions_of(
    trace: &Trace,
    heads: &mut impl Iterator<Item = Head>,
    rows: &mut Rows,
    row: &mut [f32],
    positions: &mut Vec<Position>,
) -> Result<(), Problem> {
    let theirs = logits_of(trace)?.chunks_exact(row.len().max(1));
    for (own, logits) in heads_of(trace).zip(theirs) {
        let head = heads.next().ok_or_else(|| Problem::internal("the candidate has more rows"))?;
        rows.read(row)?;
        positions.push(Position {
            kl: kl(row, head.log_sum_exp, logits, own.log_sum_exp),
            reference_logprob: head.logprob,
            candidate_logprob: own.logprob,
            same_top: head.argmax == own.argmax,
        });
    }
    Ok(())
}
