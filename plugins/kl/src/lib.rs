//! Scorer `kl`: how far the candidate's predictions are from the reference's.
//!
//! X = min(mean over the scored rows of KL(reference ‖ candidate), B) / B with B =
//! `clip_nats`. KL is in nats and exact where whole distributions were captured. Over a
//! coarsened distribution it is a lower bound (data processing inequality), which the
//! note `coarse` says. Clipping makes the score's mean an estimate of E[min(KL, B)] / B:
//! a rare huge difference counts as much as a clear one, not more.

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

/// The score of one challenge.
///
/// # Errors
/// What the two models did does not fit together, or was not captured.
pub fn score(trial: &Trial<'_>, params: &Params) -> Result<Score, Refusal> {
    Divergence::of_rows(trial, |cells| kl_nats(&cells.reference, &cells.candidate))?
        .clipped("kl_nats", params.clip_nats)
}

export_scorer!(
    "kl",
    score,
    r#"{"type":"object","additionalProperties":false,"properties":{"clip_nats":{"type":"number","exclusiveMinimum":0,"default":0.1}}}"#
);

#[cfg(test)]
mod tests {
    use assayd_plugin_sdk::{PlainTrace, Row};

    use super::*;

    /// A trace whose rows have the given probabilities, shifted by an arbitrary logit.
    fn trace(rows: &[&[f64]]) -> PlainTrace {
        let shift = 3.0_f64;
        PlainTrace {
            tokens: vec![1; rows.len() + 1],
            scored_from: 1,
            vocab: 4,
            token_logprobs: rows.iter().map(|row| row[1].ln()).collect(),
            log_sum_exp: vec![shift; rows.len()],
            entropy: vec![1.0; rows.len()],
            argmax: vec![0; rows.len()],
            rows: rows
                .iter()
                .map(|row| Row::Full(row.iter().map(|p| (p.ln() + shift) as f32).collect()))
                .collect(),
        }
    }

    fn scored(reference: PlainTrace, candidate: PlainTrace) -> Result<Score, Refusal> {
        score(&Trial::plain("c", reference, candidate), &Params::default())
    }

    fn note(score: &Score, name: &str) -> Option<f64> {
        score.notes.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    const EVEN: &[f64] = &[0.25, 0.25, 0.25, 0.25];
    const SKEW: &[f64] = &[0.5, 0.25, 0.125, 0.125];

    #[test]
    fn equal_distributions_score_exactly_zero() {
        let score = scored(trace(&[EVEN, SKEW]), trace(&[EVEN, SKEW])).unwrap();
        assert_eq!(score.value.to_bits(), 0.0_f64.to_bits());
        assert_eq!(note(&score, "rows"), Some(2.0));
        assert_eq!(note(&score, "coarse"), Some(0.0));
    }

    #[test]
    fn direction_mean_and_clip_are_as_documented() {
        // By hand: KL(skew ‖ even) = ln 4 - 1.75 ln 2 = 0.25 ln 2 nats; the other row is 0.
        let score = scored(trace(&[SKEW, EVEN]), trace(&[EVEN, EVEN])).unwrap();
        let kl = 0.25 * std::f64::consts::LN_2;
        assert!((note(&score, "mean_kl_nats").unwrap() - kl / 2.0).abs() < 1e-7);
        assert!((note(&score, "max_kl_nats").unwrap() - kl).abs() < 1e-7);
        assert!((score.value - kl / 2.0 / 0.1).abs() < 1e-6);
        // Of the reference from the candidate, not the other way round: .7 ln 2.8 + .3 ln .4 and
        // .25 ln (.25/.7) + .75 ln 2.5.
        let steep: &[f64] = &[0.7, 0.1, 0.1, 0.1];
        for (reference, candidate, kl) in [(steep, EVEN, 0.445_846_372), (EVEN, steep, 0.429_813_195)] {
            let score = scored(trace(&[reference]), trace(&[candidate])).unwrap();
            assert!((note(&score, "mean_kl_nats").unwrap() - kl).abs() < 1e-6, "{score:?}");
        }
        // With both rows differing the mean is above the clip and the score is one.
        let clipped = scored(trace(&[EVEN, EVEN]), trace(&[SKEW, SKEW])).unwrap();
        assert_eq!(clipped.value, 1.0);
        assert!((note(&clipped, "mean_kl_nats").unwrap() - kl).abs() < 1e-7, "notes are not clipped");
    }

    #[test]
    fn coarse_rows_give_a_lower_bound() {
        let coarse = |p: &[f64]| {
            let mut buckets = vec![f32::NEG_INFINITY; 2];
            buckets[1] = (p[1] + p[2] + p[3]).ln() as f32;
            PlainTrace {
                rows: vec![Row::Coarse { ids: vec![0], logits: vec![p[0].ln() as f32], buckets }],
                log_sum_exp: vec![0.0],
                ..trace(&[p])
            }
        };
        let score = scored(coarse(SKEW), coarse(EVEN)).unwrap();
        // Two cells: KL((.5, .5) ‖ (.25, .75)) = .5 ln 2 + .5 ln(2/3) = 0.143841.
        assert!((note(&score, "mean_kl_nats").unwrap() - 0.143_841_036).abs() < 1e-6);
        let full = scored(trace(&[SKEW]), trace(&[EVEN])).unwrap();
        assert!(note(&score, "mean_kl_nats") < note(&full, "mean_kl_nats"));
        assert_eq!(note(&score, "coarse"), Some(1.0));
        let other_ids = PlainTrace {
            rows: vec![Row::Coarse {
                ids: vec![2],
                logits: vec![SKEW[0].ln() as f32],
                buckets: vec![f32::NEG_INFINITY, 0.5_f32.ln()],
            }],
            ..coarse(SKEW)
        };
        assert!(matches!(scored(coarse(SKEW), other_ids), Err(Refusal::InvalidEvidence(_))));
    }

    #[test]
    fn impossible_for_the_candidate_is_one_and_not_a_number_in_the_notes() {
        let mut zero = trace(&[EVEN]);
        let third = ((1.0_f64 / 3.0).ln() + 3.0) as f32;
        zero.rows = vec![Row::Full(vec![third, third, third, f32::NEG_INFINITY])];
        let score = scored(trace(&[EVEN]), zero).unwrap();
        assert_eq!(score.value, 1.0);
        assert_eq!(note(&score, "infinite_rows"), Some(1.0));
        assert!(score.notes.iter().all(|(_, value)| value.is_finite()));
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_never_a_number() {
        let good = || trace(&[EVEN]);
        let summary = PlainTrace { rows: vec![Row::Summary], ..good() };
        let nan = PlainTrace { rows: vec![Row::Full(vec![f32::NAN; 4])], ..good() };
        let mass = PlainTrace { log_sum_exp: vec![2.9], ..good() };
        let cases = [
            ("tokens", PlainTrace { tokens: vec![1, 2], ..good() }),
            ("vocab", PlainTrace { vocab: 5, ..good() }),
            ("rows", trace(&[EVEN, EVEN])),
            ("start", PlainTrace { scored_from: 2, ..good() }),
            ("short row", PlainTrace { rows: vec![Row::Full(vec![3.0])], ..good() }),
            ("coverage", summary.clone()),
            ("nan", nan),
            ("mass", mass),
            ("log-sum-exp", PlainTrace { log_sum_exp: vec![], ..good() }),
        ];
        for (what, candidate) in cases {
            let outcome = scored(good(), candidate);
            assert!(matches!(outcome, Err(Refusal::InvalidEvidence(_))), "{what}: {outcome:?}");
        }
        assert!(matches!(scored(summary.clone(), summary), Err(Refusal::Unsupported(_))));
        let none = PlainTrace::default();
        assert!(matches!(scored(none.clone(), none), Err(Refusal::InvalidEvidence(_))));
        for clip_nats in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let trial = Trial::plain("c", good(), good());
            assert!(matches!(score(&trial, &Params { clip_nats }), Err(Refusal::InvalidParams(_))));
        }
    }
}
