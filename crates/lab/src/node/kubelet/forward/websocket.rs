//! Forwarding over a WebSocket, `v4.channel.k8s.io`: one connection for each port of the request.
//!
//! Port number n has the channels 2n for data and 2n+1 for an error. The server begins each with
//! the port, two bytes with the lower first. A message begins with its channel's number; there is
//! no way to end one direction, so a connection ends with the pod's side, or with the WebSocket.

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tombolo_runtime::shutdown::Shutdown;

use crate::node::kubelet::forward::{self, Outlet, Pod};

/// The subprotocol's name.
pub(crate) const PROTOCOL: &str = "v4.channel.k8s.io";

/// Messages that wait in either direction.
const WAITING: usize = 8;

/// One channel towards the client.
struct Channel {
    number: u8,
    messages: mpsc::Sender<Message>,
}

impl Outlet for Channel {
    async fn send(&mut self, bytes: Bytes) -> bool {
        let mut message = BytesMut::with_capacity(bytes.len() + 1);
        message.put_u8(self.number);
        message.put_slice(&bytes);
        self.messages.send(Message::Binary(message.freeze())).await.is_ok()
    }

    /// The protocol has no word for it.
    async fn finish(&mut self) {}
}

/// Forwards `ports` until all their connections have ended, or the client goes.
pub(crate) async fn serve(socket: WebSocket, pod: Pod, ports: Vec<u16>, shutdown: Shutdown) {
    let (mut sink, mut stream) = socket.split();
    let (messages, mut outgoing) = mpsc::channel(WAITING);
    let gone = CancellationToken::new();
    let mut inputs = Vec::new();
    let mut connections = Vec::new();
    for (number, port) in (0_u8..=u8::MAX).step_by(2).zip(ports) {
        let (input, receiver) = mpsc::channel(WAITING);
        inputs.push(input);
        let messages = messages.clone();
        connections.push(one(&pod, port, number, receiver, messages, &gone));
    }
    drop(messages);
    let ended = gone.clone();
    shutdown.spawn("forwarded input", async move {
        while let Some(Ok(message)) = stream.next().await {
            let Message::Binary(bytes) = message else { continue };
            let Some(number) = bytes.first().filter(|number| *number % 2 == 0) else { continue };
            let Some(input) = inputs.get(usize::from(number / 2)) else { continue };
            if bytes.len() > 1 {
                // Fails when the connection has ended; others may go on.
                let _ended = input.send(bytes.slice(1..)).await;
            }
        }
        ended.cancel();
    });
    let write = async {
        while let Some(message) = outgoing.recv().await {
            sink.send(message).await?;
        }
        let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        sink.send(Message::Close(Some(close))).await
    };
    let work = async {
        let (written, _) = tokio::join!(write, futures::future::join_all(connections));
        written
    };
    tokio::select! {
        written = work => if let Err(error) = written {
            tracing::debug!(%error, "client of port-forward went away");
        },
        () = shutdown.draining() => (),
    }
}

async fn one(
    pod: &Pod,
    port: u16,
    number: u8,
    input: mpsc::Receiver<Bytes>,
    messages: mpsc::Sender<Message>,
    gone: &CancellationToken,
) {
    let mut data = Channel { number, messages: messages.clone() };
    let mut error = Channel { number: number + 1, messages };
    let port_bytes = Bytes::copy_from_slice(&port.to_le_bytes());
    if !data.send(port_bytes.clone()).await || !error.send(port_bytes).await {
        return;
    }
    match forward::connect(pod, port).await {
        Ok(stream) => {
            if let Err(broken) = forward::copy(stream, input, &mut data, gone).await {
                tracing::debug!(pod = pod.name, port, error = %broken, "forwarded connection broke");
            }
        }
        Err(refused) => {
            error.send(forward::refusal(pod, port, &refused).into()).await;
        }
    }
}
