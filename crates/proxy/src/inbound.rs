//! Mesh to application: what other workloads send to this pod.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::accept::connection::{identify, original_destination, terminate};
use crate::config::listener::{Listener, Terminal};
use crate::proxy::Proxy;
use crate::{http, tcp};

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
    let identified = identify(proxy, listener, tcp, source, destination).await;
    let Some((mut connection, sniffed, seen)) = identified else { return };
    // The peer is known before anything it says is looked at.
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
