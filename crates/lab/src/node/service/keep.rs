//! Keeps the node's table and addresses as the cluster's services say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Pod, Service};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tombolo_runtime::backoff::Backoff;
use tombolo_runtime::errors::chain;

use crate::node::network::links::{LinkError, Route};
use crate::node::service::flows;
use crate::node::service::host_ports::{self, HostPort};
use crate::node::service::ports::{self, Port, Protocol};
use crate::node::service::table::{self, Place};
use crate::node::{Node, NodeError};

/// Changes that come this close together become one script.
const TOGETHER: Duration = Duration::from_millis(30);

/// Why the node's table or addresses could not be set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error("run nft")]
    Run(#[source] std::io::Error),
    #[error("nft refused the table of services: {0}")]
    Refused(String),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// What was applied last.
#[derive(Default)]
struct Applied {
    script: String,
    ports: Vec<Port>,
    host_ports: Vec<HostPort>,
    claimed: Option<BTreeSet<Ipv4Addr>>,
}

/// Finds the node's place, and routes service addresses so that the node itself can use them.
pub(crate) async fn place(node: &Node) -> Result<(u32, Place), NodeError> {
    let settings = &node.settings;
    let found = node.links.link_with(settings.node_ip).await?;
    let (index, bridge) = found.ok_or_else(|| {
        NodeError::Network(format!("no link has the node's address {}", settings.node_ip).into())
    })?;
    node.links.add_route(index, settings.service_cidr, Route::From(settings.node_ip)).await?;
    let place = Place {
        node_ip: settings.node_ip,
        link: node.links.name(index).await?,
        bridge,
        pods: settings.pod_cidr,
        services: settings.service_cidr,
        dns: settings.cluster_dns,
    };
    Ok((index, place))
}

/// Follows the cluster until the process drains.
pub(crate) async fn run(node: Arc<Node>, link: u32, place: Place) {
    let mut changes = node.cluster.changes();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    let mut applied = Applied::default();
    tokio::select! {
        () = node.cluster.complete() => (),
        () = node.shutdown.draining() => return,
    }
    loop {
        changes.mark_unchanged();
        let failed = match apply(&node, link, &place, &mut applied).await {
            Ok(()) => {
                backoff.reset();
                false
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "services could not be set up, trying again");
                true
            }
        };
        let wake = async {
            if failed {
                tokio::time::sleep(backoff.delay()).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = wake => (),
            () = node.shutdown.draining() => return,
        }
        tokio::time::sleep(TOGETHER).await;
    }
}

async fn apply(
    node: &Node,
    link: u32,
    place: &Place,
    applied: &mut Applied,
) -> Result<(), KeepError> {
    let (services, slices) = (node.cluster.services.state(), node.cluster.slices.state());
    let ports = ports::ports(&services, &slices, &node.settings.node_name);
    claim(node, link, place, &services, &ports, applied).await?;
    let pods: Vec<Arc<Pod>> =
        node.pods.lock().values().map(|(wanted, _)| Arc::clone(&wanted.borrow().pod)).collect();
    let host_ports = host_ports::host_ports(&pods);
    let script = table::script(place, &ports, &host_ports);
    if script != applied.script {
        nft(&script).await?;
        let mut gone = &flows::udp_endpoints(&applied.ports) - &flows::udp_endpoints(&ports);
        let mut alive =
            &flows::udp_addresses(&applied.ports, false) & &flows::udp_addresses(&ports, true);
        let udp = |ports: &[HostPort]| -> BTreeMap<SocketAddrV4, SocketAddrV4> {
            let ports = ports.iter().filter(|port| port.protocol == Protocol::Udp);
            ports.map(|port| (SocketAddrV4::new(place.node_ip, port.number), port.to)).collect()
        };
        let (before, now) = (udp(&applied.host_ports), udp(&host_ports));
        gone.extend(before.iter().filter(|(at, to)| now.get(at) != Some(to)).map(|(_, to)| *to));
        alive.extend(now.keys().filter(|at| !before.contains_key(at)).copied());
        applied.script = script;
        applied.ports = ports;
        applied.host_ports = host_ports;
        flows::forget(&gone, &alive).await;
    }
    Ok(())
}

async fn nft(script: &str) -> Result<(), KeepError> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(KeepError::Run)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes()).await.map_err(KeepError::Run)?;
    }
    let output = child.wait_with_output().await.map_err(KeepError::Run)?;
    if output.status.success() {
        Ok(())
    } else {
        Err(KeepError::Refused(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

/// Answers for the load-balancer addresses that are this node's to answer.
async fn claim(
    node: &Node,
    link: u32,
    place: &Place,
    services: &[Arc<Service>],
    ports: &[Port],
    applied: &mut Applied,
) -> Result<(), KeepError> {
    let nodes: BTreeSet<String> = node
        .cluster
        .nodes
        .state()
        .iter()
        .filter(|node| ready(node))
        .filter_map(|node| node.metadata.name.clone())
        .collect();
    let wanted: BTreeSet<Ipv4Addr> = services
        .iter()
        .filter(|service| announces(service, ports, &nodes, &node.settings.node_name))
        .flat_map(|service| ports::load_balancer(service))
        .filter(|address| place.bridge.contains(address) && *address != place.node_ip)
        .collect();
    if applied.claimed.as_ref() == Some(&wanted) {
        return Ok(());
    }
    // Read back: an agent before this one may have left some.
    let held = node
        .links
        .addresses(link)
        .await?
        .into_iter()
        .filter(|held| held.prefix_len() == 32)
        .map(|held| held.addr());
    let held: BTreeSet<Ipv4Addr> = held.filter(|address| *address != place.node_ip).collect();
    for address in &held - &wanted {
        node.links.remove_address(link, address).await?;
    }
    let fresh = &wanted - &held;
    for address in &fresh {
        node.links.add_address(link, Ipv4Net::from(*address)).await?;
    }
    if !fresh.is_empty() {
        // Neighbours may remember who had the address before.
        node.links.announce(link).await?;
        tracing::info!(addresses = ?fresh, "load-balancer addresses claimed");
    }
    applied.claimed = Some(wanted);
    Ok(())
}

fn ready(node: &k8s_openapi::api::core::v1::Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether this node answers for a service's addresses: the first ready node by name does, or,
/// when traffic must stay on the node that it reaches, every node that has an endpoint.
fn announces(service: &Service, ports: &[Port], nodes: &BTreeSet<String>, node: &str) -> bool {
    let local = service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref())
        == Some("Local");
    if !local {
        return nodes.first().is_none_or(|first| first == node);
    }
    let prefix = format!(
        "{}/{}:",
        service.metadata.namespace.as_deref().unwrap_or_default(),
        service.metadata.name.as_deref().unwrap_or_default()
    );
    ports.iter().any(|port| port.name.starts_with(&prefix) && !port.local.is_empty())
}
