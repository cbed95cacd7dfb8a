//! What the agent answers over HTTP: health, metrics, the application's probes, its own state.

use std::sync::Arc;

use tokio::sync::Notify;
use tombolo_proxy::proxy::Proxy;
use tombolo_runtime::ready::Ready;

use crate::discovery::Received;
use crate::settings::Settings;

pub mod admin;
pub mod probe;
pub mod status;

/// What the servers read. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Status(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Arc<Settings>,
    proxy: Arc<Proxy>,
    received: Received,
    ready: Ready,
    quit: Notify,
    started: std::time::SystemTime,
}

impl Status {
    /// The state of a process that starts now.
    pub fn new(
        settings: Arc<Settings>,
        proxy: Arc<Proxy>,
        received: Received,
        ready: Ready,
    ) -> Self {
        let (quit, started) = (Notify::new(), std::time::SystemTime::now());
        Self(Arc::new(Inner { settings, proxy, received, ready, quit, started }))
    }

    /// The proxy that runs the traffic.
    pub fn proxy(&self) -> &Arc<Proxy> {
        &self.0.proxy
    }

    /// What the process was told by its environment.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// What came from the control plane.
    pub fn received(&self) -> &Received {
        &self.0.received
    }

    /// When the process started.
    pub fn started(&self) -> std::time::SystemTime {
        self.0.started
    }

    /// Answers health checks with "not ready" from now on, and lets connections end.
    pub fn drain(&self) {
        self.0.proxy.retire();
    }

    /// Asks the process to end.
    pub fn quit(&self) {
        self.0.quit.notify_one();
    }

    /// Returns when somebody asked the process to end.
    pub async fn asked_to_quit(&self) {
        self.0.quit.notified().await;
    }

    /// Why the proxy is not ready, if it is not.
    pub fn not_ready(&self) -> Option<String> {
        if self.0.proxy.is_retiring() {
            return Some("draining".to_owned());
        }
        if let Some(missing) = self.0.received.missing() {
            let (connected, reason) = self.0.received.connection();
            return Some(if connected {
                missing.to_owned()
            } else {
                format!("{missing}: {reason}")
            });
        }
        let pending = self.0.ready.pending();
        (!pending.is_empty()).then(|| format!("waiting for {}", pending.join(", ")))
    }
}
