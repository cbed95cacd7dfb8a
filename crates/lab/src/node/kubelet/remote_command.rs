//! Sessions over SPDY: `v4.channel.k8s.io`, `v3.channel.k8s.io` and `v2.channel.k8s.io`.
//!
//! The client opens one stream for each direction and names it with the header `streamtype`: the
//! outcome, input, output, error output, and the terminal's sizes. Version 4 gives the outcome as
//! a status object, the older ones as a text when it is not success; version 2 has no sizes.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tombolo_runtime::shutdown::Shutdown;

use crate::node::container::logs::Stream as Source;
use crate::node::kubelet::session::{FromClient, Request, Size, Streams};
use crate::node::kubelet::spdy::connection::{Connection, Gone, Output, Stream};

/// The protocols, best first.
pub(crate) const PROTOCOLS: [&str; 3] =
    ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"];

/// How long the client may take to open its streams, as in the kubelet.
const OPENING: Duration = Duration::from_secs(30);

/// Messages that wait in either direction.
const WAITING: usize = 16;

/// The longest text of a terminal's size that is waited for, in bytes.
const LONGEST_SIZE: usize = 1 << 10;

/// The streams that the client has opened.
#[derive(Default)]
struct Opened {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Opened {
    fn place(&mut self, kind: &str) -> Option<&mut Option<Stream>> {
        match kind {
            "error" => Some(&mut self.error),
            "stdin" => Some(&mut self.stdin),
            "stdout" => Some(&mut self.stdout),
            "stderr" => Some(&mut self.stderr),
            "resize" => Some(&mut self.resize),
            _ => None,
        }
    }
}

/// Carries one session; `session` is given the streams and returns the outcome.
pub(crate) async fn carry<F>(
    mut connection: Connection,
    protocol: &'static str,
    request: Request,
    shutdown: Shutdown,
    session: impl FnOnce(Streams) -> F,
) where
    F: Future<Output = Value>,
{
    let expected = expected(protocol, &request);
    let opening = tokio::time::timeout(OPENING, open(&mut connection, &expected));
    let Ok(Some(Opened { error: Some(error), stdin, stdout, stderr, resize })) = opening.await
    else {
        tracing::debug!("the client did not open the streams of its session");
        return connection.close().await;
    };
    // More streams are refused.
    connection.opened.close();
    let (to_session, from_client) = mpsc::channel(WAITING);
    let (to_client, output) = mpsc::channel(WAITING);
    if let Some(stdin) = stdin {
        shutdown.spawn("spdy input", type_in(stdin, to_session.clone()));
    }
    if let Some(resize) = resize {
        shutdown.spawn("spdy terminal sizes", resize_to(resize, to_session.clone()));
    }
    shutdown.spawn("spdy client", hold(to_session, connection.gone.clone()));
    let outputs = [stdout.map(|stream| stream.output), stderr.map(|stream| stream.output)];
    let streams = Streams { from_client, to_client };
    let outcome = drive(session(streams), output, &outputs).await;
    if let Err(Gone) = end(protocol, &outcome, &outputs, &error.output).await {
        tracing::debug!("client went away before the outcome");
    }
    connection.close().await;
}

/// The streams that the client must open.
fn expected(protocol: &str, request: &Request) -> Vec<&'static str> {
    let mut expected = vec!["error"];
    expected.extend(request.stdin.then_some("stdin"));
    expected.extend(request.stdout.then_some("stdout"));
    // A terminal has one output.
    expected.extend((request.stderr && !request.tty).then_some("stderr"));
    expected.extend((request.tty && protocol != "v2.channel.k8s.io").then_some("resize"));
    expected
}

/// Takes the client's streams until all that are expected are there; none when it goes.
async fn open(connection: &mut Connection, expected: &[&'static str]) -> Option<Opened> {
    let mut opened = Opened::default();
    let mut count = 0;
    while count < expected.len() {
        let mut stream = connection.opened.recv().await?;
        let kind = stream.header("streamtype").unwrap_or_default().to_owned();
        let place = opened.place(&kind).filter(|place| place.is_none());
        let Some(place) = place.filter(|_| expected.contains(&kind.as_str())) else {
            tracing::debug!(kind, "a stream of a session is refused");
            stream.output.reset().await.ok()?;
            continue;
        };
        if !matches!(kind.as_str(), "stdin" | "resize") {
            // What a client sends there is nobody's.
            stream.input.close();
        }
        stream.accept().await.ok()?;
        *place = Some(stream);
        count += 1;
    }
    Some(opened)
}

async fn type_in(mut stdin: Stream, to_session: mpsc::Sender<FromClient>) {
    while let Some(bytes) = stdin.input.recv().await {
        if to_session.send(FromClient::Input(bytes)).await.is_err() {
            return;
        }
    }
    // Fails when the session is over, which needs no input.
    let _over = to_session.send(FromClient::InputEnds).await;
}

/// Sizes come as JSON objects, one after the other, cut anywhere.
async fn resize_to(mut resize: Stream, to_session: mpsc::Sender<FromClient>) {
    let mut text = Vec::new();
    while let Some(bytes) = resize.input.recv().await {
        text.extend_from_slice(&bytes);
        let mut sizes = serde_json::Deserializer::from_slice(&text).into_iter::<Size>();
        let mut seen = Vec::new();
        while let Some(Ok(size)) = sizes.next() {
            seen.push(size);
        }
        let read = sizes.byte_offset();
        text.drain(..read);
        for Size { width, height } in seen {
            let next = FromClient::Resize { columns: width, rows: height };
            if to_session.send(next).await.is_err() {
                return;
            }
        }
        if text.len() > LONGEST_SIZE {
            tracing::debug!("the sizes of a terminal are not understood");
            return;
        }
    }
}

/// Lets the session know that the client is there, until it is gone.
async fn hold(to_session: mpsc::Sender<FromClient>, gone: CancellationToken) {
    tokio::select! {
        () = gone.cancelled() => (),
        () = to_session.closed() => (),
    }
}

/// Sends what the session writes, and returns its outcome.
async fn drive(
    session: impl Future<Output = Value>,
    mut output: mpsc::Receiver<(Source, Bytes)>,
    outputs: &[Option<Output>; 2],
) -> Value {
    let send = async |source: Source, bytes: Bytes| {
        let [stdout, stderr] = outputs;
        let output = match source {
            Source::Stdout => stdout,
            Source::Stderr => stderr,
        };
        if let Some(output) = output {
            // Who has closed one output may still want the rest.
            let _gone = output.send(bytes).await;
        }
    };
    let mut session = std::pin::pin!(session);
    let outcome = loop {
        tokio::select! {
            biased;
            Some((source, bytes)) = output.recv() => send(source, bytes).await,
            outcome = &mut session => break outcome,
        }
    };
    while let Ok((source, bytes)) = output.try_recv() {
        send(source, bytes).await;
    }
    outcome
}

/// Ends the outputs and says the outcome.
async fn end(
    protocol: &str,
    outcome: &Value,
    outputs: &[Option<Output>; 2],
    error: &Output,
) -> Result<(), Gone> {
    for output in outputs.iter().flatten() {
        let _gone = output.finish().await;
    }
    if let Some(text) = said(protocol, outcome) {
        error.send(text.into()).await?;
    }
    error.finish().await
}

/// The outcome in the protocol's form.
fn said(protocol: &str, outcome: &Value) -> Option<String> {
    if protocol == "v4.channel.k8s.io" {
        return Some(outcome.to_string());
    }
    let failed = outcome["status"] != "Success";
    failed.then(|| outcome["message"].as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::kubelet::session;

    #[test]
    fn what_is_expected_depends_on_request_and_version() {
        let mut request = Request { stdin: true, stdout: true, stderr: true, ..Request::default() };
        let v4 = PROTOCOLS[0];
        assert_eq!(expected(v4, &request), ["error", "stdin", "stdout", "stderr"]);
        request.tty = true;
        assert_eq!(expected(v4, &request), ["error", "stdin", "stdout", "resize"]);
        assert_eq!(expected(PROTOCOLS[2], &request), ["error", "stdin", "stdout"]);
    }

    #[test]
    fn old_versions_get_a_text_and_only_for_failures() {
        let (good, bad) = (session::outcome(Ok(0)), session::outcome(Ok(3)));
        assert_eq!(said(PROTOCOLS[1], &good), None);
        let text = "command terminated with non-zero exit code: exit status 3";
        assert_eq!(said(PROTOCOLS[1], &bad).as_deref(), Some(text));
        assert_eq!(said(PROTOCOLS[0], &good), Some(good.to_string()));
    }
}
