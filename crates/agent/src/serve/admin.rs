//! Port 15000, on localhost: what the proxy believes, in the shapes that Envoy's admin server has.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use base64::Engine as _;
use serde_json::{Value, json};
use tombolo_proxy::snapshot::Kind;
use tombolo_tls::x509::Facts;
use tombolo_xds::json::{Names, renamed, to_value};

use crate::node::{DataPlane, node};
use crate::serve::Status;
use crate::serve::status::own_text;

mod dump;
mod hosts;
mod loggers;

/// The routes of the admin port.
pub fn router(status: Status) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/config_dump", get(dump::config_dump))
        .route("/clusters", get(hosts::clusters))
        .route("/listeners", get(hosts::listeners))
        .route("/certs", get(certificates))
        .route("/stats", get(stats))
        .route("/stats/prometheus", get(stats_prometheus))
        .route("/server_info", get(server_info))
        .route("/logging", post(loggers::logging))
        .route("/tasks", get(tasks))
        .route("/quitquitquit", post(quit))
        .route("/drain_listeners", post(drain))
        .with_state(status)
}

fn as_json(value: &Value) -> impl IntoResponse + use<> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], text)
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

async fn ready(State(status): State<Status>) -> impl IntoResponse {
    match status.not_ready() {
        None => (StatusCode::OK, "LIVE\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("PRE_INITIALIZING: {reason}\n")),
    }
}

async fn certificates(State(status): State<Status>) -> impl IntoResponse {
    let credentials = &status.proxy().credentials;
    let roots = credentials.bundle().map(|bundle| bundle.facts()).unwrap_or_default();
    let chain = credentials.identity().map(|identity| identity.facts().clone());
    let show = |facts: &Facts| {
        let at = |time: SystemTime| jiff::Timestamp::try_from(time).map(|at| format!("{at:.0}"));
        let left = facts.not_after.duration_since(SystemTime::now()).unwrap_or_default();
        let names = facts.uris.iter().map(|uri| json!({ "uri": uri }));
        let names = names.chain(facts.dns_names.iter().map(|name| json!({ "dns": name })));
        json!({
            "path": "<inline>",
            "serial_number": facts.serial,
            "subject_alt_names": names.collect::<Vec<_>>(),
            "days_until_expiration": (left.as_secs() / 86_400).to_string(),
            "valid_from": at(facts.not_before).unwrap_or_default(),
            "expiration_time": at(facts.not_after).unwrap_or_default(),
        })
    };
    as_json(&json!({"certificates": [{
        "ca_cert": roots.iter().map(show).collect::<Vec<_>>(),
        "cert_chain": chain.iter().map(show).collect::<Vec<_>>(),
    }]}))
}

async fn stats(State(status): State<Status>) -> String {
    let mut out = String::new();
    let totals = &status.proxy().totals;
    let mut line = |name: &str, value: u64| writeln!(out, "{name}: {value}").unwrap_or_default();
    for (url, (_, updates)) in status.received().versions() {
        let name = match Kind::from_url(&url) {
            Some(Kind::Upstream) => "cluster_manager.cds.update_success",
            Some(Kind::Listener) => "listener_manager.lds.update_success",
            Some(Kind::Routes) => "http.rds.update_success",
            Some(Kind::Endpoints) => "cluster.eds.update_success",
            None => continue,
        };
        line(name, updates);
    }
    line("tombolo.rejected_resources", status.received().rejections().len() as u64);
    line("control_plane.connected_state", u64::from(status.received().connection().0));
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
    let uptime = format!("{}s", status.started().elapsed().unwrap_or_default().as_secs());
    let state = if status.not_ready().is_none() { "LIVE" } else { "PRE_INITIALIZING" };
    let node = to_value(&node(status.settings(), DataPlane::Tombolo));
    let node = node.unwrap_or_else(|error| json!({"error": error.to_string()}));
    let (connected, reason) = status.received().connection();
    let info = json!({
        "version": concat!("tombolo/", env!("CARGO_PKG_VERSION")),
        "state": state,
        "uptimeCurrentEpoch": uptime,
        "uptimeAllEpochs": uptime,
        "commandLineOptions": {"concurrency": status.settings().concurrency},
        "node": node,
        "controlPlane": {
            "address": status.settings().discovery_address,
            "connected": connected,
            "reason": reason,
            "rejected": status.received().rejections(),
        },
    });
    as_json(&renamed("envoy.admin.v3.ServerInfo", info, Names::Proto))
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
