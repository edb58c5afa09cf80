//! Measuring a model that is compared with nothing: how well it predicts a fixed text, how
//! fast it scores and writes, how much memory it takes, and what it writes.
//!
//! The prompts come from a key that is no secret, so that today's figures can be held against
//! yesterday's and against another file's with the same tokenizer. They are therefore no
//! evidence against a model that was made for them, and no verdict follows from them.

use std::time::Instant;

use super::halt::Halt;
use super::report::Measurement;
use super::runner::Session;
use crate::challenge::{ChallengeSet, Key, Plan, Prompt};
use crate::digest::sha256_parts;
use crate::domain::modes::{ROUND, SCORED_POSITIONS};
use crate::engine::{Detail, ScoreItem};
use crate::worker::WorkerEnd;

/// The key of the prompts, in hexadecimal: "assayd/measure/1".
const PUBLIC_KEY: &str = "6173736179642f6d6561737572652f31";

/// Asks a loaded model; `worker_failed` takes down how its worker ended, if it does.
///
/// # Errors
/// The worker ended, or the model could not do something; a figure is never made up.
pub fn measure(
    session: &mut dyn Session,
    plan: Plan,
    context: u32,
    worker_failed: &mut dyn FnMut(&WorkerEnd) -> Halt,
) -> Result<Measurement, Halt> {
    let key = Key::from_hex(PUBLIC_KEY)?;
    let set = ChallengeSet::generate(&key, plan, ROUND).map_err(|gone| Halt::not_run(gone.to_string()))?;
    let room = context.saturating_sub(SCORED_POSITIONS) as usize;
    let mut prompts = Vec::new();
    for challenge in &set.challenges {
        let mut tokens = match &challenge.prompt {
            Prompt::Tokens(tokens) => tokens.clone(),
            Prompt::Text(text) => {
                let texts = [text.clone()];
                session.tokenize(&texts, true).map_err(|end| worker_failed(&end))?.pop().unwrap_or_default()
            }
        };
        tokens.truncate(room);
        if tokens.len() > 1 {
            prompts.push(tokens);
        }
    }

    let items = prompts.iter().map(|tokens| ScoreItem {
        tokens: tokens.clone(),
        scored_from: 1,
        detail: Detail::Summary,
    });
    let items: Vec<ScoreItem> = items.collect();
    let (mut nll, mut positions, mut failed) = (0.0, 0_u64, None);
    let started = Instant::now();
    session
        .score(&items, &mut |_, trace| match trace {
            Ok(trace) => {
                nll -= trace.token_logprobs.iter().sum::<f64>();
                positions += trace.rows() as u64;
            }
            Err(reason) => failed = Some(reason),
        })
        .map_err(|end| worker_failed(&end))?;
    let scoring = started.elapsed().as_secs_f64();
    if let Some(reason) = failed {
        return Err(Halt::failed(format!("the model could not be measured: {reason}")));
    }
    if positions == 0 || !nll.is_finite() {
        return Err(Halt::failed("the model could not be measured: its log-probabilities are not finite"));
    }

    let started = Instant::now();
    let written = session.generate(&prompts, SCORED_POSITIONS).map_err(|end| worker_failed(&end))?;
    let writing = started.elapsed().as_secs_f64();
    let bytes: Vec<u8> = written.iter().flatten().flat_map(|token| token.to_be_bytes()).collect();
    // Raw tokens are no text: how well a model predicts them says nothing.
    let mean_nll = matches!(plan, Plan::Text).then_some(nll / positions as f64);
    Ok(Measurement {
        prompts: prompts.len() as u64,
        positions,
        mean_nll,
        perplexity: mean_nll.map(f64::exp),
        score_tokens_per_second: rate(prompts.iter().map(Vec::len).sum(), scoring),
        generate_tokens_per_second: rate(written.iter().map(Vec::len).sum(), writing),
        written_sha256: sha256_parts(&[b"assayd/measure/v1\0", &bytes]),
    })
}

/// `None` when it was over before the clock moved.
fn rate(tokens: usize, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| tokens as f64 / seconds)
}
