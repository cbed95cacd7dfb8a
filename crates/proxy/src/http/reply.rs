//! Answers that the proxy gives itself.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, StatusCode};

use crate::failure::{Failure, Kind};
use crate::observe::flags::Flags;

/// An answer without an upstream.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub details: Cow<'static, str>,
    pub flags: Flags,
    pub body: Bytes,
    pub headers: HeaderMap,
    pub transport_failure: Option<String>,
    /// Whether the headers already say the outcome in gRPC's terms.
    pub grpc_told: bool,
}

impl Reply {
    /// An answer with an empty body.
    pub fn new(status: u16, details: impl Into<Cow<'static, str>>, flags: Flags) -> Self {
        Self {
            status,
            details: details.into(),
            flags,
            body: Bytes::new(),
            headers: HeaderMap::new(),
            transport_failure: None,
            grpc_told: false,
        }
    }

    /// The same answer with a text.
    #[must_use]
    pub fn text(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// An answer that sends the client elsewhere.
    pub fn redirect(status: u16, location: &str, details: &'static str) -> Self {
        let mut reply = Self::new(status, details, Flags::NONE);
        if let Ok(location) = HeaderValue::from_str(location) {
            reply.headers.insert(header::LOCATION, location);
        }
        reply
    }

    /// The answer to a failure; `tries` says how often it was tried.
    pub fn failure(failure: Failure, tries: u32) -> Self {
        let (flags, status) = failure.kind.response();
        let details = failure.details();
        let mut reply = Self::new(status, details, flags).text(failure.body(tries > 1));
        if failure.kind == Kind::Overflow {
            reply.headers.insert("x-envoy-overloaded", HeaderValue::from_static("true"));
        }
        reply.transport_failure = failure.transport;
        reply
    }

    /// The head and body to send. A gRPC client gets the outcome in gRPC's own terms.
    pub fn parts(&self, grpc: bool) -> (StatusCode, HeaderMap, Bytes) {
        let mut headers = self.headers.clone();
        if grpc && !self.grpc_told {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(grpc_status(self.status)));
            if !self.body.is_empty()
                && let Ok(message) = HeaderValue::from_str(&percent_encoded(&self.body))
            {
                headers.insert("grpc-message", message);
            }
            return (StatusCode::OK, headers, Bytes::new());
        }
        if !self.body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, headers, self.body.clone())
    }
}

/// The gRPC status for an HTTP status.
pub fn grpc_status(status: u16) -> u16 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

fn percent_encoded(message: &[u8]) -> String {
    let mut out = String::new();
    for byte in message {
        match byte {
            b' '..=b'$' | b'&'..=b'~' => out.push(char::from(*byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
