//! Network to network: connections from other clusters, told apart by their server name.
//!
//! The TLS of mesh traffic passes through: only the workloads at its ends hold the keys. A name
//! that is not exported here, or a client that does not announce a mesh protocol, finds no filter
//! chain and is refused.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::config::listener::Listener;
use crate::proxy::Proxy;
use crate::serve;

/// Serves one connection from outside.
pub async fn serve(
    proxy: &Arc<Proxy>,
    listener: Arc<Listener>,
    tcp: TcpStream,
    source: SocketAddr,
) {
    let Ok(destination) = tcp.local_addr() else { return };
    serve::connection(proxy, listener, tcp, source, destination).await;
}
