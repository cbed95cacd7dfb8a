//! The record of a request while it is served. However it ends, it is logged and counted once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use crate::accept::connection::Connection;
use crate::config::http::HttpSettings;
use crate::config::listener::{Direction, Terminal};
use crate::connect::upstream::{Endpoint, Upstream};
use crate::failure::{Failure, Kind};
use crate::http::attempt::Lease;
use crate::http::lifetime::Open;
use crate::observe::flags::Flags;
use crate::observe::metrics::{Labels, Reporter, Workload};
use crate::observe::record::Record;
use crate::stream::body::{RequestSource, Watch};

/// A request that is being served. Dropping it early means that the client has gone.
#[derive(Debug)]
pub struct Entry {
    pub connection: Arc<Connection>,
    pub record: Record,
    pub started: Instant,
    pub source: Option<Arc<RequestSource>>,
    pub grpc: bool,
    /// What the answer came from.
    pub upstream: Option<(Arc<Upstream>, Arc<Endpoint>)>,
    /// What is held of the upstream until the answer has ended.
    pub lease: Option<Lease>,
    /// The cookie that the client gets, so that its next request goes the same way.
    pub cookie: Option<GivenCookie>,
    _open: Open,
    complete: bool,
}

/// A cookie that was made for a client.
#[derive(Clone, Debug)]
pub struct GivenCookie {
    pub value: String,
    /// The whole `set-cookie` header (RFC 6265, section 4.1).
    pub header: HeaderValue,
}

impl Entry {
    /// A request that begins now.
    pub fn new(connection: Arc<Connection>, open: Open) -> Self {
        connection.proxy.totals.requests.fetch_add(1, Ordering::Relaxed);
        connection.proxy.totals.active_requests.fetch_add(1, Ordering::Relaxed);
        Self {
            record: connection.record(),
            connection,
            started: Instant::now(),
            source: None,
            grpc: false,
            upstream: None,
            lease: None,
            cookie: None,
            _open: open,
            complete: false,
        }
    }

    /// How HTTP is served here.
    pub fn settings(connection: &Connection) -> Option<&HttpSettings> {
        match &connection.chain.terminal {
            Terminal::Http(settings) => Some(settings),
            Terminal::Tcp(_) => None,
        }
    }

    /// The request has ended as it should, and its bytes are counted elsewhere.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    fn labels(&self) -> Labels {
        let connection = &self.connection;
        let own = connection.proxy.settings.workload.clone();
        let inbound = connection.listener.direction == Direction::Inbound;
        let upstream = self.upstream.as_ref();
        let (source, destination) = match inbound {
            true => (Workload::of_peer(connection.peer().map(|peer| &peer.uri)), own),
            false => {
                let workload =
                    upstream.and_then(|(_, endpoint)| endpoint.config.workload.as_deref());
                (own, Workload::of_endpoint(workload, self.record.upstream_peer.as_ref()))
            }
        };
        let service = upstream.and_then(|(upstream, _)| upstream.config.service.as_ref());
        let reporter = if inbound { Reporter::Destination } else { Reporter::Source };
        let host = || connection.proxy.metrics.host(reporter, self.record.authority.as_deref());
        let [service, service_name, service_namespace] = Labels::service(service, host);
        let grpc_status = self
            .record
            .response_trailers
            .get("grpc-status")
            .or_else(|| self.record.response_headers.get("grpc-status"))
            .and_then(|status| status.to_str().ok());
        Labels {
            reporter,
            source,
            destination,
            service,
            service_name,
            service_namespace,
            protocol: if self.grpc { "grpc" } else { "http" },
            status: self.record.status,
            grpc_status: Labels::grpc_status(grpc_status),
            flags: self.record.flags.to_string().into(),
            mutual_tls: inbound.then(|| connection.peer().is_some()),
        }
    }
}

impl Watch for Entry {
    fn sent(&mut self, bytes: u64) {
        self.record.bytes_sent += bytes;
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.record.response_trailers = trailers.clone();
    }

    fn finished(&mut self) {
        self.complete = true;
        if let Some(lease) = self.lease.take() {
            lease.give_back(&self.connection.proxy.shutdown);
        }
    }

    fn expired(&mut self, kind: Kind) {
        self.complete = true;
        self.record.flags.add(kind.response().0);
        self.record.details = Some(Failure::new(kind).details());
    }

    fn broken(&mut self, error: &hyper::Error) {
        self.complete = true;
        self.record.flags.add(Flags::UPSTREAM_TERMINATION);
        self.record.details =
            Some("upstream_reset_after_response_started{connection_termination}".into());
        tracing::debug!(%error, "the upstream broke off its answer");
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.complete {
            self.record.flags.add(Flags::DOWNSTREAM_TERMINATION);
            self.record.details = Some("downstream_remote_disconnect".into());
        }
        self.record.duration = self.started.elapsed();
        if let Some(source) = &self.source {
            self.record.bytes_received = source.received.load(Ordering::Acquire);
        }
        let proxy = &self.connection.proxy;
        proxy.totals.active_requests.fetch_sub(1, Ordering::Relaxed);
        let millis = u64::try_from(self.record.duration.as_millis()).unwrap_or(u64::MAX);
        let (received, sent) = (self.record.bytes_received, self.record.bytes_sent);
        proxy.metrics.request(&self.labels(), millis, received, sent);
        self.connection.log(&self.record);
    }
}
