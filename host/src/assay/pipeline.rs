//! The way of one assay: inspect, check, commit to challenges, compare, close, decide.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::band::BandChoice;
use super::closing;
use super::compare::{Comparison, Pair, Scoring};
use super::decision::{Agreement, Findings, HashChecks, Statistics};
use super::draft::{Draft, artifact_root};
use super::endpoint::Side;
use super::events::{AssayEvent, Stage};
use super::halt::Halt;
use super::judge::Judge;
use super::load::{absolute, context_of};
use super::measure::measure;
use super::participants::{participants, takes_part};
use super::report::{Challenges, Lineage, Report, Role};
use super::request::{AssayContext, AssayRequest};
use super::runner::{Runner, WorkerRunner};
use super::{band, hash_checks, probe};
use crate::challenge::{ChallengeSet, Key, Plan, TEMPLATE_VERSION};
use crate::domain::inspection::{Inspection, Status};
use crate::domain::modes::{JUDGED_PARALLEL, MAX_FAILED_SHARE, SCORED_POSITIONS};
use crate::domain::score::DecisionParams;
use crate::domain::{Problem, Sha256};
use crate::engine::remote::{self, Endpoint};
use crate::engine::{LoadBits, LoadSpec, adapter_for, default_threads, engine_for};
use crate::governor::admission::Caps;
use crate::model::likeness::{self, Difference, Likeness};
use crate::model::lineage::{self, Extent, Requantize};
use crate::model::{InspectOptions, inspect};
use crate::plugin::{PluginKind, PluginSet};
use crate::worker::{GiveUp, Policy, Stamp, WorkerEnd, WorkerLimits, difference, give_up, stamps};

/// Vocabulary of raw token challenges: made before any model is loaded, so it has to fit all.
const RAW_VOCAB: u32 = 256;

/// What a judged run may give up for lack of memory. The batch and the format of the cache are
/// in the table of constants and stay.
const GIVE_UP: GiveUp = GiveUp { context_min: 256, accelerator: true, ..GiveUp::NOTHING };

/// Runs one assay in guarded workers. Blocks; cancellable; always gives a report.
pub fn run(request: &AssayRequest, context: &AssayContext<'_>) -> Report {
    let limits = WorkerLimits {
        enforcement: request.enforcement,
        cancel: Some(Arc::clone(&context.cancel)),
        ..WorkerLimits::default()
    };
    let policy = Policy {
        guardrail: request.guardrail,
        caps: Caps { max_memory_bytes: request.max_memory_bytes, min_free_bytes: request.min_free_bytes },
        force: request.force,
        give_up: GIVE_UP,
    };
    run_with(request, context, &WorkerRunner::new(limits, policy))
}

/// As [`run`], with sessions from `runner`.
pub fn run_with(request: &AssayRequest, context: &AssayContext<'_>, runner: &dyn Runner) -> Report {
    let inspected = |role, path: &Path| {
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
pub type Inspect<'a> = &'a dyn Fn(Role, &Path) -> Result<Inspection, Problem>;

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
            Assay {
                request,
                context,
                runner,
                params,
                draft: &mut draft,
                findings: &mut findings,
                stamps: Vec::new(),
                adapter: Vec::new(),
            }
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
        let wanted = list.iter().filter(|record| {
            takes_part(&request, record.kind, &record.id)
                && !hash_checks::only_reads_manifests(record, &request.hash_checks)
        });
        let wanted: Vec<(PluginKind, &str)> =
            wanted.map(|record| (record.kind, record.id.as_str())).collect();
        if let Err(problem) = plugins.prepare(&wanted) {
            tracing::debug!(%problem, "a plugin is not ready");
        }
    });
}

pub(super) struct Assay<'a> {
    pub(super) request: &'a AssayRequest,
    pub(super) context: &'a AssayContext<'a>,
    pub(super) runner: &'a dyn Runner,
    params: DecisionParams,
    pub(super) draft: &'a mut Draft,
    pub(super) findings: &'a mut Findings,
    /// The files of both sides as they were when they were digested.
    pub(super) stamps: Vec<Stamp>,
    /// The files of the adapter over the candidate.
    pub(super) adapter: Vec<PathBuf>,
}

impl Assay<'_> {
    fn stages(&mut self, inspected: Inspect<'_>) -> Result<Statistics, Halt> {
        if remote::is_url(&self.request.candidate) {
            let endpoint = Endpoint::find(&self.request.candidate, &|name| std::env::var(name).ok())?;
            return self.endpoint_stages(endpoint, inspected);
        }
        let candidate = self.candidate(inspected)?;
        self.findings.candidate_structure = candidate.status;
        if let Ok((engine, _)) = engine_for(&candidate) {
            LoadBits::check(self.request.load_bits, engine)?;
        }
        let reference = match &self.request.reference {
            Some(path) => Some(self.inspect(Role::Reference, path, inspected)?),
            None => None,
        };
        self.findings.reference_structure = reference.as_ref().map(|inspection| inspection.status);
        self.compare_facts(reference.as_ref(), &candidate);
        self.draft.report.plugins = participants(&self.context.plugins, self.request);
        self.findings.hash_checks = self.hash_checks(reference.as_ref(), &candidate);

        let broken = |inspection: &Inspection| inspection.status == Status::Reject;
        if broken(&candidate) || reference.as_ref().is_some_and(broken) {
            return Err(Halt::rejected(reference.as_ref(), &candidate));
        }
        let Some(reference) = reference else {
            let measured = self.measure(&candidate);
            measured.map_err(|halt| if self.cancelled() { Halt::cancelled() } else { halt })?;
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
        self.compare(&reference, reference_root, Side::Files(&candidate))
    }

    /// The candidate together with the adapter over it: its digests are the candidate's, too.
    fn candidate(&mut self, inspected: Inspect<'_>) -> Result<Inspection, Halt> {
        let Some(path) = &self.request.adapter else {
            return self.inspect(Role::Candidate, &self.request.candidate, inspected);
        };
        let with_adapter = |role: Role, base: &Path| {
            let adapter = inspected(role, path)?;
            let mut base = inspected(role, base)?;
            base.files.extend(adapter.files.iter().cloned());
            base.findings.extend(adapter.findings.iter().cloned());
            base.status = base.status.max(adapter.status);
            Ok(base)
        };
        let candidate = self.inspect(Role::Candidate, &self.request.candidate, &with_adapter)?;
        if candidate.status != Status::Reject {
            let adapter = inspect(path, &InspectOptions::default(), &mut |_, _| {})?;
            self.adapter = absolute(path, adapter_for(&adapter, engine_for(&candidate)?.0)?)?;
        }
        let remark = "lineage: of the candidate's own weights, without the adapter";
        self.draft.report.remarks.push(remark.to_owned());
        Ok(candidate)
    }

    pub(super) fn inspect(
        &mut self,
        role: Role,
        path: &Path,
        inspected: Inspect<'_>,
    ) -> Result<Inspection, Halt> {
        let started = Instant::now();
        let begun = nanoseconds_now();
        let mut inspection = inspected(role, path).map_err(Halt::from)?;
        let mut seen = stamps(inspection.files.iter().map(|file| file.path.as_path()));
        // A file that changed after the reading began may have been read half old, half new.
        if seen.iter().any(|stamp| stamp.changed >= begun) {
            inspection = inspected(role, path).map_err(Halt::from)?;
            if let Some(what) = difference(&seen) {
                return Err(Halt::not_run(format!("{what}; wait until whatever writes it is done")));
            }
        }
        self.draft.add_time("inspect_seconds", started);
        self.stamps.append(&mut seen);
        self.draft.inspected(role, &inspection);
        self.stop_if_cancelled()?;
        Ok(inspection)
    }

    pub(super) fn stop_if_cancelled(&self) -> Result<(), Halt> {
        if self.cancelled() { Err(Halt::cancelled()) } else { Ok(()) }
    }

    fn cancelled(&self) -> bool {
        self.context.cancel.load(Ordering::Relaxed)
    }

    /// Fills what follows from the two inspections alone.
    fn compare_facts(&mut self, reference: Option<&Inspection>, candidate: &Inspection) {
        let digested = |inspection: &Inspection| artifact_root(inspection).is_some();
        self.findings.provenance_complete = digested(candidate) && reference.is_none_or(digested);
        let Some(reference) = reference else { return };
        let likeness = likeness::compare(&candidate.path, &reference.path);
        let formats_differ = self.draft.report.inspections.formats_differ();
        let agreement = |of: fn(&Inspection) -> Option<&Sha256>, said: fn(&Likeness) -> Option<bool>| {
            let hashes = Agreement::of(of(reference), of(candidate));
            match (hashes, likeness.as_ref().ok().and_then(said)) {
                // Digests of two formats never agree; what they say may.
                (Agreement::Mismatch, Some(true)) if formats_differ => Agreement::Match,
                (Agreement::Mismatch, None) if formats_differ => Agreement::Unknown,
                _ => hashes,
            }
        };
        self.findings.tokenizer = agreement(|of| of.tokenizer_hash.as_ref(), Likeness::compatible);
        // Some of a file's configuration lies in tensors, which no digest of its header is over.
        let differs = likeness.as_ref().is_ok_and(|found| !found.config.is_empty());
        self.findings.config = match agreement(|of| of.config_hash.as_ref(), Likeness::same_config) {
            Agreement::Match if differs => Agreement::Mismatch,
            other => other,
        };
        let security = &mut self.draft.report.security;
        security.config_hash.matches = self.findings.config.as_match();
        security.fuzzy_hash = hash_checks::fuzzy(reference, candidate);
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
        let why = |what: &str| match &likeness {
            Ok(found) if formats_differ => found.unknown_about(what).collect::<Vec<_>>().join("; "),
            Err(problem) if formats_differ => problem.to_string(),
            _ => String::new(),
        };
        if self.findings.config == Agreement::Unknown && formats_differ {
            self.draft.note(format!("security.config_hash.match: {}", why("config")));
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
                let why = why("tokenizer");
                let colon = if why.is_empty() { "" } else { ": " };
                let text = "security.tokenizer.compatible: a tokenizer could not be determined";
                self.draft.note(format!("{text}{colon}{why}"));
            }
            Agreement::Match | Agreement::Observed => {}
        }
    }

    pub(super) fn hash_checks(
        &mut self,
        reference: Option<&Inspection>,
        candidate: &Inspection,
    ) -> HashChecks {
        (self.context.on_event)(AssayEvent::Stage { stage: Stage::HashChecks });
        let started = Instant::now();
        let checked =
            hash_checks::run(&self.context.plugins, reference, candidate, &self.request.hash_checks);
        self.draft.report.remarks.extend(checked.notes);
        self.draft.report.security.hash_checks = checked.results;
        self.draft.add_time("hash_check_seconds", started);
        checked.joint
    }

    /// Says how the weights relate, tensor by tensor. Advisory: it never changes the verdict,
    /// and what cannot be said is a note.
    fn lineage(&mut self, reference: &Inspection, candidate: &Inspection) -> Result<(), Halt> {
        self.stop_if_cancelled()?;
        let started = Instant::now();
        let stage = Stage::Lineage;
        (self.context.on_event)(AssayEvent::Stage { stage });
        let mut progress = |done, total| (self.context.on_event)(AssayEvent::Progress { stage, done, total });
        let mut quantizer = self.runner.quantizer();
        let again = quantizer.as_deref_mut().map(|quantizer| Requantize {
            quantizer,
            extent: Extent::Sample,
            importance: None,
        });
        match lineage::compare(&candidate.path, &reference.path, again, &mut progress) {
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
        let context = context_of([candidate].into_iter());
        if context <= SCORED_POSITIONS {
            return Err(Halt::no_room(context));
        }
        let threads = self.request.threads.unwrap_or_else(|| default_threads(candidate));
        let spec = self.candidate_spec(candidate, context, threads)?;
        let [spec] = self.plan([spec])?;
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
        let summary = session.finish();
        self.draft.worker_ended(Role::Candidate, &summary);
        if let Some(what) = summary.changed {
            return Err(Halt::failed(format!("what ran is not what was judged: {what}")));
        }
        self.draft.report.measurement = Some(measured);
        Ok(())
    }

    pub(super) fn compare(
        &mut self,
        reference: &Inspection,
        reference_root: Sha256,
        candidate: Side<'_>,
    ) -> Result<Statistics, Halt> {
        let key = self.key(candidate)?;
        let set = self.challenges(&key)?;
        let context = context_of([reference].into_iter().chain(candidate.files()));
        if context <= SCORED_POSITIONS {
            return Err(Halt::no_room(context));
        }
        // The same number for both: how work is split over threads can move logits by rounding.
        let threads = self.request.threads.unwrap_or_else(|| default_threads(reference));
        let inspected = reference;
        let files = candidate.files();
        let mut reference = self.load_spec(reference, context, threads, None)?;
        let mut candidate = match candidate {
            Side::Files(inspection) => self.candidate_spec(inspection, context, threads)?,
            Side::Endpoint(endpoint) => {
                LoadSpec { parallel: JUDGED_PARALLEL, ..LoadSpec::remote(endpoint.clone(), context) }
            }
        };
        if let (BandChoice::Auto, Some(files)) = (self.request.band, files) {
            [reference, candidate] = self.plan([reference, candidate])?;
            self.set_band(&band::Inputs {
                key: &key,
                judging: &set,
                reference: &reference,
                reference_root,
                reference_kind: inspected.kind,
                candidate: files,
                params: self.params,
            })?;
        }
        let scorer_params = self.draft.report.enhanced_diff.scorer_params.clone();
        let mut retried = false;
        let (statistics, judge) = loop {
            [reference, candidate] = self.plan([reference, candidate])?;
            let pair = Pair { reference: &reference, reference_root, candidate: &candidate, set: &set };
            let scoring = Scoring {
                scorer_params: scorer_params.clone(),
                judge: Judge::start(&self.context.plugins, &self.request.decider, self.params)?,
                max_failed_share: MAX_FAILED_SHARE,
            };
            let mut comparison =
                Comparison::new(self.request, self.context, self.runner, pair, scoring, self.draft)?;
            let halt = match comparison.run() {
                Ok(statistics) => break (statistics, comparison.judge),
                Err(halt) => halt,
            };
            drop(comparison);
            // Once, and never with the same settings.
            let mut both = [reference.clone(), candidate.clone()];
            let step = Some(()).filter(|()| !retried && self.ended_for_memory());
            let Some(step) = step.and_then(|()| give_up(&mut both, GIVE_UP)) else { return Err(halt) };
            retried = true;
            self.draft.report.remarks.push(format!("tried again with {step}, because: {}", halt.error));
            self.draft.report.memory.given_up.push(step);
            [reference, candidate] = both;
        };
        if !self.request.probes.is_empty() {
            let (request, context, runner) = (self.request, self.context, self.runner);
            let pair = Pair { reference: &reference, reference_root, candidate: &candidate, set: &set };
            probe::run(request, context, runner, self.draft, &pair, (&scorer_params, self.params))?;
        }
        // Every model is gone: now the key may be known.
        if let Some(challenges) = &mut self.draft.report.challenges {
            challenges.key_revealed = Some(key.reveal());
        }
        (self.context.on_event)(AssayEvent::Stage { stage: Stage::Closing });
        let notes = {
            let report = &mut self.draft.report;
            let bits = report.load_bits;
            closing::fill(&mut report.enhanced_diff, &judge, &report.records, report.band.as_ref(), bits)?
        };
        notes.into_iter().for_each(|note| self.draft.note(note.text));
        Ok(statistics)
    }

    /// Measures the band, and takes gamma, delta and the clip from it.
    fn set_band(&mut self, inputs: &band::Inputs<'_>) -> Result<(), Halt> {
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
    fn key(&mut self, candidate: Side<'_>) -> Result<Key, Halt> {
        let Some(drawn_for) = self.request.candidate_root else { return Ok(self.request.challenge_key()?) };
        if candidate.files().and_then(artifact_root) != Some(drawn_for) {
            return Ok(Key::random()?);
        }
        let remark = "challenges: the key was drawn when this candidate's digest was on record; assays of the \
                      same reference that waited then share it";
        self.draft.report.remarks.push(remark.to_owned());
        Ok(self.request.challenge_key()?)
    }

    /// Derives the challenges and commits to them, before any model is loaded.
    fn challenges(&mut self, key: &Key) -> Result<ChallengeSet, Halt> {
        (self.context.on_event)(AssayEvent::Stage { stage: Stage::Challenges });
        let started = Instant::now();
        let plan = match self.findings.tokenizer {
            Agreement::Match | Agreement::Observed => Plan::Text,
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
}

/// Since 1970, as file systems stamp.
fn nanoseconds_now() -> i128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(i128::MAX))
}

/// Whether only one side has the tensor, or in another shape.
fn unmatched(tensor: &lineage::TensorLineage) -> bool {
    use lineage::TensorRelation::{Extra, Missing, ShapeDiffers};
    matches!(tensor.relation, Extra | Missing | ShapeDiffers)
}
