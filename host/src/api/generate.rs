//! What `/v1/completions` and `/v1/chat/completions` share: the parameters that mean the same in
//! both, and an answer in one piece or as a stream.
//!
//! Invariants: greedy, so every parameter that would need sampling is an error at any value but
//! the neutral one; a client that goes away ends its work. Deliberately absent: what an answer
//! looks like, which is each endpoint's own ([`Form`]).

use std::convert::Infallible;

use axum::Json;
use axum::http::StatusCode;
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::Api;
use super::reply::ApiError;
use super::work::{BUSY_SECONDS, Pending, Task, Told, order, unexpected};
use crate::domain::budget;
use crate::measure::complete::Choice;

/// Frames that wait for a slow client.
const WAITING: usize = 64;

/// Parameters of both; part of a body that denies what it does not know.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Common {
    pub model: String,
    pub max_tokens: Option<u32>,
    stop: Option<Stops>,
    #[serde(default)]
    pub stream: bool,
    stream_options: Option<StreamOptions>,
    temperature: Option<f64>,
    /// A greedy choice does not depend on it.
    #[serde(rename = "seed")]
    _seed: Option<i64>,
    /// Who asks, for other servers' records.
    #[serde(rename = "user")]
    _user: Option<String>,
    n: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<f64>,
    min_p: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    repetition_penalty: Option<f64>,
    logit_bias: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "field `stop`: a text or several")]
enum Stops {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// A parameter that cannot be served as it is.
pub fn unsupported<T>(name: &str, why: &str) -> Result<T, ApiError> {
    Err(ApiError::bad(Some(name), format!("{name}: {why}")))
}

impl Common {
    /// Nothing is asked that cannot be served.
    pub fn check(&self) -> Result<(), ApiError> {
        let neutral = [
            ("temperature", self.temperature, 0.0, "answers are greedy, so only 0 is supported"),
            ("n", self.n, 1.0, "answers are greedy, so only 1 is supported"),
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
        if self.logit_bias.as_ref().is_some_and(|bias| !bias.is_empty()) {
            return unsupported("logit_bias", "only an empty one is supported");
        }
        if self.stream_options.is_some() && !self.stream {
            return unsupported("stream_options", "only together with stream");
        }
        Ok(())
    }

    /// Log-probabilities of at most `most` tokens each, which a stream does not tell.
    pub fn logprobs(&self, name: &str, value: Option<usize>, most: usize) -> Result<(), ApiError> {
        if value.is_some_and(|value| value > most) {
            return unsupported(name, &format!("at most {most}"));
        }
        if value.is_some() && self.stream {
            return unsupported(name, "not together with stream");
        }
        Ok(())
    }

    /// Texts to stop at.
    pub fn stops(&mut self) -> Result<Vec<String>, ApiError> {
        let stop = match self.stop.take() {
            None => Vec::new(),
            Some(Stops::One(stop)) => vec![stop],
            Some(Stops::Several(stops)) => stops,
        };
        let wrong = |stop: &String| stop.is_empty() || stop.len() > budget::COMPLETION_STOP_BYTES;
        if stop.len() > budget::COMPLETION_STOPS || stop.iter().any(wrong) {
            let (most, bytes) = (budget::COMPLETION_STOPS, budget::COMPLETION_STOP_BYTES);
            return unsupported("stop", &format!("at most {most} texts of 1 to {bytes} bytes"));
        }
        Ok(stop)
    }
}

/// What the answers of an endpoint look like.
pub trait Form: Send + 'static {
    const PATH: &'static str;
    /// What the ids of answers begin with.
    const ID: &'static str;
    /// `object` of an answer in one piece, and of a part of a streamed one.
    const OBJECT: &'static str;
    const CHUNK: &'static str;

    /// A choice in one piece.
    fn whole(&self, index: usize, choice: &Choice) -> Value;
    /// The next part of a choice, unless there is nothing to tell.
    fn part(&mut self, index: usize, text: &str) -> Option<Value>;
    /// The end of a choice whose text was told.
    fn last(&mut self, index: usize, choice: &Choice) -> Value;
}

/// What all parts of one answer say alike.
#[derive(Debug, Clone)]
struct Head {
    id: String,
    object: &'static str,
    created: i64,
    model: String,
}

impl Head {
    fn around(&self, choices: Vec<Value>, usage: Option<Value>) -> Value {
        let mut answer = json!({
            "id": self.id,
            "object": self.object,
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

/// Has the model do `task`, and answers in `form`.
pub async fn answer<F: Form>(api: &Api, common: &Common, task: Task, form: F) -> Result<Response, ApiError> {
    let (model, mut pending) = order(api, Some(&common.model), task).await?;
    let head = Head {
        id: format!("{}-{}", F::ID, Uuid::now_v7().simple()),
        object: if common.stream { F::CHUNK } else { F::OBJECT },
        created: jiff::Timestamp::now().as_second(),
        model,
    };
    if common.stream {
        let usage_wanted = common.stream_options.as_ref().is_some_and(|options| options.include_usage);
        // What fails before the first token is an answer with its own status.
        let first = pending.next().await?;
        return streamed(api, head, form, usage_wanted, first, pending);
    }
    loop {
        match pending.next().await? {
            Told::Piece { .. } => {}
            Told::Choices(choices) => {
                let shown = (0..).zip(&choices).map(|(index, choice)| form.whole(index, choice)).collect();
                return Ok(Json(head.around(shown, Some(usage(&choices)))).into_response());
            }
            _ => return Err(unexpected()),
        }
    }
}

pub fn finish_reason(choice: &Choice) -> &'static str {
    if choice.ended { "stop" } else { "length" }
}

fn usage(choices: &[Choice]) -> Value {
    let prompt: usize = choices.iter().map(|choice| choice.prompt.len()).sum();
    let new: usize = choices.iter().map(|choice| choice.tokens.len()).sum();
    json!({"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new})
}

/// The answer as server-sent events, from its first part on.
fn streamed<F: Form>(
    api: &Api,
    head: Head,
    mut form: F,
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
            loop {
                match next {
                    Ok(Told::Piece { prompt, text }) => {
                        if let Some(part) = form.part(prompt, &text) {
                            send(&out, &head.around(vec![part], None)).await?;
                        }
                    }
                    Ok(Told::Choices(choices)) => {
                        for (index, choice) in choices.iter().enumerate() {
                            let last = form.last(index, choice);
                            send(&out, &head.around(vec![last], None)).await?;
                        }
                        if usage_wanted {
                            send(&out, &head.around(Vec::new(), Some(usage(&choices)))).await?;
                        }
                        return out.send(Ok(Frame::default().data("[DONE]"))).await.ok();
                    }
                    Ok(_) => return None,
                    Err(error) => {
                        let (_, body) = ApiError::body(&error, F::PATH);
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
