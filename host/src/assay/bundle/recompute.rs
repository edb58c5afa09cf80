//! The verdict once more, from the key, the traces and the plugins of a bundle.
//!
//! The result is the report as it ought to be: everything that follows from something else is
//! worked out again, by the very functions that worked it out first, and what cannot be
//! (the traces, what inspections and hash checks said, why a challenge failed) stays as stated.
//! Comparing its transcript with the one in the file finds the first byte that does not agree.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::container::{Entry, Fault, Mismatch, Scanned, Section};
use crate::assay::band::{self, Band};
use crate::assay::canonical::digest_of;
use crate::assay::compare::{allowed_failures, score_record, take_down};
use crate::assay::decision::{Agreement, Findings, Statistics, decide};
use crate::assay::draft::files_root;
use crate::assay::evidence::{summary, trace_digest, trace_of};
use crate::assay::judge::Judge;
use crate::assay::report::{Record, Report, ReportPlugin, Role};
use crate::assay::{closing, coverage, probe};
use crate::challenge::{ChallengeSet, Key, Prompt, TEMPLATE_VERSION};
use crate::domain::modes::CLIP_NATS;
use crate::domain::score::{DecisionParams, FinalDecision, complement};
use crate::domain::trace::Trace;
use crate::domain::{Problem, Sha256, budget};
use crate::plugin::{Evidence, PluginKind, PluginSet, Scorer};

/// A leaf of the stored transcript with its place in the file.
pub type Leaf = (Entry, Vec<u8>);

/// What a verdict is worked out from.
pub struct Inputs<'a> {
    pub report: &'a Report,
    pub bundle: &'a mut Scanned,
    pub leaves: &'a [Leaf],
    /// The bundle's own, and no others.
    pub plugins: &'a PluginSet,
    /// Told challenges done and challenges in all.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// The report as it ought to be, and remarks on what was taken as stated.
///
/// # Errors
/// The first thing that cannot be right whatever else is; or that cannot be worked out here.
pub fn recompute(mut inputs: Inputs<'_>) -> Result<(Report, Vec<String>), Fault> {
    let stated = inputs.report;
    let (mut report, mut remarks) = (stated.clone(), Vec::new());
    // Words change from version to version; numbers and decisions do not.
    let same_words = stated.assayd_version == env!("CARGO_PKG_VERSION");
    if !same_words {
        let version = &stated.assayd_version;
        remarks.push(format!("made by assayd {version}: the wording of the claim is taken as stated"));
    }
    for role in [Role::Reference, Role::Candidate] {
        let files = stated.files.iter().filter(|file| file.role == role);
        let root = files_root(files.map(|file| (file.bytes, file.sha256)));
        match role {
            Role::Reference => report.provenance.reference_root = root,
            Role::Candidate => report.provenance.candidate_root = root,
        }
    }
    report.constants_digest = digest_of(&stated.constants)?;
    if report.constants_digest != stated.constants_digest {
        let what = format!("the table of constants has the digest {}", report.constants_digest);
        return Err(at_leaf(inputs.leaves.first(), "\"constants_digest\"", &what).into());
    }
    for record in inputs.plugins.list() {
        let found = report.plugins.iter_mut().find(|p| p.kind == record.kind.as_str() && p.id == record.id);
        if let Some(plugin) = found {
            *plugin = ReportPlugin {
                id: record.id,
                kind: record.kind.as_str().to_owned(),
                version: record.version,
                sha256: record.sha256,
            };
        }
    }
    let grounds = stated.grounds.ok_or_else(|| {
        Fault::from(Problem::input("the report does not say what its verdict was based on"))
    })?;
    let statistics = match grounds.statistics {
        Statistics::Decided(_) => compare(&mut inputs, &mut report, &mut remarks, same_words)?,
        // Without a comparison there is nothing else that could be in the transcript.
        other => {
            report.records.clear();
            if report.band.is_some() {
                demand(&mut report)?;
            }
            other
        }
    };
    let grounds = regrounded(&report, &grounds, statistics);
    let last = decide(&grounds);
    report.grounds = Some(grounds);
    report.final_decision = last.decision;
    report.success = last.decision != FinalDecision::Error;
    if same_words {
        last.because.clone_into(&mut report.because);
    }
    Ok((report, remarks))
}

/// What the truth table looks at, from what the report says of each side.
fn regrounded(report: &Report, stated: &Findings, statistics: Statistics) -> Findings {
    let (reference, candidate) = (&report.inspections.reference, &report.inspections.candidate);
    let hashes = &report.security.config_hash;
    let compared = reference.is_some();
    let tokenizer = |side: &Option<crate::assay::report::InspectionSummary>| {
        side.as_ref().and_then(|inspection| inspection.tokenizer_hash)
    };
    let agreement = |a: Option<Sha256>, b: Option<Sha256>| {
        if compared { Agreement::of(a.as_ref(), b.as_ref()) } else { Agreement::Unknown }
    };
    // Digests of two formats never agree: what was found to be alike all the same is attested.
    let formats_differ = report.inspections.formats_differ();
    let across = |hashes: Agreement, stated: Agreement| match hashes {
        Agreement::Mismatch if formats_differ => stated,
        other => other,
    };
    let config = match agreement(hashes.reference, hashes.candidate) {
        Agreement::Match if !hashes.differences.is_empty() => Agreement::Mismatch,
        other => across(other, stated.config),
    };
    // That it is one is attested; the transcript's header names it as the engine.
    let endpoint = stated.tokenizer == Agreement::Observed && candidate.is_none();
    Findings {
        statistics,
        reference_structure: reference.as_ref().map(|inspection| inspection.status),
        candidate_structure: candidate
            .as_ref()
            .map_or(stated.candidate_structure, |inspection| inspection.status),
        hash_checks: stated.hash_checks,
        provenance_complete: (report.provenance.candidate_root.is_some() || endpoint)
            && (!compared || report.provenance.reference_root.is_some()),
        tokenizer: if endpoint {
            Agreement::Observed
        } else {
            across(agreement(tokenizer(reference), tokenizer(candidate)), stated.tokenizer)
        },
        config,
        lineage: stated.lineage,
        fuzzy_match: stated.fuzzy_match,
    }
}

/// Challenges, scores, looks and statistics.
fn compare(
    inputs: &mut Inputs<'_>,
    report: &mut Report,
    remarks: &mut Vec<String>,
    same_words: bool,
) -> Result<Statistics, Fault> {
    let stated = inputs.report;
    let diff = &stated.enhanced_diff;
    let mut params = DecisionParams {
        alpha: complement(diff.confidence),
        gamma: diff.gamma,
        delta: diff.delta,
        n_max: diff.n_max,
    };
    params.check_ranges()?;
    let constant = |name: &str| stated.constants.get(name);
    let round = constant("round").and_then(serde_json::Value::as_u64).filter(|&round| round > 0);
    let share = constant("max_failed_share").and_then(serde_json::Value::as_f64);
    let (Some(round), Some(share)) = (round, share) else {
        return Err(not_understood());
    };
    let list = inputs.plugins.list();
    // The files that hash checks were about are not here.
    let asked = list.iter().filter(|plugin| plugin.kind != PluginKind::HashCheck);
    let asked: Vec<_> = asked.map(|plugin| (plugin.kind, plugin.id.as_str())).collect();
    inputs.plugins.prepare(&asked)?;
    let scorer = inputs.plugins.scorer(&diff.scorer)?;
    let mut source = Source { order: Vec::new(), next: 0, seen: HashMap::new() };
    source.order = inputs.bundle.section(Section::Evidence).cloned().collect();
    let (key, set) = challenges(inputs, report)?;
    calibrated(inputs, &mut source, &scorer, report, (&key, &set), (params.alpha, share))?;
    demand(report)?;
    let asked = &report.enhanced_diff;
    (params.gamma, params.delta) = (asked.gamma, asked.delta);
    let (scorer_params, clip_nats) = (asked.scorer_params.clone(), asked.clip_nats);
    let mut judge = Judge::start(inputs.plugins, &diff.decider, params)?;

    let total = stated.records.len() as u64;
    let first = 1 + report.calibration.len();
    let mut prompts = HashSet::new();
    let mut tally = coverage::Tally::default();
    let (mut failed, mut at) = (0, 0);
    let round = usize::try_from(round).unwrap_or(usize::MAX);
    while at < set.challenges.len() && !judge.is_done() {
        let end = at.saturating_add(round).min(set.challenges.len());
        if report.records.len() < end {
            let what =
                format!("the transcript ends within a round, after {} challenges", report.records.len());
            return Err(in_leaf(inputs, first + report.records.len(), "", what).into());
        }
        let records = report.records.get_mut(at..end).unwrap_or_default();
        for (i, record) in (at..end).zip(records.iter_mut()) {
            let Some(challenge) = set.challenges.get(i) else { continue };
            // Every challenge in its order, none left out: whatever else is said is wrong.
            record.challenge = challenge.clone();
            let params = scorer_params.as_str();
            let evidence = again(inputs, &mut source, (&scorer, params), &mut prompts, first + i, record)?;
            if let (Some(evidence), Some(score)) = (evidence, record.score) {
                let (reference, candidate) = (&evidence.reference, &evidence.candidate);
                tally.note(
                    reference,
                    score,
                    coverage::left_out(&diff.scorer, clip_nats, reference, candidate),
                );
            }
            (inputs.progress)(i as u64 + 1, total);
        }
        let scores: Vec<f64> = records.iter().filter_map(|record| record.score).collect();
        let mut steps = judge.push(&scores).map_err(Problem::from)?.into_iter();
        for record in records {
            match record.score.and_then(|_| steps.next()) {
                Some(step) => take_down(record, &step, judge.counted() as u64),
                None => {
                    failed += 1;
                    record.unjudge();
                }
            }
        }
        at = end;
    }
    if at < report.records.len() {
        let what = format!("the decision fell with challenge {}, and the transcript goes on", at - 1);
        return Err(in_leaf(inputs, first + at, "", what).into());
    }
    probed(inputs, &mut source, (&scorer, &scorer_params), report)?;
    if let Some(entry) = source.order.get(source.next) {
        return Err(entry.whole("a trace that no record of the transcript names").into());
    }
    if failed > allowed_failures(at as u64, share) {
        return Ok(Statistics::Failed);
    }
    let ours = &mut report.enhanced_diff;
    ours.n_failed = failed;
    ours.coverage = tally.coverage(judge.counted());
    if let (Some(ours), Some(stated)) = (&mut ours.coverage, &diff.coverage) {
        settle(&mut ours.mean_at_most, stated.mean_at_most);
        let mut mass = Some(ours.rest_mass);
        settle(&mut mass, Some(stated.rest_mass));
        ours.rest_mass = mass.unwrap_or(ours.rest_mass);
    }
    ours.mean_nats = closing::mean_nats(&report.records);
    let forecast = diff.needed_n;
    let notes = closing::fill(ours, &judge, &report.records, report.band.as_ref(), report.load_bits);
    let notes = notes.map_err(Problem::from)?;
    if notes.iter().any(|note| note.fault) {
        ours.needed_n = forecast;
        remarks.push("needed_n: the decider took too long here; it is taken as stated".to_owned());
    }
    if !same_words {
        ours.claim.clone_from(&diff.claim);
        ours.rare_difference.clone_from(&diff.rare_difference);
    }
    settle(&mut ours.p_same, diff.p_same);
    settle(&mut ours.p_different, diff.p_different);
    Ok(Statistics::Decided(judge.decision()))
}

/// What the scorer was given, and the scale of its scores: from the band that was measured, or
/// from the table. Anything else would be another demand than the claim's.
fn demand(report: &mut Report) -> Result<(), Fault> {
    let diff = &mut report.enhanced_diff;
    match &mut report.band {
        Some(band) => {
            band.digest = band.frozen()?;
            (diff.gamma, diff.delta, diff.clip_nats) = (band.gamma, band.delta, band.clip_nats);
            diff.scorer_params = band.scorer_params(&diff.scorer);
        }
        None => {
            let clip = report.constants.get("clip_nats").and_then(serde_json::Value::as_f64);
            diff.clip_nats = clip.unwrap_or(f64::NAN);
            diff.scorer_params.clear();
        }
    }
    Ok(())
}

/// The band once more, from the traces of its challenges: the pilot's choose the clip, the others
/// gamma. Taken as stated is that those traces are an honest quantisation's.
fn calibrated(
    inputs: &mut Inputs<'_>,
    source: &mut Source,
    scorer: &Scorer,
    report: &mut Report,
    (key, judging): (&Key, &ChallengeSet),
    (alpha, share): (f64, f64),
) -> Result<(), Fault> {
    let mut records = std::mem::take(&mut report.calibration);
    let Some(stated) = report.band.take() else { return Ok(()) };
    let constant = |name: &str| report.constants.get(name).and_then(serde_json::Value::as_u64);
    // The band's width is its mode's: with a measured band none other can be asked for.
    let modes = report.constants.get("modes").and_then(serde_json::Value::as_array).into_iter().flatten();
    let mut named =
        modes.filter(|mode| mode.get("name").and_then(serde_json::Value::as_str) == Some(&report.mode));
    let mode = named.next();
    let of_mode = |name: &str| mode.and_then(|mode| mode.get(name)).and_then(serde_json::Value::as_f64);
    let (Some(pilot), Some(rest), Some(gamma), Some(delta)) = (
        constant("pilot_challenges"),
        constant("calibration_challenges"),
        of_mode("gamma"),
        of_mode("delta"),
    ) else {
        return Err(not_understood());
    };
    let distinct = pilot.saturating_add(rest).min(budget::CHALLENGES);
    let set = ChallengeSet::calibration(key, judging, distinct)
        .map_err(|why| at_leaf(inputs.leaves.first(), "\"band\"", &why.to_string()))?;
    if records.len() != set.challenges.len() {
        let what = format!("a band measured on {distinct} challenges, and {} are there", records.len());
        return Err(at_leaf(inputs.leaves.first(), "\"band\"", &what).into());
    }
    let id = inputs.report.enhanced_diff.scorer.as_str();
    let (pilot_records, rest_records) = records.split_at_mut(usize::try_from(pilot).unwrap_or(usize::MAX));
    let mut part = |records: &mut [Record], from: usize, clip: f64| -> Result<(), Fault> {
        let (params, mut prompts) = (band::scorer_params(id, clip), HashSet::new());
        for (at, record) in (from..).zip(records.iter_mut()) {
            let Some(challenge) = set.challenges.get(at) else { continue };
            record.challenge = challenge.clone();
            again(inputs, source, (scorer, &params), &mut prompts, 1 + at, record)?;
            record.unjudge();
        }
        let asked = records.len() as u64;
        let failed = records.iter().filter(|record| record.score.is_none()).count() as u64;
        if failed > allowed_failures(asked, share) {
            let what = format!("{failed} of {asked} calibration challenges failed, more than may");
            return Err(at_leaf(inputs.leaves.first(), "\"band\"", &what).into());
        }
        Ok(())
    };
    part(pilot_records, 0, CLIP_NATS)?;
    let clip_nats = band::clip_for(id, pilot_records);
    part(rest_records, pilot_records.len(), clip_nats)?;
    let measured =
        Band { commitment: set.commitment, distinct, pilot, clip_nats, width: delta - gamma, ..stated };
    let band = band::freeze(measured, inputs.plugins, alpha, rest_records)
        .map_err(|halt| at_leaf(inputs.leaves.first(), "\"band\"", &halt.error))?;
    (report.band, report.calibration) = (Some(band), records);
    Ok(())
}

/// The user's own prompts once more.
fn probed(
    inputs: &mut Inputs<'_>,
    source: &mut Source,
    scoring: (&Scorer, &str),
    report: &mut Report,
) -> Result<(), Fault> {
    let Some(stated) = &report.probes else { return Ok(()) };
    let texts: Vec<String> = stated.results.iter().map(|result| result.prompt.clone()).collect();
    let set = ChallengeSet::probes(&texts);
    let (mut records, mut prompts) = (Vec::new(), HashSet::new());
    let first = 1 + report.calibration.len() + report.records.len();
    for (at, (result, challenge)) in stated.results.iter().zip(&set.challenges).enumerate() {
        let mut record = Record { challenge: challenge.clone(), ..result.unscored() };
        again(inputs, source, scoring, &mut prompts, first + at, &mut record)?;
        records.push(record);
    }
    report.probes = Some(probe::report(&set, &records, report.enhanced_diff.gamma));
    Ok(())
}

fn not_understood() -> Fault {
    Problem::input("its table of constants is not one that this assayd understands").into()
}

/// The challenges of the revealed key.
fn challenges(inputs: &Inputs<'_>, report: &mut Report) -> Result<(Key, ChallengeSet), Fault> {
    let Some(stated) = &mut report.challenges else {
        return Err(
            at_leaf(inputs.leaves.first(), "\"challenges\"", "a comparison without challenges").into()
        );
    };
    if stated.template_version != TEMPLATE_VERSION {
        let version = &stated.template_version;
        return Err(Problem::input(format!(
            "its challenges are made from {version}, and this assayd knows {TEMPLATE_VERSION}"
        ))
        .hint("verify it with the assayd that made it")
        .into());
    }
    let closing = inputs.leaves.last();
    let Some(text) = &stated.key_revealed else {
        return Err(at_leaf(closing, "\"key_revealed\"", "a verdict, and its key was not revealed").into());
    };
    let key =
        Key::from_hex(text).map_err(|problem| at_leaf(closing, "\"key_revealed\"", &problem.message))?;
    if stated.distinct > budget::CHALLENGES {
        let what = format!("{} challenges; at most {} are made", stated.distinct, budget::CHALLENGES);
        return Err(at_leaf(inputs.leaves.first(), "\"distinct\"", &what).into());
    }
    let set = ChallengeSet::generate(&key, stated.plan, stated.distinct)
        .map_err(|why| at_leaf(inputs.leaves.first(), "\"distinct\"", &why.to_string()))?;
    stated.commitment = set.commitment;
    stated.space_size = stated.plan.space();
    stated.key_revealed = Some(key.reveal());
    Ok((key, set))
}

/// One record, of leaf `leaf`: its traces, its tokens, its score; what was scored, if it was.
fn again(
    inputs: &mut Inputs<'_>,
    source: &mut Source,
    (scorer, params): (&Scorer, &str),
    prompts: &mut HashSet<Vec<u32>>,
    leaf: usize,
    record: &mut Record,
) -> Result<Option<Evidence>, Fault> {
    (record.score, record.notes) = (None, Default::default());
    let Some(name) = record.reference_trace else {
        (record.tokens, record.scored_from) = (Vec::new(), 0);
        (record.reference_summary, record.candidate_summary, record.candidate_trace) = (None, None, None);
        return must_have_failed(inputs, leaf, record);
    };
    let (reference, _) = source.trace(inputs, leaf, &name)?;
    record.tokens.clone_from(&reference.tokens);
    record.scored_from = reference.scored_from;
    record.reference_summary = Some(summary(&reference));
    let prompt = reference.tokens.get(..reference.scored_from as usize).unwrap_or_default().to_vec();
    if let Prompt::Tokens(ids) = &record.challenge.prompt
        && (prompt.is_empty() || !ids.starts_with(&prompt))
    {
        return Err(in_leaf(inputs, leaf, "\"tokens\"", "the tokens are not those of the challenge").into());
    }
    if !prompts.insert(prompt) {
        return Err(in_leaf(inputs, leaf, "\"tokens\"", "an earlier challenge has the same prompt").into());
    }
    let Some(name) = record.candidate_trace else {
        record.candidate_summary = None;
        return must_have_failed(inputs, leaf, record);
    };
    let (candidate, entry) = source.trace(inputs, leaf, &name)?;
    record.candidate_summary = Some(summary(&candidate));
    let asked = |trace: &Trace| (trace.scored_from, trace.vocab);
    if reference.tokens != candidate.tokens || asked(&reference) != asked(&candidate) {
        let what = format!(
            "the candidate's trace of challenge {} is of other tokens than the reference's",
            record.challenge.index
        );
        return Err(entry.whole(what).into());
    }
    record.failure = None;
    let evidence = Evidence { challenge: record.challenge.index.to_string(), reference, candidate };
    score_record(record, scorer, params, &evidence).map_err(Problem::from)?;
    Ok(Some(evidence))
}

/// Without both traces there is a reason and no number.
fn must_have_failed(inputs: &Inputs<'_>, leaf: usize, record: &Record) -> Result<Option<Evidence>, Fault> {
    if record.failure.is_some() {
        return Ok(None);
    }
    Err(in_leaf(inputs, leaf, "\"failure\"", "neither both traces nor a reason why not").into())
}

/// Takes the stated value where ours is it but for rounding: exp and ln are not the same to the
/// last bit on every machine. For values that no decision rests on.
fn settle(ours: &mut Option<f64>, stated: Option<f64>) {
    if let (Some(a), Some(b)) = (*ours, stated)
        && (a - b).abs() <= 1e-10 * a.abs()
    {
        *ours = stated;
    }
}

/// The traces of a bundle, in the order in which the transcript first names them.
struct Source {
    order: Vec<Entry>,
    next: usize,
    seen: HashMap<Sha256, Entry>,
}

impl Source {
    fn trace(
        &mut self,
        inputs: &mut Inputs<'_>,
        leaf: usize,
        name: &Sha256,
    ) -> Result<(Arc<Trace>, Entry), Fault> {
        if let Some(entry) = self.seen.get(name) {
            let bytes = inputs.bundle.body(entry)?;
            return decoded(&bytes, entry).map(|trace| (trace, entry.clone()));
        }
        let Some(entry) = self.order.get(self.next).cloned() else {
            let what = format!("the trace {name} is not in the bundle");
            return Err(in_leaf(inputs, leaf, &name.to_string(), what).into());
        };
        let bytes = inputs.bundle.body(&entry)?;
        let found = trace_digest(&bytes);
        if found != *name {
            let what = format!("this is the trace {found}; leaf {leaf} of the transcript names {name}");
            return Err(entry.whole(what).into());
        }
        self.next += 1;
        self.seen.insert(found, entry.clone());
        decoded(&bytes, &entry).map(|trace| (trace, entry))
    }
}

fn decoded(bytes: &[u8], entry: &Entry) -> Result<Arc<Trace>, Fault> {
    trace_of(bytes).map(Arc::new).ok_or_else(|| entry.whole("this is no trace").into())
}

/// A place in a leaf: where `needle` stands, or its beginning.
fn in_leaf(inputs: &Inputs<'_>, leaf: usize, needle: &str, what: impl AsRef<str>) -> Mismatch {
    at_leaf(inputs.leaves.get(leaf), needle, what.as_ref())
}

/// A place in a leaf of the transcript.
pub fn at_leaf(leaf: Option<&Leaf>, needle: &str, what: &str) -> Mismatch {
    match leaf {
        Some((entry, bytes)) => entry.byte(find(bytes, needle.as_bytes()).unwrap_or(0), what),
        None => Mismatch {
            section: Some(Section::Transcript),
            record: 0,
            offset: 0,
            end: 0,
            what: what.to_owned(),
        },
    }
}

/// First place of some bytes in others.
pub fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len().max(1)).position(|window| window == needle)
}
