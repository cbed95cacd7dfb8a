//! An upstream while it runs: its endpoints with their connections, and its circuit breakers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;
use tombolo_tls::mesh::Credentials;

use crate::balance::{Candidate, Endpoints};
use crate::config::endpoints::{Assignment, EndpointConfig};
use crate::config::tls::{Transport, UpstreamTls};
use crate::config::upstream::UpstreamConfig;
use crate::connect::dial::{Target, TlsTarget};
use crate::connect::pool::{Pool, Room};
use crate::connect::tls::{ClientConfigs, Spoken};

/// An upstream whose endpoints are original destinations forgets one that nobody uses this long.
const ORIGINAL_IDLE: Duration = Duration::from_secs(300);

/// No endpoint is left out longer than this, unless one ejection already is: Envoy's default for
/// `max_ejection_time`.
const LONGEST_EJECTION: Duration = Duration::from_secs(300);

/// A set of endpoints and how to talk to them.
#[derive(Debug)]
pub struct Upstream {
    pub config: UpstreamConfig,
    endpoints: ArcSwap<Endpoints<Endpoint>>,
    /// Endpoints made from original destinations.
    originals: Mutex<HashMap<SocketAddr, Arc<Endpoint>>>,
    tls: ClientConfigs,
    tls_matches: Vec<ClientConfigs>,
    pub connections: Arc<AtomicU32>,
    pub pending: Arc<AtomicU32>,
    pub requests: Arc<AtomicU32>,
    pub retries: Arc<AtomicU32>,
    pub totals: Totals,
    started: Instant,
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct Totals {
    pub requests: AtomicU64,
    pub connections: AtomicU64,
    pub connect_failures: AtomicU64,
    pub overflows: AtomicU64,
    pub retries: AtomicU64,
}

/// One endpoint.
#[derive(Debug)]
pub struct Endpoint {
    pub config: EndpointConfig,
    pub pool: Pool,
    active: AtomicU32,
    pub totals: EndpointTotals,
    errors: AtomicU32,
    gateway_errors: AtomicU32,
    /// Milliseconds since the upstream started, until when the endpoint is left out.
    ejected_until: AtomicU64,
    ejections: AtomicU32,
}

/// What an endpoint did so far.
#[derive(Debug, Default)]
pub struct EndpointTotals {
    pub requests: AtomicU64,
    pub errors: AtomicU64,
    pub connect_failures: AtomicU64,
}

/// A request that an endpoint works on. Dropping it ends the work.
#[derive(Debug)]
pub struct Working(Arc<Endpoint>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Endpoint {
    fn new(config: EndpointConfig) -> Self {
        Self {
            config,
            pool: Pool::default(),
            active: AtomicU32::new(0),
            totals: EndpointTotals::default(),
            errors: AtomicU32::new(0),
            gateway_errors: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
        }
    }

    /// Counts a request as active while the result lives.
    pub fn work(self: &Arc<Self>) -> Working {
        self.active.fetch_add(1, Ordering::AcqRel);
        self.totals.requests.fetch_add(1, Ordering::Relaxed);
        Working(self.clone())
    }

    /// How many requests it works on.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Acquire)
    }
}

impl Candidate for Endpoint {
    fn weight(&self) -> u32 {
        self.config.weight
    }

    fn is_healthy(&self) -> bool {
        self.config.healthy
    }

    fn active(&self) -> u32 {
        self.active.load(Ordering::Acquire)
    }

    fn address(&self) -> SocketAddr {
        self.config.address
    }
}

impl Upstream {
    /// An upstream with its endpoints. Those that `before` had keep their connections.
    pub fn new(config: UpstreamConfig, assignment: &Assignment, before: Option<&Self>) -> Self {
        let tls_matches = config.transports.iter().map(|_| ClientConfigs::default()).collect();
        let upstream = Self {
            endpoints: ArcSwap::from_pointee(Endpoints::default()),
            originals: Mutex::default(),
            tls: ClientConfigs::default(),
            tls_matches,
            connections: Arc::default(),
            pending: Arc::default(),
            requests: Arc::default(),
            retries: Arc::default(),
            totals: Totals::default(),
            started: before.map_or_else(Instant::now, |before| before.started),
            config,
        };
        upstream.update(assignment);
        upstream
    }

    /// Replaces the endpoints. Those that stay keep their connections and counters.
    pub fn update(&self, assignment: &Assignment) {
        let before = self.endpoints.load();
        let mut kept: HashMap<&EndpointConfig, Arc<Endpoint>> =
            before.iter().map(|endpoint| (&endpoint.config, endpoint.clone())).collect();
        let endpoints = Endpoints::new(assignment, &self.config, |config| {
            kept.remove(config).unwrap_or_else(|| Arc::new(Endpoint::new(config.clone())))
        });
        self.endpoints.store(Arc::new(endpoints));
    }

    /// The endpoints of the moment.
    pub fn endpoints(&self) -> Arc<Endpoints<Endpoint>> {
        self.endpoints.load_full()
    }

    /// The endpoint at an original destination.
    pub fn original(&self, address: SocketAddr) -> Arc<Endpoint> {
        let make = || {
            Arc::new(Endpoint::new(EndpointConfig {
                address,
                weight: 1,
                healthy: true,
                transport_match: Vec::new(),
                workload: None,
            }))
        };
        self.originals.lock().entry(address).or_insert_with(make).clone()
    }

    /// Every endpoint that is known, for the admin server.
    pub fn all(&self) -> Vec<Arc<Endpoint>> {
        let mut all: Vec<_> = self.endpoints.load().iter().cloned().collect();
        all.extend(self.originals.lock().values().cloned());
        all
    }

    /// Drops what has not been used for long.
    pub fn prune(&self) {
        let idle = self.config.connections.idle;
        self.endpoints.load().iter().for_each(|endpoint| endpoint.pool.prune(idle));
        let mut originals = self.originals.lock();
        let most = idle.unwrap_or(ORIGINAL_IDLE).min(ORIGINAL_IDLE);
        originals.retain(|_, endpoint| {
            endpoint.pool.prune(Some(most));
            Arc::strong_count(endpoint) > 1 || !endpoint.pool.is_empty()
        });
    }

    /// How many connections there are, and may be.
    pub fn room(&self) -> Room<'_> {
        Room { taken: &self.connections, limit: self.config.limits.connections }
    }

    /// How to reach an endpoint.
    pub fn target(
        &self,
        endpoint: &Endpoint,
        credentials: &Arc<Credentials>,
        spoken: Spoken,
    ) -> Target {
        let (transport, configs) = self.transport(endpoint);
        let tls = match transport {
            Transport::Plain => None,
            Transport::Tls(tls) => Some(TlsTarget {
                config: configs.get(credentials, tls, spoken),
                sni: tls.sni.clone(),
            }),
        };
        Target {
            address: endpoint.config.address,
            bind: self.config.bind,
            timeout: self.config.connect_timeout,
            keepalive: self.config.keepalive,
            tls,
        }
    }

    /// The transport for an endpoint: the first whose conditions its metadata fits.
    fn transport(&self, endpoint: &Endpoint) -> (&Transport<UpstreamTls>, &ClientConfigs) {
        let has = &endpoint.config.transport_match;
        let fits = |wanted: &[(String, String)]| wanted.iter().all(|pair| has.contains(pair));
        let matching = self.config.transports.iter().zip(&self.tls_matches);
        matching
            .into_iter()
            .find(|(transport, _)| fits(&transport.conditions))
            .map_or((&self.config.transport, &self.tls), |(t, configs)| (&t.transport, configs))
    }

    /// Whether connections to the endpoint are encrypted.
    pub fn is_encrypted(&self, endpoint: &Endpoint) -> bool {
        matches!(self.transport(endpoint).0, Transport::Tls(_))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the endpoint is left out for having failed.
    pub fn is_ejected(&self, endpoint: &Endpoint) -> bool {
        let until = endpoint.ejected_until.load(Ordering::Acquire);
        until != 0 && until > self.now()
    }

    /// Learns how an endpoint did: the status of its answer, or none if it could not be reached.
    pub fn learn(&self, endpoint: &Endpoint, status: Option<u16>) {
        let error = status.is_none_or(|status| status >= 500);
        let gateway_error = status.is_none_or(|status| (502..=504).contains(&status));
        if error {
            endpoint.totals.errors.fetch_add(1, Ordering::Relaxed);
        }
        let Some(outlier) = self.config.outlier else { return };
        let count = |counter: &AtomicU32, failed: bool, limit: Option<u32>| {
            if !failed {
                counter.store(0, Ordering::Release);
                return false;
            }
            let failures = counter.fetch_add(1, Ordering::AcqRel) + 1;
            limit.is_some_and(|limit| failures >= limit)
        };
        let errors = count(&endpoint.errors, error, outlier.errors);
        let gateway = count(&endpoint.gateway_errors, gateway_error, outlier.gateway_errors);
        if (errors || gateway) && self.may_eject(outlier.most) {
            endpoint.errors.store(0, Ordering::Release);
            endpoint.gateway_errors.store(0, Ordering::Release);
            let times = endpoint.ejections.fetch_add(1, Ordering::AcqRel) + 1;
            let most = outlier.ejection.max(LONGEST_EJECTION);
            let length = outlier.ejection.saturating_mul(times).min(most);
            let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
            let until = self.now().saturating_add(length);
            endpoint.ejected_until.store(until, Ordering::Release);
            tracing::info!(upstream = self.config.name, endpoint = %endpoint.config.address,
                "endpoint is left out after errors in a row");
        }
    }

    /// At least one endpoint may always be left out, further ones up to the configured share.
    fn may_eject(&self, most: u32) -> bool {
        let endpoints = self.endpoints.load();
        let (all, out) = endpoints
            .iter()
            .fold((0_u32, 0_u32), |(all, out), e| (all + 1, out + u32::from(self.is_ejected(e))));
        out == 0 || (out + 1) * 100 <= most * all
    }
}
