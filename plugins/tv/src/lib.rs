//! Scorer `tv`: the total variation distance of two models' predictions.
//!
//! X = mean over the scored rows of sum |p - q| / 2, between 0 (equal) and 1 (no token in
//! common); nothing is clipped. It is the largest difference in probability that the two
//! models give to any set of tokens, hence also the least share of tokens that must come out
//! differently however the two are sampled. Exact where whole distributions were captured, a
//! lower bound over coarsened ones (note `coarse`).

use assayd_plugin_sdk::{Divergence, Refusal, Score, Trial, export_scorer};
use serde::Deserialize;

/// None: the range needs no clip.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {}

/// Half the sum of the absolute differences.
fn total_variation(p: &[f64], q: &[f64]) -> f64 {
    0.5 * p.iter().zip(q).map(|(ln_p, ln_q)| (ln_p.exp() - ln_q.exp()).abs()).sum::<f64>()
}

/// The score of one challenge.
///
/// # Errors
/// What the two models did does not fit together, or was not captured.
pub fn score(trial: &Trial<'_>, _params: &Params) -> Result<Score, Refusal> {
    Divergence::of_rows(trial, |cells| total_variation(&cells.reference, &cells.candidate))?
        .clipped("tv", 1.0)
}

export_scorer!("tv", score, r#"{"type":"object","additionalProperties":false}"#);

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
    const MEAN: f64 = 0.113_219_275_352_718_4;

    #[test]
    fn golden_value_in_both_directions() {
        for score in [scored(reference(), candidate()), scored(candidate(), reference())] {
            let score = score.unwrap();
            assert!((score.value - MEAN).abs() < 1e-9);
            // The first row alone: e / (1 + e) - 1/2.
            let first = 1.0_f64.exp() / (1.0 + 1.0_f64.exp()) - 0.5;
            assert!((note(&score, "max_tv").unwrap() - first).abs() < 1e-12);
        }
    }

    #[test]
    fn equal_is_exactly_zero_and_disjoint_is_one() {
        assert_eq!(scored(reference(), reference()).unwrap().value.to_bits(), 0);
        let (one, other) = (toy(&[&[0.0, f32::NEG_INFINITY]], &[0]), toy(&[&[f32::NEG_INFINITY, 0.0]], &[0]));
        assert!((scored(one, other).unwrap().value - 1.0).abs() < 1e-12);
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
        assert!(note(&full, "mean_tv").unwrap() > 0.01 && note(&coarse, "mean_tv").unwrap() < 1e-6);
    }
}
