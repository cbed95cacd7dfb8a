//! A command in a container, or an attachment to it, whatever carries its streams.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use bytes::Bytes;
use nix::pty::openpty;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::{broadcast, mpsc};
use tombolo_runtime::errors::chain;

use crate::node::container::logs::Stream;
use crate::node::container::order::{Order, Place};
use crate::node::container::spawn::{self, Output};
use crate::node::container::terminal::Terminal;
use crate::node::pod::process::{Input, Process};

/// What the client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Request {
    pub(crate) fn parse(query: &[(String, String)]) -> Self {
        let mut request = Self::default();
        for (key, value) in query {
            let flag = matches!(value.as_str(), "1" | "true");
            match key.as_str() {
                "command" => request.command.push(value.clone()),
                "input" | "stdin" => request.stdin = flag,
                "output" | "stdout" => request.stdout = flag,
                "error" | "stderr" => request.stderr = flag,
                "tty" => request.tty = flag,
                _ => (),
            }
        }
        request
    }
}

/// What comes from the client.
#[derive(Debug)]
pub(crate) enum FromClient {
    Input(Bytes),
    InputEnds,
    Resize { columns: u16, rows: u16 },
}

/// A terminal's size on the wire.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Size {
    pub width: u16,
    pub height: u16,
}

/// The two directions of a session. Both are bounded: a slow side holds the other back.
#[derive(Debug)]
pub(crate) struct Streams {
    pub from_client: mpsc::Receiver<FromClient>,
    pub to_client: mpsc::Sender<(Stream, Bytes)>,
}

/// The most that is read at once.
const CHUNK: usize = 16 << 10;

/// The outcome of a session, as the status that its error stream carries.
pub(crate) fn outcome(result: Result<i32, String>) -> Value {
    match result {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(message) => {
            json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": message, "code": 500})
        }
    }
}

/// Runs a command beside a container's process; the result is its exit code.
pub(crate) async fn exec(
    program: &Path,
    process: &Process,
    request: &Request,
    streams: Streams,
) -> Result<i32, String> {
    let say = |error: io::Error| error.to_string();
    let mut order = Order {
        argv: request.command.clone(),
        tty: request.tty,
        stdin: None,
        place: Place::Beside(process.pid),
        ..process.order.clone()
    };
    if request.tty && !order.env.iter().any(|(key, _)| key == "TERM") {
        order.env.push(("TERM".into(), "xterm".into()));
    }
    if request.tty {
        let pair = openpty(None, None).map_err(|error| say(error.into()))?;
        let clone = || pair.slave.try_clone().map(Stdio::from).map_err(say);
        let output = Output { stdout: clone()?, stderr: clone()? };
        let child = spawn::start(program, &order, output, &[])
            .await
            .map_err(|error| chain(&error).to_string())?;
        drop(pair.slave);
        let terminal = Terminal::new(pair.master).map_err(say)?;
        let sources = vec![(Stream::Stdout, Box::new(terminal.clone()) as Source)];
        return run(child, sources, Some(Input::Terminal(terminal)), streams).await;
    }
    let typed = if request.stdin { Some(io::pipe().map_err(say)?) } else { None };
    let mut hand_over: Vec<BorrowedFd<'_>> = Vec::new();
    if let Some((read, _)) = &typed {
        order.stdin = Some(read.as_raw_fd());
        hand_over.push(read.as_fd());
    }
    let output = Output { stdout: Stdio::piped(), stderr: Stdio::piped() };
    let mut child = spawn::start(program, &order, output, &hand_over)
        .await
        .map_err(|error| chain(&error).to_string())?;
    let input = match typed {
        Some((_, write)) => {
            Some(Input::Pipe(pipe::Sender::from_owned_fd(write.into()).map_err(say)?))
        }
        None => None,
    };
    let mut sources: Vec<(Stream, Source)> = Vec::new();
    sources.extend(child.stdout.take().map(|stdout| (Stream::Stdout, Box::new(stdout) as Source)));
    sources.extend(child.stderr.take().map(|stderr| (Stream::Stderr, Box::new(stderr) as Source)));
    run(child, sources, input, streams).await
}

type Source = Box<dyn AsyncRead + Send + Unpin>;

/// Kills a command whose client has gone.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended, which is what is wanted.
        let _ended = self.0.start_kill();
    }
}

async fn run(
    child: Child,
    sources: Vec<(Stream, Source)>,
    input: Option<Input>,
    streams: Streams,
) -> Result<i32, String> {
    use std::os::unix::process::ExitStatusExt;
    let mut child = Running(child);
    let Streams { from_client, to_client } = streams;
    let copies =
        sources.into_iter().map(|(stream, source)| copy(stream, source, to_client.clone()));
    let output = futures::future::join_all(copies);
    let mut typing = std::pin::pin!(feed(from_client, input));
    let mut ended = std::pin::pin!(async {
        let (status, _) = tokio::join!(child.0.wait(), output);
        status
    });
    let status = loop {
        tokio::select! {
            status = &mut ended => break status,
            gone = &mut typing => {
                // The client went away; without it there is nobody to run for.
                if gone == Typing::ClientGone {
                    return Err("the client went away".into());
                }
            }
        }
    };
    let status = status.map_err(|error| error.to_string())?;
    Ok(status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(255))
}

async fn copy(stream: Stream, mut source: Source, to_client: mpsc::Sender<(Stream, Bytes)>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count) = source.read(&mut buffer).await {
        let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else { return };
        if to_client.send((stream, Bytes::copy_from_slice(chunk))).await.is_err() {
            return;
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Typing {
    ClientGone,
}

/// Hands what the client types to the process, until the client goes.
async fn feed(mut from_client: mpsc::Receiver<FromClient>, mut input: Option<Input>) -> Typing {
    while let Some(next) = from_client.recv().await {
        match (next, &mut input) {
            (FromClient::Input(bytes), Some(Input::Pipe(pipe))) => write(pipe, &bytes).await,
            (FromClient::Input(bytes), Some(Input::Terminal(terminal))) => {
                write(terminal, &bytes).await;
            }
            (FromClient::Resize { columns, rows }, Some(Input::Terminal(terminal))) => {
                if let Err(error) = terminal.resize(columns, rows) {
                    tracing::debug!(%error, "terminal could not be resized");
                }
            }
            (FromClient::InputEnds, Some(Input::Pipe(_))) => input = None,
            _ => (),
        }
    }
    Typing::ClientGone
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    if let Err(error) = to.write_all(bytes).await {
        tracing::debug!(%error, "the process no longer reads its input");
    }
}

/// Shows what a container writes from now on, and types into it when it can be typed into.
pub(crate) async fn attach(
    process: Arc<Process>,
    request: &Request,
    streams: Streams,
) -> Result<i32, String> {
    let mut live = process.log.attach();
    let input = if request.stdin { process.input.lock().take() } else { None };
    let terminal = match &input {
        Some(Input::Terminal(terminal)) => Some(terminal.clone()),
        _ => None,
    };
    let Streams { from_client, to_client } = streams;
    let output = async {
        loop {
            // What was written before the end is shown before the end.
            let next = tokio::select! {
                biased;
                next = live.recv() => next,
                () = process.ended() => match live.try_recv() {
                    Ok(next) => Ok(next),
                    Err(broadcast::error::TryRecvError::Lagged(_)) => continue,
                    Err(_) => return,
                },
            };
            let (stream, bytes) = match next {
                Ok(next) => next,
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return,
            };
            if to_client.send((stream, bytes)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = output => (),
        _gone = feed(from_client, input) => (),
    }
    // A terminal can be attached to again.
    if let Some(terminal) = terminal {
        process.input.lock().get_or_insert(Input::Terminal(terminal));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_from_its_parameters() {
        let query = [
            ("command", "sh"),
            ("command", "-c"),
            ("input", "1"),
            ("output", "1"),
            ("tty", "true"),
        ];
        let query: Vec<_> =
            query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let want = Request {
            command: vec!["sh".into(), "-c".into()],
            stdin: true,
            stdout: true,
            stderr: false,
            tty: true,
        };
        assert_eq!(Request::parse(&query), want);
    }

    #[test]
    fn an_exit_code_is_a_cause() {
        assert_eq!(
            outcome(Ok(3))["details"]["causes"],
            json!([{"reason": "ExitCode", "message": "3"}])
        );
        assert_eq!(outcome(Ok(0))["status"], "Success");
    }
}
