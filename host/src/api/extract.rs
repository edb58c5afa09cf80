//! Requests to typed values: nothing unknown passes, and nothing grows without bound.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::reply::ApiError;
use crate::domain::budget;

/// The query as a `T` that denies unknown fields.
#[derive(Debug)]
pub struct Params<T>(pub T);

/// A query with nothing in it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(error) => {
                // The cause says what is wrong; axum's own sentence only that something is.
                let cause = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
                Err(ApiError::bad(blamed(&cause), format!("in the query: {cause}")))
            }
        }
    }
}

/// The field that serde's sentence names between its first backticks.
fn blamed(sentence: &str) -> Option<&str> {
    sentence.contains("field `").then(|| sentence.split('`').nth(1)).flatten()
}

/// The id in the path. One that is no id belongs to nothing, which is a 404.
#[derive(Debug)]
pub struct Id(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let missing = || ApiError::missing("id");
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| missing())?;
        text.parse().map(Self).map_err(|_| missing())
    }
}

/// A JSON body as a `T` that denies unknown fields.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let media = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media = media.and_then(|value| value.split(';').next()).map(str::trim);
        // A form on a foreign page can post anything but this type without being asked.
        if !media.is_some_and(|media| media.eq_ignore_ascii_case("application/json")) {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the body must be JSON, with Content-Type: application/json",
            ));
        }
        let bytes = read(request.into_body()).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            let sentence = error.to_string();
            ApiError::bad(blamed(&sentence), format!("in the body: {sentence}"))
        })
    }
}

async fn read(body: Body) -> Result<axum::body::Bytes, ApiError> {
    let whole = axum::body::to_bytes(body, budget::HTTP_BODY_BYTES);
    match tokio::time::timeout(budget::HTTP_BODY, whole).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is incomplete or larger than {} bytes", budget::HTTP_BODY_BYTES),
        )),
        Err(_) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    }
}
