//! What routes configure of the fault and cross-origin filters.

use std::time::Duration;

use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use prost::Message;
use tombolo_xds::proto::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use tombolo_xds::proto::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use tombolo_xds::proto::envoy::extensions::filters::http::fault::v3::{HttpFault, fault_abort};
use tombolo_xds::proto::google::protobuf::Any;

use crate::config::convert::{duration, flag, fraction};
use crate::config::matchers::{HeadView, HeaderMatch, StringMatch};
use crate::config::problem::{At, Problem, each};
use crate::config::strict::type_name;

/// What a route does besides routing.
#[derive(Debug, Default)]
pub struct Effects {
    pub fault: Option<Fault>,
    pub cors: Option<Cors>,
}

/// Failures that are made on purpose.
#[derive(Debug)]
pub struct Fault {
    /// How long, and for how many of a million requests.
    pub delay: Option<(Duration, u32)>,
    pub abort: Option<(Abort, u32)>,
    headers: Vec<HeaderMatch>,
}

/// The answer of an aborted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    Http(u16),
    Grpc(u32),
}

/// Which other origins may call.
#[derive(Debug)]
pub struct Cors {
    origins: Vec<StringMatch>,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: bool,
}

/// Reads the settings that a route has for filters.
pub fn effects<'a>(
    config: impl IntoIterator<Item = (&'a String, &'a Any)>,
) -> Result<Effects, Problem> {
    let mut effects = Effects::default();
    for (name, any) in config {
        let field = format!("typed_per_filter_config[{name}]");
        let unreadable =
            |error: prost::DecodeError| Problem::new(format!("cannot be read: {error}"));
        let bytes = any.value.as_ref();
        match type_name(&any.type_url) {
            "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
                let config = HttpFault::decode(bytes).map_err(unreadable);
                effects.fault = Some(config.and_then(|config| fault(&config)).at(field)?);
            }
            "envoy.extensions.filters.http.cors.v3.CorsPolicy" => {
                let config = CorsPolicy::decode(bytes).map_err(unreadable);
                effects.cors = Some(config.and_then(|config| cors(&config)).at(field)?);
            }
            other => {
                return Err(
                    Problem::new(format!("the type {other} is not supported")).inside(field)
                );
            }
        }
    }
    Ok(effects)
}

fn fault(config: &HttpFault) -> Result<Fault, Problem> {
    if !config.upstream_cluster.is_empty() || config.max_active_faults.is_some() {
        return Err(Problem::new("upstream_cluster and max_active_faults are not supported"));
    }
    let delay = config.delay.as_ref().map(|delay| {
        let Some(FaultDelaySecifier::FixedDelay(length)) = delay.fault_delay_secifier.as_ref()
        else {
            return Err(Problem::new("must be set").inside("fixed_delay"));
        };
        Ok((duration(length).at("fixed_delay")?, fraction(delay.percentage.as_ref())))
    });
    let abort = config.abort.as_ref().map(|abort| {
        let answer =
            match abort.error_type.as_ref() {
                Some(fault_abort::ErrorType::HttpStatus(status)) => {
                    let status = u16::try_from(*status).ok().filter(|s| (200..600).contains(s));
                    Abort::Http(status.ok_or_else(|| {
                        Problem::new("must be from 200 to 599").inside("http_status")
                    })?)
                }
                Some(fault_abort::ErrorType::GrpcStatus(status)) => Abort::Grpc(*status),
                _ => return Err(Problem::new("must be http_status or grpc_status")),
            };
        Ok((answer, fraction(abort.percentage.as_ref())))
    });
    Ok(Fault {
        delay: delay.transpose().at("delay")?,
        abort: abort.transpose().at("abort")?,
        headers: each("headers", &config.headers, HeaderMatch::new)?,
    })
}

impl Fault {
    /// Whether the request may be hit at all.
    pub fn concerns(&self, head: HeadView<'_>) -> bool {
        self.headers.iter().all(|header| header.matches(head))
    }
}

fn cors(config: &CorsPolicy) -> Result<Cors, Problem> {
    let value = |field: &str, text: &str| match text {
        "" => Ok(None),
        text => HeaderValue::from_str(text)
            .map(Some)
            .map_err(|_| Problem::new("is not a header's value").inside(field)),
    };
    if let Some(enabled) = config.filter_enabled.as_ref()
        && fraction(enabled.default_value.as_ref()) != 1_000_000
    {
        return Err(Problem::new("must be 100 percent").inside("filter_enabled"));
    }
    if !flag(config.forward_not_matching_preflights, true) {
        return Err(Problem::new("must be true").inside("forward_not_matching_preflights"));
    }
    Ok(Cors {
        origins: each(
            "allow_origin_string_match",
            &config.allow_origin_string_match,
            StringMatch::new,
        )?,
        methods: value("allow_methods", &config.allow_methods)?,
        headers: value("allow_headers", &config.allow_headers)?,
        expose: value("expose_headers", &config.expose_headers)?,
        max_age: value("max_age", &config.max_age)?,
        credentials: flag(config.allow_credentials, false),
    })
}

impl Cors {
    /// The origin of a request, if it may call.
    pub fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?;
        let allowed = |pattern: &StringMatch| {
            matches!(pattern, StringMatch::Exact(all, _) if all == "*") || pattern.matches(text)
        };
        self.origins.iter().any(allowed).then(|| origin.clone())
    }

    /// The headers that answer a question in advance.
    pub fn preflight(&self, origin: HeaderValue) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut set = |name: HeaderName, value: Option<&HeaderValue>| {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        };
        set(header::ACCESS_CONTROL_ALLOW_ORIGIN, Some(&origin));
        set(header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.as_ref());
        set(header::ACCESS_CONTROL_ALLOW_HEADERS, self.headers.as_ref());
        set(header::ACCESS_CONTROL_MAX_AGE, self.max_age.as_ref());
        let yes = HeaderValue::from_static("true");
        set(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, self.credentials.then_some(&yes));
        headers
    }

    /// Adds what a browser wants to see in an answer.
    pub fn answer(&self, origin: HeaderValue, headers: &mut HeaderMap) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        if let Some(expose) = &self.expose {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}
