//! When requests are tried again.

use tombolo_crds::mesh_config::MeshConfig;
use tombolo_crds::networking::virtual_service::RetryPolicy as Asked;
use tombolo_xds::proto::envoy::config::route::v3::RetryPolicy;
use tombolo_xds::proto::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, retry_host_predicate,
};
use tombolo_xds::proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;

use crate::compile::parts;

const RETRY_ON: &str =
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

/// Retries of routes that do not say.
pub(crate) fn default(mesh: &MeshConfig) -> Option<RetryPolicy> {
    match &mesh.default_http_retry_policy {
        Some(asked) => of(asked),
        None => Some(policy(2, RETRY_ON)),
    }
}

/// Retries of inbound requests: only what the application has certainly not seen.
pub(crate) fn inbound() -> RetryPolicy {
    RetryPolicy {
        retry_on: String::from("reset-before-request"),
        num_retries: parts::number(2),
        ..RetryPolicy::default()
    }
}

fn policy(attempts: u32, retry_on: &str) -> RetryPolicy {
    RetryPolicy {
        retry_on: retry_on.to_owned(),
        num_retries: parts::number(attempts),
        retry_host_predicate: vec![RetryHostPredicate {
            name: String::from("envoy.retry_host_predicates.previous_hosts"),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(parts::any(
                &PreviousHostsPredicate {},
            ))),
        }],
        host_selection_retry_max_attempts: 5,
        ..RetryPolicy::default()
    }
}

/// Retries as a route asks for them; nothing when it switches them off.
pub(crate) fn of(asked: &Asked) -> Option<RetryPolicy> {
    let attempts = u32::try_from(asked.attempts).ok().filter(|attempts| *attempts > 0)?;
    let mut conditions = Vec::new();
    let mut codes = Vec::new();
    for item in asked.retry_on.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        match item.parse::<u32>() {
            Ok(code) => codes.push(code),
            Err(_) => conditions.push(item),
        }
    }
    if conditions.is_empty() && codes.is_empty() {
        conditions.extend(RETRY_ON.split(','));
    }
    if !codes.is_empty() && !conditions.contains(&"retriable-status-codes") {
        conditions.push("retriable-status-codes");
    }
    let mut policy = policy(attempts, &conditions.join(","));
    policy.retriable_status_codes = codes;
    policy.per_try_timeout =
        asked.per_try_timeout.filter(|it| !it.0.is_zero()).map(|it| parts::duration(it.0));
    policy.retry_back_off = asked.backoff.map(|it| RetryBackOff {
        base_interval: Some(parts::duration(it.0)),
        ..RetryBackOff::default()
    });
    if asked.retry_ignore_previous_hosts == Some(false) {
        policy.retry_host_predicate.clear();
        policy.host_selection_retry_max_attempts = 0;
    }
    Some(policy)
}
