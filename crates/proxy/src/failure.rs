//! Why a request or connection could not be served, in a form the proxy can act on.

use std::borrow::Cow;

use crate::observe::flags::Flags;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No route fits the request.
    NoRoute,
    /// The route's upstream does not exist.
    NoSuchUpstream,
    /// No endpoint can be used.
    NoHealthyUpstream,
    /// The endpoint refused the connection, or TLS failed.
    Connect,
    /// Connecting took too long.
    ConnectTimeout,
    /// The connection ended before the response.
    Terminated,
    /// The endpoint reset the stream.
    Reset,
    /// The endpoint refused the stream before looking at it.
    RefusedStream,
    /// The response broke the protocol.
    Protocol,
    /// A circuit breaker is open.
    Overflow,
    /// The upstream took too long.
    Timeout,
    /// One try took too long.
    TryTimeout,
    /// Nothing moved for too long.
    StreamIdle,
    /// The stream lasted too long altogether.
    MaxDuration,
    /// The client's request body broke off.
    Downstream,
}

/// A failure with its cause.
#[derive(Debug, thiserror::Error)]
#[error("{}", .kind.reason())]
pub struct Failure {
    pub kind: Kind,
    /// What the transport said, for the access log.
    pub transport: Option<String>,
    /// Whether the upstream certainly did nothing: it never got the request, or the request asks
    /// for nothing to be done (RFC 9110, section 9.2.1) and went out on a connection that ended as
    /// kept ones do.
    pub untouched: bool,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    /// A failure without a further cause.
    pub fn new(kind: Kind) -> Self {
        Self { kind, transport: None, untouched: false, source: None }
    }

    /// A failure of the transport, with its text.
    pub fn transport(kind: Kind, text: impl Into<String>) -> Self {
        Self { transport: Some(text.into()), ..Self::new(kind) }
    }
}

impl Kind {
    /// Whether the endpoint is to blame: not what the client did, nor our own limits.
    pub fn is_of_endpoint(self) -> bool {
        !matches!(self, Self::Overflow | Self::Downstream | Self::MaxDuration)
    }

    /// Envoy's response flag for the access log, and the HTTP status of the answer.
    pub fn response(self) -> (Flags, u16) {
        match self {
            Self::NoRoute => (Flags::NO_ROUTE, 404),
            Self::NoSuchUpstream => (Flags::NO_UPSTREAM, 503),
            Self::NoHealthyUpstream => (Flags::NO_HEALTHY_UPSTREAM, 503),
            Self::Connect | Self::ConnectTimeout => (Flags::UPSTREAM_FAILURE, 503),
            Self::Terminated => (Flags::UPSTREAM_TERMINATION, 503),
            Self::Reset | Self::RefusedStream => (Flags::UPSTREAM_RESET, 503),
            Self::Protocol => (Flags::UPSTREAM_PROTOCOL, 502),
            Self::Overflow => (Flags::OVERFLOW, 503),
            Self::Timeout | Self::TryTimeout => (Flags::UPSTREAM_TIMEOUT, 504),
            Self::StreamIdle => (Flags::STREAM_IDLE, 504),
            Self::MaxDuration => (Flags::MAX_DURATION, 408),
            Self::Downstream => (Flags::DOWNSTREAM_TERMINATION, 400),
        }
    }

    /// The reset reason in the words of Envoy.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoRoute => "no route",
            Self::NoSuchUpstream => "no such upstream",
            Self::NoHealthyUpstream => "no healthy upstream",
            Self::Connect => "remote connection failure",
            Self::ConnectTimeout => "connection timeout",
            Self::Terminated => "connection termination",
            Self::Reset => "remote reset",
            Self::RefusedStream => "remote refused stream reset",
            Self::Protocol => "protocol error",
            Self::Overflow => "overflow",
            Self::Timeout => "upstream request timeout",
            Self::TryTimeout => "upstream per try timeout",
            Self::StreamIdle => "stream timeout",
            Self::MaxDuration => "upstream max stream duration reached",
            Self::Downstream => "downstream connection termination",
        }
    }
}

impl Failure {
    /// The detail of the response code in the access log.
    pub fn details(&self) -> Cow<'static, str> {
        match self.kind {
            Kind::NoRoute => "route_not_found".into(),
            Kind::NoSuchUpstream => "cluster_not_found".into(),
            Kind::NoHealthyUpstream => "no_healthy_upstream".into(),
            Kind::Timeout => "response_timeout".into(),
            Kind::TryTimeout => "upstream_per_try_timeout".into(),
            Kind::StreamIdle => "stream_idle_timeout".into(),
            Kind::MaxDuration => "upstream_max_stream_duration_reached".into(),
            Kind::Downstream => "downstream_remote_disconnect".into(),
            kind => {
                let reason = kind.reason().replace(' ', "_");
                match self.transport.as_deref() {
                    Some(text) => {
                        let text = text.replace(' ', "_");
                        format!("upstream_reset_before_response_started{{{reason}|{text}}}").into()
                    }
                    None => format!("upstream_reset_before_response_started{{{reason}}}").into(),
                }
            }
        }
    }

    /// The body of the answer; `retried` if this was not the first try.
    pub fn body(&self, retried: bool) -> String {
        match self.kind {
            Kind::NoRoute | Kind::NoSuchUpstream => String::new(),
            Kind::NoHealthyUpstream => "no healthy upstream".to_owned(),
            Kind::Timeout | Kind::TryTimeout => "upstream request timeout".to_owned(),
            Kind::StreamIdle | Kind::MaxDuration => self.kind.reason().to_owned(),
            kind => {
                let again = if retried { "retried and the latest " } else { "" };
                let reason = kind.reason();
                let transport = self.transport.as_deref();
                let transport = transport
                    .map_or_else(String::new, |text| format!(", transport failure reason: {text}"));
                format!(
                    "upstream connect error or disconnect/reset before headers. \
                     {again}reset reason: {reason}{transport}"
                )
            }
        }
    }
}
