//! Errors as the client expects them: RFC 9457 problem+json, or OpenAI's shape under `/v1`.

use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Refusal;
use crate::domain::{Problem, ProblemKind};
use crate::store::StoreError;

/// An error on its way out. The guard gives it the shape of the path it is for.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub status: StatusCode,
    pub detail: String,
    pub hint: Option<String>,
    /// The parameter that is to blame.
    pub param: Option<String>,
    /// Seconds after which it may go better.
    pub retry_after: Option<u32>,
}

impl ApiError {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), hint: None, param: None, retry_after: None }
    }

    pub fn bad(param: Option<&str>, detail: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, detail);
        Self { param: param.map(str::to_owned), ..error }
    }

    pub fn missing(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no such {what}"))
    }

    #[must_use]
    pub fn hint(self, hint: &str) -> Self {
        Self { hint: Some(hint.to_owned()), ..self }
    }

    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// The body for a client of `path`, with its media type.
    pub fn body(&self, path: &str) -> (&'static str, String) {
        if !is_openai(path) {
            let mut body = json!({
                "type": "about:blank",
                "title": self.status.canonical_reason().unwrap_or("Error"),
                "status": self.status.as_u16(),
                "detail": self.detail,
            });
            if let Some(fields) = body.as_object_mut() {
                fields.extend(self.hint.clone().map(|hint| ("hint".to_owned(), hint.into())));
                fields.extend(self.param.clone().map(|param| ("param".to_owned(), param.into())));
            }
            return ("application/problem+json", body.to_string());
        }
        let (kind, code) = match self.status {
            StatusCode::UNAUTHORIZED => ("authentication_error", Some("invalid_api_key")),
            StatusCode::FORBIDDEN => ("permission_error", None),
            StatusCode::NOT_FOUND => ("invalid_request_error", Some("not_found")),
            StatusCode::TOO_MANY_REQUESTS => ("rate_limit_error", Some("queue_full")),
            status if status.is_client_error() => ("invalid_request_error", None),
            _ => ("server_error", None),
        };
        let error = json!({"message": self.detail, "type": kind, "param": self.param, "code": code});
        ("application/json", json!({"error": error}).to_string())
    }
}

/// Whether a path belongs to the OpenAI-compatible part.
pub fn is_openai(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/")
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        // The path is not known here: the guard writes the body from this extension.
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives an error response the body that fits `path`.
pub fn shape(mut response: Response, path: &str) -> Response {
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return response };
    let (media_type, body) = error.body(path);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.remove(header::CONTENT_LENGTH);
    if let Some(seconds) = error.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    *response.body_mut() = body.into();
    response
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        let status = match problem.kind {
            ProblemKind::Usage => StatusCode::BAD_REQUEST,
            ProblemKind::NotFound => StatusCode::NOT_FOUND,
            ProblemKind::Conflict => StatusCode::CONFLICT,
            ProblemKind::Input => StatusCode::UNPROCESSABLE_ENTITY,
            ProblemKind::Machine => StatusCode::SERVICE_UNAVAILABLE,
            ProblemKind::Plugin => StatusCode::BAD_GATEWAY,
            ProblemKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { hint: problem.hint, ..Self::new(status, problem.message) }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self { param: refusal.param.map(str::to_owned), ..Self::from(refusal.problem) }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a read of the state database failed");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("the state database could not be read: {error}"))
    }
}

pub async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
        .hint("GET /docs lists what there is")
}

pub async fn wrong_method(method: axum::http::Method, uri: Uri) -> ApiError {
    let detail = format!("{} does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, detail).hint("GET /docs lists what there is")
}
