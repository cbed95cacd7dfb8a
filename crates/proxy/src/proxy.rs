//! The running proxy: what all of its connections share.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tombolo_runtime::shutdown::Shutdown;
use tombolo_tls::mesh::Credentials;

use crate::config::tls::{DownstreamTls, Transport};
use crate::connect::tls::ServerConfigs;
use crate::observe::metrics::{Metrics, Workload};
use crate::observe::sink::Sinks;
use crate::snapshot::Snapshot;

/// What a proxy is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The workload it stands beside.
    pub workload: Workload,
    /// The pod's own addresses, for the guard against loops.
    pub own_ips: Vec<IpAddr>,
    /// Whether it is a gateway rather than a sidecar.
    pub gateway: bool,
}

/// Everything that connections share.
#[derive(Debug)]
pub struct Proxy {
    pub settings: Settings,
    pub credentials: Arc<Credentials>,
    pub metrics: Metrics,
    pub logs: Sinks,
    pub shutdown: Shutdown,
    /// What traffic goes by.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Grows with each snapshot.
    pub changed: watch::Sender<u64>,
    /// The sockets that are open, by listener.
    pub bound: Mutex<BTreeMap<Arc<str>, SocketAddr>>,
    pub totals: Totals,
    /// Whether the process is about to end.
    retiring: watch::Sender<bool>,
    server_configs: RwLock<Vec<(DownstreamTls, Arc<ServerConfigs>)>>,
    next_connection: AtomicU64,
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct Totals {
    pub connections: AtomicU64,
    pub active_connections: AtomicU64,
    pub requests: AtomicU64,
    pub active_requests: AtomicU64,
    pub no_chain: AtomicU64,
    pub handshakes_failed: AtomicU64,
    pub denied: AtomicU64,
}

impl Proxy {
    /// A proxy without any configuration yet.
    pub fn new(settings: Settings, credentials: Arc<Credentials>, shutdown: Shutdown) -> Arc<Self> {
        Arc::new(Self {
            settings,
            credentials,
            metrics: Metrics::default(),
            logs: Sinks::new(shutdown.clone()),
            shutdown,
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            changed: watch::Sender::new(0),
            bound: Mutex::default(),
            totals: Totals::default(),
            retiring: watch::Sender::new(false),
            server_configs: RwLock::default(),
            next_connection: AtomicU64::new(1),
        })
    }

    /// Lets listeners follow a snapshot that was published.
    pub fn announce(&self) {
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// The process is about to end: connections from outside end with the answers that they wait
    /// for, so that clients go elsewhere. New ones are still served, one answer each, because
    /// others learn only after a while that this proxy goes. Envoy drains listeners like this
    /// with `--drain-strategy immediate`.
    pub fn retire(&self) {
        self.retiring.send_replace(true);
    }

    /// Whether [`Proxy::retire`] was called.
    pub fn is_retiring(&self) -> bool {
        *self.retiring.borrow()
    }

    /// Returns once [`Proxy::retire`] was called.
    pub async fn retired(&self) {
        let mut retiring = self.retiring.subscribe();
        // The sender lives as long as this proxy, so this cannot fail.
        drop(retiring.wait_for(|retiring| *retiring).await);
    }

    /// The number of a new connection.
    pub fn connection_number(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    /// The TLS configurations for a chain.
    pub fn server_configs(&self, tls: &DownstreamTls) -> Arc<ServerConfigs> {
        let known = self.server_configs.read();
        if let Some((_, configs)) = known.iter().find(|(known, _)| known == tls) {
            return configs.clone();
        }
        drop(known);
        let configs = Arc::new(ServerConfigs::new(&self.credentials, tls));
        self.server_configs.write().push((tls.clone(), configs.clone()));
        configs
    }

    /// Whether connecting there would come back to this proxy: a loop without an end.
    pub fn is_own(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let own = ip.is_loopback() || ip.is_unspecified() || self.settings.own_ips.contains(&ip);
        own && self.bound.lock().values().any(|bound| bound.port() == address.port())
    }

    /// Drops connections and endpoints that nobody has used for long, and TLS configurations that
    /// no chain has any more.
    pub fn prune(&self) {
        let snapshot = self.snapshot.load();
        snapshot.upstreams.values().for_each(|upstream| upstream.prune());
        let chains = || snapshot.listeners.values().flat_map(|listener| listener.chains.iter());
        self.server_configs.write().retain(|(known, _)| {
            chains().any(|chain| matches!(&chain.tls, Transport::Tls(tls) if tls == known))
        });
    }
}
