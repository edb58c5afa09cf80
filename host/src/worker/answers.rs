//! What a worker's answers must look like to be believed: they come from a process that has read
//! a hostile file, or talked to a hostile endpoint.

use crate::domain::trace::{COARSE_BUCKETS, COARSE_TOP, Distribution, Trace};
use crate::engine::{Detail, RunRecord, RunSequence, RunSpec, ScoreItem};

/// Whether a record answers its run and holds only possible values.
pub(super) fn fits_run(record: &RunRecord, spec: &RunSpec, vocab: u32) -> bool {
    let possible = |sequence: &RunSequence| {
        let length = sequence.tokens.len();
        let rising = sequence.seconds.iter().zip(sequence.seconds.iter().skip(1)).all(|(a, b)| a <= b);
        length <= spec.new_tokens as usize
            && (length == spec.new_tokens as usize || sequence.ended)
            && sequence.tokens.iter().all(|&token| token < vocab)
            && [0, length].contains(&sequence.logprobs.len())
            && sequence.logprobs.iter().all(|lp| lp.is_finite() && *lp <= 1e-6)
            && [0, length].contains(&sequence.seconds.len())
            && sequence.seconds.iter().all(|s| s.is_finite() && *s >= 0.0)
            && rising
    };
    record.sequences.len() == spec.prompts.len() && record.sequences.iter().all(possible)
}

/// Checks that a trace answers its item from row `first` on and holds only possible numbers.
pub(super) fn check_trace(
    trace: &Trace,
    item: &ScoreItem,
    first: usize,
    vocab: u32,
    remote: bool,
) -> Result<(), String> {
    let left = item.rows().saturating_sub(first);
    let rows = if item.detail == Detail::Whole { trace.rows() } else { left };
    let bad = |what: &str| Err(format!("the worker's trace is not valid: {what}"));
    let from = item.scored_from as usize + first;
    if trace.tokens != item.tokens || trace.scored_from as usize != from || trace.vocab != vocab {
        return bad("it is of another sequence");
    }
    if rows == 0 || rows > left {
        return bad("it has no rows, or more than there are");
    }
    let lengths = [trace.log_sum_exp.len(), trace.entropy.len(), trace.argmax.len()];
    let whole = match trace.distribution {
        // What an endpoint does not tell is left out, and never a part of it.
        Distribution::Tokens => lengths == [0, 0, rows] || lengths == [0, 0, 0],
        _ => lengths == [rows; 3],
    };
    if trace.token_logprobs.len() != rows || !whole {
        return bad("rows are missing");
    }
    let numbers = trace.token_logprobs.iter().chain(&trace.log_sum_exp).chain(&trace.entropy);
    if !numbers.into_iter().all(|x| x.is_finite()) || trace.token_logprobs.iter().any(|&lp| lp > 1e-6) {
        return bad("a number is impossible");
    }
    if trace.argmax.iter().any(|&token| token >= vocab) {
        return bad("a token is not in the vocabulary");
    }
    let detail_fits = match (&trace.distribution, &item.detail) {
        (Distribution::Summary, Detail::Summary) => true,
        (Distribution::Tokens, _) => remote,
        (Distribution::Full { logits }, Detail::Own | Detail::Whole | Detail::Exact) => {
            logits.len() == rows * vocab as usize && logits.iter().all(|z| z.is_finite())
        }
        (Distribution::Half { bytes }, Detail::Exact) => {
            // Exponent bits that are all ones are infinite or no number.
            let (pairs, _) = bytes.as_chunks::<2>();
            bytes.len() == 2 * rows * vocab as usize
                && pairs.iter().all(|pair| u16::from_le_bytes(*pair) & 0x7c00 != 0x7c00)
        }
        (
            Distribution::Coarse { kept, ids, logits, bucket_logits, bucket_least },
            Detail::Own | Detail::Given { .. },
        ) => {
            let asked = match &item.detail {
                Detail::Given { ids: asked } => asked == ids,
                Detail::Summary | Detail::Own | Detail::Whole | Detail::Exact => true,
            };
            asked
                && *kept as usize == COARSE_TOP
                && ids.len() == rows * COARSE_TOP
                && ids.iter().all(|&id| id < vocab)
                && logits.len() == ids.len()
                && logits.iter().all(|z| z.is_finite())
                && bucket_logits.len() == rows * COARSE_BUCKETS
                && bucket_logits.iter().all(|z| !z.is_nan() && *z != f32::INFINITY)
                && bucket_least.len() == bucket_logits.len()
                && bucket_least.iter().all(|z| !z.is_nan() && *z != f32::NEG_INFINITY)
        }
        _ => false,
    };
    if detail_fits { Ok(()) } else { bad("the distribution is not the one asked for") }
}
