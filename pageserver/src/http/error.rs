//! Errors on the wire.

use crate::engine::{Error, ErrorKind};
use api_client::model::ErrorBody;
use axum::Json;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

/// A failed request: a status and a text.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    msg: String,
}

impl ApiError {
    /// An error with this status and text.
    pub fn new(status: StatusCode, msg: impl Into<String>) -> Self {
        ApiError {
            status,
            msg: msg.into(),
        }
    }

    /// 400.
    pub fn bad_request(msg: impl Into<String>) -> Self {
        ApiError::new(StatusCode::BAD_REQUEST, msg)
    }
}

impl From<Error> for ApiError {
    fn from(e: Error) -> Self {
        let (status, prefix) = match e.kind() {
            ErrorKind::NotFound => (StatusCode::NOT_FOUND, "NotFound: "),
            ErrorKind::BadRequest => (StatusCode::BAD_REQUEST, ""),
            ErrorKind::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, ""),
            ErrorKind::Conflict => (StatusCode::CONFLICT, "Conflict: "),
            ErrorKind::Busy => (StatusCode::TOO_MANY_REQUESTS, ""),
            ErrorKind::Precondition => (StatusCode::PRECONDITION_FAILED, "Precondition failed: "),
            ErrorKind::Timeout => (StatusCode::REQUEST_TIMEOUT, ""),
            ErrorKind::Unavailable | ErrorKind::Shutdown => (StatusCode::SERVICE_UNAVAILABLE, ""),
            ErrorKind::Corrupt | ErrorKind::Full | ErrorKind::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, "")
            }
        };
        let text = match e {
            Error::Shutdown => "Shutting down".to_owned(),
            other => other.to_string(),
        };
        ApiError::new(status, format!("{prefix}{text}"))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(status = %self.status, "request failed: {}", self.msg);
        }
        (self.status, Json(ErrorBody { msg: self.msg })).into_response()
    }
}

/// Longest text taken over from an error that the framework made, in bytes.
const MAX_TEXT: usize = 4096;

/// Gives errors that the framework made, such as for a path that is not UTF-8 or a body that is too
/// long, the form of all others.
pub async fn uniform(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"application/json"));
    if json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), MAX_TEXT)
        .await
        .unwrap_or_default();
    ApiError::new(status, String::from_utf8_lossy(&text)).into_response()
}

/// Result of a handler.
pub type ApiResult<T> = Result<T, ApiError>;

/// Parses a body whatever its content type. A literal `null` is like no body.
pub fn body<T: DeserializeOwned>(bytes: &Bytes) -> ApiResult<T> {
    if bytes.is_empty() || bytes.trim_ascii() == b"null" {
        return Err(ApiError::bad_request("missing request body"));
    }
    serde_json::from_slice(bytes)
        .map_err(|e| ApiError::bad_request(format!("failed to parse request body: {e}")))
}

/// Parses an optional body.
pub fn optional_body<T: DeserializeOwned + Default>(bytes: &Bytes) -> ApiResult<T> {
    if bytes.is_empty() || bytes.trim_ascii() == b"null" {
        Ok(T::default())
    } else {
        body(bytes)
    }
}

/// Parses an id from the path.
pub fn id<T: std::str::FromStr>(what: &str, text: &str) -> ApiResult<T>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|e| ApiError::bad_request(format!("failed to parse {what}: {e}")))
}
