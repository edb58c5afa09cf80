//! Scorer `delta-ce`: how much better one model foresees the tokens than the other.
//!
//! X = min(|mean over the scored rows of ln p(token) - ln q(token)|, B) / B with p the
//! reference, q the candidate and B = `clip_nats`: the absolute difference of the two
//! cross-entropies (mean negative log-likelihoods) on the same tokens, in nats. It needs the
//! log-probabilities of the actual tokens only, so it is exact for every vocabulary.
//!
//! Differences of opposite sign cancel within a challenge, and what the models think of
//! other tokens does not count: two different models can score 0. The sign is taken away
//! per challenge, so noise raises the mean score and never lowers it; the note
//! `delta_ce_nats` keeps the sign (positive: the reference foresees the tokens better).

use assayd_plugin_sdk::{Refusal, Score, Trace, Trial, export_scorer};
use serde::Deserialize;

/// A log-probability may exceed zero by this much through rounding.
const ROUNDING: f64 = 1e-6;

/// Parameters, all optional.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Differences are clipped at this many nats and divided by it.
    pub clip_nats: f64,
    /// Score this many rows, the first ones; all if absent. More than there are is an error.
    pub positions: Option<usize>,
}

impl Default for Params {
    fn default() -> Self {
        Self { clip_nats: 0.1, positions: None }
    }
}

/// The log-probabilities of the actual tokens, one per row.
fn log_probabilities(trace: &Trace<'_>, rows: usize, side: &str) -> Result<Vec<f64>, Refusal> {
    let values = trace.token_logprobs();
    if values.len() != rows {
        let (has, side) = (values.len(), side);
        return Err(Refusal::InvalidEvidence(format!(
            "the {side} has {has} log-probabilities for {rows} rows"
        )));
    }
    match (0..).zip(&values).find(|(_, value)| value.is_nan() || **value > ROUNDING) {
        Some((row, value)) => {
            let row: usize = row;
            Err(Refusal::InvalidEvidence(format!("the {side} has a log-probability of {value} in row {row}")))
        }
        None => Ok(values),
    }
}

/// The score of one challenge.
///
/// # Errors
/// What the two models did does not fit together, or more positions are asked for than there are.
pub fn score(trial: &Trial<'_>, params: &Params) -> Result<Score, Refusal> {
    let Params { clip_nats, positions } = *params;
    if !(clip_nats.is_finite() && clip_nats > 0.0) {
        return Err(Refusal::InvalidParams(format!("the clip must be a positive number, not {clip_nats}")));
    }
    let there = usize::try_from(trial.aligned_rows()?)
        .map_err(|_| Refusal::InvalidEvidence("there are too many rows".into()))?;
    let rows = positions.unwrap_or(there);
    if rows == 0 {
        return Err(Refusal::InvalidParams("positions must be at least 1".into()));
    }
    if rows > there {
        return Err(Refusal::InvalidEvidence(format!(
            "{rows} positions are asked for, and {there} were scored"
        )));
    }
    let reference = log_probabilities(&trial.reference, there, "reference")?;
    let candidate = log_probabilities(&trial.candidate, there, "candidate")?;
    let pairs = || reference.iter().zip(&candidate).take(rows);
    let impossible = pairs().filter(|(p, q)| p.is_infinite() || q.is_infinite()).count();
    if impossible > 0 {
        // One model holds the actual token for impossible: no finite difference, and as
        // different as can be told apart.
        return Ok(Score::new(1.0).note("infinite_rows", impossible as f64).note("rows", rows as f64));
    }
    let difference = pairs().map(|(p, q)| p - q).sum::<f64>() / rows as f64;
    let cross_entropy = |values: &[f64]| -values.iter().take(rows).sum::<f64>() / rows as f64;
    Ok(Score::new((difference.abs() / clip_nats).min(1.0))
        .note("delta_ce_nats", difference)
        .note("reference_ce_nats", cross_entropy(&reference))
        .note("candidate_ce_nats", cross_entropy(&candidate))
        .note("rows", rows as f64))
}

export_scorer!(
    "delta-ce",
    score,
    r#"{"type":"object","additionalProperties":false,"properties":{"clip_nats":{"type":"number","exclusiveMinimum":0,"default":0.1},"positions":{"type":["integer","null"],"minimum":1,"default":null}}}"#
);

#[cfg(test)]
mod tests {
    use assayd_plugin_sdk::PlainTrace;
    use assayd_plugin_sdk::testing::{misfits, summary, toy};

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

    fn with(params: &Params) -> Result<Score, Refusal> {
        score(&Trial::plain("c", reference(), candidate()), params)
    }

    /// The value of the formula, computed apart from this code with 30 digits.
    const MEAN: f64 = 0.239_690_065_459_946_2;

    #[test]
    fn golden_value_and_sign() {
        let score = with(&Params { clip_nats: 0.5, ..Params::default() }).unwrap();
        assert!((score.value - MEAN / 0.5).abs() < 1e-9);
        assert!((note(&score, "delta_ce_nats").unwrap() - MEAN).abs() < 1e-12);
        // By hand: the second row is alike, so only ln(e / (1 + e)) - ln(1/2) is left of two.
        let first_two = with(&Params { clip_nats: 0.5, positions: Some(2) }).unwrap();
        let by_hand = (1.0 - 1.0_f64.exp().ln_1p() + 2.0_f64.ln()) / 2.0;
        assert!((note(&first_two, "delta_ce_nats").unwrap() - by_hand).abs() < 1e-12);
        let [ours, theirs] =
            ["reference_ce_nats", "candidate_ce_nats"].map(|name| note(&first_two, name).unwrap());
        assert!((theirs - ours - by_hand).abs() < 1e-12, "over the same rows");
        let turned = scored(candidate(), reference()).unwrap();
        assert!((note(&turned, "delta_ce_nats").unwrap() + MEAN).abs() < 1e-12);
        assert_eq!(turned.value, 1.0, "the default clip is 0.1");
        // Distributions are not needed.
        let bare = scored(summary(reference()), summary(candidate())).unwrap();
        assert_eq!(bare, scored(reference(), candidate()).unwrap());
    }

    #[test]
    fn equal_is_exactly_zero_and_impossible_is_one() {
        assert_eq!(scored(reference(), reference()).unwrap().value.to_bits(), 0);
        let never = toy(&[&[f32::NEG_INFINITY, 0.0], &[0.0, 2.0], &[0.5, 0.0]], &[0, 1, 1]);
        let score = scored(reference(), never.clone()).unwrap();
        assert_eq!((score.value, note(&score, "infinite_rows")), (1.0, Some(1.0)));
        assert_eq!(scored(never.clone(), never).unwrap().value, 1.0, "nothing is known to be alike");
    }

    #[test]
    fn positions_are_never_cut_short() {
        for (positions, invalid_params) in [(4, false), (usize::MAX, false), (0, true)] {
            let refusal = with(&Params { positions: Some(positions), ..Params::default() }).unwrap_err();
            assert_eq!(matches!(refusal, Refusal::InvalidParams(_)), invalid_params, "{refusal}");
        }
        for clip_nats in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let refusal = with(&Params { clip_nats, ..Params::default() });
            assert!(matches!(refusal, Err(Refusal::InvalidParams(_))), "{clip_nats}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_never_a_number() {
        for (what, reference, candidate) in misfits() {
            let outcome = scored(reference, candidate);
            assert!(matches!(outcome, Err(Refusal::InvalidEvidence(_))), "{what}: {outcome:?}");
        }
        for bad in [f64::NAN, 0.5, f64::INFINITY] {
            let broken = PlainTrace { token_logprobs: vec![-1.0, bad, -1.0], ..candidate() };
            assert!(matches!(scored(reference(), broken), Err(Refusal::InvalidEvidence(_))), "{bad}");
        }
    }
}
