//! Answers: JSON or YAML bodies, failures, and the body type they all share.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use serde_json::Value;

use crate::status::Status;

/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// Any response body: whole, streamed, or empty.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;
pub type Response = http::Response<Body>;

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A response of any content type.
pub fn raw(code: u16, content_type: &'static str, bytes: impl Into<Bytes>) -> Response {
    let mut response = Response::new(full(bytes));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A JSON response.
pub fn json(code: u16, value: &Value) -> Response {
    raw(code, "application/json", value.to_string())
}

/// A plain text response.
pub fn text(code: u16, text: impl Into<Bytes>) -> Response {
    raw(code, "text/plain; charset=utf-8", text)
}

/// A refusal, in the form the client asked for.
pub fn failure(status: &Status, accept: Option<&HeaderValue>) -> Response {
    let wants_yaml = accept
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/yaml"));
    let mut response = if wants_yaml {
        yaml(status.code(), &status.to_value())
    } else {
        json(status.code(), &status.to_value())
    };
    if let Some(seconds) = status.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A YAML response.
pub fn yaml(code: u16, value: &Value) -> Response {
    match serde_saphyr::to_string(value) {
        Ok(text) => raw(code, "application/yaml", text),
        Err(error) => json(500, &Status::internal(error).to_value()),
    }
}
