//! `GET /openapi.json` and a page of it for people. The description is a file beside this
//! one; a test holds it against the routes.

use askama::Template;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use serde_json::Value;

use super::extract::{Nothing, Params};
use super::page::PAGE_POLICY;
use super::reply::ApiError;

pub const OPENAPI: &str = include_str!("openapi.json");

pub async fn openapi(_: Params<Nothing>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

#[derive(Template)]
#[template(path = "docs.html")]
struct Docs {
    version: &'static str,
    endpoints: Vec<Endpoint>,
}

struct Endpoint {
    method: String,
    path: String,
    summary: String,
    parameters: Vec<(String, String)>,
}

pub async fn docs(_: Params<Nothing>) -> Result<Response, ApiError> {
    let page = Docs { version: env!("CARGO_PKG_VERSION"), endpoints: endpoints() };
    let html = page
        .render()
        .map_err(|error| ApiError::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(html)).into_response())
}

fn endpoints() -> Vec<Endpoint> {
    let document: Value = serde_json::from_str(OPENAPI).unwrap_or_default();
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let mut list = Vec::new();
    for (path, methods) in document.get("paths").and_then(Value::as_object).into_iter().flatten() {
        for (method, about) in methods.as_object().into_iter().flatten() {
            let parameters = about.get("parameters").and_then(Value::as_array).into_iter().flatten();
            list.push(Endpoint {
                method: method.to_uppercase(),
                path: path.clone(),
                summary: text(about, "summary"),
                parameters: parameters
                    .map(|parameter| (text(parameter, "name"), text(parameter, "description")))
                    .collect(),
            });
        }
    }
    list
}
