//! Scorer `symmetric-kl`: how far two models' predictions are apart, in both directions.
//!
//! X = min(mean over the scored rows of (KL(p ‖ q) + KL(q ‖ p)) / 2, B) / B with p the
//! reference, q the candidate and B = `clip_nats`. Nats; exact where whole distributions were
//! captured, a lower bound over coarsened ones (note `coarse`). A token that one side gives
//! probability zero and the other does not makes it infinite, which is a score of 1. Clipping
//! makes the score's mean an estimate of E[min(divergence, B)] / B.

use assayd_plugin_sdk::{Divergence, Refusal, Score, Trial, export_scorer, kl_nats};
use serde::Deserialize;

/// Parameters, all optional.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Divergences are clipped at this many nats and divided by it.
    pub clip_nats: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self { clip_nats: 0.1 }
    }
}

/// Half the sum of both directions, in nats.
fn symmetric_kl(p: &[f64], q: &[f64]) -> f64 {
    0.5 * (kl_nats(p, q) + kl_nats(q, p))
}

/// The score of one challenge.
///
/// # Errors
/// What the two models did does not fit together, or was not captured.
pub fn score(trial: &Trial<'_>, params: &Params) -> Result<Score, Refusal> {
    Divergence::of_rows(trial, |cells| symmetric_kl(&cells.reference, &cells.candidate))?
        .clipped("symmetric_kl_nats", params.clip_nats)
}

export_scorer!(
    "symmetric-kl",
    score,
    r#"{"type":"object","additionalProperties":false,"properties":{"clip_nats":{"type":"number","exclusiveMinimum":0,"default":0.1}}}"#
);

#[cfg(test)]
mod tests {
    use assayd_plugin_sdk::PlainTrace;
    use assayd_plugin_sdk::testing::{loses_by_coarsening, note, refuses_what_does_not_fit, three_rows, toy};

    use super::*;

    fn scored(reference: PlainTrace, candidate: PlainTrace) -> Result<Score, Refusal> {
        score(&Trial::plain("c", reference, candidate), &Params::default())
    }

    /// The value of the formula, computed apart from this code with 30 digits.
    const MEAN: f64 = 0.047_559_700_390_680_6;

    #[test]
    fn golden_value_in_both_directions() {
        let (reference, candidate) = three_rows();
        for score in [scored(reference.clone(), candidate.clone()), scored(candidate, reference)] {
            let score = score.unwrap();
            assert!((note(&score, "mean_symmetric_kl_nats").unwrap() - MEAN).abs() < 1e-12);
            assert!((score.value - MEAN / 0.1).abs() < 1e-9);
        }
    }

    #[test]
    fn equal_is_exactly_zero_and_far_apart_is_one() {
        let (reference, candidate) = three_rows();
        assert_eq!(scored(reference.clone(), reference.clone()).unwrap().value.to_bits(), 0);
        let certain = toy(&[&[0.0, f32::NEG_INFINITY], &[0.0, 2.0], &[0.5, 0.0]], &[0, 1, 1]);
        for score in [scored(reference.clone(), certain.clone()), scored(certain, reference.clone())] {
            let score = score.unwrap();
            assert_eq!((score.value, note(&score, "infinite_rows")), (1.0, Some(1.0)));
        }
        for clip_nats in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let trial = Trial::plain("c", reference.clone(), candidate.clone());
            assert!(matches!(score(&trial, &Params { clip_nats }), Err(Refusal::InvalidParams(_))));
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_never_a_number() {
        refuses_what_does_not_fit(scored);
    }

    #[test]
    fn a_coarsened_distribution_gives_a_lower_bound() {
        loses_by_coarsening(scored, "mean_symmetric_kl_nats");
    }
}
