//! The admin endpoints every process has: `/ready`, `/live`, `/metrics`, `/tasks`.
//!
//! A component merges its own routes (`/debug/...`, `/stats/prometheus`) into [`router`] and
//! serves the result with [`serve`].

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::listen::accept;
use crate::ready::Ready;
use crate::shutdown::Shutdown;

/// What the admin endpoints read.
#[derive(Clone, Debug)]
pub struct Admin {
    pub ready: Ready,
    pub metrics: Arc<Mutex<Registry>>,
    pub shutdown: Shutdown,
}

/// The routes that every process serves.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/live", get(async || "live\n"))
        .route("/metrics", get(metrics))
        .route("/tasks", get(tasks))
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let pending = admin.ready.pending();
    if pending.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for:\n  {}\n", pending.join("\n  ")))
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    exposition(&admin.metrics.lock())
}

async fn tasks(State(admin): State<Admin>) -> String {
    admin.shutdown.running().iter().map(|name| format!("{name}\n")).collect()
}

/// The registry in OpenMetrics text, with its content type.
pub fn exposition(registry: &Registry) -> impl IntoResponse + use<> {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => (
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Serves `router` on `listener` over HTTP/1.1 and HTTP/2 without TLS until the process drains.
pub async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown) {
    while let Some((stream, peer)) = accept(&listener, "admin", &shutdown).await {
        let service = TowerToHyperService::new(with_peer(router.clone(), peer));
        let draining = shutdown.clone();
        shutdown.spawn("admin connection", async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            tokio::select! {
                served = connection => if let Err(error) = served {
                    tracing::debug!(%peer, error, "admin connection ended");
                },
                () = draining.draining() => (),
            }
        });
    }
}

/// Makes the peer's address available to handlers as `Extension<SocketAddr>`.
fn with_peer(router: Router, peer: SocketAddr) -> Router {
    router.layer(axum::Extension(peer))
}
