//! Connections of UDP ports whose endpoint is gone.
//!
//! TCP notices; a UDP client that keeps sending would follow its old endpoint for ever.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use tokio::process::Command;

use crate::node::service::ports::{Port, Protocol};

/// The UDP endpoints of `ports`.
pub(crate) fn udp_endpoints(ports: &[Port]) -> BTreeSet<SocketAddrV4> {
    let udp = ports.iter().filter(|port| port.protocol == Protocol::Udp);
    udp.flat_map(|port| port.endpoints.iter().copied()).collect()
}

/// The UDP addresses and ports that had no endpoint; a client may hold an untranslated flow.
pub(crate) fn udp_addresses(ports: &[Port], with_endpoints: bool) -> BTreeSet<SocketAddrV4> {
    let udp = ports.iter().filter(|port| {
        port.protocol == Protocol::Udp && port.endpoints.is_empty() != with_endpoints
    });
    udp.flat_map(|port| {
        std::iter::once(&port.cluster_ip)
            .chain(&port.external)
            .map(|ip| SocketAddrV4::new(*ip, port.port))
    })
    .collect()
}

/// Forgets flows to endpoints that went away and to addresses that have just come alive, when
/// the machine has the program to do it.
pub(crate) async fn forget(gone: &BTreeSet<SocketAddrV4>, alive: &BTreeSet<SocketAddrV4>) {
    let gone = gone.iter().map(|endpoint| (endpoint, "--reply-src"));
    let alive = alive.iter().map(|address| (address, "--orig-dst"));
    for (flow, side) in gone.chain(alive) {
        let port = if side == "--orig-dst" {
            ("--orig-port-dst", flow.port())
        } else {
            ("--reply-port-src", flow.port())
        };
        let mut command = Command::new("conntrack");
        command.args([
            "-D",
            "-p",
            "udp",
            side,
            &flow.ip().to_string(),
            port.0,
            &port.1.to_string(),
        ]);
        match command.output().await {
            // It fails when there was no such flow, which is as good.
            Ok(_) => (),
            Err(error) => {
                tracing::debug!(%error, "conntrack cannot be run, so old UDP flows last until they time out");
                return;
            }
        }
    }
}
