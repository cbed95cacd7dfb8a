//! Sessions over a WebSocket: `v5.channel.k8s.io` and `v4.channel.k8s.io`.
//!
//! Each message begins with the number of its channel: 0 input, 1 output, 2 error output, 3 the
//! outcome, 4 the terminal's size; 255 (v5) closes the channel that its second byte names.

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::SplitSink;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::sync::mpsc;
use tombolo_runtime::shutdown::Shutdown;

use crate::node::container::logs::Stream;
use crate::node::kubelet::session::{FromClient, Size, Streams};

/// The protocols, best first.
pub(crate) const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// Messages that wait in either direction.
const WAITING: usize = 16;

/// Carries one session over `socket`; `session` is given the streams and returns the outcome.
pub(crate) async fn carry<F>(
    socket: WebSocket,
    shutdown: Shutdown,
    session: impl FnOnce(Streams) -> F,
) where
    F: Future<Output = Value>,
{
    let (mut sink, mut stream) = socket.split();
    let (to_session, from_client) = mpsc::channel(WAITING);
    let (to_client, mut output) = mpsc::channel(WAITING);
    shutdown.spawn("websocket input", async move {
        while let Some(Ok(message)) = stream.next().await {
            let Some(next) = parse(&message) else { continue };
            if to_session.send(next).await.is_err() {
                return;
            }
        }
    });
    let mut session = std::pin::pin!(session(Streams { from_client, to_client }));
    let outcome = loop {
        tokio::select! {
            biased;
            Some((channel, bytes)) = output.recv() => {
                if send(&mut sink, number(channel), &bytes).await.is_err() {
                    return;
                }
            }
            outcome = &mut session => break outcome,
        }
    };
    while let Ok((channel, bytes)) = output.try_recv() {
        if send(&mut sink, number(channel), &bytes).await.is_err() {
            return;
        }
    }
    let close = Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }));
    let sent = async {
        send(&mut sink, 3, outcome.to_string().as_bytes()).await?;
        sink.send(close).await?;
        sink.flush().await
    };
    if let Err(error) = sent.await {
        tracing::debug!(%error, "client went away before the outcome");
    }
}

fn number(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    }
}

async fn send(
    sink: &mut SplitSink<WebSocket, Message>,
    channel: u8,
    bytes: &[u8],
) -> Result<(), axum::Error> {
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(channel);
    message.put_slice(bytes);
    sink.send(Message::Binary(message.freeze())).await
}

fn parse(message: &Message) -> Option<FromClient> {
    let bytes: Bytes = match message {
        Message::Binary(bytes) => bytes.clone(),
        Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        _ => return None,
    };
    let (channel, body) = (*bytes.first()?, bytes.slice(1..));
    match channel {
        0 => Some(FromClient::Input(body)),
        4 => {
            let size: Size = serde_json::from_slice(&body).ok()?;
            Some(FromClient::Resize { columns: size.width, rows: size.height })
        }
        255 if body.first() == Some(&0) => Some(FromClient::InputEnds),
        _ => None,
    }
}
