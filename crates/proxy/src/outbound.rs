//! Application to mesh: what this pod sends to others.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::accept::connection::{hand_over, original_destination};
use crate::config::listener::Listener;
use crate::proxy::Proxy;
use crate::serve;
use crate::snapshot::Snapshot;

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
    serve::connection(proxy, listener, tcp, source, destination).await;
}
