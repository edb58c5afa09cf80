//! Two tokenizers tried on the same texts, each in a guarded worker: do they give the same
//! tokens, and do their tokens give the text back? Says what lists of tokens cannot: what the
//! runtime really does with spaces, numbers and other scripts.
//!
//! One model at a time. Deliberately absent: any other engine than the one that would run the
//! artifact.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::domain::Problem;
use crate::engine::{LoadSpec, engine_for};
use crate::model::{InspectOptions, inspect};
use crate::worker::{Worker, WorkerLimits};

/// Short texts that tokenizers are known to disagree on.
pub const CORPUS: [&str; 26] = [
    "Once upon a time, there was a little girl.",
    "Hello, world!",
    "The cat saw the hat, and she had it in her hand.",
    "It is not what they said; it is how they said it.",
    " leading space",
    "trailing space ",
    "two  spaces   three",
    "tab\tand\nnewline\n\n",
    "\r\nWindows lines\r\n",
    "1234567890",
    "3.14159 and -1e-9",
    "12,345,678.90 EUR",
    "2027-01-31T23:59:59Z",
    "don't can't we'll I'm",
    "UPPER lower MiXeD",
    "naïve café façade",
    "Привет, мир",
    "你好,世界",
    "こんにちは",
    "مرحبا بالعالم",
    "🙂👩‍👩‍👧 emoji",
    "e\u{301} is not é",
    "fn main() { println!(\"{}\", 1 << 3); }",
    "def f(x):\n    return x ** 2  # squared\n",
    "https://example.org/a?b=c&d=%20#e",
    "<|im_start|>system [INST] </s> <0x0A>",
];
/// Differences that are listed.
const LISTED: usize = 8;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTrip {
    pub texts: usize,
    /// Texts that became the same tokens.
    pub equal: usize,
    /// Texts that came back unchanged, but for the space that some tokenizers add in front.
    pub lossless_reference: usize,
    pub lossless_candidate: usize,
    /// The first of the texts that became other tokens.
    pub differing: Vec<String>,
}

/// Tries both tokenizers.
///
/// # Errors
/// A model cannot be inspected or loaded, or its worker ended.
pub fn round_trip(candidate: &Path, reference: &Path, limits: &WorkerLimits) -> Result<RoundTrip, Problem> {
    let theirs = tried(reference, limits)?;
    let ours = tried(candidate, limits)?;
    let pairs = || CORPUS.into_iter().zip(ours.0.iter().zip(&theirs.0));
    let lossless = |texts: &[String]| {
        let same = |(text, back): &(&str, &String)| {
            back.strip_prefix(' ').unwrap_or(back) == text.strip_prefix(' ').unwrap_or(text)
        };
        CORPUS.into_iter().zip(texts).filter(same).count()
    };
    Ok(RoundTrip {
        texts: CORPUS.len(),
        equal: pairs().filter(|(_, (a, b))| a == b).count(),
        lossless_reference: lossless(&theirs.1),
        lossless_candidate: lossless(&ours.1),
        differing: pairs()
            .filter(|(_, (a, b))| a != b)
            .map(|(text, _)| text.to_owned())
            .take(LISTED)
            .collect(),
    })
}

/// The tokens of every text, and the texts made of them again.
fn tried(path: &Path, limits: &WorkerLimits) -> Result<(Vec<Vec<u32>>, Vec<String>), Problem> {
    /// Tokens of context; nothing is computed.
    const CONTEXT: u32 = 64;
    let inspection = inspect(path, &InspectOptions { full: false }, &mut |_, _| {})?;
    let (engine, files) = engine_for(&inspection)?;
    let mut worker = Worker::start(&LoadSpec::judged(engine, files, CONTEXT, 1), limits, &mut |_| {})?;
    let texts: Vec<String> = CORPUS.into_iter().map(str::to_owned).collect();
    let tokens = worker.tokenize(&texts, false)?;
    let back = worker.detokenize(&tokens)?;
    worker.finish();
    Ok((tokens, back))
}
