//! Ports 15020, 15021 and 15090: health, merged metrics, probes of the application, control.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};

use crate::serve::{Status, probe};

/// The routes of the status port.
pub fn router(status: Status) -> Router {
    Router::new()
        .route("/healthz/ready", get(ready))
        .route("/stats/prometheus", get(merged))
        .route("/metrics", get(merged))
        .route("/app-health/{container}/{probe}", get(app_health))
        .route("/quitquitquit", post(quit))
        .route("/drain", post(drain))
        .with_state(status)
}

/// The routes of the health port.
pub fn health(status: Status) -> Router {
    Router::new().route("/healthz/ready", get(ready)).with_state(status)
}

/// The routes of the proxy's own metrics port.
pub fn metrics(status: Status) -> Router {
    Router::new().route("/stats/prometheus", get(own)).with_state(status)
}

async fn ready(State(status): State<Status>) -> impl IntoResponse {
    match status.not_ready() {
        None => (StatusCode::OK, String::new()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

async fn own(State(status): State<Status>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], own_text(&status))
}

/// The proxy's metrics, with the essential counters that Envoy has.
pub fn own_text(status: &Status) -> String {
    use std::fmt::Write;
    let mut text = status.proxy().metrics.text();
    let totals = &status.proxy().totals;
    let counters = [
        ("envoy_listener_downstream_cx_total", "counter", &totals.connections),
        ("envoy_listener_downstream_cx_active", "gauge", &totals.active_connections),
        ("envoy_http_downstream_rq_total", "counter", &totals.requests),
        ("envoy_http_downstream_rq_active", "gauge", &totals.active_requests),
        ("envoy_listener_no_filter_chain_match", "counter", &totals.no_chain),
        ("envoy_listener_ssl_connection_error", "counter", &totals.handshakes_failed),
        ("envoy_http_rbac_denied", "counter", &totals.denied),
    ];
    for (name, kind, counter) in counters {
        let value = counter.load(Ordering::Relaxed);
        // Writing to a string does not fail.
        write!(text, "# TYPE {name} {kind}\n{name} {value}\n").unwrap_or_default();
    }
    text
}

/// The proxy's metrics and the application's, as one document.
async fn merged(State(status): State<Status>) -> impl IntoResponse {
    let mut text = own_text(&status);
    if let Some(app) = &status.0.settings.app_metrics {
        match probe::metrics(&status.0.settings, app).await {
            Ok(metrics) => {
                text.push_str(metrics.trim_end().trim_end_matches("# EOF"));
                text.push('\n');
            }
            Err(error) => {
                tracing::debug!(%error, "the application's metrics cannot be read");
            }
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

async fn app_health(
    State(status): State<Status>,
    Path((container, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let path = format!("/app-health/{container}/{name}");
    let Some(spec) = status.0.settings.probes.get(&path) else {
        return (StatusCode::NOT_FOUND, format!("there is no probe {path}"));
    };
    match probe::run(&status.0.settings, spec, &headers).await {
        Ok(code) => (code, String::new()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

async fn quit(
    State(status): State<Status>,
    Extension(peer): Extension<SocketAddr>,
) -> impl IntoResponse {
    control(peer.ip(), || status.quit())
}

async fn drain(
    State(status): State<Status>,
    Extension(peer): Extension<SocketAddr>,
) -> impl IntoResponse {
    control(peer.ip(), || status.drain())
}

/// Does what only a process in the same pod may ask for.
fn control(peer: IpAddr, act: impl FnOnce()) -> (StatusCode, &'static str) {
    if !peer.is_loopback() {
        return (StatusCode::FORBIDDEN, "only from localhost\n");
    }
    act();
    (StatusCode::OK, "OK")
}
