//! Bodies of requests and responses on their way through.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use crate::failure::{Failure, Kind};

/// A request body larger than this is not kept for another try.
const REPLAY_LIMIT: usize = 64 * 1024;

/// The body of a request to an upstream.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    Stream(RequestStream),
}

/// A request body that is counted, and remembered while it is small.
#[derive(Debug)]
pub struct RequestStream {
    shared: Arc<RequestSource>,
    number: u32,
    /// How much of the remembered part this try has sent.
    sent: usize,
    ended: bool,
}

/// Where a request body comes from. All tries of a request share it.
#[derive(Debug)]
pub struct RequestSource {
    state: Mutex<SourceState>,
    hint: SizeHint,
    /// Bytes that came from the client.
    pub received: AtomicU64,
    /// When the client had sent everything.
    finished: OnceLock<Instant>,
    end: Notify,
    /// Whether anybody has begun to read.
    begun: AtomicBool,
    broken: AtomicBool,
}

#[derive(Debug)]
struct SourceState {
    incoming: Incoming,
    /// None once the body has become too large to be sent again.
    kept: Option<BytesMut>,
    trailers: Option<HeaderMap>,
    done: bool,
    /// The number of the newest try, which alone may read.
    newest: u32,
    /// Whether that one is the last.
    last: bool,
}

impl RequestSource {
    /// Takes a body from the client.
    pub fn new(incoming: Incoming, keep: bool) -> Arc<Self> {
        let done = incoming.is_end_stream();
        Arc::new(Self {
            hint: incoming.size_hint(),
            state: Mutex::new(SourceState {
                incoming,
                kept: keep.then(BytesMut::new),
                trailers: None,
                done,
                newest: 0,
                last: false,
            }),
            received: AtomicU64::new(0),
            finished: if done { OnceLock::from(Instant::now()) } else { OnceLock::new() },
            end: Notify::new(),
            begun: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        })
    }

    /// The body for one try. Those of earlier tries read nothing any more: the engine may hold
    /// them for a moment longer, and would take away what the new one needs.
    pub fn body(self: &Arc<Self>) -> RequestBody {
        let mut state = self.state.lock();
        state.newest += 1;
        let nothing = self.is_finished()
            && self.received.load(Ordering::Acquire) == 0
            && state.trailers.is_none();
        if nothing {
            return RequestBody::Empty;
        }
        let number = state.newest;
        RequestBody::Stream(RequestStream { shared: self.clone(), number, sent: 0, ended: false })
    }

    /// Whether the whole body can be sent again from its start.
    pub fn can_replay(&self) -> bool {
        self.state.lock().kept.is_some()
    }

    /// Keeps nothing more: there will be no other try. What this one has yet to send stays.
    pub fn forget(&self) {
        self.state.lock().last = true;
    }

    /// Whether the client has sent everything.
    pub fn is_finished(&self) -> bool {
        self.finished.get().is_some()
    }

    /// When the client had sent everything, if it has.
    pub fn finished_at(&self) -> Option<Instant> {
        self.finished.get().copied()
    }

    /// Whether an upstream has begun to take the body.
    pub fn is_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Whether the client broke off.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Returns when the client has sent everything.
    pub async fn finished(&self) {
        let notified = self.end.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_finished() {
            notified.await;
        }
    }

    fn finish(&self) {
        self.finished.get_or_init(Instant::now);
        self.end.notify_waiters();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream(stream) => stream.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(stream) => stream.ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(stream) => stream.shared.hint,
        }
    }
}

impl RequestStream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut state = self.shared.state.lock();
        if state.newest != self.number {
            // Given up. Whoever still polls is about to be dropped.
            return Poll::Pending;
        }
        self.shared.begun.store(true, Ordering::Release);
        if let Some(kept) = state.kept.as_ref()
            && kept.len() > self.sent
        {
            let again = Bytes::copy_from_slice(&kept[self.sent..]);
            self.sent = kept.len();
            return Poll::Ready(Some(Ok(Frame::data(again))));
        }
        if state.last {
            state.kept = None;
        }
        if state.done {
            self.ended = true;
            return Poll::Ready(
                state.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))),
            );
        }
        match std::task::ready!(Pin::new(&mut state.incoming).poll_frame(cx)) {
            None => {
                state.done = true;
                self.ended = true;
                drop(state);
                self.shared.finish();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.shared.broken.store(true, Ordering::Release);
                Poll::Ready(Some(Err(error)))
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.shared.received.fetch_add(data.len() as u64, Ordering::AcqRel);
                    let fits = |kept: &&mut BytesMut| kept.len() + data.len() <= REPLAY_LIMIT;
                    match state.kept.as_mut().filter(fits) {
                        Some(kept) => kept.extend_from_slice(data),
                        None => state.kept = None,
                    }
                    self.sent += data.len();
                }
                if let Some(trailers) = frame.trailers_ref() {
                    state.trailers = Some(trailers.clone());
                    state.done = true;
                    self.ended = true;
                    drop(state);
                    self.shared.finish();
                } else if state.incoming.is_end_stream() {
                    state.done = true;
                    self.ended = true;
                    drop(state);
                    self.shared.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }
}

/// Something that watches a response body pass.
pub trait Watch: Send + Sync {
    /// Bytes were handed to the client.
    fn sent(&mut self, bytes: u64);
    /// Trailers were handed to the client.
    fn trailers(&mut self, trailers: &HeaderMap);
    /// The body ended as it should.
    fn finished(&mut self);
    /// The upstream broke off.
    fn broken(&mut self, error: &hyper::Error);
    /// A time limit cut the body off.
    fn expired(&mut self, kind: Kind);
}

/// How long a response body may take.
#[derive(Debug, Default)]
pub struct Limits {
    /// When the whole of it must have come, and what it means if it has not.
    pub deadline: Option<(Instant, Kind)>,
    /// How long nothing may come.
    pub idle: Option<Duration>,
}

/// A clock that is set to the nearer of the limits.
#[derive(Debug)]
struct Clock {
    limits: Limits,
    sleep: Pin<Box<Sleep>>,
    kind: Kind,
}

impl Clock {
    fn new(limits: Limits) -> Option<Self> {
        let (at, kind) = Self::next(&limits)?;
        Some(Self { sleep: Box::pin(tokio::time::sleep_until(at)), limits, kind })
    }

    fn next(limits: &Limits) -> Option<(Instant, Kind)> {
        let idle = limits.idle.map(|idle| (Instant::now() + idle, Kind::StreamIdle));
        match (idle, limits.deadline) {
            (Some(idle), Some(deadline)) => Some(if idle.0 < deadline.0 { idle } else { deadline }),
            (one, other) => one.or(other),
        }
    }

    /// Something moved.
    fn wind(&mut self) {
        if self.limits.idle.is_some()
            && let Some((at, kind)) = Self::next(&self.limits)
        {
            self.sleep.as_mut().reset(at);
            self.kind = kind;
        }
    }
}

/// The body of a response to a client. Its end, however it comes, ends the request's record.
pub struct ResponseBody {
    content: Content,
    watch: Option<Box<dyn Watch>>,
    clock: Option<Clock>,
}

enum Content {
    Full(Option<Bytes>),
    Stream(Incoming),
}

impl ResponseBody {
    /// A body that is known whole.
    pub fn full(bytes: impl Into<Bytes>, watch: Option<Box<dyn Watch>>) -> Self {
        let bytes: Bytes = bytes.into();
        let mut body = Self {
            content: Content::Full(Some(bytes).filter(|b| !b.is_empty())),
            watch,
            clock: None,
        };
        if matches!(body.content, Content::Full(None)) {
            body.finish();
        }
        body
    }

    /// A body that comes from an upstream.
    pub fn stream(incoming: Incoming, watch: Box<dyn Watch>, limits: Limits) -> Self {
        let ended = incoming.is_end_stream();
        let clock = Clock::new(limits);
        let mut body = Self { content: Content::Stream(incoming), watch: Some(watch), clock };
        if ended {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            watch.finished();
        }
    }
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResponseBody")
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let incoming = match &mut this.content {
            Content::Full(bytes) => {
                let bytes = bytes.take();
                if let (Some(bytes), Some(watch)) = (&bytes, &mut this.watch) {
                    watch.sent(bytes.len() as u64);
                }
                this.finish();
                return Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))));
            }
            Content::Stream(incoming) => incoming,
        };
        let polled = Pin::new(incoming).poll_frame(cx);
        if let Some(clock) = &mut this.clock {
            if polled.is_ready() {
                clock.wind();
            } else if clock.sleep.as_mut().poll(cx).is_ready() {
                let kind = clock.kind;
                if let Some(mut watch) = this.watch.take() {
                    watch.expired(kind);
                }
                return Poll::Ready(Some(Err(Failure::new(kind).into())));
            }
        }
        match std::task::ready!(polled) {
            None => {
                this.finish();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                if let Some(mut watch) = this.watch.take() {
                    watch.broken(&error);
                }
                Poll::Ready(Some(Err(error.into())))
            }
            Some(Ok(frame)) => {
                if let Some(watch) = &mut this.watch {
                    if let Some(data) = frame.data_ref() {
                        watch.sent(data.len() as u64);
                    } else if let Some(trailers) = frame.trailers_ref() {
                        watch.trailers(trailers);
                    }
                }
                let last = matches!(&this.content, Content::Stream(body) if body.is_end_stream());
                if last || frame.is_trailers() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Full(bytes) => bytes.is_none(),
            Content::Stream(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Content::Stream(incoming) => incoming.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncWriteExt, DuplexStream};

    use super::*;

    /// A body that comes over a connection, with the client's end of it.
    async fn incoming(shutdown: &tombolo_runtime::shutdown::Shutdown) -> (Incoming, DuplexStream) {
        let (mut client, server) = tokio::io::duplex(1024);
        let (give, take) = tokio::sync::oneshot::channel();
        let give = Mutex::new(Some(give));
        let service = service_fn(move |request: Request<Incoming>| {
            let give = give.lock().take();
            async move {
                give.map(|give| give.send(request.into_body()));
                std::future::pending::<Result<Response<String>, Infallible>>().await
            }
        });
        let builder = hyper::server::conn::http1::Builder::new();
        let connection = builder.serve_connection(TokioIo::new(server), service);
        shutdown.spawn("server", async move { drop(connection.await) });
        client
            .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc")
            .await
            .unwrap();
        (take.await.unwrap(), client)
    }

    async fn next(body: &mut RequestBody) -> Bytes {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        frame.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test]
    async fn a_try_that_was_given_up_takes_nothing_away() {
        let shutdown = tombolo_runtime::shutdown::Shutdown::default();
        let (incoming, mut client) = incoming(&shutdown).await;
        let source = RequestSource::new(incoming, true);
        let mut first = source.body();
        assert_eq!(next(&mut first).await, "abc");
        let mut second = source.body();
        // The answer may come before the second try has sent what the first one had.
        source.forget();
        assert_eq!(next(&mut second).await, "abc");
        client.write_all(b"def").await.unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(50), next(&mut first)).await;
        assert!(waited.is_err(), "the old try read {waited:?}");
        assert_eq!(next(&mut second).await, "def");
        assert!(source.is_finished());
    }
}
