//! Retry policies of routes.

use std::time::Duration;

use tombolo_xds::proto::envoy::config::route::v3 as rds;

use crate::config::convert::{duration, number, timeout};
use crate::config::problem::{At, Problem};

/// When and how a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    pub on: RetryOn,
    pub retries: u32,
    pub per_try_timeout: Option<Duration>,
    /// Endpoints that were tried are avoided.
    pub avoid_previous: bool,
    /// How often a pick is repeated to avoid an endpoint.
    pub repicks: u32,
    pub statuses: Vec<u16>,
    pub first_delay: Duration,
    pub most_delay: Duration,
}

/// Conditions for another try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    pub server_error: bool,
    pub gateway_error: bool,
    pub reset: bool,
    pub reset_before_request: bool,
    pub connect_failure: bool,
    pub refused_stream: bool,
    pub client_error: bool,
    pub listed_statuses: bool,
    pub grpc: GrpcOn,
}

/// Conditions on `grpc-status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrpcOn {
    pub cancelled: bool,
    pub deadline_exceeded: bool,
    pub internal: bool,
    pub resource_exhausted: bool,
    pub unavailable: bool,
}

impl RetryOn {
    fn parse(text: &str) -> Self {
        let mut on = Self::default();
        for condition in text.split(',').map(str::trim).filter(|condition| !condition.is_empty()) {
            let flag = match condition {
                "5xx" => &mut on.server_error,
                "gateway-error" => &mut on.gateway_error,
                "reset" => &mut on.reset,
                "reset-before-request" => &mut on.reset_before_request,
                "connect-failure" => &mut on.connect_failure,
                "refused-stream" => &mut on.refused_stream,
                "retriable-4xx" => &mut on.client_error,
                "retriable-status-codes" => &mut on.listed_statuses,
                "cancelled" => &mut on.grpc.cancelled,
                "deadline-exceeded" => &mut on.grpc.deadline_exceeded,
                "internal" => &mut on.grpc.internal,
                "resource-exhausted" => &mut on.grpc.resource_exhausted,
                "unavailable" => &mut on.grpc.unavailable,
                // No HTTP/3, no rate-limit headers and no `retriable_headers` here: these never
                // happen. Others are nobody's, which Envoy takes for never, too.
                _ => continue,
            };
            *flag = true;
        }
        on
    }
}

/// Reads a retry policy.
pub fn retry_policy(config: &rds::RetryPolicy) -> Result<RetryPolicy, Problem> {
    let mut avoid_previous = false;
    for (index, predicate) in config.retry_host_predicate.iter().enumerate() {
        if !predicate.name.ends_with("previous_hosts") {
            return Err(Problem::new(format!("`{}` is not supported", predicate.name))
                .inside(format_args!("retry_host_predicate[{index}].name")));
        }
        avoid_previous = true;
    }
    let backoff = config.retry_back_off.as_ref();
    let base = backoff.and_then(|backoff| backoff.base_interval.as_ref());
    let most = backoff.and_then(|backoff| backoff.max_interval.as_ref());
    let first_delay = base.map(duration).transpose().at("retry_back_off.base_interval")?;
    let first_delay = first_delay.unwrap_or(Duration::from_millis(25));
    let most_delay = most.map(duration).transpose().at("retry_back_off.max_interval")?;
    Ok(RetryPolicy {
        on: RetryOn::parse(&config.retry_on),
        retries: number(config.num_retries, 1),
        per_try_timeout: timeout("per_try_timeout", config.per_try_timeout.as_ref())?,
        avoid_previous,
        repicks: u32::try_from(config.host_selection_retry_max_attempts).unwrap_or(1).max(1),
        statuses: config
            .retriable_status_codes
            .iter()
            .filter_map(|s| u16::try_from(*s).ok())
            .collect(),
        first_delay,
        most_delay: most_delay.unwrap_or(first_delay * 10),
    })
}
