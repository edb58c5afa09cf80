//! The texts that measured runs begin with: a few kinds of text, the same on every machine.

use crate::domain::Problem;
use crate::worker::{Worker, WorkerEnd};

const TEXTS: [&str; 5] = [
    "Once upon a time, there was a little girl who lived in a house by the sea. Every morning she",
    "The capital of France is Paris, and the capital of Italy is",
    "def fibonacci(n):\n    \"\"\"Returns the first n Fibonacci numbers.\"\"\"\n",
    "Question: Why is the sky blue?\nAnswer:",
    "1, 2, 3, 5, 8, 13, 21,",
];

/// Tokens of the fixed texts, each at most `room` long; raw ids for a model whose tokenizer
/// is not known.
pub(super) fn prompts(
    worker: &mut Worker,
    has_tokenizer: bool,
    room: usize,
) -> Result<Vec<Vec<u32>>, Problem> {
    let mut prompts = if has_tokenizer {
        let texts: Vec<String> = TEXTS.iter().map(|&text| text.to_owned()).collect();
        worker.tokenize(&texts, true)?
    } else {
        let vocab = worker.info().vocab;
        (0..TEXTS.len() as u32).map(|i| raw(vocab, i, 16)).collect()
    };
    for prompt in &mut prompts {
        prompt.truncate(room);
    }
    prompts.retain(|prompt| !prompt.is_empty());
    if prompts.is_empty() {
        return Err(Problem::input("the model's tokenizer gives no tokens for any of the prompts"));
    }
    Ok(prompts)
}

/// `length` ids that have nothing to do with each other.
pub(super) fn raw(vocab: u32, seed: u32, length: usize) -> Vec<u32> {
    let mut state = seed;
    (0..length)
        .map(|_| {
            // Numerical Recipes' generator; its high bits serve.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((u64::from(state) * u64::from(vocab)) >> 32) as u32
        })
        .collect()
}

/// Text of tokens, for people; without a tokenizer the ids themselves.
pub(super) fn text(worker: &mut Worker, has_tokenizer: bool, tokens: &[u32]) -> Result<String, WorkerEnd> {
    if !has_tokenizer {
        let ids: Vec<String> = tokens.iter().map(u32::to_string).collect();
        return Ok(ids.join(" "));
    }
    Ok(worker.detokenize(&[tokens.to_vec()])?.pop().unwrap_or_default())
}
