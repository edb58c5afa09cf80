//! Scorer `js`: the Jensen-Shannon divergence of two models' predictions.
//!
//! X = mean over the scored rows of JS(p, q) / ln 2, which is JS in bits, between 0 (equal)
//! and 1 (no token in common); nothing is clipped. JS(p, q) = (KL(p ‖ m) + KL(q ‖ m)) / 2
//! with m = (p + q) / 2. Exact where whole distributions were captured, a lower bound over
//! coarsened ones (note `coarse`). The notes are in nats.

use assayd_plugin_sdk::{Divergence, Refusal, Score, Trial, export_scorer};
use serde::Deserialize;

/// None: the range needs no clip.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {}

/// JS(p, q) in nats.
fn js_nats(p: &[f64], q: &[f64]) -> f64 {
    let half = |ln_p: f64, ln_q: f64| {
        let (p, q) = (ln_p.exp(), ln_q.exp());
        if p == 0.0 { 0.0 } else { p * (2.0 * p / (p + q)).ln() }
    };
    0.5 * p.iter().zip(q).map(|(&ln_p, &ln_q)| half(ln_p, ln_q) + half(ln_q, ln_p)).sum::<f64>()
}

/// The score of one challenge.
///
/// # Errors
/// What the two models did does not fit together, or was not captured.
pub fn score(trial: &Trial<'_>, _params: &Params) -> Result<Score, Refusal> {
    Divergence::of_rows(trial, |cells| js_nats(&cells.reference, &cells.candidate))?
        .clipped("js_nats", std::f64::consts::LN_2)
}

export_scorer!("js", score, r#"{"type":"object","additionalProperties":false}"#);

#[cfg(test)]
mod tests {
    use assayd_plugin_sdk::PlainTrace;
    use assayd_plugin_sdk::testing::{loses_by_coarsening, note, refuses_what_does_not_fit, three_rows, toy};

    use super::*;

    fn scored(reference: PlainTrace, candidate: PlainTrace) -> Result<Score, Refusal> {
        score(&Trial::plain("c", reference, candidate), &Params::default())
    }

    /// The value of the formula, computed apart from this code with 30 digits.
    const MEAN: f64 = 0.011_766_138_126_431_598;

    #[test]
    fn golden_value_in_both_directions() {
        let (reference, candidate) = three_rows();
        for score in [scored(reference.clone(), candidate.clone()), scored(candidate, reference)] {
            let score = score.unwrap();
            assert!((note(&score, "mean_js_nats").unwrap() - MEAN).abs() < 1e-12);
            assert!((score.value - MEAN / std::f64::consts::LN_2).abs() < 1e-9);
        }
    }

    #[test]
    fn equal_is_exactly_zero_and_disjoint_is_one() {
        let (reference, _) = three_rows();
        assert_eq!(scored(reference.clone(), reference).unwrap().value.to_bits(), 0);
        let (one, other) = (toy(&[&[0.0, f32::NEG_INFINITY]], &[0]), toy(&[&[f32::NEG_INFINITY, 0.0]], &[0]));
        let disjoint = scored(one, other).unwrap();
        assert!((disjoint.value - 1.0).abs() < 1e-12);
        assert!(note(&disjoint, "max_js_nats").unwrap() <= std::f64::consts::LN_2 + 1e-12);
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_never_a_number() {
        refuses_what_does_not_fit(scored);
    }

    #[test]
    fn a_coarsened_distribution_gives_a_lower_bound() {
        loses_by_coarsening(scored, "mean_js_nats");
    }
}
