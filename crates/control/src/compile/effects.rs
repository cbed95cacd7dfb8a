//! What routes do to requests besides sending them somewhere: headers, faults, cross-origin
//! answers, copies.

use std::collections::BTreeMap;

use tombolo_crds::networking::virtual_service::{
    HeaderChanges, HttpRoute, Percent, StringMatch, VirtualService,
};
use tombolo_xds::proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use tombolo_xds::proto::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, RuntimeFractionalPercent,
};
use tombolo_xds::proto::envoy::config::route::v3::{RouteAction, route_action};
use tombolo_xds::proto::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use tombolo_xds::proto::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use tombolo_xds::proto::envoy::extensions::filters::http::fault::v3::{
    FaultAbort, HttpFault, fault_abort,
};
use tombolo_xds::proto::envoy::r#type::v3::{FractionalPercent, fractional_percent};
use tombolo_xds::proto::google::protobuf::Any;

use crate::compile::http_routes::Context;
use crate::compile::parts;
use crate::compile::routing;
use crate::compile::scope::Scope;
use crate::diagnostic::Diagnostic;
use crate::index::config::Configured;

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

/// Headers to set and to add.
pub(crate) fn added(changes: &HeaderChanges) -> Vec<HeaderValueOption> {
    let option = |name: &String, value: &String, action: HeaderAppendAction| HeaderValueOption {
        header: Some(HeaderValue {
            key: name.clone(),
            value: value.clone(),
            ..HeaderValue::default()
        }),
        append_action: action.into(),
        ..HeaderValueOption::default()
    };
    let own = |(name, _): &(&String, &String)| !is_authority(name);
    let set = changes.set.iter().filter(own);
    let set =
        set.map(|(name, value)| option(name, value, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = changes.add.iter().filter(own);
    let add = add.map(|(name, value)| option(name, value, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

/// Headers to remove. Those that make up a request cannot be.
pub(crate) fn removed(changes: &HeaderChanges) -> Vec<String> {
    let names = changes.remove.iter();
    let mut names: Vec<String> =
        names.filter(|name| !name.starts_with(':') && !is_authority(name)).cloned().collect();
    names.sort();
    names
}

/// The host that header changes set.
pub(crate) fn authority(changes: &HeaderChanges) -> Option<String> {
    let of = |map: &BTreeMap<String, String>| {
        map.iter().find(|(name, _)| is_authority(name)).map(|(_, value)| value.clone())
    };
    of(&changes.set).or_else(|| of(&changes.add))
}

/// A part of a hundred in millionths; all when nothing is said.
fn fraction(percent: Option<&Percent>) -> FractionalPercent {
    let value = percent.map_or(100.0, |percent| percent.value).clamp(0.0, 100.0);
    // At most a million, so it fits.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the value is between 0 and 1 000 000"
    )]
    let numerator = (value * 10_000.0).round() as u32;
    FractionalPercent {
        numerator,
        denominator: fractional_percent::DenominatorType::Million.into(),
    }
}

/// Faults and cross-origin answers, by the filters that do them.
pub(crate) fn per_filter(
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    of: &HttpRoute,
    diagnostics: &mut Vec<Diagnostic>,
) -> BTreeMap<String, Any> {
    let mut found = BTreeMap::new();
    if let Some(fault) = fault(scope, rule, of, diagnostics) {
        found.insert(String::from("envoy.filters.http.fault"), parts::any(&fault));
    }
    if let Some(cors) = cors(of) {
        found.insert(String::from("envoy.filters.http.cors"), parts::any(&cors));
    }
    found
}

fn fault(
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    of: &HttpRoute,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<HttpFault> {
    let asked = of.fault.as_ref()?;
    let delay = asked.delay.as_ref().and_then(|delay| {
        let fixed = delay.fixed_delay?;
        Some(FaultDelay {
            percentage: Some(fraction(delay.percentage.as_ref())),
            fault_delay_secifier: Some(fault_delay::FaultDelaySecifier::FixedDelay(
                parts::duration(fixed.0),
            )),
        })
    });
    let abort = asked.abort.as_ref().and_then(|abort| {
        let error = match (abort.http_status, grpc_code(&abort.grpc_status)) {
            (Some(status), _) => fault_abort::ErrorType::HttpStatus(u32::from(status)),
            (None, Some(code)) => fault_abort::ErrorType::GrpcStatus(code),
            (None, None) => {
                diagnostics.push(routing::remark(
                    scope,
                    rule,
                    format!(
                        "fault.abort names neither an httpStatus nor a known grpcStatus \
                         (`{}`): no effect",
                        abort.grpc_status
                    ),
                ));
                return None;
            }
        };
        Some(FaultAbort {
            percentage: Some(fraction(abort.percentage.as_ref())),
            error_type: Some(error),
            ..FaultAbort::default()
        })
    });
    (delay.is_some() || abort.is_some()).then(|| HttpFault { delay, abort, ..HttpFault::default() })
}

fn grpc_code(name: &str) -> Option<u32> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let position = NAMES.iter().position(|known| *known == name)?;
    u32::try_from(position).ok()
}

fn cors(of: &HttpRoute) -> Option<CorsPolicy> {
    let asked = of.cors_policy.as_ref()?;
    let origin = |want: &StringMatch| match want {
        StringMatch { exact: Some(text), .. } => Some(parts::exact(text)),
        StringMatch { prefix: Some(text), .. } => Some(parts::prefix(text)),
        StringMatch { regex: Some(text), .. } => Some(parts::matching(text)),
        _ => None,
    };
    Some(CorsPolicy {
        allow_origin_string_match: asked.allow_origins.iter().filter_map(origin).collect(),
        allow_methods: asked.allow_methods.join(","),
        allow_headers: asked.allow_headers.join(","),
        expose_headers: asked.expose_headers.join(","),
        max_age: asked.max_age.map(|it| it.0.as_secs().to_string()).unwrap_or_default(),
        allow_credentials: asked
            .allow_credentials
            .and_then(|yes| if yes { parts::yes() } else { parts::no() }),
        filter_enabled: Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator: 100,
                denominator: fractional_percent::DenominatorType::Hundred.into(),
            }),
            ..RuntimeFractionalPercent::default()
        }),
        forward_not_matching_preflights: parts::yes(),
        ..CorsPolicy::default()
    })
}

/// Copies of requests.
pub(crate) fn mirrors(
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    of: &HttpRoute,
    context: &Context<'_>,
    action: &mut RouteAction,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let single = of.mirror.iter().map(|to| (to, of.mirror_percentage.as_ref()));
    let several = of.mirrors.iter().map(|to| (&to.destination, to.percentage.as_ref()));
    let all: Vec<_> = single.chain(several).collect();
    if all.is_empty() {
        return;
    }
    if scope.proxy.is_tombolo {
        let message = String::from("mirror is not carried out by Tombolo's own proxy");
        diagnostics.push(routing::remark(scope, rule, message));
        return;
    }
    for (destination, percent) in all {
        if percent.is_some_and(|percent| percent.value <= 0.0) {
            continue;
        }
        let host = rule.host(&destination.host, &scope.picture.domain);
        let to = routing::upstream(scope, rule, destination, &host, context.port, diagnostics);
        action.request_mirror_policies.push(route_action::RequestMirrorPolicy {
            cluster: to.name(),
            runtime_fraction: Some(RuntimeFractionalPercent {
                default_value: Some(fraction(percent)),
                ..RuntimeFractionalPercent::default()
            }),
            trace_sampled: parts::no(),
            disable_shadow_host_suffix_append: true,
            ..Default::default()
        });
    }
}
