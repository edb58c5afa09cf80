//! `--band auto`: how different an honest quantisation of the reference is, measured before
//! the candidate is judged.
//!
//! The reference is quantised to the candidate's own tensor types by llama.cpp's quantiser,
//! run as a candidate on calibration challenges (never on judging ones, by type), and gamma
//! becomes the upper confidence bound of its mean score. Some further challenges before those
//! choose the clip, so that neither the clip nor gamma depends on scores it is applied to.
//! What comes out is frozen: its digest is told, and is in the report, before the candidate
//! is loaded. Deliberately absent: importance matrices, so an honest quantisation that was
//! made with one is no more different than what is measured here, as a rule.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::canonical::digest_of;
use super::claim::number;
use super::closing;
use super::compare::{Comparison, Pair, Scoring};
use super::decision::Statistics;
use super::draft::Draft;
use super::events::{AssayEvent, Stage};
use super::halt::Halt;
use super::judge::Judge;
use super::report::{Record, Role};
use super::request::{AssayContext, AssayRequest};
use super::runner::Runner;
use crate::challenge::{Calibration, ChallengeSet, Key};
use crate::domain::inspection::{ArtifactKind, Inspection};
use crate::domain::modes::{
    CALIBRATION_CHALLENGES, CLIP_FACTOR, CLIP_LADDER, CLIP_NATS, DEFAULT_DECIDER, MAX_FAILED_SHARE, ModeName,
    PILOT_CHALLENGES,
};
use crate::domain::score::{Decision, DecisionParams};
use crate::domain::{Problem, Sha256, budget};
use crate::engine::{LoadSpec, QuantizeSpec};
use crate::governor::machine;
use crate::model::gguf::GgmlType;
use crate::model::{InspectOptions, inspect};
use crate::plugin::PluginSet;

/// Where gamma and delta come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BandChoice {
    /// From the mode, or as given.
    #[default]
    Mode,
    /// From an honest quantisation of the reference to the candidate's tensor types.
    Auto,
}

/// What was measured and frozen before the candidate was judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Band {
    /// The candidate's quantisation, such as Q4_K_M.
    pub quantization: String,
    /// SHA-256 of the reference quantised like it; the file itself is gone.
    pub sha256: Option<Sha256>,
    pub bytes: u64,
    /// Tensors that the quantiser left in another type than the candidate's.
    pub other_types: Vec<String>,
    /// Root over the calibration challenges; they follow from the same key.
    pub commitment: Sha256,
    pub distinct: u64,
    /// Challenges that only chose the clip, before those that the band follows from.
    pub pilot: u64,
    /// Scores of the honest quantisation that the band follows from.
    pub n: u64,
    /// Their mean, and its upper confidence bound at the assay's confidence.
    pub mean: f64,
    pub upper: f64,
    /// Mean before clipping; null for scorers without a value in nats.
    pub mean_nats: Option<f64>,
    pub clip_nats: f64,
    /// delta - gamma as asked for.
    pub width: f64,
    pub gamma: f64,
    pub delta: f64,
    /// SHA-256 over the canonical form of this, with zeros here.
    pub digest: Sha256,
}

impl Band {
    /// What a verdict within this band means, beside its claim.
    pub fn claim(&self, decision: Decision) -> String {
        let name = format!("an honest {} of the reference", self.quantization);
        let measured = format!(
            "whose mean was measured as {} and is at most {} by the same error probability",
            number(self.mean),
            number(self.upper)
        );
        match decision {
            Decision::Same => format!(
                "so the candidate is no more different than {name} ({measured}), up to the width of the band, {}",
                number(self.delta - self.gamma)
            ),
            Decision::Different => format!("so the candidate is more different than {name} ({measured})"),
            Decision::Undecided => {
                format!("so it is open whether the candidate is more different than {name} ({measured})")
            }
        }
    }

    /// The digest over everything else in here.
    ///
    /// # Errors
    /// Internal: it has no JSON form.
    pub fn frozen(&self) -> Result<Sha256, Problem> {
        digest_of(&Self { digest: Sha256([0; 32]), ..self.clone() })
    }

    /// Parameters for the scorer, so that it clips where the band was measured.
    pub fn scorer_params(&self, scorer: &str) -> String {
        scorer_params(scorer, self.clip_nats)
    }
}

/// The parts of an assay that calibration needs.
#[derive(Debug)]
pub struct Inputs<'a> {
    pub key: &'a Key,
    pub judging: &'a ChallengeSet,
    pub reference: &'a LoadSpec,
    pub reference_root: Sha256,
    pub reference_kind: ArtifactKind,
    pub candidate: &'a Inspection,
    pub params: DecisionParams,
}

/// Measures the band and freezes it.
///
/// # Errors
/// The reference cannot be quantised like the candidate, a worker or a plugin failed, or an
/// honest quantisation is so different that no band is left.
pub fn calibrate(
    request: &AssayRequest,
    context: &AssayContext<'_>,
    runner: &dyn Runner,
    draft: &mut Draft,
    inputs: &Inputs<'_>,
) -> Result<Band, Halt> {
    let started = Instant::now();
    (context.on_event)(AssayEvent::Stage { stage: Stage::Calibrating });
    let types = types_of(inputs)?;
    let folder = Folder::make(&context.cache_dir)?;
    let spec = quantize_spec(inputs, &folder, &types)?;
    runner.quantize(&spec).map_err(|end| {
        draft.worker_failed(Role::Reference, &end);
        Halt::failed(format!("the reference could not be quantised like the candidate: {end}"))
    })?;
    let honest = inspect(&spec.target, &InspectOptions { full: true }, &mut |_, _| {})?;
    draft.add_time("calibration_quantize_seconds", started);

    let set =
        ChallengeSet::calibration(inputs.key, inputs.judging, PILOT_CHALLENGES + CALIBRATION_CHALLENGES)
            .map_err(|exhausted| Halt::not_run(exhausted.to_string()))?;
    let (pilot, rest) = set.split_at(PILOT_CHALLENGES);
    let honest_spec = LoadSpec { paths: vec![spec.target.clone()], ..inputs.reference.clone() };
    let mut run = |set: &ChallengeSet<Calibration>, clip: f64| {
        scores_of(request, context, runner, draft, inputs, &honest_spec, set, clip)
    };
    let first = run(&pilot, CLIP_NATS)?;
    let clip_nats = clip_for(&request.scorer, &first);
    let records = run(&rest, clip_nats)?;
    draft.add_time("calibration_seconds", started);

    let file = honest.files.first();
    let measured = Band {
        quantization: inputs.candidate.quantization.clone().unwrap_or_else(|| "quantisation".to_owned()),
        sha256: file.and_then(|file| file.sha256),
        bytes: file.map_or(0, |file| file.bytes),
        other_types: other_types(inputs.candidate, &honest),
        commitment: set.commitment,
        distinct: set.challenges.len() as u64,
        pilot: PILOT_CHALLENGES,
        n: 0,
        mean: 0.0,
        upper: 0.0,
        mean_nats: None,
        clip_nats,
        width: inputs.params.delta - inputs.params.gamma,
        gamma: 0.0,
        delta: 0.0,
        digest: Sha256([0; 32]),
    };
    let band = freeze(measured, &context.plugins, inputs.params.alpha, &records)?;
    draft.report.calibration = [first, records].concat();
    (context.on_event)(AssayEvent::Frozen { band: band.digest });
    Ok(band)
}

/// The types that the copy is to have: the candidate's.
fn types_of(inputs: &Inputs<'_>) -> Result<Vec<(String, u32)>, Halt> {
    let gguf = |kind| matches!(kind, ArtifactKind::Gguf | ArtifactKind::GgufSplit);
    if !gguf(inputs.reference_kind) || !gguf(inputs.candidate.kind) {
        return Err(Halt::not_run(
            "--band auto quantises a GGUF reference like a GGUF candidate; one of them is of another format (give --gamma and --delta instead)",
        ));
    }
    let list = &inputs.candidate.digests.tensor_digests;
    let types: Option<Vec<_>> = list
        .iter()
        .map(|tensor| Some((tensor.name.clone(), GgmlType::from_name(&tensor.dtype)?.id())))
        .collect();
    types.filter(|types| !types.is_empty()).ok_or_else(|| {
        Halt::not_run(
            "--band auto needs to know the type of every tensor of the candidate, and one is unknown",
        )
    })
}

fn quantize_spec(
    inputs: &Inputs<'_>,
    folder: &Folder,
    types: &[(String, u32)],
) -> Result<QuantizeSpec, Halt> {
    let bytes: u64 = inputs.candidate.files.iter().map(|file| file.bytes).sum();
    let max_bytes = bytes.saturating_add(bytes / 4).saturating_add(budget::CALIBRATION_EXTRA_BYTES);
    let free = machine::disk(folder.path()).map(|disk| disk.free_bytes);
    if let Some(free) = free.filter(|&free| free < max_bytes) {
        return Err(Halt::not_run(format!(
            "--band auto may write up to {max_bytes} bytes to {}, where {free} are free (choose another folder with --cache)",
            folder.path().display()
        )));
    }
    Ok(QuantizeSpec {
        source: inputs.reference.paths.clone(),
        target: folder.path().join("honest.gguf"),
        types: types.to_vec(),
        threads: inputs.reference.threads,
        max_bytes,
    })
}

#[expect(clippy::too_many_arguments, reason = "one closure calls it, twice, with all but two fixed")]
fn scores_of(
    request: &AssayRequest,
    context: &AssayContext<'_>,
    runner: &dyn Runner,
    draft: &mut Draft,
    inputs: &Inputs<'_>,
    honest: &LoadSpec,
    set: &ChallengeSet<Calibration>,
    clip_nats: f64,
) -> Result<Vec<Record>, Halt> {
    let quiet = |event: AssayEvent| quietly(context, event);
    let context = context.listened_by(&quiet);
    let params = DecisionParams { n_max: set.challenges.len() as u64, ..inputs.params };
    let mut part = Draft::new(request, &params);
    let pair =
        Pair { reference: inputs.reference, reference_root: inputs.reference_root, candidate: honest, set };
    let scoring = Scoring {
        scorer_params: scorer_params(&request.scorer, clip_nats),
        judge: Judge::watching(&context.plugins, params)?,
        max_failed_share: MAX_FAILED_SHARE,
    };
    let mut comparison = Comparison::new(request, &context, runner, pair, scoring, &mut part)?;
    let outcome = comparison.run();
    let mut records = std::mem::take(&mut part.report.records);
    draft.absorb(part, "calibration");
    outcome.map_err(|halt| Halt { error: format!("while calibrating: {}", halt.error), ..halt })?;
    if records.iter().all(|record| record.score.is_none()) {
        return Err(Halt::failed("while calibrating: no challenge could be scored"));
    }
    records.iter_mut().for_each(Record::unjudge);
    Ok(records)
}

/// Scores of calibration are nobody's business but the band's: others see progress.
fn quietly(context: &AssayContext<'_>, event: AssayEvent) {
    match event {
        AssayEvent::Progress { done, total, .. } => {
            (context.on_event)(AssayEvent::Progress { stage: Stage::Calibrating, done, total });
        }
        AssayEvent::Stage { .. }
        | AssayEvent::Committed { .. }
        | AssayEvent::Frozen { .. }
        | AssayEvent::Scored { .. }
        | AssayEvent::Failed { .. } => {}
    }
}

/// Fills what follows from the scores of `records`: the bound, the band and the digest.
///
/// # Errors
/// An honest quantisation is so different that no band is left, or the decider failed.
pub fn freeze(measured: Band, plugins: &PluginSet, alpha: f64, records: &[Record]) -> Result<Band, Halt> {
    let scores: Vec<f64> = records.iter().filter_map(|record| record.score).collect();
    let decider = plugins.decider(DEFAULT_DECIDER)?;
    // Every delta is tried, so which one is asked for does not count.
    let asked = DecisionParams { alpha, n_max: scores.len() as u64, ..ModeName::Audit.mode().params };
    let steps = super::judge::replay(&decider, &asked, &scores)?;
    let upper = closing::smallest_delta(&decider, &asked, &scores, &steps)?;
    let mean = closing::moments(&scores).mean.unwrap_or(1.0);
    let delta = upper.map(|upper| upper + measured.width).filter(|&delta| delta < 1.0);
    let (Some(upper), Some(delta)) = (upper, delta) else {
        return Err(Halt {
            statistics: Statistics::NotRun,
            error: format!(
                "no band is left: an honest {} of the reference already has a mean divergence of {} of the clip of {} nats",
                measured.quantization,
                number(mean),
                number(measured.clip_nats)
            ),
        });
    };
    let (n, mean_nats) = (scores.len() as u64, closing::mean_nats(records));
    let mut band = Band { n, mean, upper, mean_nats, gamma: upper, delta, ..measured };
    band.digest = band.frozen()?;
    Ok(band)
}

/// Whether a scorer's value in nats is clipped, at a place that its parameters name.
fn has_clip(scorer: &str) -> bool {
    matches!(scorer, "kl" | "delta-ce" | "symmetric-kl")
}

/// Parameters for a scorer that is to clip at `clip_nats`.
pub fn scorer_params(scorer: &str, clip_nats: f64) -> String {
    if has_clip(scorer) && clip_nats != CLIP_NATS {
        serde_json::json!({ "clip_nats": clip_nats }).to_string()
    } else {
        String::new()
    }
}

/// The clip that the pilot's records choose for a scorer.
pub fn clip_for(scorer: &str, pilot: &[Record]) -> f64 {
    if has_clip(scorer) { smallest_clip(closing::mean_nats(pilot)) } else { CLIP_NATS }
}

/// The smallest clip that leaves room above an honest quantisation's mean; an infinite or
/// unknown mean takes the largest.
fn smallest_clip(mean_nats: Option<f64>) -> f64 {
    let [.., largest] = CLIP_LADDER;
    let wanted = mean_nats.map_or(f64::INFINITY, |mean| mean * CLIP_FACTOR);
    CLIP_LADDER.into_iter().find(|&clip| clip >= wanted).unwrap_or(largest)
}

/// Names of tensors whose type in the copy is not the candidate's.
fn other_types(candidate: &Inspection, honest: &Inspection) -> Vec<String> {
    let theirs = &honest.digests.tensor_digests;
    let differs = |name: &str, dtype: &str| {
        theirs.iter().find(|tensor| tensor.name == name).is_none_or(|tensor| tensor.dtype != dtype)
    };
    let list = candidate.digests.tensor_digests.iter();
    let other = list.filter(|tensor| differs(&tensor.name, &tensor.dtype)).map(|tensor| tensor.name.clone());
    other.take(budget::FINDINGS).collect()
}

/// How old a folder left by a process that was killed must be before it is removed.
const LEFTOVER: Duration = Duration::from_secs(24 * 60 * 60);

/// A folder for the copy, removed with all that is in it on drop.
struct Folder(tempfile::TempDir);

impl Folder {
    fn make(cache: &Path) -> Result<Self, Problem> {
        let root = cache.join("calibration");
        let made = std::fs::create_dir_all(&root).and_then(|()| {
            remove_leftovers(&root);
            tempfile::Builder::new().prefix("honest-").tempdir_in(&root)
        });
        made.map(Self).map_err(|error| Problem::io("make a folder in", &root, &error))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn remove_leftovers(root: &Path) {
    let old = |path: &PathBuf| {
        let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let age = modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        age.is_some_and(|age| age > LEFTOVER)
    };
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in entries.filter(old) {
        let _ = std::fs::remove_dir_all(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::challenge::{Challenge, Family, Prompt};

    fn measured(clip_nats: f64) -> Band {
        Band {
            quantization: "Q4_K_M".to_owned(),
            sha256: None,
            bytes: 1,
            other_types: Vec::new(),
            commitment: Sha256([1; 32]),
            distinct: 72,
            pilot: 8,
            n: 0,
            mean: 0.0,
            upper: 0.0,
            mean_nats: None,
            clip_nats,
            width: 0.15,
            gamma: 0.0,
            delta: 0.0,
            digest: Sha256([0; 32]),
        }
    }

    fn records(scores: &[f64]) -> Vec<Record> {
        let one = |(index, &score): (u64, &f64)| {
            let prompt = Prompt::Text(index.to_string());
            let challenge = Challenge { index, family: Family::Factual, prompt };
            Record { score: Some(score), ..Record::blank(&challenge, None) }
        };
        (0..).zip(scores).map(one).collect()
    }

    #[test]
    fn gamma_is_the_upper_bound_of_an_honest_quantisation() {
        let plugins = PluginSet::builtin().unwrap();
        let freeze = |scores: &[f64]| freeze(measured(0.1), &plugins, 0.01, &records(scores));
        let low = freeze(&[0.0; 64]).unwrap();
        // No method can bound zeros below 1 - alpha^(1/64) = .0694.
        assert!(low.mean == 0.0 && (0.0694..0.087).contains(&low.gamma), "{low:?}");
        assert!((low.delta - low.gamma - 0.15).abs() < 1e-12 && low.gamma == low.upper);
        let some: Vec<f64> = (0..64).map(|i| f64::from(i % 4) / 20.0).collect();
        let high = freeze(&some).unwrap();
        assert_eq!((low.n, high.n), (64, 64));
        assert!(high.mean > 0.07 && high.gamma > low.gamma && high.gamma > high.mean, "{high:?}");
        assert_ne!(low.digest, high.digest);
        assert_eq!(freeze(&some).unwrap(), high, "frozen is frozen");
        let halt = freeze(&[1.0; 64]).unwrap_err();
        assert!(halt.error.contains("an honest Q4_K_M"), "{}", halt.error);
    }

    #[test]
    fn the_clip_leaves_room_above_the_pilot() {
        for (mean, clip) in [(0.0, 0.1), (0.009, 0.1), (0.02, 0.25), (0.165, 2.5), (0.9, 10.0), (50.0, 10.0)]
        {
            assert_eq!(smallest_clip(Some(mean)), clip, "{mean}");
        }
        assert_eq!(smallest_clip(None), 10.0);
        assert_eq!(clip_for("tv", &[]), CLIP_NATS);
        assert_eq!(scorer_params("kl", 0.1), "", "the default is not spelt out");
        assert_eq!(scorer_params("kl", 2.5), r#"{"clip_nats":2.5}"#);
        assert_eq!(scorer_params("tv", 2.5), "");
    }

    #[test]
    fn the_claim_names_the_honest_quantisation() {
        let band = Band { mean: 0.11, upper: 0.2, gamma: 0.2, delta: 0.35, ..measured(2.5) };
        assert!(
            band.claim(Decision::Same).contains("no more different than an honest Q4_K_M of the reference")
        );
        assert!(band.claim(Decision::Different).contains("more different than an honest Q4_K_M"));
        assert!(band.claim(Decision::Undecided).contains("open"));
    }

    #[test]
    fn the_folder_goes_and_takes_old_leftovers_with_it() {
        let cache = tempfile::tempdir().unwrap();
        let stale = cache.path().join("calibration/honest-old");
        std::fs::create_dir_all(&stale).unwrap();
        let old = std::fs::File::open(&stale).unwrap();
        old.set_modified(SystemTime::now() - 2 * LEFTOVER).unwrap();
        let folder = Folder::make(cache.path()).unwrap();
        assert!(!stale.exists());
        let path = folder.path().to_owned();
        std::fs::write(path.join("honest.gguf"), b"x").unwrap();
        drop(folder);
        assert!(!path.exists());
    }
}
