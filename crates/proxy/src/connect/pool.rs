//! Connections to one endpoint that are kept for the next request.
//!
//! An HTTP/1.1 connection carries one request at a time and lies idle in between. HTTP/2
//! connections are shared; another one is opened when all are full.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::time::Instant;
use tombolo_runtime::shutdown::Shutdown;

use crate::connect::dial::Dialled;
use crate::failure::{Failure, Kind};
use crate::stream::body::RequestBody;

/// Streams on one HTTP/2 connection before another is opened.
const STREAMS: u32 = 100;
/// Response heads larger than this are refused.
const HEADER_BYTES: usize = 64 * 1024;
/// How many headers a response may have.
const HEADERS: usize = 200;

/// The kept connections of one endpoint.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<Vec<Http1>>,
    shared: Mutex<Vec<Arc<Http2>>>,
}

/// An HTTP/1.1 connection that nobody uses at the moment, or that a request has taken out.
#[derive(Debug)]
pub struct Http1 {
    pub sender: http1::SendRequest<RequestBody>,
    pub facts: Arc<Facts>,
    uses: u32,
    idle_since: Instant,
}

/// A shared HTTP/2 connection.
#[derive(Debug)]
pub struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    facts: Arc<Facts>,
    active: AtomicU32,
    uses: AtomicU32,
}

/// What is known about a connection. Counts as an open connection of its upstream while it lives.
#[derive(Debug)]
pub struct Facts {
    pub local: Option<SocketAddr>,
    pub peer: Option<Arc<str>>,
    opened: Instant,
    /// Lowers the number of connections of the upstream when the connection is gone.
    _open: Permit,
}

/// A place under a circuit breaker's limit. Dropping it gives the place back.
#[derive(Debug)]
pub struct Permit(Arc<AtomicU32>);

impl Permit {
    /// Takes a place if fewer than `limit` are taken.
    pub fn take(count: &Arc<AtomicU32>, limit: u32) -> Option<Self> {
        let taken = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
            (taken < limit).then(|| taken + 1)
        });
        taken.is_ok().then(|| Self(count.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A stream's share of an HTTP/2 connection.
#[derive(Debug)]
pub struct Stream {
    connection: Arc<Http2>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.active.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Stream {
    /// A handle that sends one request.
    pub fn sender(&self) -> http2::SendRequest<RequestBody> {
        self.connection.sender.clone()
    }

    /// What is known about the connection.
    pub fn facts(&self) -> Arc<Facts> {
        self.connection.facts.clone()
    }
}

impl Facts {
    /// The facts of a fresh connection.
    pub fn new(dialled: &Dialled, open: Permit) -> Arc<Self> {
        Arc::new(Self {
            local: dialled.local,
            peer: dialled.peer.clone(),
            opened: Instant::now(),
            _open: open,
        })
    }

    /// Whether the connection may carry another request: it is not older than `most`.
    fn is_young(&self, most: Option<Duration>) -> bool {
        most.is_none_or(|most| self.opened.elapsed() <= most)
    }
}

impl Pool {
    /// An idle HTTP/1.1 connection that still works.
    pub fn take_http1(
        &self,
        idle_timeout: Option<Duration>,
        most_age: Option<Duration>,
    ) -> Option<Http1> {
        let mut idle = self.idle.lock();
        while let Some(connection) = idle.pop() {
            let old = idle_timeout.is_some_and(|most| connection.idle_since.elapsed() > most);
            if connection.sender.is_ready() && !old && connection.facts.is_young(most_age) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request, unless it has carried enough.
    pub fn put_http1(&self, mut connection: Http1, most_uses: Option<u32>) {
        connection.uses += 1;
        if most_uses.is_some_and(|most| most != 0 && connection.uses >= most) {
            return;
        }
        connection.idle_since = Instant::now();
        self.idle.lock().push(connection);
    }

    /// A place on an HTTP/2 connection that still works.
    pub fn take_http2(&self, most_uses: Option<u32>, most_age: Option<Duration>) -> Option<Stream> {
        let mut shared = self.shared.lock();
        shared.retain(|connection| {
            let used = connection.uses.load(Ordering::Acquire);
            !connection.sender.is_closed()
                && connection.facts.is_young(most_age)
                && most_uses.is_none_or(|most| most == 0 || used < most)
        });
        shared.iter().find_map(Http2::stream)
    }

    /// Drops connections that nobody has used for `idle_timeout`, and dead ones.
    pub fn prune(&self, idle_timeout: Option<Duration>) {
        let fresh = |since: Instant| idle_timeout.is_none_or(|most| since.elapsed() <= most);
        self.idle.lock().retain(|c| !c.sender.is_closed() && fresh(c.idle_since));
        self.shared.lock().retain(|c| !c.sender.is_closed());
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.idle.lock().is_empty() && self.shared.lock().is_empty()
    }

    /// Starts HTTP/1.1 on a fresh connection.
    pub async fn start_http1(
        &self,
        dialled: Dialled,
        facts: Arc<Facts>,
        shutdown: &Shutdown,
    ) -> Result<Http1, Failure> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEADER_BYTES).max_headers(HEADERS);
        let started = builder.handshake(TokioIo::new(dialled.io)).await;
        let (sender, connection) = started.map_err(unusable)?;
        let kept = facts.clone();
        shutdown.spawn("upstream HTTP/1 connection", async move {
            let _kept = kept;
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(Http1 { sender, facts, uses: 0, idle_since: Instant::now() })
    }

    /// Starts HTTP/2 on a fresh connection and shares it.
    pub async fn start_http2(
        &self,
        dialled: Dialled,
        facts: Arc<Facts>,
        shutdown: &Shutdown,
    ) -> Result<Stream, Failure> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(2 << 20)
            .max_header_list_size(64 * 1024)
            .max_send_buf_size(64 * 1024);
        let started = builder.handshake(TokioIo::new(dialled.io)).await;
        let (sender, connection) = started.map_err(unusable)?;
        let kept = facts.clone();
        shutdown.spawn("upstream HTTP/2 connection", async move {
            let _kept = kept;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        let connection =
            Arc::new(Http2 { sender, facts, active: AtomicU32::new(1), uses: AtomicU32::new(1) });
        self.shared.lock().push(connection.clone());
        Ok(Stream { connection })
    }
}

impl Http2 {
    fn stream(self: &Arc<Self>) -> Option<Stream> {
        let taken = self.active.fetch_update(Ordering::AcqRel, Ordering::Acquire, |active| {
            (active < STREAMS).then(|| active + 1)
        });
        taken.is_ok().then(|| {
            self.uses.fetch_add(1, Ordering::AcqRel);
            Stream { connection: self.clone() }
        })
    }
}

fn unusable(error: hyper::Error) -> Failure {
    Failure { kind: Kind::Connect, transport: Some(error.to_string()), source: Some(error.into()) }
}
