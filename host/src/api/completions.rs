//! `POST /v1/completions`: OpenAI's shape, with vLLM's `prompt_logprobs`.
//!
//! Invariants: what is not understood or not supported is an error that names it; an answer is
//! greedy and the same every time; a client that goes away ends its work. Deliberately absent:
//! sampling, and so every parameter that would need it, at any value but the neutral one.

use std::convert::Infallible;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::Api;
use super::extract::{JsonBody, Nothing, Params};
use super::reply::ApiError;
use super::work::{BUSY_SECONDS, Pending, Task, Told, order, unexpected};
use crate::domain::budget;
use crate::measure::complete::{Ask, Choice, Likely, Prompt, Said};

pub const PATH: &str = "/v1/completions";

/// Tokens of an answer where the client does not say.
const NEW_TOKENS: u32 = 16;
/// Frames that wait for a slow client.
const WAITING: usize = 64;

/// The request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    model: String,
    prompt: Prompts,
    max_tokens: Option<u32>,
    #[serde(default)]
    echo: bool,
    logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
    stop: Option<Stops>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    temperature: Option<f64>,
    /// A greedy choice does not depend on it.
    #[serde(rename = "seed")]
    _seed: Option<i64>,
    /// Who asks, for other servers' records.
    #[serde(rename = "user")]
    _user: Option<String>,
    n: Option<f64>,
    best_of: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<f64>,
    min_p: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    repetition_penalty: Option<f64>,
    suffix: Option<String>,
    logit_bias: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "field `prompt`: a text, several, token ids, or several lists of them")]
enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    Lists(Vec<Vec<u32>>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "field `stop`: a text or several")]
enum Stops {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl Body {
    /// What is asked, or the parameter that cannot be served.
    fn ask(self) -> Result<Ask, ApiError> {
        let unsupported = |name: &str, why: &str| Err(ApiError::bad(Some(name), format!("{name}: {why}")));
        let neutral = [
            ("temperature", self.temperature, 0.0, "answers are greedy, so only 0 is supported"),
            ("n", self.n, 1.0, "answers are greedy, so only 1 is supported"),
            ("best_of", self.best_of, 1.0, "answers are greedy, so only 1 is supported"),
            ("top_p", self.top_p, 1.0, "nothing is sampled, so only 1 is supported"),
            (
                "top_k",
                self.top_k.filter(|k| *k != -1.0),
                0.0,
                "nothing is sampled, so only 0 and -1 are supported",
            ),
            ("min_p", self.min_p, 0.0, "nothing is sampled, so only 0 is supported"),
            ("presence_penalty", self.presence_penalty, 0.0, "only 0 is supported"),
            ("frequency_penalty", self.frequency_penalty, 0.0, "only 0 is supported"),
            ("repetition_penalty", self.repetition_penalty, 1.0, "only 1 is supported"),
        ];
        for (name, value, wanted, why) in neutral {
            if value.is_some_and(|value| value != wanted) {
                return unsupported(name, why);
            }
        }
        if self.suffix.is_some_and(|suffix| !suffix.is_empty()) {
            return unsupported("suffix", "only continuations are supported");
        }
        if self.logit_bias.is_some_and(|bias| !bias.is_empty()) {
            return unsupported("logit_bias", "only an empty one is supported");
        }
        for (name, value, most) in [
            ("logprobs", self.logprobs, budget::COMPLETION_LOGPROBS),
            ("prompt_logprobs", self.prompt_logprobs, budget::COMPLETION_PROMPT_LOGPROBS),
        ] {
            if value.is_some_and(|value| value > most) {
                return unsupported(name, &format!("at most {most}"));
            }
            if value.is_some() && self.stream {
                return unsupported(name, "not together with stream");
            }
        }
        if self.stream_options.is_some() && !self.stream {
            return unsupported("stream_options", "only together with stream");
        }
        let prompts = match self.prompt {
            Prompts::Text(text) => vec![Prompt::Text(text)],
            Prompts::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
            Prompts::Tokens(tokens) => vec![Prompt::Tokens(tokens)],
            Prompts::Lists(lists) => lists.into_iter().map(Prompt::Tokens).collect(),
        };
        if prompts.is_empty() || prompts.len() > budget::COMPLETION_PROMPTS {
            return unsupported("prompt", &format!("1 to {} of them", budget::COMPLETION_PROMPTS));
        }
        let stop = match self.stop {
            None => Vec::new(),
            Some(Stops::One(stop)) => vec![stop],
            Some(Stops::Several(stops)) => stops,
        };
        let wrong = |stop: &String| stop.is_empty() || stop.len() > budget::COMPLETION_STOP_BYTES;
        if stop.len() > budget::COMPLETION_STOPS || stop.iter().any(wrong) {
            let (most, bytes) = (budget::COMPLETION_STOPS, budget::COMPLETION_STOP_BYTES);
            return unsupported("stop", &format!("at most {most} texts of 1 to {bytes} bytes"));
        }
        let new_tokens = self.max_tokens.unwrap_or(NEW_TOKENS);
        if new_tokens == 0 && !self.echo && self.prompt_logprobs.is_none() {
            return unsupported("max_tokens", "0 only together with echo or prompt_logprobs");
        }
        Ok(Ask {
            prompts,
            new_tokens,
            echo: self.echo,
            logprobs: self.logprobs,
            prompt_logprobs: self.prompt_logprobs,
            stop,
        })
    }
}

/// What all parts of one answer say alike.
#[derive(Debug, Clone)]
struct Head {
    id: String,
    created: i64,
    model: String,
}

impl Head {
    fn around(&self, choices: Vec<Value>, usage: Option<Value>) -> Value {
        let mut answer = json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if let (Some(fields), Some(usage)) = (answer.as_object_mut(), usage) {
            fields.insert("usage".to_owned(), usage);
        }
        answer
    }
}

pub async fn create(
    State(api): State<Api>,
    _: Params<Nothing>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Response, ApiError> {
    let (stream, model) = (body.stream, body.model.clone());
    let usage_wanted = body.stream_options.as_ref().is_some_and(|options| options.include_usage);
    let ask = body.ask()?;
    let (model, mut pending) = order(&api, Some(&model), Task::Complete(ask.clone())).await?;
    let head = Head {
        id: format!("cmpl-{}", Uuid::now_v7().simple()),
        created: jiff::Timestamp::now().as_second(),
        model,
    };
    if stream {
        // What fails before the first token is an answer with its own status.
        let first = pending.next().await?;
        return Ok(streamed(&api, head, ask, usage_wanted, first, pending)?.into_response());
    }
    loop {
        match pending.next().await? {
            Told::Piece { .. } => {}
            Told::Choices(choices) => {
                let shown = (0..).zip(&choices).map(|(index, choice)| whole(index, choice, &ask)).collect();
                return Ok(Json(head.around(shown, Some(usage(&choices)))).into_response());
            }
            _ => return Err(unexpected()),
        }
    }
}

fn finish_reason(choice: &Choice) -> &'static str {
    if choice.ended { "stop" } else { "length" }
}

/// One answer in one piece.
fn whole(index: usize, choice: &Choice, ask: &Ask) -> Value {
    let mut shown = json!({
        "index": index,
        "text": format!("{}{}", choice.prompt_text, choice.text),
        "finish_reason": finish_reason(choice),
        "logprobs": ask.logprobs.map(|_| logprobs(choice, ask)),
    });
    if let (Some(fields), Some(most)) = (shown.as_object_mut(), ask.prompt_logprobs) {
        fields.insert("prompt_logprobs".to_owned(), prompt_logprobs(choice, most));
    }
    shown
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

fn usage(choices: &[Choice]) -> Value {
    let prompt: usize = choices.iter().map(|choice| choice.prompt.len()).sum();
    let new: usize = choices.iter().map(|choice| choice.tokens.len()).sum();
    json!({"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new})
}

/// The answer as server-sent events, from its first part on.
fn streamed(
    api: &Api,
    head: Head,
    ask: Ask,
    usage_wanted: bool,
    first: Told,
    mut pending: Pending,
) -> Result<Response, ApiError> {
    let place = api.streams.clone().try_acquire_owned().map_err(|_| {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too many streams are open").retry_after(BUSY_SECONDS)
    })?;
    let mut stopping = api.stopping.clone();
    let (out, frames) = mpsc::channel::<Result<Frame, Infallible>>(WAITING);
    tokio::spawn(async move {
        let work = async {
            let mut next = Ok(first);
            let mut echoed = vec![!ask.echo; ask.prompts.len()];
            loop {
                match next {
                    Ok(Told::Piece { prompt, text }) => {
                        let prompt_text = match (ask.prompts.get(prompt), echoed.get_mut(prompt)) {
                            (Some(Prompt::Text(text)), Some(done @ false)) => {
                                *done = true;
                                text.as_str()
                            }
                            _ => "",
                        };
                        let text = format!("{prompt_text}{text}");
                        if !text.is_empty() {
                            let choice = json!({"index": prompt, "text": text, "logprobs": null, "finish_reason": null});
                            send(&out, &head.around(vec![choice], None)).await?;
                        }
                    }
                    Ok(Told::Choices(choices)) => {
                        for (index, choice) in choices.iter().enumerate() {
                            // What no piece has told yet: the prompt of an answer without tokens.
                            let late = echoed.get(index).is_some_and(|done| !done);
                            let text = if late { choice.prompt_text.as_str() } else { "" };
                            let reason = finish_reason(choice);
                            let last = json!({"index": index, "text": text, "logprobs": null, "finish_reason": reason});
                            send(&out, &head.around(vec![last], None)).await?;
                        }
                        if usage_wanted {
                            send(&out, &head.around(Vec::new(), Some(usage(&choices)))).await?;
                        }
                        return out.send(Ok(Frame::default().data("[DONE]"))).await.ok();
                    }
                    Ok(_) => return None,
                    Err(error) => {
                        let (_, body) = ApiError::body(&error, PATH);
                        return out.send(Ok(Frame::default().data(body))).await.ok();
                    }
                }
                next = pending.next().await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(budget::HTTP_COMPLETION, work) => {}
            () = out.closed() => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        // Ends the work if it is not done.
        drop(pending);
        drop(place);
    });
    let keep_alive = KeepAlive::new().interval(budget::HTTP_PING);
    Ok(Sse::new(ReceiverStream::new(frames)).keep_alive(keep_alive).into_response())
}

async fn send(out: &mpsc::Sender<Result<Frame, Infallible>>, body: &Value) -> Option<()> {
    out.send(Ok(Frame::default().data(body.to_string()))).await.ok()
}
