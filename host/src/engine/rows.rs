//! From rows of logits to traces and next tokens: what every engine does alike.

use super::softmax::{RowSummary, bucket_logits, summarize, top_ids};
use super::{Detail, EngineError, ScoreItem};
use crate::domain::trace::{COARSE_TOP, Distribution, FULL_VOCAB_LIMIT, Trace};

/// Bytes of logits that one step may leave in memory.
pub(super) const LOGIT_BYTES: u64 = 128 << 20;

/// The most likely token that does not end generation, lowest id on ties; `None` if no logit
/// is finite.
pub(super) fn greedy(logits: &[f32], ends: impl Fn(u32) -> bool) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (id, &z) in (0u32..).zip(logits) {
        let better = best.is_none_or(|(_, value)| z > value);
        if better && z.is_finite() && !ends(id) {
            best = Some((id, z));
        }
    }
    best.map(|(id, _)| id)
}

/// Why a continuation stopped without a token.
pub(super) fn not_finite() -> EngineError {
    EngineError::Compute("the logits of a generated token are not finite".to_owned())
}

/// Collects the rows of one sequence as they are computed.
pub(super) struct TraceBuilder<'a> {
    item: &'a ScoreItem,
    trace: Trace,
    failure: Option<String>,
}

impl<'a> TraceBuilder<'a> {
    pub(super) fn new(item: &'a ScoreItem, vocab: u32) -> Self {
        let distribution = match &item.detail {
            Detail::Summary => Distribution::Summary,
            Detail::Own if vocab <= FULL_VOCAB_LIMIT => Distribution::Full { logits: Vec::new() },
            Detail::Own | Detail::Given { .. } => Distribution::Coarse {
                kept: COARSE_TOP as u32,
                ids: Vec::new(),
                logits: Vec::new(),
                bucket_logits: Vec::new(),
            },
        };
        Self {
            item,
            trace: Trace {
                tokens: item.tokens.clone(),
                scored_from: item.scored_from,
                vocab,
                token_logprobs: Vec::new(),
                log_sum_exp: Vec::new(),
                entropy: Vec::new(),
                argmax: Vec::new(),
                distribution,
            },
            failure: None,
        }
    }

    /// Makes the whole sequence unscorable.
    pub(super) fn fail(&mut self, reason: String) {
        self.failure = Some(reason);
    }

    /// Adds the next row; a row that is not finite makes the whole sequence unscorable.
    pub(super) fn push(&mut self, logits: &[f32], summary: Option<RowSummary>) {
        if self.failure.is_some() {
            return;
        }
        let row = self.trace.rows();
        let next = self.item.tokens.get(self.item.scored_from as usize + row);
        let chosen = next.and_then(|&token| logits.get(token as usize));
        let (Some(summary), Some(&chosen)) = (summary, chosen) else {
            self.failure = Some(format!("the logits of scored position {row} are not finite"));
            return;
        };
        self.trace.token_logprobs.push(f64::from(chosen) - summary.log_sum_exp);
        self.trace.log_sum_exp.push(summary.log_sum_exp);
        self.trace.entropy.push(summary.entropy);
        self.trace.argmax.push(summary.argmax);
        match &mut self.trace.distribution {
            Distribution::Summary => {}
            Distribution::Full { logits: kept } => kept.extend_from_slice(logits),
            Distribution::Coarse { ids, logits: kept, bucket_logits: buckets, .. } => {
                let row_ids = match &self.item.detail {
                    Detail::Given { ids } => {
                        ids.get(row * COARSE_TOP..(row + 1) * COARSE_TOP).unwrap_or_default().to_vec()
                    }
                    Detail::Summary | Detail::Own => top_ids(logits),
                };
                kept.extend(row_ids.iter().filter_map(|&id| logits.get(id as usize)));
                buckets.extend(bucket_logits(logits, &row_ids, summary.log_sum_exp));
                ids.extend(row_ids);
            }
        }
    }

    pub(super) fn finish(self) -> Result<Trace, String> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self.trace),
        }
    }
}

/// Summaries of the output rows of one batch, computed on all worker threads.
pub(super) fn summarize_rows(rows: &[&[f32]], threads: usize) -> Vec<Option<RowSummary>> {
    let share = rows.len().div_ceil(threads.max(1)).max(1);
    if threads <= 1 || rows.len() <= 1 {
        return rows.iter().map(|row| summarize(row)).collect();
    }
    std::thread::scope(|scope| {
        let handles: Vec<_> = rows
            .chunks(share)
            .map(|chunk| scope.spawn(move || chunk.iter().map(|row| summarize(row)).collect::<Vec<_>>()))
            .collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap_or_default()).collect()
    })
}
