//! What one model did on one challenge. The same type travels from the worker's
//! pipe to the plugin's resource.

use serde::{Deserialize, Serialize};

/// Vocabularies up to this size are traced whole; larger ones are coarsened.
pub const FULL_VOCAB_LIMIT: u32 = 8192;
/// Reference tokens kept one by one in a coarse trace.
pub const COARSE_TOP: usize = 256;
/// Buckets that hold the rest of the vocabulary in a coarse trace.
pub const COARSE_BUCKETS: usize = 256;

/// The bucket of a token that is not among the kept ones (Knuth's multiplicative hash).
pub fn bucket_of(token: u32) -> usize {
    (token.wrapping_mul(2_654_435_761) >> 24) as usize % COARSE_BUCKETS
}

/// Teacher-forced scoring of one token sequence by one model.
///
/// Row `i` is the model's prediction of `tokens[scored_from + i]` from all tokens
/// before it. All logarithms are natural; `ln p = logit - log_sum_exp[row]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The whole sequence, prompt and continuation.
    pub tokens: Vec<u32>,
    /// Index in `tokens` of the first predicted token; at least 1.
    pub scored_from: u32,
    /// Size of the model's vocabulary.
    pub vocab: u32,
    /// ln p of the actual next token, per row.
    pub token_logprobs: Vec<f64>,
    /// ln of the sum of exp(logit) over the vocabulary, per row.
    pub log_sum_exp: Vec<f64>,
    /// Entropy in nats, per row.
    pub entropy: Vec<f64>,
    /// Most likely token, lowest id on ties, per row.
    pub argmax: Vec<u32>,
    pub distribution: Distribution,
}

/// How much of each row's distribution was kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Distribution {
    /// Only the per-row summaries.
    Summary,
    /// `rows * vocab` logits, row by row.
    Full { logits: Vec<f32> },
    /// `rows * vocab` values of ln p as binary16, row by row, two bytes each, the lower first.
    /// `log_sum_exp` of such a trace is that of the values as they are stored, so that the
    /// probabilities still sum to 1.
    Half { bytes: Vec<u8> },
    /// A coarsening chosen by the reference: `kept` tokens per row one by one, the
    /// rest summed into [`COARSE_BUCKETS`] buckets by [`bucket_of`].
    Coarse {
        kept: u32,
        /// `rows * kept` token ids.
        ids: Vec<u32>,
        /// `rows * kept` logits of those ids.
        logits: Vec<f32>,
        /// `rows * COARSE_BUCKETS`: ln of the sum of exp(logit) in each bucket, `-inf` if empty.
        bucket_logits: Vec<f32>,
        /// `rows * COARSE_BUCKETS`: the smallest logit in each bucket, `inf` if empty.
        bucket_least: Vec<f32>,
    },
    /// Nothing but `token_logprobs`, and `argmax` where it was told: `log_sum_exp` and `entropy`
    /// are empty, and `vocab` is that of the model it is compared with.
    Tokens,
}

impl Trace {
    /// Number of scored positions.
    pub fn rows(&self) -> usize {
        self.token_logprobs.len()
    }
}
