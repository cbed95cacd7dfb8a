//! The way from the host's loopback to a cluster's API server.
//!
//! The listener was bound by the client in the host's network namespace and handed over, so it
//! works without root and without any change to the host's network, and is gone with the lab.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tombolo_runtime::shutdown::Shutdown;

use crate::namespace::NetNamespace;

/// How long an accept loop pauses after an error, which is usually a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Forwards every connection on `listener` to `target` inside the node's network.
pub(crate) async fn run(
    listener: TcpListener,
    namespace: NetNamespace,
    target: SocketAddr,
    shutdown: Shutdown,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let namespace = namespace.clone();
                shutdown.spawn("API connection", forward(stream, namespace, target));
            }
            Err(error) => {
                tracing::warn!(%error, "API forwarder: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn forward(mut client: TcpStream, namespace: NetNamespace, target: SocketAddr) {
    let mut server = match namespace.connect(target).await {
        Ok(server) => server,
        Err(error) => {
            tracing::debug!(%target, %error, "API server does not answer");
            return;
        }
    };
    // Small frames of a watch must not wait for each other.
    for stream in [&client, &server] {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no-delay not set");
        }
    }
    if let Err(error) = copy_bidirectional(&mut client, &mut server).await {
        tracing::debug!(%target, %error, "API connection ended");
    }
}
