//! The server's side of one SPDY/3.1 connection.
//!
//! One task reads frames and hands each stream its data, another writes. Nothing is unbounded: a
//! stream whose reader is slow holds the whole connection back, as it does in Kubernetes, because
//! its clients keep to no window that a server might announce.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::sync::CancellationToken;
use tombolo_runtime::errors::chain;
use tombolo_runtime::shutdown::Shutdown;

use crate::node::kubelet::spdy::frame::{Frame, FrameError, FrameReader, FrameWriter};
use crate::node::kubelet::spdy::headers::Headers;

/// The most streams that are open at once; more are refused.
pub(crate) const MOST_STREAMS: usize = 1024;

/// Chunks of data that a stream holds before its connection waits for it.
const WAITING: usize = 4;

/// Frames that wait to be written; who has more waits.
const OUTGOING: usize = 16;

/// How long the other side may take to see the end of a connection.
const LINGER: Duration = Duration::from_secs(2);

/// The highest stream number: all streams that the client has opened were served.
pub(crate) const ALL: u32 = u32::MAX >> 1;

/// Why a stream is reset (draft 3.1, section 2.6.3).
const PROTOCOL_ERROR: u32 = 1;
const REFUSED: u32 = 3;
const CANCEL: u32 = 5;

/// What the writer is told.
#[derive(Debug)]
enum Order {
    Write(Frame),
    Close,
}

/// A connection whose streams a client opens.
#[derive(Debug)]
pub(crate) struct Connection {
    /// New streams, which are to be accepted or refused. Ends with the connection.
    pub opened: mpsc::Receiver<Stream>,
    /// Cancelled when the client is gone, or what it sends cannot be understood.
    pub gone: CancellationToken,
    orders: mpsc::Sender<Order>,
    closing: CancellationToken,
}

/// A stream that a client has opened.
#[derive(Debug)]
pub(crate) struct Stream {
    pub headers: Headers,
    /// What the client sends, until it says that nothing more comes.
    pub input: mpsc::Receiver<Bytes>,
    pub output: Output,
}

/// The direction of a stream that goes to the client.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub id: u32,
    orders: mpsc::Sender<Order>,
    /// Cancelled when the client has given the stream up, or is gone.
    pub gone: CancellationToken,
    /// Says to the reading task that the stream is still used.
    _used: Arc<()>,
}

/// The client has given the stream up, or is gone.
#[derive(Debug, thiserror::Error)]
#[error("the client has given up the stream")]
pub(crate) struct Gone;

/// Begins to read and write `socket`.
pub(crate) fn serve<S>(socket: S, shutdown: &Shutdown) -> Connection
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(socket);
    let (orders, ordered) = mpsc::channel(OUTGOING);
    let (opening, opened) = mpsc::channel(1);
    let (gone, closing) = (CancellationToken::new(), CancellationToken::new());
    let reading = Reading {
        opening,
        orders: orders.clone(),
        gone: gone.clone(),
        closing: closing.clone(),
        streams: HashMap::new(),
        last: 0,
        refuses: false,
    };
    shutdown.spawn("spdy reader", reading.run(read));
    shutdown.spawn("spdy writer", write_frames(write, ordered, gone.clone()));
    Connection { opened, gone, orders, closing }
}

impl Connection {
    /// Ends the connection once everything that was sent is written.
    pub(crate) async fn close(self) {
        for order in [Order::Write(Frame::GoAway { last: ALL, status: 0 }), Order::Close] {
            if put(&self.orders, &self.gone, order).await.is_err() {
                break;
            }
        }
        self.closing.cancel();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

impl Stream {
    /// A header by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Lets the client use the stream.
    pub(crate) async fn accept(&self) -> Result<(), Gone> {
        let id = self.output.id;
        self.output.put(Frame::SynReply { id, fin: false, headers: Headers::new() }).await
    }
}

impl Output {
    /// Sends data; waits while the client is slow.
    pub(crate) async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.put(Frame::Data { id: self.id, fin: false, bytes }).await
    }

    /// Says that nothing more comes.
    pub(crate) async fn finish(&self) -> Result<(), Gone> {
        self.put(Frame::Data { id: self.id, fin: true, bytes: Bytes::new() }).await
    }

    /// Gives the stream up in both directions.
    pub(crate) async fn reset(&self) -> Result<(), Gone> {
        self.put(Frame::RstStream { id: self.id, status: CANCEL }).await
    }

    async fn put(&self, frame: Frame) -> Result<(), Gone> {
        put(&self.orders, &self.gone, Order::Write(frame)).await
    }
}

async fn put(
    orders: &mpsc::Sender<Order>,
    gone: &CancellationToken,
    order: Order,
) -> Result<(), Gone> {
    tokio::select! {
        biased;
        () = gone.cancelled() => Err(Gone),
        sent = orders.send(order) => sent.map_err(|_| Gone),
    }
}

/// A stream as the reading task knows it.
#[derive(Debug)]
struct Receiving {
    /// None when the client has said that nothing more comes, or nobody wants it.
    input: Option<mpsc::Sender<Bytes>>,
    gone: CancellationToken,
    used: Weak<()>,
}

/// What the reading task knows.
struct Reading {
    opening: mpsc::Sender<Stream>,
    orders: mpsc::Sender<Order>,
    gone: CancellationToken,
    closing: CancellationToken,
    streams: HashMap<u32, Receiving>,
    /// The newest stream's number; the client's are odd and ascend.
    last: u32,
    /// The client has said that it opens no more streams.
    refuses: bool,
}

impl Reading {
    async fn run<R: AsyncRead>(mut self, read: ReadHalf<R>) {
        let mut frames = FramedRead::new(read, FrameReader::new());
        let closing = self.closing.clone();
        let read = async {
            while let Some(frame) = frames.next().await {
                self.hear(frame?).await?;
            }
            Ok::<(), FrameError>(())
        };
        tokio::select! {
            biased;
            () = closing.cancelled() => {
                // Unread data at the end would make the kernel drop what is still on its way.
                let (mut read, mut nowhere) = (frames.into_inner(), tokio::io::sink());
                let drained = tokio::io::copy(&mut read, &mut nowhere);
                if let Ok(Err(error)) = tokio::time::timeout(LINGER, drained).await {
                    tracing::debug!(%error, "SPDY connection ended");
                }
            }
            ended = read => if let Err(error) = ended {
                tracing::debug!(error = %chain(&error), "SPDY connection broke");
                let last = self.last;
                // There is no room only when the client does not read either.
                let _full = self.orders.try_send(Order::Write(Frame::GoAway { last, status: PROTOCOL_ERROR }));
            }
        }
        self.gone.cancel();
    }

    async fn hear(&mut self, frame: Frame) -> Result<(), FrameError> {
        match frame {
            Frame::SynStream { id, fin, unidirectional, headers } => {
                self.open(id, fin, unidirectional, headers).await?;
            }
            Frame::Data { id, fin, bytes } => {
                // Data of a stream that is over is nobody's.
                let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
                let Some(input) = &stream.input else { return Ok(()) };
                let sent = bytes.is_empty() || input.send(bytes).await.is_ok();
                if fin || !sent {
                    stream.input = None;
                }
            }
            Frame::RstStream { id, .. } => {
                if let Some(stream) = self.streams.remove(&id) {
                    stream.gone.cancel();
                }
            }
            Frame::Headers { id, fin: true, .. } => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.input = None;
                }
            }
            // The client's pings have odd numbers and are returned; even ones answer ours.
            Frame::Ping(id) if id % 2 == 1 => self.order(Frame::Ping(id)).await,
            Frame::GoAway { .. } => self.refuses = true,
            // A server here opens no streams and keeps to no windows or settings, as Kubernetes'.
            Frame::SynReply { .. }
            | Frame::Headers { .. }
            | Frame::Ping(_)
            | Frame::Settings(_)
            | Frame::WindowUpdate { .. } => (),
        }
        Ok(())
    }

    async fn open(
        &mut self,
        id: u32,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    ) -> Result<(), FrameError> {
        if id.is_multiple_of(2) || id <= self.last {
            return Err(FrameError::Malformed("a new stream's number is not odd and the highest"));
        }
        self.last = id;
        self.streams.retain(|_, stream| stream.used.strong_count() > 0);
        if self.refuses || unidirectional || self.streams.len() >= MOST_STREAMS {
            self.order(Frame::RstStream { id, status: REFUSED }).await;
            return Ok(());
        }
        let (input, receiver) = mpsc::channel(WAITING);
        let gone = self.gone.child_token();
        let used = Arc::new(());
        let input = if fin { None } else { Some(input) };
        self.streams
            .insert(id, Receiving { input, gone: gone.clone(), used: Arc::downgrade(&used) });
        let output = Output { id, orders: self.orders.clone(), gone, _used: used };
        let stream = Stream { headers, input: receiver, output };
        if self.opening.send(stream).await.is_err() {
            self.streams.remove(&id);
            self.order(Frame::RstStream { id, status: REFUSED }).await;
        }
        Ok(())
    }

    async fn order(&self, frame: Frame) {
        // Fails only when the writer has ended, which ends the reader, too.
        let _ended = self.orders.send(Order::Write(frame)).await;
    }
}

async fn write_frames<W: AsyncWrite>(
    write: WriteHalf<W>,
    mut ordered: mpsc::Receiver<Order>,
    gone: CancellationToken,
) {
    let mut sink = FramedWrite::new(write, FrameWriter::new());
    let work = async {
        loop {
            let order = tokio::select! {
                biased;
                order = ordered.recv() => order,
                () = gone.cancelled() => None,
            };
            let Some(Order::Write(frame)) = order else { break };
            sink.feed(frame).await?;
            if ordered.is_empty() {
                sink.flush().await?;
            }
        }
        sink.flush().await?;
        sink.get_mut().shutdown().await?;
        Ok::<(), FrameError>(())
    };
    let lingered = async {
        gone.cancelled().await;
        tokio::time::sleep(LINGER).await;
    };
    let ended = tokio::select! {
        ended = work => ended,
        () = lingered => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    };
    if let Err(error) = ended {
        tracing::debug!(error = %chain(&error), "SPDY connection broke");
        gone.cancel();
    }
}
