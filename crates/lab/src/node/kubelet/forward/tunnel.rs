//! A SPDY connection inside a WebSocket, `SPDY/3.1+portforward.k8s.io`.
//!
//! Binary messages carry the connection's bytes in their order; where one ends means nothing.

use std::io;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::{SinkExt, StreamExt, future};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

/// The subprotocol's name.
pub(crate) const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// The connection that a WebSocket carries. Ends with it.
pub(crate) fn open(socket: WebSocket) -> impl AsyncRead + AsyncWrite + Send + 'static {
    let (sink, stream) = socket.split();
    let bytes = stream.filter_map(|message| {
        future::ready(match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            // Text carries nothing here, and the rest is the WebSocket's own.
            Ok(_) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        })
    });
    let sink = sink
        .sink_map_err(io::Error::other)
        .with(|bytes: Bytes| future::ready(Ok::<_, io::Error>(Message::Binary(bytes))));
    tokio::io::join(StreamReader::new(bytes), SinkWriter::new(CopyToBytes::new(sink)))
}
