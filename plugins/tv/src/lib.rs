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
    use assayd_plugin_sdk::PlainTrace;
    use assayd_plugin_sdk::testing::{loses_by_coarsening, note, refuses_what_does_not_fit, three_rows, toy};

    use super::*;

    fn scored(reference: PlainTrace, candidate: PlainTrace) -> Result<Score, Refusal> {
        score(&Trial::plain("c", reference, candidate), &Params::default())
    }

    /// The value of the formula, computed apart from this code with 30 digits.
    const MEAN: f64 = 0.113_219_275_352_718_4;

    #[test]
    fn golden_value_in_both_directions() {
        let (reference, candidate) = three_rows();
        for score in [scored(reference.clone(), candidate.clone()), scored(candidate, reference)] {
            let score = score.unwrap();
            assert!((score.value - MEAN).abs() < 1e-9);
            // The first row alone: e / (1 + e) - 1/2.
            let first = 1.0_f64.exp() / (1.0 + 1.0_f64.exp()) - 0.5;
            assert!((note(&score, "max_tv").unwrap() - first).abs() < 1e-12);
        }
    }

    #[test]
    fn equal_is_exactly_zero_and_disjoint_is_one() {
        let (reference, _) = three_rows();
        assert_eq!(scored(reference.clone(), reference).unwrap().value.to_bits(), 0);
        let (one, other) = (toy(&[&[0.0, f32::NEG_INFINITY]], &[0]), toy(&[&[f32::NEG_INFINITY, 0.0]], &[0]));
        assert!((scored(one, other).unwrap().value - 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_never_a_number() {
        refuses_what_does_not_fit(scored);
    }

    #[test]
    fn a_coarsened_distribution_gives_a_lower_bound() {
        loses_by_coarsening(scored, "mean_tv");
    }
}
