//! Continuations and log-probabilities by a loaded model, as completion clients ask for them.
//!
//! Invariants: greedy, so that the same request gives the same answer; log-probabilities come
//! from a second pass over prompt and continuation as a judged run makes it, so that they are
//! the very numbers that verdicts rest on; everything about a request that could make the
//! engine refuse is checked before it is asked. Deliberately absent: sampling, templates.

use crate::domain::trace::{Distribution, Trace};
use crate::engine::softmax::top_ids;
use crate::engine::text::{BEFORE, BROKEN, floor};
use crate::engine::{Detail, RunSpec, ScoreItem};
use crate::worker::{Worker, WorkerEnd};

/// What is to be continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Tokenized with what the model's tokenizer adds by itself.
    Text(String),
    /// Taken as they are.
    Tokens(Vec<u32>),
}

/// A request for completions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ask {
    pub prompts: Vec<Prompt>,
    pub new_tokens: u32,
    /// The answer begins with the prompt.
    pub echo: bool,
    /// Log-probabilities of the tokens of the answer, beside so many of the most likely ones.
    pub logprobs: Option<usize>,
    /// The same of the prompt's tokens.
    pub prompt_logprobs: Option<usize>,
    /// Texts before which the answer ends.
    pub stop: Vec<String>,
}

/// A token that might have come, and its natural-log probability.
#[derive(Debug, Clone, PartialEq)]
pub struct Likely {
    pub token: u32,
    pub text: String,
    pub logprob: f64,
    /// 1 for the most likely token; `None` where it cannot be told.
    pub rank: Option<usize>,
}

/// One token of a prompt or of its continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    pub token: u32,
    /// What it adds to the text, in whole characters.
    pub piece: String,
    /// Itself first, then the most likely ones; empty where it was not asked for, and for the
    /// first token, which nothing predicts.
    pub likely: Vec<Likely>,
}

/// The answer to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    pub prompt: Vec<Said>,
    /// Text of the prompt; empty unless it is to be echoed.
    pub prompt_text: String,
    pub tokens: Vec<Said>,
    /// The continuation.
    pub text: String,
    /// The model or a stop ended it, and not the limit.
    pub ended: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// The request does not fit the model; the parameter that is to blame.
    Ask { param: &'static str, why: String },
    /// The worker is gone.
    Ended(WorkerEnd),
    /// The model gave no numbers.
    Model(String),
}

impl From<WorkerEnd> for Failure {
    fn from(end: WorkerEnd) -> Self {
        Self::Ended(end)
    }
}

/// Answers `ask`; `each` is told of a prompt's number and the next part of its continuation.
///
/// # Errors
/// The request does not fit the model, or the worker ended.
pub fn complete(
    worker: &mut Worker,
    ask: &Ask,
    each: &mut dyn FnMut(usize, &str),
) -> Result<Vec<Choice>, Failure> {
    let prompts = tokens_of(worker, &ask.prompts)?;
    check(worker, &prompts, ask)?;
    let mut texts: Vec<Cut> = prompts.iter().map(|_| Cut::new(&ask.stop)).collect();
    let mut tokens: Vec<Vec<Said>> = prompts.iter().map(|_| Vec::new()).collect();
    let mut ended = vec![false; prompts.len()];
    if ask.new_tokens > 0 {
        let run = RunSpec {
            stop_at_end: true,
            text: true,
            stop: ask.stop.clone(),
            ..RunSpec::plain(&prompts, ask.new_tokens, worker.spec().parallel)
        };
        let record = worker.run(&run, &mut |chosen| {
            let at = chosen.sequence as usize;
            let (Some(text), Some(tokens)) = (texts.get_mut(at), tokens.get_mut(at)) else { return };
            if !text.stopped {
                let told = text.push(&chosen.piece);
                each(at, &told);
                tokens.push(Said { token: chosen.token, piece: chosen.piece, likely: Vec::new() });
            }
        })?;
        ended = record.sequences.iter().map(|sequence| sequence.ended).collect();
        for (at, text) in texts.iter_mut().enumerate() {
            each(at, &text.rest());
        }
    }
    let mut choices = Vec::with_capacity(prompts.len());
    for (((asked, prompt), (text, tokens)), ended) in
        ask.prompts.iter().zip(&prompts).zip(texts.into_iter().zip(tokens)).zip(ended)
    {
        let wanted = ask.echo || ask.prompt_logprobs.is_some();
        let pieces = if wanted { pieces(worker, prompt, asked)? } else { vec![String::new(); prompt.len()] };
        let bos = worker.info().bos;
        let said = |(&token, piece): (&u32, String)| Said { token, piece, likely: Vec::new() };
        let mut choice = Choice {
            prompt: prompt.iter().zip(pieces).map(said).collect(),
            prompt_text: String::new(),
            tokens,
            ended: ended || text.stopped,
            text: text.text,
        };
        if ask.echo {
            choice.prompt_text = match asked {
                Prompt::Text(text) => text.clone(),
                Prompt::Tokens(_) => {
                    choice.prompt.iter().filter(|s| Some(s.token) != bos).map(|s| &*s.piece).collect()
                }
            };
        }
        choices.push(choice);
    }
    score(worker, ask, &mut choices)?;
    Ok(choices)
}

/// The tokens of every prompt.
fn tokens_of(worker: &mut Worker, prompts: &[Prompt]) -> Result<Vec<Vec<u32>>, Failure> {
    let texts: Vec<String> = prompts
        .iter()
        .filter_map(|prompt| match prompt {
            Prompt::Text(text) => Some(text.clone()),
            Prompt::Tokens(_) => None,
        })
        .collect();
    let made = if texts.is_empty() { Vec::new() } else { worker.tokenize(&texts, true)? };
    let mut made = made.into_iter();
    Ok(prompts
        .iter()
        .map(|prompt| match prompt {
            Prompt::Text(_) => made.next().unwrap_or_default(),
            Prompt::Tokens(tokens) => tokens.clone(),
        })
        .collect())
}

/// What would make the engine refuse, which would cost the loaded model.
fn check(worker: &Worker, prompts: &[Vec<u32>], ask: &Ask) -> Result<(), Failure> {
    let (vocab, context) = (worker.info().vocab, worker.spec().context as usize);
    for prompt in prompts {
        let bad = |param, why: String| Err(Failure::Ask { param, why });
        if prompt.is_empty() {
            return bad("prompt", "a prompt has no tokens, so nothing can be continued".to_owned());
        }
        if let Some(token) = prompt.iter().find(|&&token| token >= vocab) {
            return bad("prompt", format!("token {token} is not in the vocabulary of {vocab}"));
        }
        let length = prompt.len();
        if length > context {
            return bad("prompt", format!("the prompt has {length} tokens, and the context is {context}"));
        }
        if length + ask.new_tokens as usize > context {
            let new = ask.new_tokens;
            let why = format!(
                "{length} tokens of the prompt and {new} new ones do not fit the context of {context}"
            );
            return bad("max_tokens", why);
        }
    }
    Ok(())
}

/// What each token adds to the text of the prompt.
fn pieces(worker: &mut Worker, tokens: &[u32], asked: &Prompt) -> Result<Vec<String>, Failure> {
    let window =
        |at: usize, end: usize| tokens.get(at.saturating_sub(BEFORE)..end).unwrap_or_default().to_vec();
    let windows: Vec<Vec<u32>> =
        (0..tokens.len()).flat_map(|at| [window(at, at), window(at, at + 1)]).collect();
    let texts = worker.detokenize(&windows)?;
    let (pairs, _) = texts.as_chunks::<2>();
    let mut pieces: Vec<String> = pairs
        .iter()
        .map(|[before, after]| {
            let given = before.trim_end_matches(BROKEN).len();
            after.trim_end_matches(BROKEN).get(given..).unwrap_or_default().to_owned()
        })
        .collect();
    // Some tokenizers put a space before a text and take it away again; not behind a first
    // token of their own.
    let bos = tokens.first().is_some_and(|first| Some(*first) == worker.info().bos);
    if let (Prompt::Text(text), Some(first)) = (asked, pieces.get_mut(usize::from(bos)))
        && first.starts_with(' ')
        && !text.starts_with(' ')
    {
        first.remove(0);
    }
    Ok(pieces)
}

/// Fills in the log-probabilities that were asked for.
fn score(worker: &mut Worker, ask: &Ask, choices: &mut [Choice]) -> Result<(), Failure> {
    let top = ask.logprobs.max(ask.prompt_logprobs);
    let Some(most) = top else { return Ok(()) };
    let whole = ask.echo || ask.prompt_logprobs.is_some();
    let mut items = Vec::new();
    let mut places = Vec::new();
    for (at, choice) in choices.iter().enumerate() {
        let from = if whole { 1 } else { choice.prompt.len() };
        let tokens: Vec<u32> = choice.prompt.iter().chain(&choice.tokens).map(|said| said.token).collect();
        if tokens.len() > from {
            let detail = if most > 0 { Detail::Own } else { Detail::Summary };
            items.push(ScoreItem { tokens, scored_from: u32::try_from(from).unwrap_or(u32::MAX), detail });
            places.push(at);
        }
    }
    let mut failed = None;
    worker.score(&items, &mut |index, trace| {
        let choice = places.get(index).and_then(|&at| choices.get_mut(at));
        match (trace, choice) {
            (Ok(trace), Some(choice)) => {
                let said = choice.prompt.iter_mut().chain(&mut choice.tokens);
                for (row, said) in said.skip(trace.scored_from as usize).enumerate() {
                    said.likely = likely(&trace, row, said.token, most);
                }
            }
            (Err(reason), _) => failed = Some(reason),
            (Ok(_), None) => {}
        }
    })?;
    if let Some(reason) = failed {
        return Err(Failure::Model(reason));
    }
    name(worker, choices)
}

/// The token of a row, and the most likely ones.
fn likely(trace: &Trace, row: usize, token: u32, most: usize) -> Vec<Likely> {
    let logprob = trace.token_logprobs.get(row).copied().unwrap_or(f64::NAN);
    let sum = trace.log_sum_exp.get(row).copied().unwrap_or(f64::NAN);
    let (rank, top): (Option<usize>, Vec<(u32, f32)>) = match &trace.distribution {
        Distribution::Full { logits } => {
            let vocab = trace.vocab as usize;
            let logits = logits.get(row * vocab..(row + 1) * vocab).unwrap_or_default();
            let own = logits.get(token as usize).copied().unwrap_or(f32::NAN);
            let top = top_ids(logits).into_iter().take(most);
            let top = top.filter_map(|id| Some((id, *logits.get(id as usize)?))).collect();
            (Some(1 + logits.iter().filter(|&&logit| logit > own).count()), top)
        }
        Distribution::Coarse { kept, ids, logits, .. } => {
            let span = row * *kept as usize..(row + 1) * *kept as usize;
            let ids = ids.get(span.clone()).unwrap_or_default();
            let logits = logits.get(span).unwrap_or_default();
            let top = ids.iter().copied().zip(logits.iter().copied()).take(most).collect();
            (ids.iter().position(|&id| id == token).map(|at| at + 1), top)
        }
        Distribution::Summary | Distribution::Tokens | Distribution::Half { .. } => (None, Vec::new()),
    };
    let own = Likely { token, text: String::new(), logprob, rank };
    let others = (1..).zip(top).filter(|(_, (id, _))| *id != token).map(|(rank, (id, logit))| Likely {
        token: id,
        text: String::new(),
        logprob: f64::from(logit) - sum,
        rank: Some(rank),
    });
    std::iter::once(own).chain(others).collect()
}

/// Texts of the tokens that were likely.
fn name(worker: &mut Worker, choices: &mut [Choice]) -> Result<(), Failure> {
    let said = choices.iter_mut().flat_map(|choice| choice.prompt.iter_mut().chain(&mut choice.tokens));
    let mut all: Vec<&mut Likely> = said.flat_map(|said| &mut said.likely).collect();
    let mut ids: Vec<u32> = all.iter().map(|likely| likely.token).collect();
    ids.sort_unstable();
    ids.dedup();
    // Behind itself a token has the text that it has inside of a sequence.
    let windows: Vec<Vec<u32>> = ids.iter().flat_map(|&id| [vec![id], vec![id, id]]).collect();
    let texts = worker.detokenize(&windows)?;
    let (texts, _) = texts.as_chunks::<2>();
    for likely in &mut all {
        let pair = ids.binary_search(&likely.token).ok().and_then(|at| texts.get(at));
        let text = pair.and_then(|[alone, twice]| twice.get(alone.len()..));
        likely.text = text.unwrap_or_default().to_owned();
    }
    Ok(())
}

/// A text that is told as it grows and ends before the first stop in it.
#[derive(Debug)]
struct Cut<'a> {
    stops: &'a [String],
    text: String,
    /// Bytes that were told.
    told: usize,
    stopped: bool,
}

impl<'a> Cut<'a> {
    fn new(stops: &'a [String]) -> Self {
        Self { stops, text: String::new(), told: 0, stopped: false }
    }

    /// Takes more text, and gives what is certain not to be part of a stop.
    fn push(&mut self, piece: &str) -> String {
        self.text.push_str(piece);
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let rest = self.text.get(self.told..).unwrap_or_default();
        if let Some(at) = self.stops.iter().filter_map(|stop| rest.find(stop.as_str())).min() {
            self.text.truncate(self.told + at);
            self.stopped = true;
            return self.rest();
        }
        let safe = floor(&self.text, self.text.len().saturating_sub(longest.saturating_sub(1)));
        self.tell(safe)
    }

    /// What was held back.
    fn rest(&mut self) -> String {
        self.tell(self.text.len())
    }

    fn tell(&mut self, to: usize) -> String {
        let told = self.text.get(self.told..to).unwrap_or_default().to_owned();
        self.told = self.told.max(to);
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_ends_before_a_stop_however_the_text_is_cut() {
        let stops = ["\n\n".to_owned(), "END".to_owned()];
        let said = "one \u{e9} E\nEN two\nEND three\n\n";
        for size in 1..said.len() {
            let mut cut = Cut::new(&stops);
            let mut told = String::new();
            let mut from = 0;
            while from < said.len() && !cut.stopped {
                let mut to = (from + size).min(said.len());
                while !said.is_char_boundary(to) {
                    to += 1;
                }
                told.push_str(&cut.push(&said[from..to]));
                from = to;
            }
            told.push_str(&cut.rest());
            assert_eq!(told, "one \u{e9} E\nEN two\n", "{size}");
            assert!(cut.stopped && cut.text == told);
        }
        let mut cut = Cut::new(&stops);
        assert_eq!(cut.push("all of it\nE") + &cut.rest(), "all of it\nE", "a beginning is no stop");
    }

    #[test]
    fn the_own_token_comes_first_and_ranks_count_from_one() {
        let trace = Trace {
            tokens: vec![0, 2],
            scored_from: 1,
            vocab: 4,
            token_logprobs: vec![-2.0],
            log_sum_exp: vec![1.0],
            entropy: vec![1.0],
            argmax: vec![1],
            distribution: Distribution::Full { logits: vec![0.5, 0.9, -1.0, 0.7] },
        };
        let found = likely(&trace, 0, 2, 2);
        let shown: Vec<(u32, Option<usize>)> = found.iter().map(|l| (l.token, l.rank)).collect();
        assert_eq!(shown, [(2, Some(4)), (1, Some(1)), (3, Some(2))]);
        assert!((found[1].logprob + 0.1).abs() < 1e-6 && found[0].logprob == -2.0);
        let summary = Trace { distribution: Distribution::Summary, ..trace };
        assert_eq!(likely(&summary, 0, 2, 2).len(), 1, "what is not known is not made up");
    }
}
