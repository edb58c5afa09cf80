//! The sequential comparison: reference and candidate in turns, round by round, until the
//! decider knows or the challenges are used up.
//!
//! Never two models at a time: the reference answers a block of rounds and is ended, then the
//! candidate answers them and is ended; only an undecided block brings the reference back for
//! another one, twice as large. Both models are scored on the same tokens.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::cache::{Answer, CacheKey, TraceCache};
use super::decision::Statistics;
use super::draft::Draft;
use super::events::{AssayEvent, Stage};
use super::evidence::{summary, trace_bytes, trace_digest};
use super::halt::Halt;
use super::judge::Judge;
use super::reference::{ReferenceError, answer_rounds, missing_rounds, round_of};
use super::report::{Record, Role, TraceSummary};
use super::request::{AssayContext, AssayRequest};
use super::runner::{Runner, Session};
use super::{closing, coverage};
use crate::challenge::{Challenge, ChallengeSet, Judging, Prompt};
use crate::domain::Sha256;
use crate::domain::modes::{self, ROUND, SCORED_POSITIONS};
use crate::domain::score::{DecisionParams, Step};
use crate::domain::trace::{Distribution, Trace};
use crate::engine::remote::UNKNOWN_VOCAB;
use crate::engine::{Detail, EngineKind, LoadSpec, ScoreItem};
use crate::plugin::{Evidence, FaultClass, PluginFault, RefusalKind, Scorer};
use crate::worker::{Progress, WorkerEnd};

/// What is compared with what.
#[derive(Debug)]
pub struct Pair<'a, Purpose> {
    pub reference: &'a LoadSpec,
    pub reference_root: Sha256,
    pub candidate: &'a LoadSpec,
    pub set: &'a ChallengeSet<Purpose>,
}

/// How the answers are scored and when it ends.
#[derive(Debug)]
pub struct Scoring {
    /// Parameters of the scorer plugin; empty for its defaults.
    pub scorer_params: String,
    pub judge: Judge,
    /// Share of failed challenges above which the comparison ends in an error.
    pub max_failed_share: f64,
}

/// One comparison while it runs.
pub struct Comparison<'a, Purpose = Judging> {
    pub request: &'a AssayRequest,
    pub context: &'a AssayContext<'a>,
    pub runner: &'a dyn Runner,
    pub pair: Pair<'a, Purpose>,
    pub draft: &'a mut Draft,
    pub judge: Judge,
    cache: TraceCache,
    /// The two models run on different engines.
    across: bool,
    scorer: Scorer,
    scorer_params: String,
    max_failed_share: f64,
    prompts_seen: HashSet<Vec<u32>>,
    coverage: coverage::Tally,
    failed: u64,
    attempted: u64,
}

impl<'a, Purpose> Comparison<'a, Purpose> {
    /// # Errors
    /// A plugin is missing or failed to start.
    pub fn new(
        request: &'a AssayRequest,
        context: &'a AssayContext<'a>,
        runner: &'a dyn Runner,
        pair: Pair<'a, Purpose>,
        scoring: Scoring,
        draft: &'a mut Draft,
    ) -> Result<Self, Halt> {
        let key = CacheKey {
            reference: pair.reference_root,
            commitment: pair.set.commitment,
            context: pair.reference.context,
            parallel: pair.reference.parallel,
            threads: pair.reference.threads,
            gpu_layers: pair.reference.gpu_layers,
            cpu_experts: pair.reference.cpu_experts,
            load_bits: pair.reference.load_bits,
            positions: SCORED_POSITIONS,
            exact: request.exact,
            assayd_version: env!("CARGO_PKG_VERSION"),
        };
        let mut cache = TraceCache::open(&context.cache_dir, &key)?;
        let across = pair.reference.engine != pair.candidate.engine;
        if across {
            // The candidate's engine cannot vouch for the build that made older traces.
            cache.clear();
        }
        Ok(Self {
            judge: scoring.judge,
            scorer_params: scoring.scorer_params,
            max_failed_share: scoring.max_failed_share,
            cache,
            across,
            scorer: context.plugins.scorer(&request.scorer)?,
            request,
            context,
            runner,
            pair,
            draft,
            prompts_seen: HashSet::new(),
            coverage: coverage::Tally::default(),
            failed: 0,
            attempted: 0,
        })
    }

    /// Runs to a decision or to the last challenge.
    ///
    /// # Errors
    /// A worker or a plugin failed, too many challenges did, or it was cancelled.
    pub fn run(&mut self) -> Result<Statistics, Halt> {
        let rounds = (self.pair.set.challenges.len() as u64).div_ceil(ROUND);
        // What runs to the end anyway takes turns only once.
        let mut block = if self.judge.runs_to_the_end() { rounds } else { first_block(self.judge.params()) };
        let mut next = 0;
        while next < rounds && !self.judge.is_done() {
            let range = next..(next + block).min(rounds);
            self.reference_block(range.clone())?;
            self.candidate_block(range.clone())?;
            next = range.end;
            block *= 2;
        }
        self.check_failures(self.attempted)?;
        let mean_nats = closing::mean_nats(&self.draft.report.records);
        let diff = &mut self.draft.report.enhanced_diff;
        (diff.n_failed, diff.mean_nats) = (self.failed, mean_nats);
        diff.coverage = self.coverage.coverage(self.judge.counted());
        Ok(Statistics::Decided(self.judge.decision()))
    }

    /// Sees to it that the reference has answered these rounds; starts it only if it must.
    fn reference_block(&mut self, rounds: std::ops::Range<u64>) -> Result<(), Halt> {
        let missing = missing_rounds(self.pair.set, &self.cache, rounds);
        if missing.is_empty() {
            return Ok(());
        }
        let mut session = self.load(Role::Reference)?;
        self.stage(Stage::Reference);
        let started = Instant::now();
        let total = missing.iter().map(|&round| round_of(self.pair.set, round).len() as u64).sum();
        let on_event = self.context.on_event;
        let mut done = 0;
        let answered = answer_rounds(
            session.as_mut(),
            self.pair.set,
            &mut self.cache,
            &missing,
            self.pair.reference.context,
            &if self.request.exact { Detail::Exact } else { Detail::Own },
            &mut |_| {
                done += 1;
                on_event(AssayEvent::Progress { stage: Stage::Reference, done, total });
            },
        );
        self.draft.add_time("reference_seconds", started);
        match answered {
            Ok(()) => self.end(Role::Reference, session)?,
            Err(ReferenceError::Worker(end)) => return Err(self.worker_failed(Role::Reference, &end)),
            Err(ReferenceError::Problem(problem)) => return Err(problem.into()),
        }
        self.draft.report.engine =
            self.cache.info().map(|info| info.engine).or(self.draft.report.engine.take());
        Ok(())
    }

    /// Lets the candidate answer these rounds until the judge has enough.
    fn candidate_block(&mut self, rounds: std::ops::Range<u64>) -> Result<(), Halt> {
        let mut session = self.load(Role::Candidate)?;
        let info = session.info().clone();
        if let Some(reference) = self.cache.info()
            && reference.engine != info.engine
            && !self.across
        {
            // The cached traces come from another build: its rounding is not this one's.
            self.end(Role::Candidate, session)?;
            self.cache.clear();
            self.reference_block(0..rounds.end)?;
            session = self.load(Role::Candidate)?;
        }
        if let Some(reference) = self.cache.info()
            && reference.vocab != info.vocab
            && info.vocab != UNKNOWN_VOCAB
        {
            self.end(Role::Candidate, session)?;
            return Err(Halt {
                statistics: Statistics::NotComparable,
                error: format!(
                    "the vocabularies have {} and {} tokens; distributions over them cannot be compared",
                    reference.vocab, info.vocab
                ),
            });
        }
        self.draft.report.engine = Some(info.engine);
        self.stage(Stage::Candidate);
        let started = Instant::now();
        for round in rounds {
            if self.judge.is_done() {
                break;
            }
            // A file's tokenizer is known to be the reference's; an endpoint's is only seen.
            let unseen = self.pair.candidate.engine == EngineKind::Remote;
            let checked = match self.across && (round == 0 || unseen) {
                true => self.check_token_ids(session.as_mut(), round),
                false => Ok(()),
            };
            if let Err(halt) = checked.and_then(|()| self.round(session.as_mut(), round)) {
                self.draft.add_time("candidate_seconds", started);
                return Err(halt);
            }
            self.check_failures(self.judge.params().n_max)?;
        }
        self.draft.add_time("candidate_seconds", started);
        self.end(Role::Candidate, session)
    }

    /// Across engines: does the candidate's own tokenizer make the tokens of the reference of
    /// the first prompts? If not, the same ids do not mean the same text.
    fn check_token_ids(&mut self, session: &mut dyn Session, round: u64) -> Result<(), Halt> {
        let mut asked: Vec<(&str, Arc<Answer>)> = Vec::new();
        for challenge in round_of(self.pair.set, round) {
            if let (Prompt::Text(text), Some(answer)) = (&challenge.prompt, self.cache.get(challenge.index)) {
                asked.push((text, answer));
            }
        }
        let texts: Vec<String> = asked.iter().map(|(text, _)| (*text).to_owned()).collect();
        if texts.is_empty() {
            return Ok(());
        }
        let made = session.tokenize(&texts, true).map_err(|end| self.worker_failed(Role::Candidate, &end))?;
        for ((text, answer), mut made) in asked.iter().zip(made) {
            let Answer::Trace(trace) = &**answer else { continue };
            let prompt = trace.tokens.get(..trace.scored_from as usize).unwrap_or_default();
            made.truncate(prompt.len());
            if made != prompt {
                let start: String = text.chars().take(40).collect();
                return Err(Halt {
                    statistics: Statistics::NotComparable,
                    error: format!("the two tokenizers cut {start:?} into different tokens"),
                });
            }
        }
        Ok(())
    }

    /// One round: traces, scores, one look of the decider per score.
    fn round(&mut self, session: &mut dyn Session, round: u64) -> Result<(), Halt> {
        let set = self.pair.set;
        let mut asked: Vec<(&Challenge, Arc<Answer>)> = Vec::new();
        let mut records: Vec<Record> = Vec::new();
        for challenge in round_of(set, round) {
            let answer = self.cache.get(challenge.index);
            let failure = match answer.as_deref() {
                Some(Answer::Trace(trace)) => {
                    let prompt = trace.tokens.get(..trace.scored_from as usize).unwrap_or_default().to_vec();
                    (!self.prompts_seen.insert(prompt))
                        .then(|| "cut to the context, the prompt repeats an earlier one".to_owned())
                }
                Some(Answer::Failed(reason)) => Some(format!("reference: {reason}")),
                None => Some("reference: its trace is not there any more".to_owned()),
            };
            records.push(Record::blank(challenge, failure.clone()));
            if let (None, Some(answer)) = (failure, answer) {
                asked.push((challenge, answer));
            }
        }
        let items: Vec<ScoreItem> = asked.iter().filter_map(|(_, answer)| item_of(answer)).collect();
        let mut traces: Vec<Result<Trace, String>> = Vec::new();
        session
            .score(&items, &mut |_, trace| traces.push(trace))
            .map_err(|end| self.worker_failed(Role::Candidate, &end))?;

        let started = Instant::now();
        for ((challenge, answer), trace) in asked.into_iter().zip(traces) {
            let Some(record) = records.iter_mut().find(|r| r.challenge.index == challenge.index) else {
                continue;
            };
            let (Answer::Trace(reference), trace) = (&*answer, trace) else { continue };
            record.tokens.clone_from(&reference.tokens);
            record.scored_from = reference.scored_from;
            (record.reference_trace, record.reference_summary) = self.keep(reference);
            match trace {
                Err(reason) => record.failure = Some(format!("candidate: {reason}")),
                Ok(mut candidate) => {
                    if candidate.vocab == UNKNOWN_VOCAB {
                        candidate.vocab = reference.vocab;
                    }
                    (record.candidate_trace, record.candidate_summary) = self.keep(&candidate);
                    let evidence = Evidence {
                        challenge: challenge.index.to_string(),
                        reference: Arc::new(reference.clone()),
                        candidate: Arc::new(candidate),
                    };
                    let left_out = coverage::left_out(
                        &self.request.scorer,
                        self.draft.report.enhanced_diff.clip_nats,
                        &evidence.reference,
                        &evidence.candidate,
                    );
                    score_record(record, &self.scorer, &self.scorer_params, &evidence)?;
                    if let Some(score) = record.score {
                        self.coverage.note(reference, score, left_out);
                    }
                }
            }
        }
        self.draft.add_time("score_seconds", started);
        self.look(records)
    }

    /// Digest and summary of a trace, which goes into the bundle if one is being made.
    fn keep(&self, trace: &Trace) -> (Option<Sha256>, Option<TraceSummary>) {
        let bytes = trace_bytes(trace);
        let digest = trace_digest(&bytes);
        if let Some(bundle) = self.context.bundle {
            bundle.trace(&digest, &bytes);
        }
        (Some(digest), Some(summary(trace)))
    }

    /// Hands the round's scores to the decider and keeps its records.
    fn look(&mut self, mut records: Vec<Record>) -> Result<(), Halt> {
        let started = Instant::now();
        let scores: Vec<f64> = records.iter().filter_map(|record| record.score).collect();
        let mut steps = self.judge.push(&scores)?.into_iter();
        for record in &mut records {
            self.attempted += 1;
            if let Some(score) = record.score {
                let Some(step) = steps.next() else {
                    return Err(Halt::failed("the decider gave fewer steps than it got scores"));
                };
                take_down(record, &step, self.judge.counted() as u64);
                (self.context.on_event)(AssayEvent::Scored { index: record.challenge.index, score, step });
            } else {
                self.failed += 1;
                let reason = record.failure.get_or_insert_with(|| "it was not scored".to_owned()).clone();
                self.draft.note(format!("challenge {} failed: {reason}", record.challenge.index));
                (self.context.on_event)(AssayEvent::Failed { index: record.challenge.index, reason });
            }
        }
        self.draft.report.records.append(&mut records);
        self.draft.add_time("decide_seconds", started);
        Ok(())
    }

    /// Too many failed challenges end the assay; a single one never does.
    fn check_failures(&self, out_of: u64) -> Result<(), Halt> {
        if self.failed > allowed_failures(out_of, self.max_failed_share) {
            return Err(Halt::failed(format!(
                "{} of {} challenges failed; at most {} % may",
                self.failed,
                self.attempted,
                100.0 * self.max_failed_share
            )));
        }
        Ok(())
    }

    fn load(&mut self, role: Role) -> Result<Box<dyn Session>, Halt> {
        let (stage, spec) = match role {
            Role::Reference => (Stage::LoadingReference, self.pair.reference),
            Role::Candidate => (Stage::LoadingCandidate, self.pair.candidate),
        };
        self.stage(stage);
        let on_event = self.context.on_event;
        let mut progress = |progress: Progress| {
            let done = (f64::from(progress.fraction) * 1000.0) as u64;
            on_event(AssayEvent::Progress { stage, done, total: 1000 });
        };
        let runner = self.runner;
        runner.start(spec, &mut progress).map_err(|end| self.worker_failed(role, &end))
    }

    fn end(&mut self, role: Role, session: Box<dyn Session>) -> Result<(), Halt> {
        let summary = session.finish();
        self.draft.worker_ended(role, &summary);
        match summary.changed {
            Some(what) => Err(Halt::failed(format!("what ran is not what was judged: {what}"))),
            None => Ok(()),
        }
    }

    fn worker_failed(&mut self, role: Role, end: &WorkerEnd) -> Halt {
        self.draft.worker_failed(role, end);
        if self.context.cancel.load(Ordering::Relaxed) {
            return Halt { statistics: Statistics::Cancelled, error: "cancelled".to_owned() };
        }
        let hint = end.hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        Halt::failed(format!("the {}'s {end}{hint}", role.as_str()))
    }

    fn stage(&self, stage: Stage) {
        (self.context.on_event)(AssayEvent::Stage { stage });
    }
}

/// Rounds of the first block: enough to decide a clear case, with room for a few surprises.
fn first_block(params: &DecisionParams) -> u64 {
    let fewest = modes::fewest_for_same(params.alpha, params.delta);
    (fewest + fewest / 2).div_ceil(ROUND)
}

fn item_of(answer: &Answer) -> Option<ScoreItem> {
    let Answer::Trace(trace) = answer else { return None };
    let detail = match &trace.distribution {
        Distribution::Coarse { ids, .. } => Detail::Given { ids: ids.clone() },
        Distribution::Half { .. } => Detail::Exact,
        Distribution::Full { .. } | Distribution::Summary | Distribution::Tokens => Detail::Own,
    };
    Some(ScoreItem { tokens: trace.tokens.clone(), scored_from: trace.scored_from, detail })
}

/// Failed challenges that do not end an assay of so many.
pub fn allowed_failures(out_of: u64, share: f64) -> u64 {
    ((out_of as f64 * share).floor() as u64).max(1)
}

/// Scores one challenge into its record; a scorer that says it cannot is the record's failure.
///
/// # Errors
/// The scorer gave no sound answer.
pub fn score_record(
    record: &mut Record,
    scorer: &Scorer,
    params: &str,
    evidence: &Evidence,
) -> Result<(), PluginFault> {
    match scorer.score(evidence, params) {
        Ok(score) => {
            record.score = Some(score.value);
            record.notes = score.notes.into_iter().collect();
        }
        Err(fault) if is_refusal(&fault) => record.failure = Some(fault.to_string()),
        Err(fault) => return Err(fault),
    }
    Ok(())
}

/// Writes a look of the decider into the record of its score.
pub fn take_down(record: &mut Record, step: &Step, counted: u64) {
    record.n = Some(step.n);
    record.counted = step.n <= counted;
    record.lower = step.lower;
    record.upper = step.upper;
    record.log_e_same = step.log_e_same;
    record.log_e_different = step.log_e_different;
    record.decision = Some(step.decision);
}

/// Whether a scorer worked and said that this evidence cannot be scored: a failed challenge,
/// not a broken plugin.
fn is_refusal(fault: &PluginFault) -> bool {
    use RefusalKind::{InvalidEvidence, Numeric, Other, Unsupported};
    let refusal = |kind| matches!(kind, InvalidEvidence | Numeric | Other | Unsupported);
    matches!(&fault.class, FaultClass::Refused { kind, .. } if refusal(*kind))
}
