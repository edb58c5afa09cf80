//! What a report says besides the verdict: mean and spread, anytime p-values, the smallest
//! delta the scores certify, and how many scores would decide.
//!
//! All of it follows from the recorded scores through the decider that decided, so anyone can
//! compute it again. A value that is not defined is `None`, never 0 or infinity.

use super::band::Band;
use super::judge::{Fold, INTERVAL_DECIDER, Judge, replay, stopping_step};
use super::report::{EnhancedDiff, Record};
use super::{claim, coverage, hidden};
use crate::challenge::kdf::Choices;
use crate::digest::sha256_parts;
use crate::domain::moments;
use crate::domain::score::{Decision, DecisionParams, Step};
use crate::engine::LoadBits;
use crate::plugin::{Decider, PluginFault};

/// Bisection steps for the certified delta: 2^-20 is finer than anyone reads.
const BISECTIONS: u32 = 20;
/// Resampled streams from which the needed n is read.
const RESAMPLES: usize = 20;
/// The needed n is searched up to this many times the scores there are, and ...
const NEEDED_FACTOR: usize = 20;
/// ... never beyond this many scores.
const NEEDED_LIMIT: usize = 2_000;

/// Something that is missing from the statistics, for the report's reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub text: String,
    /// A plugin failed, so that trying again may give an answer.
    pub fault: bool,
}

/// Fills what follows from the scores that count.
///
/// # Errors
/// The decider failed at something that is more than a forecast.
pub fn fill(
    diff: &mut EnhancedDiff,
    judge: &Judge,
    records: &[Record],
    band: Option<&Band>,
    load_bits: Option<LoadBits>,
) -> Result<Vec<Note>, PluginFault> {
    let (scores, params) = (judge.scores(), judge.params());
    let moments = moments(scores);
    let decision = judge.decision();
    diff.decision = Some(decision);
    diff.n_effective = scores.len() as u64;
    diff.stopped_early = judge.stopped_early();
    (diff.mean_diff, diff.std_diff, diff.effect_size) = (moments.mean, moments.std, moments.effect_size);
    (diff.ci_lower, diff.ci_upper) = judge.interval().unzip();
    // A decider without e-values leaves the p-values to the sequence that every report shows.
    let own = judge.steps().iter().any(|step| step.log_e_same.is_some());
    let evidence = if own { judge.steps() } else { judge.interval_steps() };
    diff.p_same = anytime_p(evidence.iter().map(|step| step.log_e_same));
    diff.p_different = anytime_p(evidence.iter().map(|step| step.log_e_different));
    let from = if own { diff.decider.as_str() } else { INTERVAL_DECIDER };
    diff.p_values_from = diff.p_same.map(|_| from.to_owned());
    diff.claim = claim::claim(decision, params, &diff.scorer, diff.clip_nats, diff.n_effective);
    if let Some(band) = band {
        diff.claim = format!("{}; {}", diff.claim, band.claim(decision));
    }
    if let Some(bits) = load_bits {
        diff.claim = format!("{}; {}", diff.claim, claim::quantised(bits));
    }
    let caveat = diff.coverage.as_ref().and_then(coverage::caveat);
    diff.claim.push_str(&caveat.unwrap_or_default());
    diff.smallest_delta_certified = smallest_delta(judge.decider(), params, scores, judge.steps())?;
    diff.rare_difference = Some(hidden::rare_difference(diff.smallest_delta_certified, diff.confidence));
    diff.outliers = hidden::outliers(records, params.gamma);
    diff.needed_n = None;
    let mut notes = Vec::new();
    if decision == Decision::Undecided {
        // A forecast, not evidence: a decider too slow for it does not spoil the verdict.
        let needed = needed_n(judge.decider(), params, scores);
        diff.needed_n = needed.as_ref().ok().copied().flatten();
        let text = |why: String| format!("enhanced_diff.needed_n: {why}");
        match needed {
            Ok(Some(_)) => {}
            Ok(None) => {
                let why = "no number of challenges within reach would decide".to_owned();
                notes.push(Note { text: text(why), fault: false });
            }
            Err(fault) => notes.push(Note { text: text(fault.to_string()), fault: true }),
        }
    }
    Ok(notes)
}

/// Mean of the scorer's own value in nats, its note `mean_..._nats`, over the records that
/// count; `None` if one of them has none.
pub fn mean_nats(records: &[Record]) -> Option<f64> {
    let counted = records.iter().filter(|record| record.counted);
    let known: Option<Vec<f64>> = counted.map(Record::nats).collect();
    known.filter(|nats| !nats.is_empty()).map(|nats| nats.iter().sum::<f64>() / nats.len() as f64)
}

/// Mean, standard deviation (n - 1) and d_z = mean / sd of the scores, by Welford's method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    pub mean: Option<f64>,
    /// Undefined for fewer than two scores.
    pub std: Option<f64>,
    /// Undefined without spread.
    pub effect_size: Option<f64>,
}

pub fn moments(scores: &[f64]) -> Moments {
    let all = moments::Moments::of(scores.iter().copied());
    let (mean, std) = (all.mean(), all.std());
    let effect_size = std.filter(|&std| std > 0.0).zip(mean).map(|(std, mean)| mean / std);
    Moments { mean, std, effect_size }
}

/// Anytime p-value `min(1, 1 / max E)` from the logarithms of an e-process.
pub fn anytime_p(log_e: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let mut largest = None;
    for value in log_e {
        // One missing value means that the decider has no such evidence.
        let value = value?;
        largest = Some(largest.map_or(value, |so_far: f64| so_far.max(value)));
    }
    largest.map(|log_e| (-log_e).exp().min(1.0))
}

/// The smallest delta that the scores certify at the same alpha; `None` if not even delta
/// near 1 is. With e-values by bisection over the decider: the upper end of the confidence
/// sequence that inverts the test. Without them, the least upper bound of `steps`. Either
/// holds at all times at once, so choosing it after the fact costs nothing.
///
/// # Errors
/// The decider failed.
pub fn smallest_delta(
    decider: &Decider,
    params: &DecisionParams,
    scores: &[f64],
    steps: &[Step],
) -> Result<Option<f64>, PluginFault> {
    if steps.iter().all(|step| step.log_e_same.is_none()) {
        let least = steps.iter().filter_map(|step| step.upper).reduce(f64::min);
        return Ok(least.filter(|&upper| upper < 1.0));
    }
    let certified = |delta: f64| -> Result<bool, PluginFault> {
        let asked = DecisionParams { gamma: params.gamma.min(delta), delta, ..*params };
        let needed = (1.0 / params.alpha).ln();
        let enough = |step: &Step| step.log_e_same.is_some_and(|log_e| log_e >= needed);
        Ok(replay(decider, &asked, scores)?.iter().any(enough))
    };
    let (mut low, mut high) = (0.0, 1.0 - 1e-6);
    if scores.is_empty() || !certified(high)? {
        return Ok(None);
    }
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if certified(middle)? { high = middle } else { low = middle }
    }
    Ok(Some(high))
}

/// How many scores would probably decide: the 90 % quantile of the stopping times of streams
/// resampled from the scores, each from a resampled population. `None` when fewer than that
/// share decide within the limit.
/// The resampling is keyed by the scores themselves, so the answer is reproducible.
///
/// # Errors
/// The decider failed.
pub fn needed_n(
    decider: &Decider,
    params: &DecisionParams,
    scores: &[f64],
) -> Result<Option<u64>, PluginFault> {
    if scores.is_empty() {
        return Ok(None);
    }
    let length = (scores.len() * NEEDED_FACTOR).min(NEEDED_LIMIT);
    let asked = DecisionParams { n_max: length as u64, ..*params };
    let bytes: Vec<u8> = scores.iter().flat_map(|score| score.to_be_bytes()).collect();
    let source = Choices::new(sha256_parts(&[b"assayd/needed-n/v1\0", &bytes]).0);
    let mut stops = Vec::new();
    for resample in 0..RESAMPLES {
        let stream = source.child("resample", &resample.to_be_bytes());
        // What the scores say of the population is uncertain itself: each stream comes from a
        // population of its own, drawn from them first (Efron's bootstrap).
        let population: Vec<f64> = (0..scores.len())
            .filter_map(|i| stream.pick(&format!("population/{i}"), scores))
            .copied()
            .collect();
        let drawn: Vec<f64> =
            (0..length).filter_map(|i| stream.pick(&format!("score/{i}"), &population)).copied().collect();
        let mut fold = Fold::start(decider.clone(), &asked)?;
        for some in drawn.chunks(64) {
            if let Some(step) = stopping_step(fold.push(some)?, asked.n_max) {
                stops.push(step.n);
                break;
            }
        }
    }
    stops.sort_unstable();
    Ok(stops.get(RESAMPLES * 9 / 10 - 1).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_by_hand() {
        let m = moments(&[0.1, 0.2, 0.6]);
        assert!((m.mean.unwrap() - 0.3).abs() < 1e-15);
        assert!((m.std.unwrap() - 0.07_f64.sqrt()).abs() < 1e-15);
        assert!((m.effect_size.unwrap() - 0.3 / 0.07_f64.sqrt()).abs() < 1e-14);
        let zeros = moments(&[0.0; 9]);
        assert_eq!((zeros.mean, zeros.std, zeros.effect_size), (Some(0.0), Some(0.0), None));
        assert_eq!(moments(&[0.5]), Moments { mean: Some(0.5), std: None, effect_size: None });
        assert_eq!(moments(&[]), Moments { mean: None, std: None, effect_size: None });
    }

    #[test]
    fn p_values() {
        let p = |values: &[Option<f64>]| anytime_p(values.iter().copied());
        assert_eq!(p(&[]), None);
        assert_eq!(p(&[Some(-3.0)]), Some(1.0), "never above 1");
        assert!((p(&[Some(0.0), Some(5.0), Some(2.0)]).unwrap() - (-5.0_f64).exp()).abs() < 1e-15);
        assert_eq!(p(&[Some(1.0), None]), None);
    }

    const AUDIT: DecisionParams = DecisionParams { alpha: 0.01, gamma: 0.05, delta: 0.2, n_max: 200 };

    /// On zeros, what each decider can certify after 100 scores: between what nobody can and
    /// what its own stopping time says.
    #[test]
    fn every_decider_certifies_a_delta() {
        let plugins = crate::plugin::PluginSet::builtin().unwrap();
        let least = crate::domain::modes::attainable_delta(0.01, 100);
        for (id, most) in
            [("grid5", 0.06), ("hedged", 0.10), ("prpl-eb", 0.12), ("stitched", 0.18), ("binomial", 0.08)]
        {
            let decider = plugins.decider(id).unwrap();
            let steps = replay(&decider, &AUDIT, &[0.0; 100]).unwrap();
            let found = smallest_delta(&decider, &AUDIT, &[0.0; 100], &steps).unwrap().unwrap();
            assert!((least..most).contains(&found), "{id}: {found}");
        }
        // Nothing is certified by ones, nor by a rule that has not looked yet.
        for (id, scores) in
            [("grid5", vec![1.0; 100]), ("prpl-eb", vec![1.0; 100]), ("fixed-eb", vec![0.0; 100])]
        {
            let decider = plugins.decider(id).unwrap();
            let steps = replay(&decider, &AUDIT, &scores).unwrap();
            assert_eq!(smallest_delta(&decider, &AUDIT, &scores, &steps).unwrap(), None, "{id}");
        }
    }

    /// The forecast keeps its word: of new runs with the needed n, at least 80 % decide.
    #[test]
    fn the_needed_n_decides_most_of_the_time() {
        let plugins = crate::plugin::PluginSet::builtin().unwrap();
        let decider = plugins.decider("grid5").unwrap();
        let mut state = 1_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let params = DecisionParams { gamma: 0.1, delta: 0.1, ..AUDIT };
        let (mut asked, mut decided) = (0, 0);
        for mean in [0.02, 0.05, 0.15, 0.2, 0.3] {
            for _ in 0..30 {
                let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| 2.0 * mean * uniform()).collect() };
                let few = draw(12);
                let Some(n) = needed_n(&decider, &params, &few).unwrap() else { continue };
                let again = draw(usize::try_from(n).unwrap());
                asked += 1;
                let steps = replay(&decider, &DecisionParams { n_max: n, ..params }, &again).unwrap();
                decided += i32::from(stopping_step(&steps, n).is_some());
            }
        }
        // Enough runs that chance alone does not move the share by a tenth.
        assert!(asked >= 112 && 10 * decided >= 8 * asked, "{decided} of {asked} of 150");
    }
}
