//! Forwarding over SPDY, `portforward.k8s.io`: a pair of streams for each connection.
//!
//! A client opens an error stream and a data stream, and says with the headers `requestid` and
//! `port` which belong together and where they lead. A message on the error stream says why there
//! is no connection; kubectl then gives up all its connections, so none is sent for a connection
//! that breaks later: its data stream is reset instead.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tombolo_runtime::shutdown::Shutdown;

use crate::node::kubelet::forward::{self, Outlet, Pod};
use crate::node::kubelet::spdy::connection::{Connection, MOST_STREAMS, Output, Stream};

/// The protocol's name.
pub(crate) const PROTOCOL: &str = "portforward.k8s.io";

/// How long the second stream of a pair may take, as in the kubelet.
const PAIRING: Duration = Duration::from_secs(30);

/// The first stream of a pair.
struct Half {
    stream: Stream,
    kind: Kind,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Error,
    Data,
}

impl Outlet for Output {
    async fn send(&mut self, bytes: Bytes) -> bool {
        Self::send(self, bytes).await.is_ok()
    }

    async fn finish(&mut self) {
        // Who has given the stream up needs not be told of its end.
        let _gone = Self::finish(self).await;
    }
}

/// Serves the client's streams until it goes, or the process drains.
pub(crate) async fn serve(mut connection: Connection, pod: Pod, shutdown: Shutdown) {
    let pod = Arc::new(pod);
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut sweep = tokio::time::interval(PAIRING / 6);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let mut stream = tokio::select! {
            opened = connection.opened.recv() => match opened {
                Some(stream) => stream,
                None => break,
            },
            _ = sweep.tick() => {
                give_up_old(&mut halves).await;
                continue;
            }
            () = shutdown.draining() => break,
        };
        let (kind, port, request) = match what(&stream) {
            Ok(what) => what,
            Err(reason) => {
                tracing::debug!(reason, "a stream of port-forward is refused");
                let _gone = stream.output.reset().await;
                continue;
            }
        };
        if kind == Kind::Error {
            // What a client sends there is nobody's.
            stream.input.close();
        }
        if stream.accept().await.is_err() {
            continue;
        }
        match halves.remove(&request) {
            Some(half) if half.kind != kind => {
                let (error, data) = match kind {
                    Kind::Data => (half.stream, stream),
                    Kind::Error => (stream, half.stream),
                };
                let pod = Arc::clone(&pod);
                shutdown.spawn("forwarded connection", async move {
                    one(&pod, port, error, data).await;
                });
            }
            Some(half) => {
                let _gone = stream.output.reset().await;
                halves.insert(request, half);
            }
            None if halves.len() >= MOST_STREAMS => {
                let _gone = stream.output.reset().await;
            }
            None => {
                halves.insert(request, Half { stream, kind, since: Instant::now() });
            }
        }
    }
    connection.close().await;
}

/// What a stream is for: its kind, its port, and which request it belongs to.
fn what(stream: &Stream) -> Result<(Kind, u16, String), String> {
    let header = |name: &str| {
        let value = stream.header(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| format!("{name:?} header is required"))
    };
    let port = forward::port(header("port")?)?;
    let kind = match header("streamtype")? {
        "error" => Kind::Error,
        "data" => Kind::Data,
        other => return Err(format!("invalid stream type {other:?}")),
    };
    let id = stream.output.id;
    // Clients that give no number open the error stream first and the data stream next to it.
    let request = header("requestid").map(str::to_owned).unwrap_or_else(|_| match kind {
        Kind::Error => id.to_string(),
        Kind::Data => id.saturating_sub(2).to_string(),
    });
    Ok((kind, port, request))
}

/// Ends streams whose other half has not come.
async fn give_up_old(halves: &mut HashMap<String, Half>) {
    let old: Vec<_> =
        halves.extract_if(|_, half| half.since.elapsed() > PAIRING || gone(half)).collect();
    for (request, half) in old {
        let output = &half.stream.output;
        if half.kind == Kind::Error {
            let text = format!("(request={request}) timed out waiting for streams");
            let _gone = output.send(text.into()).await;
            let _gone = output.finish().await;
        } else {
            let _gone = output.reset().await;
        }
    }
}

fn gone(half: &Half) -> bool {
    half.stream.output.gone.is_cancelled()
}

/// One connection from its beginning to its end.
async fn one(pod: &Pod, port: u16, error: Stream, data: Stream) {
    let Stream { input, mut output, .. } = data;
    match forward::connect(pod, port).await {
        Ok(stream) => {
            let gone = output.gone.clone();
            if let Err(broken) = forward::copy(stream, input, &mut output, &gone).await {
                tracing::debug!(pod = pod.name, port, error = %broken, "forwarded connection broke");
                let _gone = output.reset().await;
            }
        }
        Err(refused) => {
            let text = forward::refusal(pod, port, &refused);
            tracing::debug!(text, "a port is not forwarded");
            let _gone = error.output.send(text.into()).await;
            drop(input);
            let _gone = output.finish().await;
        }
    }
    let _gone = error.output.finish().await;
}

#[cfg(test)]
mod tests {
    use futures::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::node::kubelet::spdy::frame::Frame;
    use crate::node::kubelet::spdy::tests::{Both, Client, headers};

    fn start() -> Client {
        let (connection, client) = Both::connect();
        let pod = Pod { name: "p_default".into(), uid: "1".into(), namespace: None };
        let shutdown = Shutdown::default();
        shutdown.clone().spawn("port-forward", serve(connection, pod, shutdown));
        client
    }

    fn open(id: u32, all: &[(&str, &str)]) -> Frame {
        Frame::SynStream { id, fin: false, unidirectional: false, headers: headers(all) }
    }

    /// The status of a refusal, or none when the stream is accepted.
    async fn reply(client: &mut Client, to: u32) -> Option<u32> {
        match client.next().await.unwrap().unwrap() {
            Frame::SynReply { id, fin: false, .. } if id == to => None,
            Frame::RstStream { id, status } if id == to => Some(status),
            other => panic!("{other:?}"),
        }
    }

    /// What a stream says until its end, and the end of another stream in between.
    async fn text_until_the_end(client: &mut Client, of: u32) -> String {
        let mut text = Vec::new();
        loop {
            match client.next().await.unwrap().unwrap() {
                Frame::Data { id, fin, bytes } if id == of => {
                    text.extend(bytes);
                    if fin {
                        return String::from_utf8(text).unwrap();
                    }
                }
                Frame::Data { fin: true, bytes, .. } if bytes.is_empty() => (),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn streams_find_each_other_by_request() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let mut client = start();
        // The second request's data stream comes first, and the first request's has no number.
        let streams = [
            (1, vec![("port", port.as_str()), ("streamtype", "error")]),
            (3, vec![("port", &port), ("streamtype", "data")]),
            (5, vec![("port", &port), ("streamtype", "data"), ("requestid", "a")]),
            (7, vec![("port", &port), ("streamtype", "error"), ("requestid", "a")]),
        ];
        for (id, all) in &streams {
            client.send(open(*id, all)).await.unwrap();
            assert_eq!(reply(&mut client, *id).await, None);
        }
        for (id, text) in [(3, "first"), (5, "second")] {
            let (bytes, fin) = (Bytes::from_static(text.as_bytes()), true);
            client.send(Frame::Data { id, fin, bytes }).await.unwrap();
        }
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = String::new();
            stream.read_to_string(&mut asked).await.unwrap();
            stream.write_all(format!("heard {asked}").as_bytes()).await.unwrap();
            drop(stream);
            let id = if asked == "first" { 3 } else { 5 };
            assert_eq!(text_until_the_end(&mut client, id).await, format!("heard {asked}"));
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_stream_ends_only_that_stream() {
        let mut client = start();
        let wrong: [&[(&str, &str)]; 5] = [
            &[("streamtype", "data")],
            &[("streamtype", "data"), ("port", "0")],
            &[("streamtype", "data"), ("port", "65536")],
            &[("port", "80")],
            &[("streamtype", "other"), ("port", "80")],
        ];
        for (id, all) in (1..).step_by(2).zip(wrong) {
            client.send(open(id, all)).await.unwrap();
            assert_eq!(reply(&mut client, id).await, Some(5), "{all:?}");
        }
        let error = [("streamtype", "error"), ("port", "1"), ("requestid", "a")];
        client.send(open(101, &error)).await.unwrap();
        assert_eq!(reply(&mut client, 101).await, None);
        // A second one of its kind.
        client.send(open(103, &error)).await.unwrap();
        assert_eq!(reply(&mut client, 103).await, None);
        assert_eq!(reply(&mut client, 103).await, Some(5));
        let data = [("streamtype", "data"), ("port", "1"), ("requestid", "a")];
        client.send(open(105, &data)).await.unwrap();
        assert_eq!(reply(&mut client, 105).await, None);
        let said = text_until_the_end(&mut client, 101).await;
        assert!(
            said.starts_with(
                "error forwarding port 1 to pod p_default, uid 1: failed to connect to localhost:1 \
                 inside namespace \"p_default\", IPv4: dial tcp4 127.0.0.1:1: connect: \
                 connection refused IPv6: dial tcp6 [::1]:1: connect: "
            ),
            "{said}"
        );
    }
}
