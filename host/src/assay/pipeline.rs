//! The way of one assay: inspect, check, commit to challenges, compare, close, decide.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::band::BandChoice;
use super::closing;
use super::compare::{Comparison, Halt, Pair, Scoring};
use super::decision::{Agreement, Findings, HashChecks, Statistics};
use super::draft::{Draft, artifact_root, name_of};
use super::events::{AssayEvent, Stage};
use super::judge::{INTERVAL_DECIDER, Judge};
use super::measure::measure;
use super::report::{Challenges, Lineage, Report, ReportPlugin, Role};
use super::request::{AssayContext, AssayRequest};
use super::runner::{Runner, WorkerRunner};
use super::{band, hash_checks, probe};
use crate::challenge::{ChallengeSet, Key, Plan, TEMPLATE_VERSION};
use crate::domain::inspection::{Inspection, Status};
use crate::domain::modes::{JUDGED_CONTEXT, JUDGED_PARALLEL, MAX_FAILED_SHARE, SCORED_POSITIONS};
use crate::domain::score::DecisionParams;
use crate::domain::{Problem, Sha256};
use crate::engine::{LoadSpec, default_threads, engine_for};
use crate::governor::Machine;
use crate::model::likeness::{self, Difference, Likeness};
use crate::model::{InspectOptions, inspect, lineage};
use crate::plugin::{PluginKind, PluginSet};
use crate::worker::{WorkerEnd, WorkerLimits};

/// Vocabulary of raw token challenges: made before any model is loaded, so it has to fit all.
const RAW_VOCAB: u32 = 256;

/// Runs one assay in guarded workers. Blocks; cancellable; always gives a report.
pub fn run(request: &AssayRequest, context: &AssayContext<'_>) -> Report {
    let limits = WorkerLimits {
        memory_bytes: request.max_memory_bytes,
        cancel: Some(Arc::clone(&context.cancel)),
        ..WorkerLimits::default()
    };
    run_with(request, context, &WorkerRunner { limits })
}

/// As [`run`], with sessions from `runner`.
pub fn run_with(request: &AssayRequest, context: &AssayContext<'_>, runner: &dyn Runner) -> Report {
    let inspected = |role, path: &std::path::Path| {
        let stage = match role {
            Role::Reference => Stage::InspectingReference,
            Role::Candidate => Stage::InspectingCandidate,
        };
        (context.on_event)(AssayEvent::Stage { stage });
        inspect(path, &InspectOptions { full: true }, &mut |done, total| {
            (context.on_event)(AssayEvent::Progress { stage, done, total });
        })
    };
    judge(request, context, runner, &inspected)
}

/// How an artifact is inspected; tests bring their own.
pub type Inspect<'a> = &'a dyn Fn(Role, &std::path::Path) -> Result<Inspection, Problem>;

/// As [`run_with`], with inspections from `inspected`.
pub fn judge(
    request: &AssayRequest,
    context: &AssayContext<'_>,
    runner: &dyn Runner,
    inspected: Inspect<'_>,
) -> Report {
    let checked = request.check(&context.plugins);
    let params = *checked.as_ref().unwrap_or(&request.mode.mode().params);
    let mut findings = Findings::unknown();
    let mut draft = Draft::new(request, &params);
    let outcome = match checked {
        Ok(params) => {
            prepare(request, &context.plugins);
            Assay { request, context, runner, params, draft: &mut draft, findings: &mut findings }
                .stages(inspected)
        }
        Err(problem) => Err(Halt::from(problem)),
    };
    let error = match outcome {
        Ok(statistics) => {
            findings.statistics = statistics;
            None
        }
        Err(halt) => {
            findings.statistics = halt.statistics;
            draft.note(halt.error.clone());
            Some(halt.error)
        }
    };
    findings.fuzzy_match = draft.report.security.fuzzy_hash.matches;
    draft.finish(&findings, error)
}

/// Compiles the plugins in the background while files are read. What fails here fails again
/// where the plugin is used, and is reported there.
fn prepare(request: &AssayRequest, plugins: &Arc<PluginSet>) {
    let (request, plugins) = (request.clone(), Arc::clone(plugins));
    std::thread::spawn(move || {
        let list = plugins.list();
        let wanted = list.iter().filter(|record| takes_part(&request, record.kind, &record.id));
        let wanted: Vec<(PluginKind, &str)> =
            wanted.map(|record| (record.kind, record.id.as_str())).collect();
        if let Err(problem) = plugins.prepare(&wanted) {
            tracing::debug!(%problem, "a plugin is not ready");
        }
    });
}

/// Whether a plugin can influence this assay's verdict or its report's numbers.
fn takes_part(request: &AssayRequest, kind: PluginKind, id: &str) -> bool {
    match kind {
        PluginKind::Scorer => id == request.scorer,
        PluginKind::Decider => id == request.decider || id == INTERVAL_DECIDER,
        PluginKind::HashCheck => true,
        PluginKind::Report => false,
    }
}

struct Assay<'a> {
    request: &'a AssayRequest,
    context: &'a AssayContext<'a>,
    runner: &'a dyn Runner,
    params: DecisionParams,
    draft: &'a mut Draft,
    findings: &'a mut Findings,
}

impl Assay<'_> {
    fn stages(&mut self, inspected: Inspect<'_>) -> Result<Statistics, Halt> {
        let candidate = self.inspect(Role::Candidate, &self.request.candidate, inspected)?;
        self.findings.candidate_structure = candidate.status;
        let reference = match &self.request.reference {
            Some(path) => Some(self.inspect(Role::Reference, path, inspected)?),
            None => None,
        };
        self.findings.reference_structure = reference.as_ref().map(|inspection| inspection.status);
        self.compare_facts(reference.as_ref(), &candidate);
        self.list_plugins();
        self.findings.hash_checks = self.hash_checks(reference.as_ref(), &candidate);

        let broken = |inspection: &Inspection| inspection.status == Status::Reject;
        if broken(&candidate) || reference.as_ref().is_some_and(broken) {
            return Err(Halt::not_run(rejection(reference.as_ref(), &candidate)));
        }
        let Some(reference) = reference else {
            let measured = self.measure(&candidate);
            measured.map_err(|halt| if self.cancelled() { cancelled() } else { halt })?;
            return Ok(Statistics::NoReference);
        };
        self.lineage(&reference, &candidate)?;
        if matches!(self.findings.hash_checks, HashChecks::Failed | HashChecks::Fault) {
            return Ok(Statistics::NotComparable);
        }
        if self.findings.tokenizer == Agreement::Mismatch {
            self.draft.note("enhanced_diff: the tokenizers differ, so there are no common tokens to score");
            return Ok(Statistics::NotComparable);
        }
        let (Some(reference_root), true) = (artifact_root(&reference), self.findings.provenance_complete)
        else {
            return Err(Halt::not_run("a file could not be digested"));
        };
        self.compare(&reference, reference_root, &candidate)
    }

    fn inspect(
        &mut self,
        role: Role,
        path: &std::path::Path,
        inspected: Inspect<'_>,
    ) -> Result<Inspection, Halt> {
        let started = Instant::now();
        let inspection = inspected(role, path);
        self.draft.add_time("inspect_seconds", started);
        let inspection = inspection.map_err(Halt::from)?;
        self.draft.inspected(role, &inspection);
        self.stop_if_cancelled()?;
        Ok(inspection)
    }

    fn stop_if_cancelled(&self) -> Result<(), Halt> {
        if self.cancelled() { Err(cancelled()) } else { Ok(()) }
    }

    fn cancelled(&self) -> bool {
        self.context.cancel.load(Ordering::Relaxed)
    }

    /// Fills what follows from the two inspections alone.
    fn compare_facts(&mut self, reference: Option<&Inspection>, candidate: &Inspection) {
        let digested = |inspection: &Inspection| artifact_root(inspection).is_some();
        self.findings.provenance_complete = digested(candidate) && reference.is_none_or(digested);
        let Some(reference) = reference else { return };
        let agreement = |of: fn(&Inspection) -> Option<&Sha256>| Agreement::of(of(reference), of(candidate));
        self.findings.config = agreement(|inspection| inspection.config_hash.as_ref());
        self.findings.tokenizer = agreement(|inspection| inspection.tokenizer_hash.as_ref());
        let likeness = likeness::compare(&candidate.path, &reference.path);
        // Digests of two formats never agree; what they say may.
        if candidate.kind != reference.kind
            && let (Agreement::Mismatch, Ok(Some(true))) =
                (self.findings.tokenizer, likeness.as_ref().map(Likeness::compatible))
        {
            self.findings.tokenizer = Agreement::Match;
        }
        let security = &mut self.draft.report.security;
        security.config_hash.matches = self.findings.config.as_match();
        security.tokenizer.compatible = self.findings.tokenizer.as_match();
        let texts = |list: &[Difference]| list.iter().map(Difference::to_string).collect::<Vec<_>>();
        if let Ok(found) = &likeness {
            security.config_hash.differences = texts(&found.config);
            security.tokenizer.differences = texts(&found.tokenizer);
            security.tokenizer.differences.extend(texts(&found.templates));
        }
        if self.findings.tokenizer == Agreement::Mismatch && security.tokenizer.differences.is_empty() {
            security.tokenizer.differences.push("tokens, scores, kinds or merges differ".to_owned());
        }
        match self.findings.tokenizer {
            Agreement::Mismatch => {
                if let Err(problem) = &likeness {
                    self.draft.note(format!("security.tokenizer.differences: {problem}"));
                }
            }
            Agreement::AbsentInBoth => {
                self.draft.note("security.tokenizer.compatible: neither model has a tokenizer");
            }
            Agreement::Unknown => {
                self.draft.note("security.tokenizer.compatible: a tokenizer could not be determined");
            }
            Agreement::Match => {}
        }
    }

    /// Lists every plugin that takes part, with its digest.
    fn list_plugins(&mut self) {
        let records = self
            .context
            .plugins
            .list()
            .into_iter()
            .filter(|record| takes_part(self.request, record.kind, &record.id));
        self.draft.report.plugins = records
            .map(|record| ReportPlugin {
                id: record.id,
                kind: record.kind.as_str().to_owned(),
                version: record.version,
                sha256: record.sha256,
            })
            .collect();
    }

    fn hash_checks(&mut self, reference: Option<&Inspection>, candidate: &Inspection) -> HashChecks {
        (self.context.on_event)(AssayEvent::Stage { stage: Stage::HashChecks });
        let started = Instant::now();
        let (outcome, notes) =
            hash_checks::run(&self.context.plugins, reference.into_iter().chain([candidate]));
        self.draft.report.remarks.extend(notes);
        self.draft.add_time("hash_check_seconds", started);
        outcome
    }

    /// Says how the weights relate, tensor by tensor. Advisory: it never changes the verdict,
    /// and what cannot be said is a note.
    fn lineage(&mut self, reference: &Inspection, candidate: &Inspection) -> Result<(), Halt> {
        self.stop_if_cancelled()?;
        let started = Instant::now();
        let stage = Stage::Lineage;
        (self.context.on_event)(AssayEvent::Stage { stage });
        let mut progress = |done, total| (self.context.on_event)(AssayEvent::Progress { stage, done, total });
        match lineage::compare(&candidate.path, &reference.path, &mut progress) {
            Ok(found) => {
                self.findings.lineage = Some(found.relation);
                self.draft.report.lineage = Some(Lineage {
                    tensors_unmatched: found.tensors.iter().filter(|tensor| unmatched(tensor)).count() as u64,
                    relation: found.relation,
                    reasons: found.reasons,
                    tensors_compared: found.tensors_compared,
                    tensors_identical: found.tensors_identical,
                    max_excess_error: found.max_excess_error,
                    worst_tensor: found.worst_tensor,
                });
            }
            Err(problem) => self.draft.note(format!("lineage: {problem}")),
        }
        self.draft.add_time("lineage_seconds", started);
        Ok(())
    }

    /// Runs a candidate that is compared with nothing. What no engine runs is not measured,
    /// and the report says why.
    fn measure(&mut self, candidate: &Inspection) -> Result<(), Halt> {
        if let Err(problem) = engine_for(candidate) {
            self.draft.note(format!("measurement: {problem}"));
            return Ok(());
        }
        let context = context_of([candidate]);
        if context <= SCORED_POSITIONS {
            return Err(no_room(context));
        }
        self.check_memory([candidate])?;
        let threads = self.request.threads.unwrap_or_else(|| default_threads(candidate));
        let spec = self.load_spec(candidate, context, threads)?;
        (self.context.on_event)(AssayEvent::Stage { stage: Stage::LoadingCandidate });
        let failed = |draft: &mut Draft, end: &WorkerEnd| {
            draft.worker_failed(Role::Candidate, end);
            Halt::failed(format!("the candidate's {end}"))
        };
        let started = self.runner.start(&spec, &mut |_| {});
        let mut session = started.map_err(|end| failed(self.draft, &end))?;
        self.draft.report.engine = Some(session.info().engine.clone());
        (self.context.on_event)(AssayEvent::Stage { stage: Stage::Candidate });
        let plan = match candidate.tokenizer_hash {
            Some(_) => Plan::Text,
            None => Plan::Tokens { vocab: RAW_VOCAB.min(session.info().vocab) },
        };
        let started = Instant::now();
        let measured = measure(session.as_mut(), plan, context, &mut |end| failed(self.draft, end));
        self.draft.add_time("candidate_seconds", started);
        let measured = measured?;
        self.draft.worker_ended(Role::Candidate, &session.finish());
        self.draft.report.measurement = Some(measured);
        Ok(())
    }

    fn compare(
        &mut self,
        reference: &Inspection,
        reference_root: Sha256,
        candidate: &Inspection,
    ) -> Result<Statistics, Halt> {
        let key = self.key(candidate)?;
        let set = self.challenges(&key)?;
        let context = context_of([reference, candidate]);
        if context <= SCORED_POSITIONS {
            return Err(no_room(context));
        }
        self.check_memory([reference, candidate])?;
        // The same number for both: how work is split over threads can move logits by rounding.
        let threads = self.request.threads.unwrap_or_else(|| default_threads(reference));
        let specs =
            (self.load_spec(reference, context, threads)?, self.load_spec(candidate, context, threads)?);
        self.set_band(&band::Inputs {
            key: &key,
            judging: &set,
            reference: &specs.0,
            reference_root,
            reference_kind: reference.kind,
            candidate,
            params: self.params,
        })?;
        let pair = || Pair { reference: &specs.0, reference_root, candidate: &specs.1, set: &set };
        let scorer_params = self.draft.report.enhanced_diff.scorer_params.clone();
        let scoring = Scoring {
            scorer_params: scorer_params.clone(),
            judge: Judge::start(&self.context.plugins, &self.request.decider, self.params)?,
            max_failed_share: MAX_FAILED_SHARE,
        };
        let mut comparison =
            Comparison::new(self.request, self.context, self.runner, pair(), scoring, self.draft)?;
        let statistics = comparison.run()?;
        let judge = comparison.judge;
        if !self.request.probes.is_empty() {
            let (request, context, runner) = (self.request, self.context, self.runner);
            probe::run(request, context, runner, self.draft, &pair(), (&scorer_params, self.params))?;
        }
        // Every model is gone: now the key may be known.
        if let Some(challenges) = &mut self.draft.report.challenges {
            challenges.key_revealed = Some(key.reveal());
        }
        (self.context.on_event)(AssayEvent::Stage { stage: Stage::Closing });
        let notes = {
            let report = &mut self.draft.report;
            closing::fill(&mut report.enhanced_diff, &judge, &report.records, report.band.as_ref())?
        };
        notes.into_iter().for_each(|note| self.draft.note(note.text));
        Ok(statistics)
    }

    /// Measures the band if that is asked for, and takes gamma, delta and the clip from it.
    fn set_band(&mut self, inputs: &band::Inputs<'_>) -> Result<(), Halt> {
        if self.request.band == BandChoice::Mode {
            return Ok(());
        }
        let band = band::calibrate(self.request, self.context, self.runner, self.draft, inputs)?;
        self.params = DecisionParams { gamma: band.gamma, delta: band.delta, ..self.params };
        let diff = &mut self.draft.report.enhanced_diff;
        (diff.gamma, diff.delta, diff.clip_nats) = (band.gamma, band.delta, band.clip_nats);
        diff.scorer_params = band.scorer_params(&self.request.scorer);
        if !band.other_types.is_empty() {
            self.draft.report.remarks.push(format!(
                "band: {} tensors of the honest quantisation have another type than the candidate's, because the \
                 quantiser leaves them as they are: {}",
                band.other_types.len(),
                band.other_types.iter().take(3).cloned().collect::<Vec<_>>().join(", ")
            ));
        }
        self.draft.report.band = Some(band);
        Ok(())
    }

    /// The challenge key. A shared one may be known by now, so it is used only for the very
    /// bytes that were on record when it was drawn.
    fn key(&mut self, candidate: &Inspection) -> Result<Key, Halt> {
        let Some(drawn_for) = self.request.candidate_root else { return Ok(self.request.challenge_key()?) };
        if artifact_root(candidate) != Some(drawn_for) {
            return Ok(Key::random()?);
        }
        let remark = "challenges: the key is shared with an earlier assay of the same reference; it was drawn \
                      when this candidate's digest was on record";
        self.draft.report.remarks.push(remark.to_owned());
        Ok(self.request.challenge_key()?)
    }

    /// Derives the challenges and commits to them, before any model is loaded.
    fn challenges(&mut self, key: &Key) -> Result<ChallengeSet, Halt> {
        (self.context.on_event)(AssayEvent::Stage { stage: Stage::Challenges });
        let started = Instant::now();
        let plan = match self.findings.tokenizer {
            Agreement::Match => Plan::Text,
            Agreement::Mismatch | Agreement::AbsentInBoth | Agreement::Unknown => {
                Plan::Tokens { vocab: RAW_VOCAB }
            }
        };
        let set = ChallengeSet::generate(key, plan, self.params.n_max)
            .map_err(|exhausted| Halt::not_run(exhausted.to_string()))?;
        self.draft.add_time("challenge_seconds", started);
        self.draft.report.challenges = Some(Challenges {
            commitment: set.commitment,
            key_revealed: None,
            distinct: set.challenges.len() as u64,
            space_size: plan.space(),
            template_version: TEMPLATE_VERSION.to_owned(),
            plan,
        });
        let challenges = set.challenges.len() as u64;
        (self.context.on_event)(AssayEvent::Committed { commitment: set.commitment, challenges });
        self.stop_if_cancelled()?;
        Ok(set)
    }

    /// Refuses a load that would leave less memory than asked to stay free. The files' bytes
    /// are what a model takes at least; working memory comes on top.
    fn check_memory<const N: usize>(&self, models: [&Inspection; N]) -> Result<(), Halt> {
        let Some(min_free) = self.request.min_free_bytes.filter(|_| !self.request.force) else {
            return Ok(());
        };
        let bytes = |inspection: &Inspection| inspection.files.iter().map(|file| file.bytes).sum::<u64>();
        let needed = models.into_iter().map(bytes).max().unwrap_or(0);
        let usable = Machine::read().usable_memory_bytes();
        if usable >= needed.saturating_add(min_free) {
            return Ok(());
        }
        Err(Halt::not_run(format!(
            "not loaded: of {usable} usable bytes of memory the larger model takes at least {needed}, which \
             would leave less than the {min_free} that are to stay free (--force loads it all the same)"
        )))
    }

    fn load_spec(&self, inspection: &Inspection, context: u32, threads: u32) -> Result<LoadSpec, Halt> {
        let (engine, paths) = engine_for(inspection)?;
        // A worker has a working folder of its own.
        let paths: Result<Vec<_>, _> = paths.iter().map(std::path::absolute).collect();
        let paths = paths.map_err(|error| Problem::io("find", &inspection.path, &error))?;
        let mut spec = LoadSpec::judged(engine, paths, context, threads);
        spec.parallel = JUDGED_PARALLEL;
        Ok(spec)
    }
}

fn cancelled() -> Halt {
    Halt { statistics: Statistics::Cancelled, error: "cancelled".to_owned() }
}

fn no_room(context: u32) -> Halt {
    Halt::not_run(format!(
        "a context of {context} tokens has no room for {SCORED_POSITIONS} scored positions"
    ))
}

/// Whether only one side has the tensor, or in another shape.
fn unmatched(tensor: &lineage::TensorLineage) -> bool {
    use lineage::TensorRelation::{Extra, Missing, ShapeDiffers};
    matches!(tensor.relation, Extra | Missing | ShapeDiffers)
}

/// Tokens per sequence: what all models were trained for, at most what is judged with.
fn context_of<const N: usize>(models: [&Inspection; N]) -> u32 {
    models
        .into_iter()
        .filter_map(|model| u32::try_from(model.context_length?).ok())
        .fold(JUDGED_CONTEXT, u32::min)
}

fn rejection(reference: Option<&Inspection>, candidate: &Inspection) -> String {
    let say = |inspection: &Inspection, role: &str| {
        let findings: Vec<&str> = inspection
            .findings
            .iter()
            .filter(|finding| finding.severity == crate::domain::inspection::Severity::Error)
            .map(|finding| finding.message.as_str())
            .take(3)
            .collect();
        format!("the {role} {} was rejected: {}", name_of(&inspection.path), findings.join("; "))
    };
    match reference.filter(|inspection| inspection.status == Status::Reject) {
        Some(reference) if candidate.status == Status::Reject => {
            format!("{}; {}", say(candidate, "candidate"), say(reference, "reference"))
        }
        Some(reference) => say(reference, "reference"),
        None => say(candidate, "candidate"),
    }
}
