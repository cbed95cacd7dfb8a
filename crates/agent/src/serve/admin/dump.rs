//! `/config_dump`: what the proxy runs on, as the messages of `envoy.admin.v3`.
//!
//! Query parameters are those of Envoy's admin server: `include_eds`, `resource`, `mask` and
//! `name_regex`. Keys are never shown.

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use regex::Regex;
use serde_json::{Map, Value, json};
use tombolo_proxy::snapshot::Kind;
use tombolo_xds::json::{Names, any_to_value, renamed, to_value};
use tombolo_xds::proto::google::protobuf::Any;

use crate::node::{DataPlane, node};
use crate::serve::Status;
use crate::serve::admin::{as_json, base64};

const ADMIN: &str = "type.googleapis.com/envoy.admin.v3.";

/// Answers `/config_dump`.
pub(crate) async fn config_dump(
    State(status): State<Status>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let names = match query.get("name_regex").map(|text| Regex::new(text)).transpose() {
        Ok(names) => names,
        Err(error) => {
            let text = format!("Error while parsing name_regex: {error}\n");
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    let with_endpoints = query.contains_key("include_eds");
    let sections = sections(&status, with_endpoints, names.as_ref());
    let mask = query.get("mask").map(|mask| mask.split(',').collect::<Vec<_>>());
    let chosen = match (query.get("resource"), &mask) {
        (Some(resource), _) => match one_list(sections, resource) {
            Some(mut items) => {
                if let Some(mask) = &mask {
                    items = items.into_iter().map(|item| masked(item, mask)).collect();
                }
                items
            }
            None => {
                let text = format!("{resource} not found in config dump\n");
                return (StatusCode::NOT_FOUND, text).into_response();
            }
        },
        (None, Some(mask)) => {
            let kept = sections.into_iter().map(|section| masked(section, mask));
            let kept: Vec<Value> = kept.filter(has_content).collect();
            if kept.is_empty() {
                let text = format!(
                    "FieldMask {} could not be successfully applied to any configs.\n",
                    mask.join(",")
                );
                return (StatusCode::BAD_REQUEST, text).into_response();
            }
            kept
        }
        (None, None) => sections,
    };
    as_json(&json!({ "configs": chosen })).into_response()
}

/// Every part of the dump, its fields named as Envoy's admin server names them.
fn sections(status: &Status, with_endpoints: bool, names: Option<&Regex>) -> Vec<Value> {
    let dynamic = |kind| dynamic(status, kind, names);
    let mut sections = vec![
        json!({"@type": format!("{ADMIN}BootstrapConfigDump"),
            "bootstrap": bootstrap(status), "lastUpdated": timestamp(status.started())}),
        json!({"@type": format!("{ADMIN}ClustersConfigDump"),
            "versionInfo": version(status, Kind::Upstream),
            "dynamicActiveClusters": dynamic(Kind::Upstream)}),
    ];
    if with_endpoints {
        sections.push(json!({"@type": format!("{ADMIN}EndpointsConfigDump"),
            "dynamicEndpointConfigs": dynamic(Kind::Endpoints)}));
    }
    sections.extend([
        json!({"@type": format!("{ADMIN}ListenersConfigDump"),
            "versionInfo": version(status, Kind::Listener),
            "dynamicListeners": listeners(status, names)}),
        json!({"@type": format!("{ADMIN}ScopedRoutesConfigDump")}),
        json!({"@type": format!("{ADMIN}RoutesConfigDump"),
            "dynamicRouteConfigs": dynamic(Kind::Routes)}),
        json!({"@type": format!("{ADMIN}SecretsConfigDump"),
            "dynamicActiveSecrets": secrets(status, names)}),
    ]);
    let dump = renamed("envoy.admin.v3.ConfigDump", json!({ "configs": sections }), Names::Proto);
    match dump {
        Value::Object(mut fields) => match fields.remove("configs") {
            Some(Value::Array(sections)) => sections,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn fits(names: Option<&Regex>, name: &str) -> bool {
    names.is_none_or(|names| names.is_match(name))
}

fn version(status: &Status, kind: Kind) -> String {
    status.received().versions().remove(kind.url()).unwrap_or_default().0
}

fn timestamp(at: SystemTime) -> Value {
    match jiff::Timestamp::try_from(at) {
        Ok(at) => Value::String(format!("{at:.3}")),
        Err(_) => Value::Null,
    }
}

/// A message as JSON. What is accepted can be shown; a value that cannot is shown as the reason.
fn shown(kind: Kind, bytes: bytes::Bytes) -> Value {
    let any = Any { type_url: kind.url().to_owned(), value: bytes };
    any_to_value(&any).unwrap_or_else(|error| json!({"error": error.to_string()}))
}

fn dynamic(status: &Status, kind: Kind, names: Option<&Regex>) -> Vec<Value> {
    let field = match kind {
        Kind::Upstream => "cluster",
        Kind::Endpoints => "endpointConfig",
        Kind::Listener => "listener",
        Kind::Routes => "routeConfig",
    };
    let mut failed = status.received().rejected(kind);
    failed.retain(|name, _| fits(names, name));
    let mut all = Vec::new();
    for (name, accepted) in status.received().resources(kind) {
        if !fits(names, &name) {
            continue;
        }
        let mut message = shown(kind, accepted.bytes);
        if kind == Kind::Endpoints {
            tell_health(&mut message);
        }
        let mut entry = json!({
            "versionInfo": accepted.version,
            field: message,
            "lastUpdated": timestamp(accepted.since),
        });
        if let Some(rejected) = failed.remove(&name) {
            entry["errorState"] = error_state(&rejected);
        }
        all.push(entry);
    }
    all.extend(failed.values().map(|rejected| json!({"errorState": error_state(rejected)})));
    all
}

/// What discovery says nothing about counts as healthy, and Envoy's dump says so.
fn tell_health(assignment: &mut Value) {
    let list = |value: &mut Value, name: &str| match value.get_mut(name) {
        Some(Value::Array(items)) => std::mem::take(items),
        _ => Vec::new(),
    };
    let mut groups = list(assignment, "endpoints");
    for group in &mut groups {
        let mut endpoints = list(group, "lbEndpoints");
        for endpoint in endpoints.iter_mut().filter(|it| it.get("healthStatus").is_none()) {
            endpoint["healthStatus"] = "HEALTHY".into();
        }
        group["lbEndpoints"] = endpoints.into();
    }
    assignment["endpoints"] = groups.into();
}

fn listeners(status: &Status, names: Option<&Regex>) -> Vec<Value> {
    let mut failed = status.received().rejected(Kind::Listener);
    failed.retain(|name, _| fits(names, name));
    let mut all = Vec::new();
    for (name, accepted) in status.received().resources(Kind::Listener) {
        if !fits(names, &name) {
            continue;
        }
        let mut entry = json!({"name": name, "activeState": {
            "versionInfo": accepted.version,
            "listener": shown(Kind::Listener, accepted.bytes),
            "lastUpdated": timestamp(accepted.since),
        }});
        if let Some(rejected) = failed.remove(&name) {
            entry["errorState"] = error_state(&rejected);
        }
        all.push(entry);
    }
    all.extend(
        failed
            .iter()
            .map(|(name, rejected)| json!({"name": name, "errorState": error_state(rejected)})),
    );
    all
}

fn error_state(rejected: &crate::discovery::Rejected) -> Value {
    json!({
        "lastUpdateAttempt": timestamp(rejected.at),
        "details": rejected.reason,
        "versionInfo": rejected.version,
    })
}

/// Certificates and roots in the shape of secrets. Keys are never shown.
fn secrets(status: &Status, names: Option<&Regex>) -> Vec<Value> {
    let credentials = &status.proxy().credentials;
    let secret = |name: &str, since: Option<SystemTime>, field: &str, content: Value| {
        json!({"name": name, "lastUpdated": since.map(timestamp), "secret": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": name,
            field: content,
        }})
    };
    let mut secrets = Vec::new();
    if let Some(identity) = credentials.identity().filter(|_| fits(names, "default")) {
        let content = json!({
            "certificateChain": {"inlineBytes": base64(identity.chain_pem().as_bytes())},
            "privateKey": {"inlineBytes": base64(b"[redacted]")},
        });
        let since = credentials.identity_since();
        secrets.push(secret("default", since, "tlsCertificate", content));
    }
    if let Some(bundle) = credentials.bundle().filter(|_| fits(names, "ROOTCA")) {
        let content = json!({"trustedCa": {"inlineBytes": base64(bundle.pem().as_bytes())}});
        secrets.push(secret("ROOTCA", credentials.bundle_since(), "validationContext", content));
    }
    secrets
}

/// What an Envoy in this place would be started with: who it is and where its configuration is.
fn bootstrap(status: &Status) -> Value {
    let settings = status.settings();
    let node = node(settings, DataPlane::Tombolo);
    let mut node = to_value(&node).unwrap_or_else(|error| json!({"error": error.to_string()}));
    node["userAgentName"] = "tombolo".into();
    let mut parts = env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse().unwrap_or(0u32));
    let mut part = || parts.next().unwrap_or_default();
    node["userAgentBuildVersion"] = json!({
        "version": {"majorNumber": part(), "minorNumber": part(), "patch": part()},
        "metadata": {"ssl.version": "rustls", "build.type": build_type()},
    });
    let ads = json!({"ads": {}, "resourceApiVersion": "V3"});
    json!({
        "node": node,
        "admin": {"address": {"socketAddress": {
            "address": "127.0.0.1", "portValue": settings.ports.admin,
        }}},
        "dynamicResources": {
            "ldsConfig": ads,
            "cdsConfig": ads,
            "adsConfig": {
                "apiType": "DELTA_GRPC",
                "transportApiVersion": "V3",
                "grpcServices": [{"googleGrpc": {
                    "targetUri": settings.discovery_address, "statPrefix": "xds-grpc",
                }}],
            },
        },
    })
}

fn build_type() -> &'static str {
    if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" }
}

/// The items of the repeated field `name`, each with its own type.
fn one_list(sections: Vec<Value>, name: &str) -> Option<Vec<Value>> {
    let item = match name {
        "dynamic_active_clusters" => "ClustersConfigDump.DynamicCluster",
        "dynamic_endpoint_configs" => "EndpointsConfigDump.DynamicEndpointConfig",
        "dynamic_listeners" => "ListenersConfigDump.DynamicListener",
        "dynamic_route_configs" => "RoutesConfigDump.DynamicRouteConfig",
        "dynamic_active_secrets" => "SecretsConfigDump.DynamicSecret",
        _ => return None,
    };
    let found = sections.into_iter().find_map(|section| match section {
        Value::Object(mut fields) => fields.remove(name),
        _ => None,
    })?;
    let Value::Array(items) = found else { return None };
    let typed = |item_value: Value| match item_value {
        Value::Object(mut fields) => {
            fields.insert("@type".to_owned(), format!("{ADMIN}{item}").into());
            Value::Object(fields)
        }
        other => other,
    };
    Some(items.into_iter().map(typed).collect())
}

/// Only the fields that `mask` names, such as `name` or `active_state.version_info`.
fn masked(value: Value, mask: &[&str]) -> Value {
    let Value::Object(fields) = value else { return value };
    let mut kept = Map::new();
    for (key, value) in fields {
        if key == "@type" || mask.contains(&key.as_str()) {
            kept.insert(key, value);
            continue;
        }
        let inner: Vec<&str> = mask
            .iter()
            .filter_map(|path| path.split_once('.').filter(|(first, _)| *first == key))
            .map(|(_, rest)| rest)
            .collect();
        if !inner.is_empty() && value.is_object() {
            kept.insert(key, masked(value, &inner));
        }
    }
    Value::Object(kept)
}

fn has_content(section: &Value) -> bool {
    section.as_object().is_some_and(|fields| fields.keys().any(|key| key != "@type"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_keeps_the_fields_it_names() {
        let section = json!({"@type": "t", "name": "a", "active_state": {"x": 1, "y": 2}, "z": 3});
        let kept = masked(section.clone(), &["name", "active_state.x"]);
        assert_eq!(kept, json!({"@type": "t", "name": "a", "active_state": {"x": 1}}));
        assert!(!has_content(&masked(section, &["bogus"])));
    }

    #[test]
    fn endpoints_of_unknown_health_are_told_to_be_healthy() {
        let mut assignment = json!({"endpoints": [
            {"lbEndpoints": [{"endpoint": {}}, {"healthStatus": "DRAINING"}]},
        ]});
        tell_health(&mut assignment);
        let endpoints = &assignment["endpoints"][0]["lbEndpoints"];
        assert_eq!(endpoints[0], json!({"endpoint": {}, "healthStatus": "HEALTHY"}));
        assert_eq!(endpoints[1], json!({"healthStatus": "DRAINING"}));
    }

    #[test]
    fn the_items_of_one_list_get_their_type() {
        let sections = vec![json!({"@type": "t", "dynamic_listeners": [{"name": "a"}]})];
        let items = one_list(sections.clone(), "dynamic_listeners").unwrap();
        let kind = "type.googleapis.com/envoy.admin.v3.ListenersConfigDump.DynamicListener";
        assert_eq!(items, [json!({"@type": kind, "name": "a"})]);
        assert_eq!(one_list(sections, "bogus"), None);
    }
}
