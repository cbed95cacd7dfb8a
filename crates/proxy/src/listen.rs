//! Keeps the open sockets in step with the snapshot's listeners.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tombolo_runtime::listen::accept;

use crate::config::listener::Direction;
use crate::proxy::Proxy;
use crate::{gateway, inbound, outbound};

/// How long to wait before an address that is taken is tried again.
const BIND_PAUSE: Duration = Duration::from_secs(1);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Opens and closes sockets as snapshots come, until the process drains.
pub async fn run(proxy: Arc<Proxy>) {
    let mut changed = proxy.changed.subscribe();
    let mut open: HashMap<Arc<str>, (SocketAddr, CancellationToken)> = HashMap::new();
    loop {
        let missing = reconcile(&proxy, &mut open);
        let retry = async {
            match missing {
                true => tokio::time::sleep(BIND_PAUSE).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            () = proxy.shutdown.draining() => break,
            () = retry => {}
            result = changed.changed() => if result.is_err() { break },
        }
    }
    open.values().for_each(|(_, close)| close.cancel());
}

/// Returns whether a socket that should be open is not.
fn reconcile(
    proxy: &Arc<Proxy>,
    open: &mut HashMap<Arc<str>, (SocketAddr, CancellationToken)>,
) -> bool {
    let snapshot = proxy.snapshot.load_full();
    open.retain(|name, (address, close)| {
        let wanted = snapshot.listeners.get(name);
        let keep = wanted.is_some_and(|listener| listener.bind && listener.address == *address);
        if !keep {
            close.cancel();
            proxy.bound.lock().remove(name);
            tracing::info!(listener = %name, %address, "listener closed");
        }
        keep
    });
    let mut missing = false;
    for (name, listener) in snapshot.listeners.iter().filter(|(_, listener)| listener.bind) {
        if open.contains_key(name) {
            continue;
        }
        match bind(listener.address, listener.transparent) {
            Ok((socket, address)) => {
                tracing::info!(listener = %name, %address, "listener opened");
                proxy.bound.lock().insert(name.clone(), address);
                let close = CancellationToken::new();
                open.insert(name.clone(), (listener.address, close.clone()));
                let accepting = accept_on(proxy.clone(), name.clone(), socket, close);
                proxy.shutdown.spawn("accept", accepting);
            }
            Err(error) => {
                missing = true;
                let address = listener.address;
                tracing::error!(listener = %name, %address, %error, "listener cannot be opened");
            }
        }
    }
    missing
}

fn bind(address: SocketAddr, transparent: bool) -> io::Result<(TcpListener, SocketAddr)> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if transparent {
        match address {
            SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
            SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
        }
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

async fn accept_on(
    proxy: Arc<Proxy>,
    name: Arc<str>,
    socket: TcpListener,
    close: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = close.cancelled() => return,
            accepted = accept(&socket, &name, &proxy.shutdown) => accepted,
        };
        let Some((tcp, source)) = accepted else { return };
        let (proxy, name) = (proxy.clone(), name.clone());
        let shutdown = proxy.shutdown.clone();
        shutdown.spawn("downstream connection", async move {
            let _active = Active::new(proxy.clone());
            serve(&proxy, &name, tcp, source).await;
        });
    }
}

async fn serve(proxy: &Arc<Proxy>, name: &str, tcp: TcpStream, source: SocketAddr) {
    let snapshot = proxy.snapshot.load_full();
    let Some(listener) = snapshot.listeners.get(name).cloned() else { return };
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "connection is already gone");
        return;
    }
    match listener.direction {
        Direction::Inbound => inbound::serve(proxy, listener, tcp, source).await,
        _ if proxy.settings.gateway => gateway::serve(proxy, listener, tcp, source).await,
        _ => outbound::serve(proxy, &snapshot, listener, tcp, source).await,
    }
}

/// Counts a connection while it is open.
struct Active(Arc<Proxy>);

impl Active {
    fn new(proxy: Arc<Proxy>) -> Self {
        proxy.totals.connections.fetch_add(1, Ordering::Relaxed);
        proxy.totals.active_connections.fetch_add(1, Ordering::Relaxed);
        Self(proxy)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.totals.active_connections.fetch_sub(1, Ordering::Relaxed);
    }
}
