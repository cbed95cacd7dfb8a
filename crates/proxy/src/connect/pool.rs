//! Connections to one endpoint that are kept for the next request.
//!
//! An HTTP/1.1 connection carries one request at a time and lies idle in between. HTTP/2
//! connections are shared; another one is opened when all are full. Requests that come while one
//! is being opened wait for it.
//!
//! When the upstream has as many connections as it may, requests wait until one is free, as
//! Envoy's pending requests do (Envoy: circuit breaking, cluster maximum connections). An endpoint
//! may always have one connection: otherwise nobody would ever free one for those who wait.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tombolo_runtime::shutdown::Shutdown;

use crate::config::upstream::Use;
use crate::connect::dial::Dialled;
use crate::failure::{Failure, Kind};
use crate::stream::body::RequestBody;

/// Streams on one HTTP/2 connection before another is opened, if the peer does not allow fewer.
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
    opening: Mutex<Option<Opening>>,
    places: Arc<Places>,
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
    /// How many streams the peer allows (RFC 9113, SETTINGS_MAX_CONCURRENT_STREAMS).
    allowed: Arc<AtomicU32>,
    /// When the last stream ended.
    idle_since: Mutex<Instant>,
    places: Arc<Places>,
}

/// What is known about a connection. Counts as an open connection of its upstream while it lives.
#[derive(Debug)]
pub struct Facts {
    pub local: Option<SocketAddr>,
    pub peer: Option<Arc<str>>,
    opened: Instant,
    _place: Place,
}

/// How many connections an upstream has at most, and how many it has.
#[derive(Clone, Copy, Debug)]
pub struct Room<'a> {
    pub taken: &'a Arc<AtomicU32>,
    pub limit: u32,
}

/// The connections that an endpoint has, and whoever waits for one.
#[derive(Debug, Default)]
struct Places {
    taken: AtomicU32,
    freed: Notify,
}

/// A connection's place: it counts for its endpoint and its upstream while it lives.
#[derive(Debug)]
pub struct Place {
    upstream: Option<Permit>,
    endpoint: Arc<Places>,
}

impl Places {
    fn take(self: &Arc<Self>, room: Room<'_>) -> Option<Place> {
        let first = self.taken.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_ok();
        let permit = Permit::take(room.taken, if first { u32::MAX } else { room.limit })?;
        if !first {
            self.taken.fetch_add(1, Ordering::AcqRel);
        }
        Some(Place { upstream: Some(permit), endpoint: self.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Whoever is told must find both counts lowered.
        drop(self.upstream.take());
        self.endpoint.taken.fetch_sub(1, Ordering::AcqRel);
        self.endpoint.freed.notify_one();
    }
}

/// What a request gets that asks for a connection: a kept one, or leave to open one.
#[derive(Debug)]
pub enum Turn<C, L> {
    Kept(C),
    Open(L),
}

/// An HTTP/2 connection that is being opened, for those who wait for it.
#[derive(Debug)]
struct Opening {
    outcome: watch::Receiver<Outcome>,
    /// How many requests will use it.
    users: u32,
}

#[derive(Clone, Debug)]
enum Outcome {
    Pending,
    Opened,
    Failed(Kind, Option<String>),
}

/// Tells those who wait for an HTTP/2 connection how opening it ended. When it is dropped without
/// a word, one of them opens the connection instead.
#[derive(Debug)]
pub struct Opener(watch::Sender<Outcome>);

impl Opener {
    /// Tells how it ended.
    pub fn tell(self, result: Result<(), &Failure>) {
        self.0.send_replace(match result {
            Ok(()) => Outcome::Opened,
            Err(failure) => Outcome::Failed(failure.kind, failure.transport.clone()),
        });
    }
}

enum Step {
    Turn(Turn<Stream, (Place, Opener)>),
    Wait(watch::Receiver<Outcome>),
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
        if self.connection.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.connection.idle_since.lock() = Instant::now();
        }
        self.connection.places.freed.notify_one();
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
    pub fn new(dialled: &Dialled, place: Place) -> Arc<Self> {
        Arc::new(Self {
            local: dialled.local,
            peer: dialled.peer.clone(),
            opened: Instant::now(),
            _place: place,
        })
    }

    /// Whether the connection may carry another request: it is not older than `most`.
    fn is_young(&self, most: Option<Duration>) -> bool {
        most.is_none_or(|most| self.opened.elapsed() <= most)
    }
}

impl Pool {
    /// An idle HTTP/1.1 connection that still works.
    pub fn take_http1(&self, most: Use) -> Option<Http1> {
        let mut idle = self.idle.lock();
        while let Some(connection) = idle.pop() {
            let old = most.idle.is_some_and(|most| connection.idle_since.elapsed() > most);
            if connection.sender.is_ready() && !old && connection.facts.is_young(most.age) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request, unless it has carried enough.
    pub fn put_http1(&self, mut connection: Http1, most: Use) {
        connection.uses += 1;
        if most.is_used_up(connection.uses) {
            return;
        }
        connection.idle_since = Instant::now();
        self.idle.lock().push(connection);
        self.places.freed.notify_one();
    }

    /// Waits for an HTTP/1.1 connection, or for leave to open one.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the turn; the next request gets it.
    pub async fn turn_http1(&self, room: Room<'_>, most: Use) -> Turn<Http1, Place> {
        let open = || self.places.take(room).map(Turn::Open);
        self.until_freed(|| self.take_http1(most).map(Turn::Kept).or_else(open)).await
    }

    /// Waits for a place on an HTTP/2 connection, or for leave to open one.
    ///
    /// # Errors
    /// When the connection that it waited for could not be opened.
    ///
    /// # Cancel safety
    /// As [`Pool::turn_http1`].
    pub async fn turn_http2(
        &self,
        room: Room<'_>,
        most: Use,
    ) -> Result<Turn<Stream, (Place, Opener)>, Failure> {
        let step = || match self.take_http2(most) {
            Some(stream) => Some(Step::Turn(Turn::Kept(stream))),
            None => self.join_or_open(room, streams(most)),
        };
        loop {
            let mut opening = match self.until_freed(step).await {
                Step::Turn(turn) => return Ok(turn),
                Step::Wait(opening) => opening,
            };
            let outcome = opening.wait_for(|outcome| !matches!(outcome, Outcome::Pending)).await;
            if let Ok(Outcome::Failed(kind, transport)) = outcome.as_deref() {
                return Err(Failure { transport: transport.clone(), ..Failure::new(*kind) });
            }
        }
    }

    fn join_or_open(&self, room: Room<'_>, streams: u32) -> Option<Step> {
        let mut opening = self.opening.lock();
        if let Some(opening) = opening.as_mut()
            && opening.users < streams
            // An error says that whoever opened it has given up.
            && opening.outcome.has_changed().is_ok()
            && matches!(*opening.outcome.borrow(), Outcome::Pending)
        {
            opening.users += 1;
            return Some(Step::Wait(opening.outcome.clone()));
        }
        let place = self.places.take(room)?;
        let (sender, outcome) = watch::channel(Outcome::Pending);
        *opening = Some(Opening { outcome, users: 1 });
        Some(Step::Turn(Turn::Open((place, Opener(sender)))))
    }

    /// Tries until there is something, each time that a connection becomes free.
    async fn until_freed<T>(&self, attempt: impl Fn() -> Option<T>) -> T {
        loop {
            let mut freed = pin!(self.places.freed.notified());
            // From here on nothing that becomes free goes unnoticed.
            freed.as_mut().enable();
            if let Some(got) = attempt() {
                return got;
            }
            freed.await;
        }
    }

    /// A place on an HTTP/2 connection that still works.
    pub fn take_http2(&self, most: Use) -> Option<Stream> {
        let mut shared = self.shared.lock();
        shared.retain(|connection| {
            let used = connection.uses.load(Ordering::Acquire);
            !connection.sender.is_closed()
                && connection.facts.is_young(most.age)
                && !most.is_used_up(used)
        });
        shared.iter().find_map(|connection| connection.stream(streams(most)))
    }

    /// Drops connections that nobody has used for `idle_timeout`, and dead ones.
    pub fn prune(&self, idle_timeout: Option<Duration>) {
        let fresh = |since: Instant| idle_timeout.is_none_or(|most| since.elapsed() <= most);
        self.idle.lock().retain(|c| !c.sender.is_closed() && fresh(c.idle_since));
        let in_use = |connection: &Http2| connection.active.load(Ordering::Acquire) > 0;
        self.shared
            .lock()
            .retain(|c| !c.sender.is_closed() && (in_use(c) || fresh(*c.idle_since.lock())));
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
        let allowed = Arc::new(AtomicU32::new(STREAMS));
        let learnt = allowed.clone();
        shutdown.spawn("upstream HTTP/2 connection", async move {
            let _kept = kept;
            let mut connection = pin!(connection);
            let ended = std::future::poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                let most = connection.current_max_send_streams();
                learnt.store(u32::try_from(most).unwrap_or(u32::MAX), Ordering::Release);
                polled
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        let connection = Arc::new(Http2 {
            sender,
            facts,
            active: AtomicU32::new(1),
            uses: AtomicU32::new(1),
            allowed,
            idle_since: Mutex::new(Instant::now()),
            places: self.places.clone(),
        });
        self.shared.lock().push(connection.clone());
        // It has room for others than those who wait for it, too.
        self.places.freed.notify_waiters();
        Ok(Stream { connection })
    }
}

impl Http2 {
    fn stream(self: &Arc<Self>, most: u32) -> Option<Stream> {
        let most = most.min(self.allowed.load(Ordering::Acquire));
        let taken = self.active.fetch_update(Ordering::AcqRel, Ordering::Acquire, |active| {
            (active < most).then(|| active + 1)
        });
        taken.is_ok().then(|| {
            self.uses.fetch_add(1, Ordering::AcqRel);
            Stream { connection: self.clone() }
        })
    }
}

/// Streams that an HTTP/2 connection has at a time, if the peer does not allow fewer.
fn streams(most: Use) -> u32 {
    most.streams.map_or(STREAMS, |streams| streams.clamp(1, STREAMS))
}

fn unusable(error: hyper::Error) -> Failure {
    let failure = Failure::transport(Kind::Connect, error.to_string());
    Failure { source: Some(error.into()), ..failure }
}
