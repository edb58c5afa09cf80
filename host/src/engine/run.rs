//! Greedy continuations: what a run is asked, and what it did.

use serde::{Deserialize, Serialize};

use super::{EngineError, ModelInfo};

/// One greedy run under conditions that can be set one by one, and that must not matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    pub prompts: Vec<Vec<u32>>,
    /// New tokens per prompt, at most.
    pub new_tokens: u32,
    /// End a sequence before a token that ends generation; else such tokens are passed over.
    pub stop_at_end: bool,
    /// Prompts evaluated side by side.
    pub parallel: u32,
    /// Prompt tokens computed at once, at most.
    pub micro_batch: u32,
    /// Take all but the last token of each prompt from a cache that was filled before.
    pub prompt_cache: bool,
    /// For an engine that has a source of randomness; a greedy choice must not depend on it.
    pub seed: u64,
    /// Keep the log-probability of every chosen token, at the price of a softmax per token.
    pub logprobs: bool,
    /// Tell the text of every token as it comes.
    pub text: bool,
    /// End a sequence with the token that completes one of these texts. Needs `text`.
    pub stop: Vec<String>,
}

impl RunSpec {
    /// Greedy continuations of exactly `new_tokens` tokens, and nothing else.
    pub fn plain(prompts: &[Vec<u32>], new_tokens: u32, parallel: u32) -> Self {
        Self {
            prompts: prompts.to_vec(),
            new_tokens,
            stop_at_end: false,
            parallel,
            micro_batch: MICRO_BATCH,
            prompt_cache: false,
            seed: 0,
            logprobs: false,
            text: false,
            stop: Vec::new(),
        }
    }
}

/// Prompt tokens computed at once where nobody said; llama.cpp's own default.
pub(super) const MICRO_BATCH: u32 = 512;

/// A token that a run has chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunToken {
    /// Number of its prompt.
    pub sequence: u32,
    pub token: u32,
    /// What it adds to the text, in whole characters; empty unless asked for.
    pub piece: String,
}

/// Receives every token of a run, those of one prompt in order.
pub type RunSink<'a> = &'a mut dyn FnMut(RunToken);

/// What a run did. Times are of the clock on the engine's side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// One per prompt, in order.
    pub sequences: Vec<RunSequence>,
    pub honoured: Honoured,
}

/// One prompt's part of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunSequence {
    pub tokens: Vec<u32>,
    /// Whether the model, or a text to stop at, ended it before `new_tokens`.
    pub ended: bool,
    /// ln p of each token, if asked for and if the engine can.
    pub logprobs: Vec<f64>,
    /// Seconds from the start of the prompt's evaluation to each token; empty if the engine
    /// cannot tell. Prompts side by side share a start.
    pub seconds: Vec<f64>,
}

/// Which settings of a [`RunSpec`] a run was made under; the others the engine cannot take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Honoured {
    pub parallel: bool,
    pub micro_batch: bool,
    pub prompt_cache: bool,
    pub seed: bool,
}

/// Checks prompts against a model, and gives the length of the longest with its continuation.
pub(super) fn check_prompts(
    prompts: &[Vec<u32>],
    new_tokens: u32,
    info: &ModelInfo,
    context: u32,
) -> Result<usize, EngineError> {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) + new_tokens as usize;
    let bad = |prompt: &Vec<u32>| prompt.is_empty() || prompt.iter().any(|&token| token >= info.vocab);
    if longest > context as usize || prompts.iter().any(bad) {
        return Err(EngineError::Request(format!(
            "a prompt is empty, has a token outside the vocabulary, or with {new_tokens} new tokens does not fit the context of {context}",
        )));
    }
    Ok(longest)
}
