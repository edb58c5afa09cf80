//! From rows of logits to traces and next tokens: what every engine does alike.

use super::softmax::{RowSummary, buckets, half_row, summarize, top_ids};
use super::{Detail, EngineError, ScoreItem};
use crate::domain::budget;
use crate::domain::trace::{COARSE_TOP, Distribution, FULL_VOCAB_LIMIT, Trace};

/// Bytes of logits that one step may leave in memory.
pub(super) const LOGIT_BYTES: u64 = 128 << 20;

/// The most likely token that does not end generation, lowest id on ties; and whether one
/// that ends it is likelier still.
///
/// # Errors
/// No logit is finite.
pub(super) fn greedy(logits: &[f32], ends: impl Fn(u32) -> bool) -> Result<(u32, bool), EngineError> {
    let mut best: Option<(u32, f32)> = None;
    let mut end = f32::NEG_INFINITY;
    for (id, &z) in (0u32..).zip(logits) {
        if z.is_finite() && best.is_none_or(|(_, value)| z > value) {
            if ends(id) {
                end = end.max(z);
            } else {
                best = Some((id, z));
            }
        }
    }
    best.map(|(id, value)| (id, end > value))
        .ok_or_else(|| EngineError::Compute("the logits of a generated token are not finite".to_owned()))
}

/// Collects the rows of one sequence as they are computed.
pub(super) struct TraceBuilder<'a> {
    item: &'a ScoreItem,
    /// The rows since the last part that was handed over.
    trace: Trace,
    failure: Option<String>,
}

impl<'a> TraceBuilder<'a> {
    pub(super) fn new(item: &'a ScoreItem, vocab: u32) -> Self {
        Self { item, trace: Self::blank(item, vocab, item.scored_from), failure: None }
    }

    fn blank(item: &ScoreItem, vocab: u32, scored_from: u32) -> Trace {
        let distribution = match &item.detail {
            Detail::Summary => Distribution::Summary,
            Detail::Own | Detail::Exact if vocab <= FULL_VOCAB_LIMIT => {
                Distribution::Full { logits: Vec::new() }
            }
            Detail::Whole => Distribution::Full { logits: Vec::new() },
            Detail::Exact => Distribution::Half { bytes: Vec::new() },
            Detail::Own | Detail::Given { .. } => Distribution::Coarse {
                kept: COARSE_TOP as u32,
                ids: Vec::new(),
                logits: Vec::new(),
                bucket_logits: Vec::new(),
                bucket_least: Vec::new(),
            },
        };
        Trace {
            tokens: item.tokens.clone(),
            scored_from,
            vocab,
            token_logprobs: Vec::new(),
            log_sum_exp: Vec::new(),
            entropy: Vec::new(),
            argmax: Vec::new(),
            distribution,
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
        let next = self.item.tokens.get(self.trace.scored_from as usize + row);
        let chosen = next.and_then(|&token| logits.get(token as usize));
        let (Some(summary), Some(&chosen)) = (summary, chosen) else {
            self.failure = Some(format!("the logits of scored position {row} are not finite"));
            return;
        };
        self.trace.token_logprobs.push(f64::from(chosen) - summary.log_sum_exp);
        self.trace.entropy.push(summary.entropy);
        self.trace.argmax.push(summary.argmax);
        let mut log_sum_exp = summary.log_sum_exp;
        match &mut self.trace.distribution {
            Distribution::Summary | Distribution::Tokens => {}
            Distribution::Full { logits: kept } => kept.extend_from_slice(logits),
            Distribution::Half { bytes } => match half_row(logits, log_sum_exp) {
                Some((row, stored)) => {
                    bytes.extend(row);
                    log_sum_exp = stored;
                }
                None => self.failure = Some(format!("scored position {row} cannot be kept in 16 bits")),
            },
            Distribution::Coarse { ids, logits: kept, bucket_logits, bucket_least, .. } => {
                let row_ids = match &self.item.detail {
                    Detail::Given { ids } => {
                        ids.get(row * COARSE_TOP..(row + 1) * COARSE_TOP).unwrap_or_default().to_vec()
                    }
                    Detail::Summary | Detail::Own | Detail::Whole | Detail::Exact => top_ids(logits),
                };
                kept.extend(row_ids.iter().filter_map(|&id| logits.get(id as usize)));
                let rest = buckets(logits, &row_ids, log_sum_exp);
                bucket_logits.extend(rest.logits);
                bucket_least.extend(rest.least);
                ids.extend(row_ids);
            }
        }
        self.trace.log_sum_exp.push(log_sum_exp);
    }

    /// The rows so far, where parts are wanted and there are enough for one.
    pub(super) fn part(&mut self) -> Option<Trace> {
        let Distribution::Full { logits } = &self.trace.distribution else { return None };
        let enough = logits.len() >= budget::TRACE_PART_BYTES / size_of::<f32>();
        if self.item.detail != Detail::Whole || self.failure.is_some() || !enough {
            return None;
        }
        let next = self.trace.scored_from.saturating_add(u32::try_from(self.trace.rows()).ok()?);
        let blank = Self::blank(self.item, self.trace.vocab, next);
        Some(std::mem::replace(&mut self.trace, blank))
    }

    /// What is left to hand over; `None` when the last part was the end.
    pub(super) fn finish(self) -> Option<Result<Trace, String>> {
        match self.failure {
            Some(failure) => Some(Err(failure)),
            None if self.trace.rows() == 0 && self.trace.scored_from > self.item.scored_from => None,
            None => Some(Ok(self.trace)),
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
