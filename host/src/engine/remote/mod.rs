//! The remote engine: an OpenAI-compatible endpoint that tells log-probabilities of a prompt.
//!
//! What it tells is less than a distribution: ln p of each given token and, by some servers, the
//! most likely one. That is all that its traces hold; nothing is filled in. Invariants: token
//! ids are sent, never text; everything that comes back is bounded and checked, and what is
//! not valid fails its item with the reason; an endpoint that goes away is
//! [`EngineError::Lost`] after a few tries. Deliberately absent: generation, redirects.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    Detail, EngineError, EngineInfo, LoadSpec, Model, ModelInfo, RunRecord, RunSink, RunSpec, ScoreItem,
    TraceSink, check_spec,
};
use crate::domain::trace::{Distribution, Trace};

mod answer;
mod endpoint;
mod http;

pub use endpoint::{Endpoint, is_url};

use answer::{Asked, rows};
use http::Client;

/// Size of a vocabulary that an endpoint does not tell: any token may be in it.
pub const UNKNOWN_VOCAB: u32 = u32::MAX;

/// Answers received and tries made so far; only its changes mean anything.
static TICKS: AtomicU64 = AtomicU64::new(0);

pub fn ticks() -> u64 {
    TICKS.load(Ordering::Relaxed)
}

fn tick() {
    TICKS.fetch_add(1, Ordering::Relaxed);
}

/// A model behind an endpoint.
#[derive(Debug)]
pub struct RemoteModel {
    client: Client,
    info: ModelInfo,
    spec: LoadSpec,
    /// How the endpoint is asked, once that is known.
    form: Option<Asked>,
}

impl RemoteModel {
    /// Finds out whether the endpoint is there and has the model.
    ///
    /// # Errors
    /// It is not there, or does not have it.
    pub fn load(spec: &LoadSpec) -> Result<Self, EngineError> {
        check_spec(spec)?;
        let Some(endpoint) = &spec.remote else {
            return Err(EngineError::Request("a remote model needs an endpoint".to_owned()));
        };
        let client = Client::new(endpoint)?;
        let build = client.find_model()?;
        let info = ModelInfo {
            vocab: UNKNOWN_VOCAB,
            context_train: 0,
            bos: None,
            eos: None,
            adds_bos: false,
            description: format!("{} at {}", endpoint.model, endpoint.host),
            size_bytes: 0,
            parameters: 0,
            accelerators: 0,
            engine: EngineInfo {
                name: "remote".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                build,
                device: endpoint.to_string(),
            },
        };
        Ok(Self { client, info, spec: spec.clone(), form: None })
    }

    /// Log-probabilities of the tokens of these sequences; the first form that the endpoint
    /// takes is kept.
    fn ask(&mut self, sequences: &[&[u32]]) -> Result<serde_json::Value, EngineError> {
        let forms = match self.form {
            Some(form) => vec![form],
            None => vec![Asked::PromptLogprobs, Asked::Echo],
        };
        let mut refused = String::new();
        for form in forms {
            match self.client.completions(&form.request(&self.client.model, sequences))? {
                Ok(answer) => {
                    self.form = Some(form);
                    return Ok(answer);
                }
                Err(why) => refused = why,
            }
        }
        Err(EngineError::Request(format!(
            "the endpoint tells no log-probabilities of a prompt, neither by `prompt_logprobs` nor by `echo` with `logprobs`: {refused}"
        )))
    }

    /// A trace of one item from its part of an answer.
    fn trace(&self, item: &ScoreItem, choice: &serde_json::Value) -> Result<Trace, String> {
        let form = self.form.ok_or("nothing was asked")?;
        let rows = rows(form, choice, &item.tokens)?;
        let from = item.scored_from as usize;
        let scored = rows.get(from..).unwrap_or_default();
        let best: Option<Vec<u32>> = scored.iter().map(|row| row.best).collect();
        Ok(Trace {
            tokens: item.tokens.clone(),
            scored_from: item.scored_from,
            vocab: self.info.vocab,
            token_logprobs: scored.iter().map(|row| row.logprob).collect(),
            log_sum_exp: Vec::new(),
            entropy: Vec::new(),
            argmax: best.unwrap_or_default(),
            distribution: Distribution::Tokens,
        })
    }
}

/// Most sequences of one request, and tokens from which on no more are added to one. As many as
/// are there: a server that pads to the longest then has the same shapes as a judged run.
const SEQUENCES: usize = 64;
const TOKENS: usize = 32_768;

/// How many items go into one request; at least one.
fn fits(items: &[ScoreItem]) -> usize {
    let mut tokens = 0usize;
    let few = items.iter().take(SEQUENCES).take_while(|item| {
        let before = tokens;
        tokens += item.tokens.len();
        before == 0 || tokens <= TOKENS
    });
    few.count().max(1).min(items.len())
}

impl Model for RemoteModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenize(&self, text: &str, add_special: bool) -> Result<Vec<u32>, EngineError> {
        self.client.tokenize(text, add_special)
    }

    fn tokenize_marked(&self, _text: &str) -> Result<Vec<u32>, EngineError> {
        Err(EngineError::Request("an endpoint renders its chats itself".to_owned()))
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<String, EngineError> {
        self.client.detokenize(tokens)
    }

    fn score(&mut self, items: &[ScoreItem], sink: TraceSink<'_>) -> Result<(), EngineError> {
        let mut first = 0usize;
        let mut rest = items;
        while !rest.is_empty() {
            let (group, after) = rest.split_at(fits(rest));
            rest = after;
            if let Some(item) = group.iter().find(|item| matches!(item.detail, Detail::Whole | Detail::Exact))
            {
                let what = format!("{:?}", item.detail);
                return Err(EngineError::Request(format!(
                    "an endpoint tells no whole distributions ({what})"
                )));
            }
            let sequences: Vec<&[u32]> = group.iter().map(|item| item.tokens.as_slice()).collect();
            let answer = self.ask(&sequences)?;
            let choices = answer::choices(&answer, group.len());
            for (at, item) in group.iter().enumerate() {
                let trace = match &choices {
                    Ok(choices) => match choices.get(at) {
                        Some(choice) => self.trace(item, choice),
                        None => Err("an answer is missing".to_owned()),
                    },
                    Err(why) => Err(why.clone()),
                };
                sink(first + at, trace.map_err(|why| format!("the endpoint's answer is not valid: {why}")))?;
            }
            first += group.len();
        }
        Ok(())
    }

    fn run(&mut self, _spec: &RunSpec, _each: RunSink<'_>) -> Result<RunRecord, EngineError> {
        Err(EngineError::Request(
            "a remote model only scores given tokens; it can be a candidate and no reference".to_owned(),
        ))
    }

    fn parallel(&self) -> u32 {
        self.spec.parallel
    }
}
