//! `/clusters` and `/listeners`: upstreams with the state of their endpoints, and open listeners,
//! as text or (`?format=json`) as messages of `envoy.admin.v3`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use prost::Message;
use serde_json::{Value, json};
use tombolo_proxy::config::upstream::{Limits, Source};
use tombolo_proxy::connect::upstream::{Endpoint, Upstream};
use tombolo_proxy::snapshot::Kind;
use tombolo_xds::proto::envoy::config::core::v3::address::Address;
use tombolo_xds::proto::envoy::config::core::v3::socket_address::PortSpecifier;
use tombolo_xds::proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use tombolo_xds::proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;

use crate::serve::Status;
use crate::serve::admin::as_json;

/// Region, zone and subzone.
type Place = (String, String, String);

/// Answers `/clusters`.
pub(crate) async fn clusters(
    State(status): State<Status>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let filter = match query.get("filter").map(|text| regex::Regex::new(text)).transpose() {
        Ok(filter) => filter,
        Err(error) => {
            let text = format!("Invalid filter: {error}\n");
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    let snapshot = status.proxy().snapshot.load_full();
    let mut upstreams: Vec<_> = snapshot
        .upstreams
        .values()
        .filter(|it| filter.as_ref().is_none_or(|filter| filter.is_match(&it.config.name)))
        .collect();
    upstreams.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    if query.get("format").is_some_and(|format| format == "json") {
        let places = places(&status);
        let all: Vec<Value> = upstreams.iter().map(|it| cluster_status(it, &places)).collect();
        return as_json(&json!({ "cluster_statuses": all })).into_response();
    }
    upstreams.iter().map(|it| cluster_text(it)).collect::<String>().into_response()
}

/// Where each endpoint is, by upstream and address. Balancing does not need it, people do.
fn places(status: &Status) -> BTreeMap<(String, SocketAddr), Place> {
    let mut places = BTreeMap::new();
    for accepted in status.received().resources(Kind::Endpoints).into_values() {
        let Ok(assignment) = ClusterLoadAssignment::decode(accepted.bytes) else { continue };
        for group in assignment.endpoints {
            let at = group.locality.unwrap_or_default();
            for endpoint in group.lb_endpoints {
                let Some(HostIdentifier::Endpoint(endpoint)) = endpoint.host_identifier else {
                    continue;
                };
                let address = endpoint.address.and_then(|address| address.address);
                let Some(Address::SocketAddress(socket)) = address else { continue };
                let address = socket_address(&socket.address, socket.port_specifier);
                let Some(address) = address else { continue };
                let place = (at.region.clone(), at.zone.clone(), at.sub_zone.clone());
                places.insert((assignment.cluster_name.clone(), address), place);
            }
        }
    }
    places
}

fn socket_address(ip: &str, port: Option<PortSpecifier>) -> Option<SocketAddr> {
    let Some(PortSpecifier::PortValue(port)) = port else { return None };
    Some(SocketAddr::new(ip.parse().ok()?, u16::try_from(port).ok()?))
}

/// Circuit breakers; the limits count for both priorities.
fn thresholds(limits: Limits) -> Value {
    let of = |priority: Option<&str>| {
        let mut threshold = json!({
            "max_connections": limits.connections,
            "max_pending_requests": limits.pending,
            "max_requests": limits.requests,
            "max_retries": limits.retries,
        });
        if let Some(priority) = priority {
            threshold["priority"] = priority.into();
        }
        threshold
    };
    json!([of(None), of(Some("HIGH"))])
}

fn cluster_status(upstream: &Upstream, places: &BTreeMap<(String, SocketAddr), Place>) -> Value {
    let name = &upstream.config.name;
    let hosts: Vec<Value> = upstream
        .all()
        .iter()
        .map(|endpoint| {
            let place = places.get(&(name.clone(), endpoint.config.address));
            host_status(upstream, endpoint, place)
        })
        .collect();
    let mut status = json!({
        "name": name,
        "added_via_api": true,
        "circuit_breakers": {"thresholds": thresholds(upstream.config.limits)},
        "observability_name": name,
    });
    if !hosts.is_empty() {
        status["host_statuses"] = hosts.into();
    }
    if let Source::Discovery(service) = &upstream.config.source {
        status["eds_service_name"] = service.as_str().into();
    }
    status
}

fn host_status(upstream: &Upstream, endpoint: &Arc<Endpoint>, place: Option<&Place>) -> Value {
    let config = &endpoint.config;
    let mut health = json!({
        "eds_health_status": if config.healthy { "HEALTHY" } else { "UNHEALTHY" },
    });
    if upstream.is_ejected(endpoint) {
        health["failed_outlier_check"] = true.into();
    }
    let mut locality = json!({});
    if let Some((region, zone, sub_zone)) = place {
        for (name, value) in [("region", region), ("zone", zone), ("sub_zone", sub_zone)] {
            if !value.is_empty() {
                locality[name] = value.as_str().into();
            }
        }
    }
    let stats: Vec<Value> = totals(endpoint)
        .into_iter()
        .map(|(name, value, gauge)| {
            let mut stat = json!({ "name": name });
            if value != 0 {
                stat["value"] = value.to_string().into();
            }
            if gauge {
                stat["type"] = "GAUGE".into();
            }
            stat
        })
        .collect();
    json!({
        "address": {"socket_address": {
            "address": config.address.ip().to_string(), "port_value": config.address.port(),
        }},
        "stats": stats,
        "health_status": health,
        "weight": config.weight,
        "locality": locality,
    })
}

/// Name, value, and whether it also falls.
fn totals(endpoint: &Endpoint) -> [(&'static str, u64, bool); 4] {
    let totals = &endpoint.totals;
    [
        ("cx_connect_fail", totals.connect_failures.load(Ordering::Relaxed), false),
        ("rq_error", totals.errors.load(Ordering::Relaxed), false),
        ("rq_total", totals.requests.load(Ordering::Relaxed), false),
        ("rq_active", u64::from(endpoint.active()), true),
    ]
}

fn cluster_text(upstream: &Upstream) -> String {
    let mut out = String::new();
    let name = &upstream.config.name;
    let mut line = |text: String| writeln!(out, "{name}::{text}").unwrap_or_default();
    let limits = upstream.config.limits;
    line(format!("observability_name::{name}"));
    for priority in ["default_priority", "high_priority"] {
        line(format!("{priority}::max_connections::{}", limits.connections));
        line(format!("{priority}::max_pending_requests::{}", limits.pending));
        line(format!("{priority}::max_requests::{}", limits.requests));
        line(format!("{priority}::max_retries::{}", limits.retries));
    }
    line("added_via_api::true".to_owned());
    line(format!("cx_active::{}", upstream.connections.load(Ordering::Relaxed)));
    line(format!("rq_active::{}", upstream.requests.load(Ordering::Relaxed)));
    for endpoint in upstream.all() {
        let address = endpoint.config.address;
        for (key, value, _) in totals(&endpoint) {
            line(format!("{address}::{key}::{value}"));
        }
        let health = match (endpoint.config.healthy, upstream.is_ejected(&endpoint)) {
            (false, _) => "/failed_eds_health",
            (true, true) => "/failed_outlier_check",
            (true, false) => "healthy",
        };
        line(format!("{address}::health_flags::{health}"));
        line(format!("{address}::weight::{}", endpoint.config.weight));
    }
    out
}

/// Answers `/listeners`.
pub(crate) async fn listeners(
    State(status): State<Status>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let bound = status.proxy().bound.lock().clone();
    if query.get("format").is_some_and(|format| format == "json") {
        let all: Vec<Value> = bound
            .iter()
            .map(|(name, address)| {
                json!({"name": name, "local_address": {"socket_address": {
                    "address": address.ip().to_string(), "port_value": address.port(),
                }}})
            })
            .collect();
        return as_json(&json!({ "listener_statuses": all })).into_response();
    }
    let text = bound.iter().map(|(name, address)| format!("{name}::{address}\n"));
    text.collect::<String>().into_response()
}
