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
    use assayd_plugin_sdk::testing::{misfits, summary, toy};
    use assayd_plugin_sdk::{PlainTrace, Row};

    use super::*;

    /// Three rows of a model with two tokens; the second row is alike.
    fn reference() -> PlainTrace {
        toy(&[&[1.0, 0.0], &[0.0, 2.0], &[0.5, 0.0]], &[0, 1, 1])
    }

    fn candidate() -> PlainTrace {
        toy(&[&[0.0, 0.0], &[0.0, 2.0], &[1.0, 0.0]], &[0, 1, 1])
    }

    fn scored(reference: PlainTrace, candidate: PlainTrace) -> Result<Score, Refusal> {
        score(&Trial::plain("c", reference, candidate), &Params::default())
    }

    fn note(score: &Score, name: &str) -> Option<f64> {
        score.notes.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// The value of the formula, computed apart from this code with 30 digits.
    const MEAN: f64 = 0.047_559_700_390_680_6;

    #[test]
    fn golden_value_in_both_directions() {
        for score in [scored(reference(), candidate()), scored(candidate(), reference())] {
            let score = score.unwrap();
            assert!((note(&score, "mean_symmetric_kl_nats").unwrap() - MEAN).abs() < 1e-12);
            assert!((score.value - MEAN / 0.1).abs() < 1e-9);
        }
    }

    #[test]
    fn equal_is_exactly_zero_and_far_apart_is_one() {
        assert_eq!(scored(reference(), reference()).unwrap().value.to_bits(), 0);
        let certain = toy(&[&[0.0, f32::NEG_INFINITY], &[0.0, 2.0], &[0.5, 0.0]], &[0, 1, 1]);
        for score in [scored(reference(), certain.clone()), scored(certain, reference())] {
            let score = score.unwrap();
            assert_eq!((score.value, note(&score, "infinite_rows")), (1.0, Some(1.0)));
        }
        for clip_nats in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let trial = Trial::plain("c", reference(), candidate());
            assert!(matches!(score(&trial, &Params { clip_nats }), Err(Refusal::InvalidParams(_))));
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_never_a_number() {
        for (what, reference, candidate) in misfits() {
            let outcome = scored(reference, candidate);
            assert!(matches!(outcome, Err(Refusal::InvalidEvidence(_))), "{what}: {outcome:?}");
        }
        let bare = summary(reference());
        assert!(matches!(scored(bare.clone(), bare.clone()), Err(Refusal::Unsupported(_))));
        assert!(matches!(scored(reference(), bare), Err(Refusal::InvalidEvidence(_))));
        let nan = PlainTrace { rows: vec![Row::Full(vec![f32::NAN; 2]); 3], ..candidate() };
        assert!(matches!(scored(reference(), nan), Err(Refusal::InvalidEvidence(_))));
    }

    /// Two tokens in one cell: less can be seen, never more.
    #[test]
    fn a_coarsened_distribution_gives_a_lower_bound() {
        let whole = [toy(&[&[1.0, 0.0, -1.0]], &[0]), toy(&[&[1.0, -1.0, 0.0]], &[0])];
        let coarse = whole.clone().map(|trace| {
            let rest = (1.0_f64 + (-1.0_f64).exp()).ln() as f32;
            PlainTrace {
                rows: vec![Row::Coarse { ids: vec![0], logits: vec![1.0], buckets: vec![rest] }],
                ..trace
            }
        });
        let [full, coarse] = [whole, coarse].map(|[a, b]| scored(a, b).unwrap());
        assert!(note(&full, "coarse") == Some(0.0) && note(&coarse, "coarse") == Some(1.0));
        assert!(
            note(&full, "mean_symmetric_kl_nats").unwrap() > 0.01
                && note(&coarse, "mean_symmetric_kl_nats").unwrap() < 1e-6
        );
    }
}
