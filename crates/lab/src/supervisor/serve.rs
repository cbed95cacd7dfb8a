//! The control socket: one request per connection, answered when it is done.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tombolo_runtime::errors::chain;
use tombolo_runtime::shutdown::Shutdown;

use crate::control::{Answer, Request, frames};
use crate::network::delay::Disturbance;
use crate::spec::{ClusterName, ClusterSpec};
use crate::supervisor::clusters::Clusters;
use crate::supervisor::refusal::ClusterError;

/// How long a client may take to send its request, or to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an accept loop pauses after an error, which is usually a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves requests until the process drains. Cancels `finished` when the last cluster is gone.
pub(crate) async fn run(
    listener: UnixListener,
    clusters: Clusters,
    finished: CancellationToken,
    shutdown: Shutdown,
) {
    let listener = match listener
        .set_nonblocking(true)
        .and_then(|()| tokio::net::UnixListener::from_std(listener))
    {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "control socket cannot be served");
            return;
        }
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.draining() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => {
                let connection =
                    Connection { clusters: clusters.clone(), finished: finished.clone() };
                shutdown.spawn("control connection", connection.serve(stream));
            }
            Err(error) => {
                tracing::warn!(%error, "control socket: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Connection {
    clusters: Clusters,
    finished: CancellationToken,
}

/// What a handled request means for the lab.
enum After {
    Continue,
    /// The last cluster was deleted, so the lab ends.
    Stop,
}

impl Connection {
    async fn serve(self, stream: UnixStream) {
        match self.answer(stream).await {
            Ok(After::Continue) => (),
            Ok(After::Stop) => {
                self.finished.cancel();
            }
            Err(error) => tracing::debug!(%error, "control connection ended"),
        }
    }

    async fn answer(&self, mut stream: UnixStream) -> io::Result<After> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let received = tokio::task::spawn_blocking(move || {
            let received = frames::receive::<Request>(&mut stream)?;
            io::Result::Ok((stream, received))
        });
        let (mut stream, (request, descriptors)) = received.await.map_err(io::Error::other)??;
        let deletes = matches!(request, Request::Delete(_));
        let answer = self.handle(request, descriptors, &stream).await;
        let after =
            if deletes && self.clusters.end_if_empty() { After::Stop } else { After::Continue };
        let sent = move || {
            // Watching for the client's end may have changed this.
            stream.set_nonblocking(false)?;
            frames::send(&mut stream, &answer, &[])
        };
        tokio::task::spawn_blocking(sent).await.map_err(io::Error::other)??;
        Ok(after)
    }

    async fn handle(
        &self,
        request: Request,
        descriptors: Vec<OwnedFd>,
        stream: &UnixStream,
    ) -> Answer {
        let clusters = &self.clusters;
        let done = |result: Result<(), ClusterError>| match result {
            Ok(()) => Answer::Done,
            Err(error) => failed(&error),
        };
        match request {
            Request::Create { spec, kubernetes, server } => {
                self.create(*spec, kubernetes, server, descriptors).await
            }
            Request::Delete(name) => done(clusters.delete(&name).await),
            Request::List => Answer::Clusters(clusters.list()),
            Request::Exec { node, command, user_environment } => {
                match self.exec(&node, &command, user_environment, descriptors, stream).await {
                    Ok(code) => Answer::Exited(code),
                    Err(text) => Answer::Failed(text),
                }
            }
            Request::Join(a, b) => done(clusters.set_joined(&a, &b, true).await),
            Request::Part(a, b) => done(clusters.set_joined(&a, &b, false).await),
            Request::Partition(a, b) => done(clusters.partition(&a, &b).await),
            Request::Delay { cluster, milliseconds, jitter, loss_percent } => {
                let latency = Duration::from_millis(milliseconds.into());
                let jitter = Duration::from_millis(jitter.into());
                let disturbance = Disturbance { latency, jitter, loss_percent };
                done(clusters.delay(&cluster, disturbance).await)
            }
            Request::Heal => done(clusters.heal().await),
            Request::Kill { cluster, process } => done(clusters.kill(&cluster, &process)),
        }
    }

    async fn create(
        &self,
        spec: ClusterSpec,
        kubernetes: Option<PathBuf>,
        server: String,
        descriptors: Vec<OwnedFd>,
    ) -> Answer {
        let name: ClusterName = spec.name.clone();
        let listener = descriptors.into_iter().next().map(std::net::TcpListener::from);
        let listener = listener
            .ok_or_else(|| io::Error::other("no listener came with the request"))
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .and_then(TcpListener::from_std);
        match listener {
            Ok(listener) => match self.clusters.create(spec, kubernetes, server, listener).await {
                Ok(state) => Answer::Cluster(Box::new(state)),
                Err(error) => failed(&error),
            },
            Err(error) => Answer::Failed(format!("the API listener of cluster `{name}`: {error}")),
        }
    }

    /// Runs a command on a node with the client's standard streams; ends it with the client.
    async fn exec(
        &self,
        node: &str,
        command: &[String],
        environment: Vec<(String, String)>,
        descriptors: Vec<OwnedFd>,
        stream: &UnixStream,
    ) -> Result<i32, String> {
        let place = self.clusters.node_place(node).await;
        let place = place.map_err(|error| chain(&error).to_string())?;
        let ([input, output, errors], Some((program, arguments))) = (
            <[OwnedFd; 3]>::try_from(descriptors)
                .map_err(|_| "the three standard streams did not come with the request")?,
            command.split_first(),
        ) else {
            return Err("no command was given".to_owned());
        };
        let mut process = Command::new(program);
        process.args(arguments).envs(environment).current_dir("/");
        process.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::from(errors));
        let children = self.clusters.children();
        let child = children
            .spawn(&place, &mut process)
            .map_err(|error| format!("start `{program}` on node `{node}`: {error}"))?;
        // The streams are the client's: holding them here would keep its pipes open.
        drop(process);
        let mut end = child.end;
        tokio::select! {
            end = &mut end => Ok(end.map_or(255, |end| end.code())),
            () = hung_up(stream) => {
                children.signal(child.pid, Signal::SIGKILL);
                Err("the client is gone".to_owned())
            }
        }
    }
}

/// Returns when the client has closed its end.
async fn hung_up(stream: &UnixStream) {
    let watched = stream.try_clone().and_then(|stream| {
        stream.set_nonblocking(true)?;
        tokio::net::UnixStream::from_std(stream)
    });
    match watched {
        // A client sends nothing after its request, so anything readable is the end.
        Ok(watched) => drop(watched.readable().await),
        Err(error) => {
            tracing::warn!(%error, "a client cannot be watched");
            std::future::pending::<()>().await;
        }
    }
}

fn failed(error: &ClusterError) -> Answer {
    Answer::Failed(chain(error).to_string())
}
