//! What every accepted connection goes through once its destination is known: its filter chain is
//! found, TLS is terminated, policies are asked, and then it is HTTP's or TCP's.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::accept::connection::{identify, terminate};
use crate::config::listener::{Listener, Terminal};
use crate::proxy::Proxy;
use crate::{http, tcp};

/// Serves one connection until it ends.
pub async fn connection(
    proxy: &Arc<Proxy>,
    listener: Arc<Listener>,
    tcp: TcpStream,
    source: SocketAddr,
    destination: SocketAddr,
) {
    let identified = identify(proxy, listener, tcp, source, destination).await;
    let Some((mut connection, sniffed, seen)) = identified else { return };
    // The peer is known before anything it says is looked at. Chains that pass TLS through have
    // none of their own: the client's bytes stay as they are.
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
