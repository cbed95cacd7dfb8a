//! Port 15000, on localhost: what the proxy believes, in the shapes that Envoy's admin server has.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tombolo_proxy::snapshot::Kind;
use tombolo_xds::json::any_to_value;
use tombolo_xds::proto::google::protobuf::Any;

use crate::node::{DataPlane, node};
use crate::serve::Status;
use crate::serve::status::own_text;

/// The routes of the admin port.
pub fn router(status: Status) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/config_dump", get(config_dump))
        .route("/clusters", get(clusters))
        .route("/listeners", get(listeners))
        .route("/certs", get(certificates))
        .route("/stats", get(stats))
        .route("/stats/prometheus", get(stats_prometheus))
        .route("/server_info", get(server_info))
        .route("/tasks", get(tasks))
        .route("/quitquitquit", post(quit))
        .route("/drain_listeners", post(drain))
        .with_state(status)
}

fn as_json(value: &Value) -> impl IntoResponse + use<> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], text)
}

async fn ready(State(status): State<Status>) -> impl IntoResponse {
    match status.not_ready() {
        None => (StatusCode::OK, "LIVE\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("PRE_INITIALIZING: {reason}\n")),
    }
}

fn resources(status: &Status, kind: Kind) -> Vec<(String, Value)> {
    let all = status.0.received.resources(kind);
    let value = |(name, bytes): (String, bytes::Bytes)| {
        let any = Any { type_url: kind.url().to_owned(), value: bytes };
        // What is accepted can be shown; a value that cannot is shown as the reason.
        let shown = any_to_value(&any).unwrap_or_else(|error| json!({"error": error.to_string()}));
        (name, shown)
    };
    all.into_iter().map(value).collect()
}

async fn config_dump(State(status): State<Status>) -> impl IntoResponse {
    let wrapped = |kind: Kind, field: &str| -> Vec<Value> {
        let version = status.0.received.versions().remove(kind.url()).unwrap_or_default().0;
        let wrap = |(_, value): (String, Value)| json!({"versionInfo": version, field: value});
        resources(&status, kind).into_iter().map(wrap).collect()
    };
    let listeners: Vec<Value> = wrapped(Kind::Listener, "listener")
        .into_iter()
        .map(|state| json!({"name": state["listener"]["name"], "activeState": state}))
        .collect();
    let admin = "type.googleapis.com/envoy.admin.v3.";
    let node = node(&status.0.settings, DataPlane::Tombolo);
    as_json(&json!({"configs": [
        {"@type": format!("{admin}BootstrapConfigDump"), "bootstrap": {"node": {
            "id": node.id,
            "cluster": node.cluster,
            "metadata": status.0.settings.metadata,
        }}},
        {"@type": format!("{admin}ClustersConfigDump"),
            "dynamicActiveClusters": wrapped(Kind::Upstream, "cluster")},
        {"@type": format!("{admin}EndpointsConfigDump"),
            "dynamicEndpointConfigs": wrapped(Kind::Endpoints, "endpointConfig")},
        {"@type": format!("{admin}ListenersConfigDump"), "dynamicListeners": listeners},
        {"@type": format!("{admin}RoutesConfigDump"),
            "dynamicRouteConfigs": wrapped(Kind::Routes, "routeConfig")},
        {"@type": format!("{admin}SecretsConfigDump"), "dynamicActiveSecrets": secrets(&status)},
    ]}))
}

/// Certificates and roots in the shape of secrets. Keys are never shown.
fn secrets(status: &Status) -> Vec<Value> {
    let credentials = &status.proxy().credentials;
    let mut secrets = Vec::new();
    if let Some(identity) = credentials.identity() {
        let chain = identity.chain_pem();
        secrets.push(json!({"name": "default", "secret": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": "default",
            "tlsCertificate": {"certificateChain": {"inlineString": chain}},
        }}));
    }
    if let Some(bundle) = credentials.bundle() {
        secrets.push(json!({"name": "ROOTCA", "fingerprints": bundle.fingerprints()}));
    }
    secrets
}

async fn certificates(State(status): State<Status>) -> impl IntoResponse {
    let unix = |time: std::time::SystemTime| {
        time.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    };
    let identity = status.proxy().credentials.identity();
    let chain = identity.iter().map(|identity| {
        let facts = identity.facts();
        json!({
            "serialNumber": facts.serial,
            "subjectAltNames": [{"uri": identity.id().to_string()}],
            "validFromUnixSeconds": unix(facts.not_before),
            "expirationUnixSeconds": unix(facts.not_after),
        })
    });
    as_json(&json!({"certificates": [{"certChain": chain.collect::<Vec<_>>()}]}))
}

async fn clusters(State(status): State<Status>) -> String {
    let mut out = String::new();
    let snapshot = status.proxy().snapshot.load_full();
    let mut upstreams: Vec<_> = snapshot.upstreams.values().collect();
    upstreams.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    for upstream in upstreams {
        let name = &upstream.config.name;
        let open = upstream.connections.load(Ordering::Relaxed);
        let requests = upstream.requests.load(Ordering::Relaxed);
        let mut line = |text: String| writeln!(out, "{name}::{text}").unwrap_or_default();
        line(format!("observability_name::{name}"));
        line(format!("cx_active::{open}"));
        line(format!("rq_active::{requests}"));
        for endpoint in upstream.all() {
            let address = endpoint.config.address;
            let totals = &endpoint.totals;
            let health = match (endpoint.config.healthy, upstream.is_ejected(&endpoint)) {
                (false, _) => "/failed_eds_health",
                (true, true) => "/failed_outlier_check",
                (true, false) => "healthy",
            };
            for (key, value) in [
                ("rq_total", totals.requests.load(Ordering::Relaxed).to_string()),
                ("rq_error", totals.errors.load(Ordering::Relaxed).to_string()),
                ("cx_connect_fail", totals.connect_failures.load(Ordering::Relaxed).to_string()),
                ("rq_active", endpoint.active().to_string()),
                ("health_flags", health.to_owned()),
                ("weight", endpoint.config.weight.to_string()),
            ] {
                line(format!("{address}::{key}::{value}"));
            }
        }
    }
    out
}

async fn listeners(State(status): State<Status>) -> String {
    let bound = status.proxy().bound.lock();
    bound.iter().map(|(name, address)| format!("{name}::{address}\n")).collect()
}

async fn stats(State(status): State<Status>) -> String {
    let mut out = String::new();
    let totals = &status.proxy().totals;
    let mut line = |name: &str, value: u64| writeln!(out, "{name}: {value}").unwrap_or_default();
    for (url, (_, updates)) in status.0.received.versions() {
        let name = match Kind::from_url(&url) {
            Some(Kind::Upstream) => "cluster_manager.cds.update_success",
            Some(Kind::Listener) => "listener_manager.lds.update_success",
            Some(Kind::Routes) => "http.rds.update_success",
            Some(Kind::Endpoints) => "cluster.eds.update_success",
            None => continue,
        };
        line(name, updates);
    }
    line("tombolo.rejected_resources", status.0.received.rejections().len() as u64);
    line("control_plane.connected_state", u64::from(status.0.received.connection().0));
    line("server.state", if status.not_ready().is_none() { 0 } else { 2 });
    line("listener.downstream_cx_total", totals.connections.load(Ordering::Relaxed));
    line("listener.downstream_cx_active", totals.active_connections.load(Ordering::Relaxed));
    line("http.downstream_rq_total", totals.requests.load(Ordering::Relaxed));
    line("http.downstream_rq_active", totals.active_requests.load(Ordering::Relaxed));
    line("listener.no_filter_chain_match", totals.no_chain.load(Ordering::Relaxed));
    line("listener.ssl.connection_error", totals.handshakes_failed.load(Ordering::Relaxed));
    for upstream in status.proxy().snapshot.load().upstreams.values() {
        let name = &upstream.config.name;
        let totals = &upstream.totals;
        for (key, value) in [
            ("upstream_rq_total", &totals.requests),
            ("upstream_cx_total", &totals.connections),
            ("upstream_cx_connect_fail", &totals.connect_failures),
            ("upstream_rq_pending_overflow", &totals.overflows),
            ("upstream_rq_retry", &totals.retries),
        ] {
            line(&format!("cluster.{name};.{key}"), value.load(Ordering::Relaxed));
        }
    }
    out
}

async fn stats_prometheus(State(status): State<Status>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], own_text(&status))
}

async fn server_info(State(status): State<Status>) -> impl IntoResponse {
    let uptime = status.0.started.elapsed().unwrap_or_default().as_secs();
    let state = if status.not_ready().is_none() { "LIVE" } else { "PRE_INITIALIZING" };
    let node = node(&status.0.settings, DataPlane::Tombolo);
    let (connected, reason) = status.0.received.connection();
    as_json(&json!({
        "version": concat!("tombolo/", env!("CARGO_PKG_VERSION")),
        "state": state,
        "uptimeCurrentEpoch": format!("{uptime}s"),
        "node": {"id": node.id, "cluster": node.cluster},
        "controlPlane": {
            "address": status.0.settings.discovery_address,
            "connected": connected,
            "reason": reason,
            "rejected": status.0.received.rejections(),
        },
    }))
}

async fn tasks(State(status): State<Status>) -> String {
    status.proxy().shutdown.running().iter().map(|name| format!("{name}\n")).collect()
}

async fn quit(State(status): State<Status>) -> &'static str {
    status.quit();
    "OK\n"
}

async fn drain(State(status): State<Status>) -> &'static str {
    status.drain();
    "OK\n"
}
