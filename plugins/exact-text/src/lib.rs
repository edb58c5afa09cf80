//! Scorer `exact-text`: would the candidate write what the reference wrote?
//!
//! The reference continued the prompt greedily, and both models were then asked, at every
//! position, for their most likely next token after the reference's text so far. X = 0 if
//! the candidate's choice is the reference's next token at every position, else 1. By
//! induction over the positions, X = 0 says that the candidate's own greedy continuation is
//! the same text, token for token: the texts are equal up to each position, so what it was
//! given there is what it would have written itself. X = 1 says that the two part at the note
//! `first_different_row`. What either writes after that is not looked at. The lowest id counts
//! where several tokens are equally likely.
//!
//! A reference's text ends where its own most likely token is not the one that follows (its
//! generation passes over end-of-text tokens, and what comes after is no greedy text). The
//! candidate must want the same token there, and later rows do not count: the note
//! `compared_rows` says how many did.
//!
//! A score is pass or fail, so decider `binomial` is made for it.

use assayd_plugin_sdk::{Refusal, Score, Trial, export_scorer};
use serde::Deserialize;

/// None.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {}

/// The score of one challenge.
///
/// # Errors
/// What the two models did does not fit together, or the rows go beyond the tokens.
pub fn score(trial: &Trial<'_>, _params: &Params) -> Result<Score, Refusal> {
    let rows = trial.aligned_rows()?;
    let (reference, candidate) = (trial.reference.top_tokens()?, trial.candidate.top_tokens()?);
    let tokens = trial.reference.tokens();
    let from = usize::try_from(trial.reference.scored_from()).unwrap_or(usize::MAX);
    let text = tokens.get(from..).unwrap_or_default();
    if text.len() < reference.len() {
        return Err(Refusal::InvalidEvidence(format!("{} tokens were scored in {rows} rows", text.len())));
    }
    let mut compared = 0_u32;
    let mut first_different = None;
    for ((wanted, chosen), follows) in reference.iter().zip(&candidate).zip(text) {
        if chosen != wanted {
            first_different = Some(compared);
        }
        compared += 1;
        if chosen != wanted || wanted != follows {
            break;
        }
    }
    let score = match first_different {
        None => Score::new(0.0),
        Some(row) => Score::new(1.0).note("first_different_row", f64::from(row)),
    };
    Ok(score.note("compared_rows", f64::from(compared)).note("rows", f64::from(rows)))
}

export_scorer!("exact-text", score, r#"{"type":"object","additionalProperties":false}"#);

#[cfg(test)]
mod tests {
    use assayd_plugin_sdk::PlainTrace;
    use assayd_plugin_sdk::testing::{misfits, summary, toy};

    use super::*;

    const A: &[f32] = &[1.0, 0.0, 0.0];
    const B: &[f32] = &[0.0, 1.0, 0.0];
    /// Wants token 2, the end of the text.
    const END: &[f32] = &[0.0, 0.5, 1.0];

    fn scored(reference: PlainTrace, candidate: PlainTrace) -> Result<Score, Refusal> {
        score(&Trial::plain("c", reference, candidate), &Params::default())
    }

    fn notes(score: &Score) -> Vec<(&str, f64)> {
        score.notes.iter().map(|(name, value)| (name.as_str(), *value)).collect()
    }

    #[test]
    fn same_text_or_the_row_where_they_part() {
        let reference = || toy(&[A, B, A], &[0, 1, 0]);
        let same = scored(reference(), toy(&[A, B, A], &[0, 1, 0])).unwrap();
        assert_eq!((same.value, notes(&same)), (0.0, vec![("compared_rows", 3.0), ("rows", 3.0)]));
        let parted = scored(reference(), toy(&[A, A, B], &[0, 1, 0])).unwrap();
        assert_eq!(parted.value, 1.0);
        assert_eq!(notes(&parted), [("first_different_row", 1.0), ("compared_rows", 2.0), ("rows", 3.0)]);
        let last = scored(summary(reference()), summary(toy(&[A, B, B], &[0, 1, 0]))).unwrap();
        assert_eq!((last.value, notes(&last)[0]), (1.0, ("first_different_row", 2.0)));
    }

    #[test]
    fn the_text_ends_where_the_reference_wanted_to_end_it() {
        // After two tokens the reference wants to stop; the third was forced.
        let reference = || toy(&[A, B, END, A], &[0, 1, 1, 0]);
        let stops_too = scored(reference(), toy(&[A, B, END, B], &[0, 1, 1, 0])).unwrap();
        assert_eq!((stops_too.value, notes(&stops_too)[0]), (0.0, ("compared_rows", 3.0)));
        let goes_on = scored(reference(), toy(&[A, B, B, A], &[0, 1, 1, 0])).unwrap();
        assert_eq!((goes_on.value, notes(&goes_on)[0]), (1.0, ("first_different_row", 2.0)));
        assert_eq!(scored(reference(), reference()).unwrap().value, 0.0);
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_never_a_number() {
        for (what, reference, candidate) in misfits() {
            let outcome = scored(reference, candidate);
            assert!(matches!(outcome, Err(Refusal::InvalidEvidence(_))), "{what}: {outcome:?}");
        }
        let good = || toy(&[A, B], &[0, 1]);
        for broken in [PlainTrace { argmax: vec![0], ..good() }, PlainTrace { argmax: vec![0, 3], ..good() }]
        {
            assert!(matches!(scored(good(), broken), Err(Refusal::InvalidEvidence(_))));
        }
        let short = || PlainTrace { tokens: vec![0, 0], ..good() };
        assert!(matches!(scored(short(), short()), Err(Refusal::InvalidEvidence(_))));
    }
}
