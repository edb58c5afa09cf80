//! Fixtures and checks for scorers of whole distributions.

use super::traces::{misfits, summary, toy};
use crate::{PlainTrace, Refusal, Result, Row, Score};

/// Three rows of a reference and a candidate with two tokens; the second row is alike.
pub fn three_rows() -> (PlainTrace, PlainTrace) {
    let tokens = &[0, 1, 1];
    (
        toy(&[&[1.0, 0.0], &[0.0, 2.0], &[0.5, 0.0]], tokens),
        toy(&[&[0.0, 0.0], &[0.0, 2.0], &[1.0, 0.0]], tokens),
    )
}

/// A note of a score.
pub fn note(score: &Score, name: &str) -> Option<f64> {
    score.notes.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
}

/// What does not fit together, was not captured or is not a number is refused, never scored.
///
/// # Panics
/// The scorer takes some of it.
#[track_caller]
pub fn refuses_what_does_not_fit(scored: impl Fn(PlainTrace, PlainTrace) -> Result<Score>) {
    for (what, reference, candidate) in misfits() {
        let outcome = scored(reference, candidate);
        assert!(matches!(outcome, Err(Refusal::InvalidEvidence(_))), "{what}: {outcome:?}");
    }
    let (reference, candidate) = three_rows();
    let bare = summary(reference.clone());
    assert!(matches!(scored(bare.clone(), bare.clone()), Err(Refusal::Unsupported(_))), "no distributions");
    assert!(matches!(scored(reference.clone(), bare), Err(Refusal::InvalidEvidence(_))), "one without");
    let nan = PlainTrace { rows: vec![Row::Full(vec![f32::NAN; 2]); 3], ..candidate };
    assert!(matches!(scored(reference, nan), Err(Refusal::InvalidEvidence(_))), "not a number");
}

/// Two tokens in one cell: less can be seen, never more. `name` is the note of the mean.
///
/// # Panics
/// The scorer sees what a coarse distribution hides, or does not say that it was coarse.
#[track_caller]
pub fn loses_by_coarsening(scored: impl Fn(PlainTrace, PlainTrace) -> Result<Score>, name: &str) {
    let whole = [toy(&[&[1.0, 0.0, -1.0]], &[0]), toy(&[&[1.0, -1.0, 0.0]], &[0])];
    let coarse = whole.clone().map(|trace| {
        let rest = (1.0_f64 + (-1.0_f64).exp()).ln() as f32;
        let row = Row::Coarse { ids: vec![0], logits: vec![1.0], buckets: vec![rest] };
        PlainTrace { rows: vec![row], ..trace }
    });
    let [full, coarse] = [whole, coarse].map(|[a, b]| scored(a, b));
    let of = |score: &Result<Score>, key: &str| score.as_ref().ok().and_then(|score| note(score, key));
    assert_eq!((of(&full, "coarse"), of(&coarse, "coarse")), (Some(0.0), Some(1.0)));
    assert!(of(&full, name).is_some_and(|mean| mean > 0.01), "{full:?}");
    assert!(of(&coarse, name).is_some_and(|mean| mean < 1e-6), "{coarse:?}");
}
