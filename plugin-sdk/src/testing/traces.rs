//! Traces of toy models for the tests of scorers.

use crate::{PlainTrace, Row};

/// What a model with these logits, one slice per row, does on the token 0 and this
/// continuation.
pub fn toy(logits: &[&[f32]], continuation: &[u32]) -> PlainTrace {
    let log_sum_exp: Vec<f64> =
        logits.iter().map(|row| row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln()).collect();
    let of_token = |(row, &token): (&&[f32], &u32)| {
        let logit = usize::try_from(token).ok().and_then(|token| row.get(token));
        logit.map_or(f64::NEG_INFINITY, |&logit| logit.into())
    };
    let best = |row: &&[f32]| {
        // The lowest id wins a tie.
        let best = (0_u32..).zip(*row).reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.map_or(0, |(token, _)| token)
    };
    let entropy = |(row, &lse): (&&[f32], &f64)| {
        let terms = row.iter().map(|&x| (f64::from(x) - lse).exp() * (lse - f64::from(x)));
        terms.filter(|term| !term.is_nan()).sum()
    };
    PlainTrace {
        tokens: std::iter::once(0).chain(continuation.iter().copied()).collect(),
        scored_from: 1,
        vocab: logits.first().map_or(0, |row| u32::try_from(row.len()).unwrap_or(u32::MAX)),
        token_logprobs: logits
            .iter()
            .zip(continuation)
            .zip(&log_sum_exp)
            .map(|(row, lse)| of_token(row) - lse)
            .collect(),
        entropy: logits.iter().zip(&log_sum_exp).map(entropy).collect(),
        argmax: logits.iter().map(best).collect(),
        rows: logits.iter().map(|row| Row::Full(row.to_vec())).collect(),
        log_sum_exp,
    }
}

/// The same without distributions.
pub fn summary(trace: PlainTrace) -> PlainTrace {
    PlainTrace { rows: vec![Row::Summary; trace.rows.len()], ..trace }
}

/// Pairs of a reference and a candidate that do not fit together, with what is wrong. A
/// scorer must refuse each of them.
pub fn misfits() -> Vec<(&'static str, PlainTrace, PlainTrace)> {
    let good = || toy(&[&[1.0, 0.0], &[0.0, 2.0]], &[0, 1]);
    let wrong: [(&str, PlainTrace); 4] = [
        ("other tokens", toy(&[&[1.0, 0.0], &[0.0, 2.0]], &[0, 0])),
        ("another vocabulary", toy(&[&[1.0, 0.0, 0.0], &[0.0, 2.0, 0.0]], &[0, 1])),
        ("fewer rows", toy(&[&[1.0, 0.0]], &[0])),
        ("another first position", PlainTrace { scored_from: 0, ..good() }),
    ];
    let mut all: Vec<_> = wrong.into_iter().map(|(what, candidate)| (what, good(), candidate)).collect();
    all.push(("no rows", toy(&[], &[]), toy(&[], &[])));
    all
}
