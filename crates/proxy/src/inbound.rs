//! Mesh to application: what other workloads send to this pod.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::accept::connection::original_destination;
use crate::config::listener::Listener;
use crate::proxy::Proxy;
use crate::serve;

/// Serves one captured connection.
pub async fn serve(
    proxy: &Arc<Proxy>,
    listener: Arc<Listener>,
    tcp: TcpStream,
    source: SocketAddr,
) {
    let Ok(local) = tcp.local_addr() else { return };
    let destination =
        if listener.recover_destination { original_destination(&tcp, local) } else { local };
    serve::connection(proxy, listener, tcp, source, destination).await;
}
