//! Reading request bodies: JSON, YAML or Kubernetes' protobuf, bounded in size.

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use crate::status::Status;

mod duplicates;
mod protobuf;

use duplicates::Noted;

/// The largest body, as in Kubernetes.
const LIMIT: usize = 3 * 1024 * 1024;
const READABLE: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Reads a whole body.
///
/// # Errors
/// 413 when it is too large, 400 when it breaks off.
pub async fn read(body: Incoming) -> Result<Bytes, Status> {
    match Limited::new(body, LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Status::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {LIMIT}"),
        )),
        Err(error) => Err(Status::bad_request(format!("the body broke off: {error}"))),
    }
}

/// The media type of a body, without parameters.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().split(';').next().unwrap_or_default().trim()
}

/// Parses a body by its content type.
///
/// # Errors
/// 415 for other forms, 400 for text that does not parse.
pub fn parse(headers: &HeaderMap, bytes: &Bytes) -> Result<Value, Status> {
    parse_noting(headers, bytes).map(|(value, _)| value)
}

/// Like [`parse`]; also says which fields were given twice.
///
/// # Errors
/// As [`parse`].
pub fn parse_noting(headers: &HeaderMap, bytes: &Bytes) -> Result<Noted, Status> {
    match media_type(headers) {
        "" | "application/json" | "*/*" => duplicates::read(bytes).map_err(|error| {
            let what = if error.is_eof() {
                "unexpected end of JSON input".to_owned()
            } else {
                error.to_string()
            };
            Status::bad_request(format!("couldn't get version/kind; json parse error: {what}"))
        }),
        "application/yaml" | "text/yaml" => Ok((yaml(bytes)?, Vec::new())),
        "application/vnd.kubernetes.protobuf" => match protobuf::read(bytes) {
            Ok(value) => Ok((value, Vec::new())),
            Err(error) => Err(Status::bad_request(error.to_string())),
        },
        _ => Err(Status::unsupported_media_type(READABLE)),
    }
}

/// Parses JSON.
///
/// # Errors
/// 400 for text that does not parse.
pub fn json(bytes: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(bytes).map_err(|error| {
        Status::bad_request(format!("couldn't get version/kind; json parse error: {error}"))
    })
}

/// Parses YAML.
///
/// # Errors
/// 400 for text that does not parse.
pub fn yaml(bytes: &[u8]) -> Result<Value, Status> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Status::bad_request(format!("the body is not UTF-8: {error}")))?;
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| Status::bad_request(format!("error converting YAML to JSON: {error}")))
}
