//! How long a client's HTTP connection may live: idle between requests, busy with the head of one,
//! and altogether.
//!
//! The HTTP engine knows one clock only, which runs from the end of one request to the end of the
//! head of the next. A client may well be silent that long, so the clocks are here: one for
//! connections on which nothing happens, another for a head that has begun.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The limits of a connection. None means no limit.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long no request may be open.
    pub idle: Option<Duration>,
    /// How long the head of an HTTP/1 request may take from its first byte.
    pub head: Duration,
    /// How long the connection may take requests.
    pub age: Option<Duration>,
    /// How many requests it may carry.
    pub requests: Option<u32>,
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Idle,
    Head,
    /// Too old, or enough requests.
    Used,
}

/// What happens on a connection.
#[derive(Debug)]
pub struct Activity {
    limits: Limits,
    started: Instant,
    used_up: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    open: u32,
    begun: u32,
    idle_since: Instant,
    /// When the first byte of a head came.
    head_since: Option<Instant>,
    /// Heads are frames then, and other frames may come at any time.
    http2: Option<bool>,
}

/// A request that is open. Dropping it says that its answer has ended.
#[derive(Debug)]
pub struct Open(Arc<Activity>);

impl Activity {
    /// A connection that begins now. Where nobody says whether HTTP/2 is spoken, its first bytes
    /// tell.
    pub fn new(limits: Limits, http2: Option<bool>) -> Arc<Self> {
        let now = Instant::now();
        let state = State { open: 0, begun: 0, idle_since: now, head_since: None, http2 };
        Arc::new(Self { limits, started: now, used_up: Notify::new(), state: Mutex::new(state) })
    }

    /// The head of a request is there.
    pub fn open(self: &Arc<Self>) -> Open {
        let mut state = self.state.lock();
        state.open += 1;
        state.head_since = None;
        state.begun = state.begun.saturating_add(1);
        if self.limits.requests.is_some_and(|most| most != 0 && state.begun >= most) {
            self.used_up.notify_one();
        }
        Open(self.clone())
    }

    fn read(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        let http2 = *state.http2.get_or_insert_with(|| bytes.starts_with(b"PRI"));
        if state.open == 0 && !http2 {
            state.head_since.get_or_insert_with(Instant::now);
        }
    }

    /// The next moment to look at, and what it means when it has come.
    fn next(&self) -> (Option<Instant>, Over) {
        let state = self.state.lock();
        let age = self.limits.age.map(|age| self.started + age);
        let other = match (state.open, state.head_since) {
            (0, Some(since)) => Some((since + self.limits.head, Over::Head)),
            (0, None) => self.limits.idle.map(|idle| (state.idle_since + idle, Over::Idle)),
            _ => None,
        };
        match (age, other) {
            (Some(age), Some((at, over))) if at < age => (Some(at), over),
            (None, Some((at, over))) => (Some(at), over),
            (age, _) => (age, Over::Used),
        }
    }

    /// Returns when a limit is reached, and which.
    pub async fn over(&self) -> Over {
        let ends = async {
            loop {
                let (at, over) = self.next();
                let now = Instant::now();
                if at.is_some_and(|at| at <= now) {
                    return over;
                }
                // Whatever begins is seen before its own limit is over: none is shorter than this.
                let look = [Some(self.limits.head), self.limits.idle].into_iter().flatten().min();
                let look = now + look.unwrap_or(self.limits.head);
                sleep_until(at.map_or(look, |at| at.min(look))).await;
            }
        };
        tokio::select! {
            over = ends => over,
            () = self.used_up.notified() => Over::Used,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.open -= 1;
        state.idle_since = Instant::now();
    }
}

/// A connection whose reads are noticed.
#[derive(Debug)]
pub struct Noticed<I> {
    io: I,
    activity: Arc<Activity>,
}

impl<I> Noticed<I> {
    /// Tells `activity` what is read from `io`.
    pub fn new(io: I, activity: Arc<Activity>) -> Self {
        Self { io, activity }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Noticed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.read(&buf.filled()[before..]);
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Noticed<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn activity() -> Arc<Activity> {
        let limits = Limits { idle: Some(ms(400)), head: ms(100), age: None, requests: None };
        Activity::new(limits, None)
    }

    #[tokio::test]
    async fn a_silent_connection_lives_as_long_as_it_may_be_idle() {
        let (activity, start) = (activity(), Instant::now());
        assert_eq!(activity.over().await, Over::Idle);
        assert!(start.elapsed() >= ms(400), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_head_that_has_begun_must_end_soon_and_counts_from_its_first_byte() {
        let (activity, start) = (activity(), Instant::now());
        let slow = async {
            loop {
                tokio::time::sleep(ms(50)).await;
                activity.read(b"G");
            }
        };
        tokio::select! {
            over = activity.over() => assert_eq!(over, Over::Head),
            () = slow => {}
        }
        assert!(start.elapsed() >= ms(150), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn an_open_request_may_take_any_time_and_idleness_begins_with_its_end() {
        let (activity, start) = (activity(), Instant::now());
        activity.read(b"GET / HTTP/1.1\r\n\r\n");
        let open = activity.open();
        let ends = async {
            tokio::time::sleep(ms(600)).await;
            drop(open);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            over = activity.over() => assert_eq!(over, Over::Idle),
            () = ends => {}
        }
        assert!(start.elapsed() >= ms(1000), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn frames_of_http2_are_no_heads_and_age_and_requests_are_limits_too() {
        let limits =
            Limits { idle: Some(ms(5000)), head: ms(50), age: Some(ms(200)), requests: Some(2) };
        let activity = Activity::new(limits, None);
        activity.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        assert_eq!(activity.over().await, Over::Used);
        let activity = Activity::new(Limits { age: None, ..limits }, None);
        let _two = (activity.open(), activity.open());
        assert_eq!(activity.over().await, Over::Used);
    }
}
