//! `POST /v1/chat/completions`: OpenAI's shape, laid out by the model's own chat template.
//!
//! Invariants: as for completions; the template is a hostile program and is not run here.
//! Deliberately absent: tools, pictures, and any layout for a model without a template.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::extract::{JsonBody, Nothing, Params};
use super::generate::{Common, Form, answer, finish_reason, unsupported};
use super::reply::ApiError;
use super::work::Task;
use crate::domain::budget;
use crate::measure::complete::{Ask, Choice, Likely};
use crate::worker::Message;

pub const PATH: &str = "/v1/chat/completions";

/// Who may speak.
const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// The request.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Body {
    messages: Vec<Turn>,
    /// The newer name of `max_tokens`.
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    logprobs: bool,
    top_logprobs: Option<usize>,
    #[serde(flatten)]
    common: Common,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Turn {
    role: String,
    content: Content,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "field `messages`: content is a text, or a list of parts of type text")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Part {
    Text { text: String },
}

impl Body {
    /// What is asked, or the parameter that cannot be served.
    fn task(self) -> Result<(Common, Task, Chat), ApiError> {
        let mut common = self.common;
        common.check()?;
        if self.messages.is_empty() || self.messages.len() > budget::CHAT_MESSAGES {
            return unsupported("messages", &format!("1 to {} of them", budget::CHAT_MESSAGES));
        }
        if let Some(turn) = self.messages.iter().find(|turn| !ROLES.contains(&turn.role.as_str())) {
            return unsupported(
                "messages",
                &format!("the role {:?} is none of {}", turn.role, ROLES.join(", ")),
            );
        }
        let new_tokens = match (common.max_tokens, self.max_completion_tokens) {
            (Some(old), Some(new)) if old != new => {
                return unsupported("max_completion_tokens", "max_tokens says something else");
            }
            (old, new) => new.or(old),
        };
        if new_tokens == Some(0) {
            return unsupported("max_tokens", "at least 1");
        }
        if self.top_logprobs.is_some() && !self.logprobs {
            return unsupported("top_logprobs", "only together with logprobs");
        }
        let logprobs = self.logprobs.then(|| self.top_logprobs.unwrap_or(0));
        common.logprobs("top_logprobs", self.top_logprobs, budget::COMPLETION_PROMPT_LOGPROBS)?;
        common.logprobs("logprobs", logprobs, budget::COMPLETION_PROMPT_LOGPROBS)?;
        let ask = Ask { logprobs, stop: common.stops()?, ..Ask::default() };
        let messages = self.messages.into_iter().map(Message::from).collect();
        Ok((common, Task::Chat { messages, ask, new_tokens }, Chat { logprobs, began: false }))
    }
}

impl From<Turn> for Message {
    fn from(turn: Turn) -> Self {
        let content = match turn.content {
            Content::Text(text) => text,
            Content::Parts(parts) => {
                parts.into_iter().map(|Part::Text { text }| text).collect::<Vec<_>>().join("\n")
            }
        };
        Self { role: turn.role, content }
    }
}

pub async fn create(
    State(api): State<Api>,
    _: Params<Nothing>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Response, ApiError> {
    let (common, task, form) = body.task()?;
    answer(&api, &common, task, form).await
}

/// The answer as a message of the assistant.
struct Chat {
    logprobs: Option<usize>,
    /// Whether a part was told; the first says whose message it is.
    began: bool,
}

impl Chat {
    fn chunk(&mut self, index: usize, text: &str, reason: Option<&str>) -> Value {
        let delta = if std::mem::replace(&mut self.began, true) {
            json!({"content": text})
        } else {
            json!({"role": "assistant", "content": text})
        };
        json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": reason})
    }
}

impl Form for Chat {
    const PATH: &'static str = PATH;
    const ID: &'static str = "chatcmpl";
    const OBJECT: &'static str = "chat.completion";
    const CHUNK: &'static str = "chat.completion.chunk";

    fn whole(&self, index: usize, choice: &Choice) -> Value {
        json!({
            "index": index,
            "message": {"role": "assistant", "content": choice.text},
            "finish_reason": finish_reason(choice),
            "logprobs": self.logprobs.map(|most| logprobs(choice, most)),
        })
    }

    fn part(&mut self, index: usize, text: &str) -> Option<Value> {
        Some(text).filter(|text| !text.is_empty()).map(|text| self.chunk(index, text, None))
    }

    fn last(&mut self, index: usize, choice: &Choice) -> Value {
        self.chunk(index, "", Some(finish_reason(choice)))
    }
}

/// OpenAI's list: each token with its log-probability, and the `most` likely ones.
fn logprobs(choice: &Choice, most: usize) -> Value {
    let one = |text: &str, logprob: Option<f64>| json!({"token": text, "logprob": logprob, "bytes": text.as_bytes()});
    let content = choice.tokens.iter().map(|said| {
        let mut likely: Vec<&Likely> =
            said.likely.iter().filter(|likely| likely.rank.is_some_and(|rank| rank <= most)).collect();
        likely.sort_by_key(|likely| likely.rank);
        let top: Vec<Value> = likely.iter().map(|likely| one(&likely.text, Some(likely.logprob))).collect();
        let mut shown = one(&said.piece, said.likely.first().map(|likely| likely.logprob));
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("top_logprobs".to_owned(), top.into());
        }
        shown
    });
    json!({"content": content.collect::<Vec<_>>()})
}
