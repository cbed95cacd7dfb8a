//! Network to network: connections from other clusters, told apart by their server name.
//!
//! The TLS of mesh traffic passes through: only the workloads at its ends hold the keys. A name
//! that is not exported here, or a client that does not announce a mesh protocol, finds no filter
//! chain and is refused.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::accept::connection::{identify, terminate};
use crate::config::listener::{Listener, Terminal};
use crate::proxy::Proxy;
use crate::{http, tcp};

/// Serves one connection from outside.
pub async fn serve(
    proxy: &Arc<Proxy>,
    listener: Arc<Listener>,
    tcp: TcpStream,
    source: SocketAddr,
) {
    let Ok(destination) = tcp.local_addr() else { return };
    let identified = identify(proxy, listener, tcp, source, destination).await;
    let Some((mut connection, sniffed, seen)) = identified else { return };
    // Passthrough chains have no TLS of their own: the client's bytes stay as they are.
    let Some(io) = terminate(&mut connection, sniffed, &seen).await else { return };
    if !connection.is_authorized() {
        return;
    }
    let connection = Arc::new(connection);
    match &connection.clone().chain.terminal {
        Terminal::Http(_) => http::serve::serve(connection, io).await,
        Terminal::Tcp(settings) => tcp::serve(&connection, settings, io).await,
    }
}
