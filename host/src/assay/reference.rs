//! The reference's side: prompts to tokens, a greedy continuation, and its own trace of it.
//!
//! Work is done in rounds of [`ROUND`] challenges, always whole rounds and always the same
//! ones, because the shape of a batch moves logits by rounding: a model compared with
//! itself must score exactly 0. One session serves many rounds and is ended before a
//! candidate is started. Deliberately absent: scores.

use super::cache::{Answer, TraceCache};
use super::runner::Session;
use crate::challenge::{Challenge, ChallengeSet, Prompt};
use crate::domain::Problem;
use crate::domain::modes::{ROUND, SCORED_POSITIONS};
use crate::engine::{Detail, ScoreItem};
use crate::worker::WorkerEnd;

/// Why the reference's side could not go on.
#[derive(Debug)]
pub enum ReferenceError {
    Worker(WorkerEnd),
    Problem(Problem),
}

impl From<WorkerEnd> for ReferenceError {
    fn from(end: WorkerEnd) -> Self {
        Self::Worker(end)
    }
}

impl From<Problem> for ReferenceError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// The challenges of a round.
pub fn round_of<P>(set: &ChallengeSet<P>, round: u64) -> &[Challenge] {
    let start = usize::try_from(round * ROUND).unwrap_or(usize::MAX).min(set.challenges.len());
    let end = start.saturating_add(ROUND as usize).min(set.challenges.len());
    set.challenges.get(start..end).unwrap_or_default()
}

/// Rounds of a block that are not wholly in the cache.
pub fn missing_rounds<P>(
    set: &ChallengeSet<P>,
    cache: &TraceCache,
    rounds: std::ops::Range<u64>,
) -> Vec<u64> {
    let known = cache.info().is_some();
    rounds
        .filter(|&round| !known || round_of(set, round).iter().any(|c| cache.get(c.index).is_none()))
        .collect()
}

/// Answers whole rounds into the cache.
///
/// # Errors
/// The worker ended, or nothing has room for the traces.
pub fn answer_rounds<P>(
    session: &mut dyn Session,
    set: &ChallengeSet<P>,
    cache: &mut TraceCache,
    rounds: &[u64],
    context: u32,
    detail: &Detail,
    each: &mut dyn FnMut(u64),
) -> Result<(), ReferenceError> {
    cache.put_info(session.info());
    for &round in rounds {
        let challenges = round_of(set, round);
        let prompts = prompt_tokens(session, challenges, context)?;
        let mut usable = Vec::new();
        for (challenge, prompt) in challenges.iter().zip(prompts) {
            if prompt.is_empty() {
                cache.put(challenge.index, Answer::Failed("the prompt has no tokens".to_owned()))?;
            } else {
                usable.push((challenge.index, prompt));
            }
        }
        let prompts: Vec<Vec<u32>> = usable.iter().map(|(_, prompt)| prompt.clone()).collect();
        let continuations = session.generate(&prompts, SCORED_POSITIONS)?;
        let items: Vec<ScoreItem> = prompts
            .into_iter()
            .zip(continuations)
            .map(|(mut tokens, continuation)| {
                let scored_from = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
                tokens.extend(continuation);
                ScoreItem { tokens, scored_from, detail: detail.clone() }
            })
            .collect();
        let mut stored: Result<(), Problem> = Ok(());
        session.score(&items, &mut |i, trace| {
            let Some((index, _)) = usable.get(i) else { return };
            let answer = trace.map_or_else(Answer::Failed, Answer::Trace);
            if stored.is_ok() {
                stored = cache.put(*index, answer);
            }
            each(*index);
        })?;
        stored?;
    }
    Ok(())
}

/// Tokens of the prompts, cut so that the continuation fits into the context.
fn prompt_tokens(
    session: &mut dyn Session,
    challenges: &[Challenge],
    context: u32,
) -> Result<Vec<Vec<u32>>, WorkerEnd> {
    let room = context.saturating_sub(SCORED_POSITIONS) as usize;
    let texts: Vec<String> = challenges
        .iter()
        .filter_map(|challenge| match &challenge.prompt {
            Prompt::Text(text) => Some(text.clone()),
            Prompt::Tokens(_) => None,
        })
        .collect();
    let tokenized = if texts.is_empty() { Vec::new() } else { session.tokenize(&texts, true)? };
    let mut tokenized = tokenized.into_iter();
    Ok(challenges
        .iter()
        .map(|challenge| {
            let mut tokens = match &challenge.prompt {
                Prompt::Text(_) => tokenized.next().unwrap_or_default(),
                Prompt::Tokens(ids) => ids.clone(),
            };
            tokens.truncate(room);
            tokens
        })
        .collect())
}
