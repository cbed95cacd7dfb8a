//! Application to mesh: what this pod sends to others.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::accept::connection::{hand_over, identify, original_destination, terminate};
use crate::config::listener::{Listener, Terminal};
use crate::proxy::Proxy;
use crate::snapshot::Snapshot;
use crate::{http, tcp};

/// Serves one connection that the application opened.
pub async fn serve(
    proxy: &Arc<Proxy>,
    snapshot: &Snapshot,
    listener: Arc<Listener>,
    tcp: TcpStream,
    source: SocketAddr,
) {
    let Ok(local) = tcp.local_addr() else { return };
    let destination =
        if listener.recover_destination { original_destination(&tcp, local) } else { local };
    // The capture port takes everything; the listener of the destination knows what to do.
    let listener = match listener.hand_over {
        true => hand_over(snapshot, &listener, destination),
        false => listener,
    };
    let identified = identify(proxy, listener, tcp, source, destination).await;
    let Some((mut connection, sniffed, seen)) = identified else { return };
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
