//! `POST /v1/completions`: OpenAI's shape, with vLLM's `prompt_logprobs`.
//!
//! Invariants: what is not understood or not supported is an error that names it; an answer is
//! greedy and the same every time. Deliberately absent: sampling, and so every parameter that
//! would need it, at any value but the neutral one.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Api;
use super::extract::{JsonBody, Nothing, Params};
use super::generate::{Common, Form, answer, finish_reason, unsupported};
use super::reply::ApiError;
use super::work::Task;
use crate::domain::budget;
use crate::measure::complete::{Ask, Choice, Likely, Prompt, Said};

pub const PATH: &str = "/v1/completions";

/// Tokens of an answer where the client does not say.
const NEW_TOKENS: u32 = 16;

/// The request.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Body {
    prompt: Prompts,
    #[serde(default)]
    echo: bool,
    logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
    best_of: Option<f64>,
    suffix: Option<String>,
    #[serde(flatten)]
    common: Common,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "field `prompt`: a text, several, token ids, or several lists of them")]
enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    Lists(Vec<Vec<u32>>),
}

impl Body {
    /// What is asked, or the parameter that cannot be served.
    fn ask(self) -> Result<(Common, Ask), ApiError> {
        let mut common = self.common;
        common.check()?;
        if self.best_of.is_some_and(|best_of| best_of != 1.0) {
            return unsupported("best_of", "answers are greedy, so only 1 is supported");
        }
        if self.suffix.is_some_and(|suffix| !suffix.is_empty()) {
            return unsupported("suffix", "only continuations are supported");
        }
        common.logprobs("logprobs", self.logprobs, budget::COMPLETION_LOGPROBS)?;
        common.logprobs("prompt_logprobs", self.prompt_logprobs, budget::COMPLETION_PROMPT_LOGPROBS)?;
        let prompts = match self.prompt {
            Prompts::Text(text) => vec![Prompt::Text(text)],
            Prompts::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
            Prompts::Tokens(tokens) => vec![Prompt::Tokens(tokens)],
            Prompts::Lists(lists) => lists.into_iter().map(Prompt::Tokens).collect(),
        };
        if prompts.is_empty() || prompts.len() > budget::COMPLETION_PROMPTS {
            return unsupported("prompt", &format!("1 to {} of them", budget::COMPLETION_PROMPTS));
        }
        let stop = common.stops()?;
        let new_tokens = common.max_tokens.unwrap_or(NEW_TOKENS);
        if new_tokens == 0 && !self.echo && self.prompt_logprobs.is_none() {
            return unsupported("max_tokens", "0 only together with echo or prompt_logprobs");
        }
        let (echo, logprobs, prompt_logprobs) = (self.echo, self.logprobs, self.prompt_logprobs);
        Ok((common, Ask { prompts, new_tokens, echo, logprobs, prompt_logprobs, stop }))
    }
}

pub async fn create(
    State(api): State<Api>,
    _: Params<Nothing>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Response, ApiError> {
    let (common, ask) = body.ask()?;
    let told = vec![!ask.echo; ask.prompts.len()];
    answer(&api, &common, Task::Complete(ask.clone()), Text { ask, told }).await
}

/// Answers as texts.
struct Text {
    ask: Ask,
    /// Of each prompt, whether it needs no more telling.
    told: Vec<bool>,
}

impl Form for Text {
    const PATH: &'static str = PATH;
    const ID: &'static str = "cmpl";
    const OBJECT: &'static str = "text_completion";
    const CHUNK: &'static str = Self::OBJECT;

    fn whole(&self, index: usize, choice: &Choice) -> Value {
        let mut shown = json!({
            "index": index,
            "text": format!("{}{}", choice.prompt_text, choice.text),
            "finish_reason": finish_reason(choice),
            "logprobs": self.ask.logprobs.map(|_| logprobs(choice, &self.ask)),
        });
        if let (Some(fields), Some(most)) = (shown.as_object_mut(), self.ask.prompt_logprobs) {
            fields.insert("prompt_logprobs".to_owned(), prompt_logprobs(choice, most));
        }
        shown
    }

    fn part(&mut self, index: usize, text: &str) -> Option<Value> {
        let echoed = match (self.ask.prompts.get(index), self.told.get_mut(index)) {
            (Some(Prompt::Text(prompt)), Some(told @ false)) => {
                *told = true;
                prompt.as_str()
            }
            _ => "",
        };
        let text = format!("{echoed}{text}");
        let shown = json!({"index": index, "text": text, "logprobs": null, "finish_reason": null});
        Some(shown).filter(|_| !text.is_empty())
    }

    fn last(&mut self, index: usize, choice: &Choice) -> Value {
        // What no piece has told yet: the prompt of an answer without tokens.
        let late = self.told.get(index).is_some_and(|told| !told);
        let text = if late { choice.prompt_text.as_str() } else { "" };
        json!({"index": index, "text": text, "logprobs": null, "finish_reason": finish_reason(choice)})
    }
}

/// OpenAI's four lists, over the tokens of the answer's text.
fn logprobs(choice: &Choice, ask: &Ask) -> Value {
    let most = ask.logprobs.unwrap_or(0);
    let echoed = if ask.echo { choice.prompt.as_slice() } else { &[] };
    // A first token that only begins the sequence is no part of the text.
    let begins: String = echoed.iter().map(|said| said.piece.as_str()).collect();
    let mut hidden = begins.len().saturating_sub(choice.prompt_text.len());
    let mut offset = 0usize;
    let (mut tokens, mut own, mut top, mut offsets) = (vec![], vec![], vec![], vec![]);
    for said in echoed.iter().chain(&choice.tokens) {
        tokens.push(json!(said.piece));
        own.push(json!(said.likely.first().map(|likely| likely.logprob)));
        top.push(alternatives(said, most));
        offsets.push(json!(offset));
        let shown = said.piece.len().saturating_sub(hidden);
        hidden = hidden.saturating_sub(said.piece.len());
        let text = said.piece.get(said.piece.len() - shown..).unwrap_or_default();
        offset += text.chars().count();
    }
    json!({"tokens": tokens, "token_logprobs": own, "top_logprobs": top, "text_offset": offsets})
}

/// The token itself, and the `most` likely ones.
fn shown(said: &Said, most: usize) -> impl Iterator<Item = &Likely> {
    let (own, others) = said.likely.split_at(said.likely.len().min(1));
    own.iter().chain(others.iter().filter(move |likely| likely.rank.is_some_and(|rank| rank <= most)))
}

/// The most likely tokens by their texts, and the actual one; of two with the same text the likelier.
fn alternatives(said: &Said, most: usize) -> Value {
    if said.likely.is_empty() {
        return Value::Null;
    }
    let mut map: Map<String, Value> = Map::new();
    for likely in shown(said, most) {
        let there = map.get(&likely.text).and_then(Value::as_f64);
        if there.is_none_or(|there| there < likely.logprob) {
            map.insert(likely.text.clone(), json!(likely.logprob));
        }
    }
    Value::Object(map)
}

/// vLLM's list: per token of the prompt an object by token ids; null for the first.
fn prompt_logprobs(choice: &Choice, most: usize) -> Value {
    let row = |said: &Said| {
        if said.likely.is_empty() {
            return Value::Null;
        }
        let entries = shown(said, most).map(|likely| {
            let about = json!({"logprob": likely.logprob, "rank": likely.rank, "decoded_token": likely.text});
            (likely.token.to_string(), about)
        });
        Value::Object(entries.collect())
    };
    choice.prompt.iter().map(row).collect()
}
