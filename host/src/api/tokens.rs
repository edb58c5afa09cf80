//! `POST /tokenize`, `POST /detokenize`, `GET /tokenizer_info`: as evaluation clients expect
//! them. `model` may be left out where only one is served.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::extract::{JsonBody, Params};
use super::reply::ApiError;
use super::work::{Task, Told, order, unexpected};

/// Body of `/tokenize`.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Text {
    model: Option<String>,
    prompt: String,
    /// Add what the model's tokenizer adds by itself, such as a first token.
    #[serde(default = "yes")]
    add_special_tokens: bool,
}

fn yes() -> bool {
    true
}

/// Body of `/detokenize`.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    model: Option<String>,
    tokens: Vec<u32>,
}

/// Query of `/tokenizer_info`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    model: Option<String>,
}

pub async fn tokenize(
    State(api): State<Api>,
    JsonBody(body): JsonBody<Text>,
) -> Result<Json<Value>, ApiError> {
    let task = Task::Tokenize { text: body.prompt, add_special: body.add_special_tokens };
    match ask(&api, body.model.as_deref(), task).await? {
        Told::Tokens { tokens, context } => {
            Ok(Json(json!({"count": tokens.len(), "max_model_len": context, "tokens": tokens})))
        }
        _ => Err(unexpected()),
    }
}

pub async fn detokenize(
    State(api): State<Api>,
    JsonBody(body): JsonBody<Tokens>,
) -> Result<Json<Value>, ApiError> {
    match ask(&api, body.model.as_deref(), Task::Detokenize(body.tokens)).await? {
        Told::Text(text) => Ok(Json(json!({"prompt": text}))),
        _ => Err(unexpected()),
    }
}

pub async fn info(State(api): State<Api>, Params(query): Params<Model>) -> Result<Json<Value>, ApiError> {
    match ask(&api, query.model.as_deref(), Task::Describe).await? {
        Told::Tokenizer { bos, eos, adds_bos, context } => Ok(Json(json!({
            "bos_token": bos,
            "eos_token": eos,
            "pad_token": null,
            "add_bos_token": adds_bos,
            "model_max_length": context,
            // A program of the model's author: `/v1/chat/completions` runs it, apart from everything.
            "chat_template": null,
        }))),
        _ => Err(unexpected()),
    }
}

async fn ask(api: &Api, model: Option<&str>, task: Task) -> Result<Told, ApiError> {
    order(api, model, task).await?.1.next().await
}
