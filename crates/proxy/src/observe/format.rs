//! Envoy's command operators: `%REQ(:PATH)%` and its relatives.
//!
//! Access logs and header values use them. A format is parsed once; an operator that does not
//! exist here is a problem then, not a hole in a log line later.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::SocketAddr;

use jiff::tz::TimeZone;

use crate::observe::record::{Record, header};

/// A text with operators in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Format(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Value(Operator, Option<usize>),
}

/// What an operator yields.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    Missing,
    Text(Cow<'a, str>),
    Number(u64),
}

/// Names of headers: the second is used where the first is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderNames {
    first: String,
    second: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Operator {
    StartTime(Option<String>),
    Request(HeaderNames),
    Response(HeaderNames),
    Trailer(HeaderNames),
    RequestPath {
        query: bool,
    },
    Field(Field),
    /// Metadata that filters set. No filter here sets any, so it is always missing.
    DynamicMetadata,
    Host(String),
}

macro_rules! fields {
    ($($name:ident = $text:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Field { $($name,)* }
        impl Field {
            fn named(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

fields! {
    Protocol = "PROTOCOL";
    ResponseCode = "RESPONSE_CODE";
    ResponseCodeDetails = "RESPONSE_CODE_DETAILS";
    ResponseFlags = "RESPONSE_FLAGS";
    ConnectionTerminationDetails = "CONNECTION_TERMINATION_DETAILS";
    UpstreamTransportFailureReason = "UPSTREAM_TRANSPORT_FAILURE_REASON";
    BytesReceived = "BYTES_RECEIVED";
    BytesSent = "BYTES_SENT";
    Duration = "DURATION";
    RequestDuration = "REQUEST_DURATION";
    ResponseDuration = "RESPONSE_DURATION";
    ResponseTxDuration = "RESPONSE_TX_DURATION";
    UpstreamHost = "UPSTREAM_HOST";
    UpstreamRemoteAddress = "UPSTREAM_REMOTE_ADDRESS";
    UpstreamRemoteAddressWithoutPort = "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT";
    UpstreamRemotePort = "UPSTREAM_REMOTE_PORT";
    UpstreamCluster = "UPSTREAM_CLUSTER";
    UpstreamClusterRaw = "UPSTREAM_CLUSTER_RAW";
    UpstreamLocalAddress = "UPSTREAM_LOCAL_ADDRESS";
    UpstreamPeerUriSan = "UPSTREAM_PEER_URI_SAN";
    UpstreamRequestAttemptCount = "UPSTREAM_REQUEST_ATTEMPT_COUNT";
    DownstreamLocalAddress = "DOWNSTREAM_LOCAL_ADDRESS";
    DownstreamLocalAddressWithoutPort = "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT";
    DownstreamLocalPort = "DOWNSTREAM_LOCAL_PORT";
    DownstreamRemoteAddress = "DOWNSTREAM_REMOTE_ADDRESS";
    DownstreamRemoteAddressWithoutPort = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT";
    DownstreamRemotePort = "DOWNSTREAM_REMOTE_PORT";
    DownstreamDirectRemoteAddress = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS";
    DownstreamDirectRemoteAddressWithoutPort = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT";
    DownstreamPeerUriSan = "DOWNSTREAM_PEER_URI_SAN";
    DownstreamTlsVersion = "DOWNSTREAM_TLS_VERSION";
    RequestedServerName = "REQUESTED_SERVER_NAME";
    RouteName = "ROUTE_NAME";
    FilterChainName = "FILTER_CHAIN_NAME";
    ConnectionId = "CONNECTION_ID";
}

impl Format {
    /// Parses a text. `%%` stands for a percent sign.
    ///
    /// # Errors
    /// A sentence about the first operator that is not known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            plain.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                plain.push('%');
                rest = after;
                continue;
            }
            let (operator, most, after) = operator(rest)?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Value(operator, most));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() || parts.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// The value: that of the only operator, or a text in which missing values are `-`.
    pub fn value<'a>(&'a self, record: &'a Record) -> Value<'a> {
        match self.0.as_slice() {
            [Part::Value(operator, most)] => operator.value(record).cut(*most),
            [Part::Text(text)] => Value::Text(text.as_str().into()),
            _ => Value::Text(self.text(record).into()),
        }
    }

    /// The text, in which missing values are `-`.
    pub fn text(&self, record: &Record) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Value(operator, most) => match operator.value(record).cut(*most) {
                    Value::Missing => text.push('-'),
                    Value::Text(value) => text.push_str(&value),
                    // Writing to a string does not fail.
                    Value::Number(value) => write!(text, "{value}").unwrap_or_default(),
                },
            }
        }
        text
    }

    /// Whether there is no operator in it.
    pub fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

/// Parses what follows a `%`: the operator, its length limit, and the rest of the text.
fn operator(text: &str) -> Result<(Operator, Option<usize>, &str), String> {
    let name_end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .ok_or_else(|| format!("`%{text}` has no closing %"))?;
    let (name, mut rest) = text.split_at(name_end);
    let mut argument = None;
    if let Some(after) = rest.strip_prefix('(') {
        let end = after.find(')').ok_or_else(|| format!("`%{text}` has no closing parenthesis"))?;
        argument = Some(&after[..end]);
        rest = &after[end + 1..];
    }
    let mut most = None;
    if let Some(after) = rest.strip_prefix(':') {
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        most =
            Some(after[..end].parse().map_err(|_| format!("`%{text}` has no length after `:`"))?);
        rest = &after[end..];
    }
    let rest = rest.strip_prefix('%').ok_or_else(|| format!("`%{text}` has no closing %"))?;
    let headers = || {
        let argument = argument.filter(|argument| !argument.is_empty());
        let argument = argument.ok_or_else(|| format!("%{name}% needs the name of a header"))?;
        let (first, second) = match argument.split_once('?') {
            Some((first, second)) => (first, Some(second)),
            None => (argument, None),
        };
        let second = second.map(str::to_ascii_lowercase);
        Ok::<_, String>(HeaderNames { first: first.to_ascii_lowercase(), second })
    };
    let operator = match name {
        "START_TIME" => Operator::StartTime(argument.map(time_format)),
        "REQ" => Operator::Request(headers()?),
        "RESP" => Operator::Response(headers()?),
        "TRAILER" => Operator::Trailer(headers()?),
        "REQ_WITHOUT_QUERY" => match headers()?.first.as_str() {
            ":path" | "x-envoy-original-path" => Operator::RequestPath { query: false },
            other => return Err(format!("%REQ_WITHOUT_QUERY({other})% is not supported")),
        },
        "PATH" => Operator::RequestPath { query: argument.is_none_or(|a| !a.starts_with("NQ")) },
        "DYNAMIC_METADATA" | "FILTER_STATE" | "CLUSTER_METADATA" => Operator::DynamicMetadata,
        "HOSTNAME" => Operator::Host(host_name()),
        name => match Field::named(name) {
            Some(field) => Operator::Field(field),
            None => return Err(format!("%{name}% is not supported")),
        },
    };
    Ok((operator, most, rest))
}

/// Translates a time format of Envoy into that of `jiff`.
fn time_format(format: &str) -> String {
    format.replace("%E3S", "%S.%3f").replace("%E6S", "%S.%6f").replace("%E9S", "%S.%9f")
}

fn host_name() -> String {
    // A pod's host name does not change while it runs.
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "-".to_owned(), |name| name.trim().to_owned())
}

impl Value<'_> {
    fn cut(self, most: Option<usize>) -> Self {
        match (self, most) {
            (Self::Text(text), Some(most)) => Self::Text(text.chars().take(most).collect()),
            (value, _) => value,
        }
    }
}

fn text<'a>(value: Option<impl Into<Cow<'a, str>>>) -> Value<'a> {
    match value.map(Into::into) {
        Some(text) if !text.is_empty() => Value::Text(text),
        _ => Value::Missing,
    }
}

impl Operator {
    fn value<'a>(&'a self, record: &'a Record) -> Value<'a> {
        let pick = |names: &HeaderNames, get: &dyn Fn(&str) -> Option<Cow<'a, str>>| {
            get(&names.first).or_else(|| get(names.second.as_deref()?))
        };
        match self {
            Self::StartTime(format) => {
                let start = record.start.to_zoned(TimeZone::UTC);
                let format = format.as_deref().unwrap_or("%Y-%m-%dT%H:%M:%S.%3fZ");
                text(Some(start.strftime(format).to_string()))
            }
            Self::Request(names) => match pick(names, &|name| record.request_header(name)) {
                Some(value) => Value::Text(value),
                None => Value::Missing,
            },
            Self::Response(names) => text(pick(names, &|name| match name {
                ":status" => Some(record.status.to_string().into()),
                name => header(&record.response_headers, name),
            })),
            Self::Trailer(names) => {
                text(pick(names, &|name| header(&record.response_trailers, name)))
            }
            Self::RequestPath { query } => {
                let original = record.request_header("x-envoy-original-path");
                let path = original.or_else(|| record.path.as_deref().map(Cow::Borrowed));
                text(path.map(|path| match (query, path.split_once('?')) {
                    (false, Some((path, _))) => Cow::Owned(path.to_owned()),
                    _ => path,
                }))
            }
            Self::Field(field) => field.value(record),
            Self::DynamicMetadata => Value::Missing,
            Self::Host(name) => Value::Text(name.as_str().into()),
        }
    }
}

fn millis(duration: std::time::Duration) -> Value<'static> {
    Value::Number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn address(address: Option<SocketAddr>) -> Value<'static> {
    text(address.map(|address| address.to_string()))
}

fn ip(address: Option<SocketAddr>) -> Value<'static> {
    text(address.map(|address| address.ip().to_string()))
}

fn port(address: Option<SocketAddr>) -> Value<'static> {
    address.map_or(Value::Missing, |address| Value::Number(address.port().into()))
}

impl Field {
    fn value(self, record: &Record) -> Value<'_> {
        let span = |span: Option<std::time::Duration>| span.map_or(Value::Missing, millis);
        match self {
            Self::Protocol => text(record.protocol),
            Self::ResponseCode => Value::Number(record.status.into()),
            Self::ResponseCodeDetails => text(record.details.as_deref()),
            Self::ResponseFlags => Value::Text(record.flags.to_string().into()),
            Self::ConnectionTerminationDetails => text(record.termination.as_deref()),
            Self::UpstreamTransportFailureReason => text(record.transport_failure.as_deref()),
            Self::BytesReceived => Value::Number(record.bytes_received),
            Self::BytesSent => Value::Number(record.bytes_sent),
            Self::Duration => millis(record.duration),
            Self::RequestDuration => span(record.request_duration),
            Self::ResponseDuration => span(record.response_duration),
            Self::ResponseTxDuration => {
                span(record.response_duration.map(|first| record.duration.saturating_sub(first)))
            }
            Self::UpstreamHost | Self::UpstreamRemoteAddress => address(record.upstream_host),
            Self::UpstreamRemoteAddressWithoutPort => ip(record.upstream_host),
            Self::UpstreamRemotePort => port(record.upstream_host),
            Self::UpstreamCluster | Self::UpstreamClusterRaw => text(record.upstream.as_deref()),
            Self::UpstreamLocalAddress => address(record.upstream_local),
            Self::UpstreamPeerUriSan => text(record.upstream_peer.as_deref()),
            Self::UpstreamRequestAttemptCount => Value::Number(record.attempts.into()),
            Self::DownstreamLocalAddress => address(Some(record.local)),
            Self::DownstreamLocalAddressWithoutPort => ip(Some(record.local)),
            Self::DownstreamLocalPort => port(Some(record.local)),
            Self::DownstreamRemoteAddress => address(Some(record.remote)),
            Self::DownstreamRemoteAddressWithoutPort => ip(Some(record.remote)),
            Self::DownstreamRemotePort => port(Some(record.remote)),
            Self::DownstreamDirectRemoteAddress => address(Some(record.direct_remote)),
            Self::DownstreamDirectRemoteAddressWithoutPort => ip(Some(record.direct_remote)),
            Self::DownstreamPeerUriSan => text(record.peer.as_deref()),
            Self::DownstreamTlsVersion => text(record.tls_version),
            Self::RequestedServerName => text(record.server_name.as_deref()),
            Self::RouteName => text(record.route.as_deref()),
            Self::FilterChainName => text(record.chain.as_deref()),
            Self::ConnectionId => Value::Number(record.connection),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record {
        let mut record =
            Record::begin("10.0.0.1:80".parse().unwrap(), "10.0.0.2:4000".parse().unwrap());
        record.method = Some("GET".to_owned());
        record.path = Some("/hello?x=1".to_owned());
        record
    }

    fn shown(format: &str) -> String {
        Format::parse(format).map_or_else(|error| error, |format| format.text(&record()))
    }

    #[test]
    fn operators_are_replaced_and_missing_values_are_dashes() {
        assert_eq!(shown("100%% %REQ(:METHOD)% %REQ(X-NO?:PATH)%"), "100% GET /hello?x=1");
        assert_eq!(shown("%REQ(X-NO)% %UPSTREAM_HOST% %RESPONSE_FLAGS%"), "- - -");
        assert_eq!(shown("%REQ(:PATH):4% %REQ_WITHOUT_QUERY(:PATH)%"), "/hel /hello");
        assert_eq!(shown("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"), "10.0.0.2");
        assert_eq!(shown("%RESPONSE_CODE% %BYTES_SENT%"), "0 0");
    }

    #[test]
    fn what_does_not_exist_is_a_problem_at_once() {
        assert_eq!(shown("%NO_SUCH%"), "%NO_SUCH% is not supported");
        assert_eq!(shown("%REQ()%"), "%REQ% needs the name of a header");
        assert_eq!(shown("%DURATION"), "`%DURATION` has no closing %");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,80}") {
            if let Ok(format) = Format::parse(&text) {
                format.text(&record());
            }
        }

        #[test]
        fn text_without_operators_is_kept(text in "[^%]{0,40}") {
            prop_assert_eq!(shown(&text), text);
        }
    }
}
