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
        let stream = tokio::select! {
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
            None if halves.len() >= MOST_STREAMS => drop(stream.output.reset().await),
            None => drop(halves.insert(request, Half { stream, kind, since: Instant::now() })),
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
