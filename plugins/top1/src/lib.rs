//! Scorer `top1`: how often two models prefer different tokens.
//!
//! X = share of the scored rows at which the candidate's most likely token is not the
//! reference's (the lowest id counts where several are equally likely). Between 0 and 1
//! by nature; nothing is clipped. It needs the most likely token per row only, so it is exact for
//! every vocabulary. All rows are given the same tokens before them, so this is agreement
//! row by row and not equality of two generated texts; that is what `exact-text` tests.

use assayd_plugin_sdk::{Refusal, Score, Trial, export_scorer};
use serde::Deserialize;

/// None.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {}

/// The score of one challenge.
///
/// # Errors
/// What the two models did does not fit together.
pub fn score(trial: &Trial<'_>, _params: &Params) -> Result<Score, Refusal> {
    let rows = trial.aligned_rows()?;
    let (reference, candidate) = (trial.reference.top_tokens()?, trial.candidate.top_tokens()?);
    let different = reference.iter().zip(&candidate).filter(|(p, q)| p != q).count();
    Ok(Score::new(different as f64 / f64::from(rows))
        .note("different_rows", different as f64)
        .note("rows", f64::from(rows)))
}

export_scorer!("top1", score, r#"{"type":"object","additionalProperties":false}"#);

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

    #[test]
    fn shares_by_hand() {
        // In the first row both tokens are equally likely to the candidate, and the lower one counts.
        assert_eq!(scored(reference(), candidate()).unwrap().value, 0.0);
        let other = toy(&[&[0.0, 0.1], &[0.0, 2.0], &[1.0, 0.0]], &[0, 1, 1]);
        let score = scored(reference(), other.clone()).unwrap();
        assert!((score.value - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(score.notes, [("different_rows".to_owned(), 1.0), ("rows".to_owned(), 3.0)]);
        assert_eq!(scored(summary(reference()), summary(other)).unwrap(), score);
        let opposite = toy(&[&[0.0, 1.0], &[2.0, 0.0], &[0.0, 0.5]], &[0, 1, 1]);
        assert_eq!(scored(reference(), opposite).unwrap().value, 1.0);
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_never_a_number() {
        for (what, reference, candidate) in misfits() {
            let outcome = scored(reference, candidate);
            assert!(matches!(outcome, Err(Refusal::InvalidEvidence(_))), "{what}: {outcome:?}");
        }
        for argmax in [vec![0, 1], vec![0, 1, 2], vec![]] {
            let broken = PlainTrace { argmax, ..candidate() };
            assert!(matches!(scored(reference(), broken), Err(Refusal::InvalidEvidence(_))));
        }
    }
}
