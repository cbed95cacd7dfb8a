//! Accept loops: TLS with certificates that rotate, HTTP/2 and HTTP/1.1 with limits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rand::RngExt;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tombolo_runtime::listen::accept;
use tombolo_runtime::shutdown::Shutdown;
use tombolo_tls::mesh::peer_identity;

use crate::serve::authenticate::Connection;

const HANDSHAKE: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE_WAIT: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(10);
const LARGEST_HEADERS: u32 = 64 * 1024;
const MOST_STREAMS: u32 = 1024;
const MOST_RESETS: usize = 20;
/// What a connection that is too old may still take for its open streams, and what it may take
/// when the process ends: discovery streams never end by themselves.
const LAST_CALL: Duration = Duration::from_secs(10);
const GOODBYE: Duration = Duration::from_secs(1);

/// One listener and how its connections are served.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The name of its tasks.
    pub name: &'static str,
    pub socket: TcpListener,
    pub tls: Arc<ServerConfig>,
    /// How long a connection lives, more or less a tenth; then the client is told to make a new
    /// one, which spreads clients over replicas.
    pub age: Duration,
}

impl Listener {
    /// Accepts until the process drains. Every request carries a [`Connection`].
    pub(crate) async fn run(self, router: axum::Router, shutdown: Shutdown) {
        let acceptor = TlsAcceptor::from(self.tls);
        while let Some((stream, peer)) = accept(&self.socket, self.name, &shutdown).await {
            let (acceptor, router, draining) = (acceptor.clone(), router.clone(), shutdown.clone());
            let age = self.age.mul_f64(rand::rng().random_range(0.9..=1.1));
            let name = self.name;
            shutdown.spawn(name, async move {
                if let Err(error) = serve(stream, peer, acceptor, router, age, draining).await {
                    tracing::debug!(listener = name, %peer, error, "connection ended");
                }
            });
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    router: axum::Router,
    age: Duration,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let certificate = peer_identity(stream.get_ref().1.peer_certificates())?;
    let router = router.layer(axum::Extension(Connection { peer, certificate }));
    let service = TowerToHyperService::new(router);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_WAIT)
        .max_header_list_size(LARGEST_HEADERS)
        .max_concurrent_streams(MOST_STREAMS)
        .max_pending_accept_reset_streams(MOST_RESETS);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let left = tokio::select! {
        served = connection.as_mut() => return served,
        () = shutdown.draining() => GOODBYE,
        () = tokio::time::sleep(age) => LAST_CALL,
    };
    connection.as_mut().graceful_shutdown();
    match tokio::time::timeout(left, connection).await {
        Ok(served) => served,
        Err(_) => Ok(()),
    }
}
