//! The ports of services and who stands behind them. Pure.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// The label by which a slice names its service.
const OWNER: &str = "kubernetes.io/service-name";

/// How a port's packets travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Which endpoints serve a kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Cluster,
    Local,
}

/// One port of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// `namespace/service:port-name`.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub cluster_ip: Ipv4Addr,
    /// Addresses from outside: load balancer's and `externalIPs`.
    pub external: BTreeSet<Ipv4Addr>,
    pub node_port: Option<u16>,
    pub internal_policy: Policy,
    pub external_policy: Policy,
    /// Clients stay with the endpoint they had.
    pub sticky: bool,
    /// Only these may use the load balancer's addresses; empty means everyone.
    pub sources: Vec<Ipv4Net>,
    pub endpoints: BTreeSet<SocketAddrV4>,
    /// Those of `endpoints` that are on this node.
    pub local: BTreeSet<SocketAddrV4>,
}

/// The load-balancer addresses of a service.
pub(crate) fn load_balancer(service: &Service) -> BTreeSet<Ipv4Addr> {
    let balanced =
        service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
    let ingress = service
        .status
        .iter()
        .filter(|_| balanced)
        .filter_map(|status| status.load_balancer.as_ref());
    let ingress = ingress.flat_map(|balancer| balancer.ingress.iter().flatten());
    let ours = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    ours.filter_map(|ingress| ingress.ip.as_deref()?.parse().ok()).collect()
}

/// The service that owns a slice: its namespace and name.
pub(crate) fn owner(slice: &EndpointSlice) -> Option<(&str, &str)> {
    let name = slice.metadata.labels.as_ref()?.get(OWNER)?;
    Some((slice.metadata.namespace.as_deref()?, name))
}

/// Every port that this node gives an address, sorted by name.
pub(crate) fn ports(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    node: &str,
) -> Vec<Port> {
    let mut all: Vec<Port> =
        services.iter().flat_map(|service| of_service(service, slices, node)).collect();
    all.sort_by(|a, b| (&a.name, a.protocol, a.port).cmp(&(&b.name, b.protocol, b.port)));
    all
}

fn of_service(service: &Service, slices: &[Arc<EndpointSlice>], node: &str) -> Vec<Port> {
    let (Some(spec), Some(namespace), Some(name)) =
        (&service.spec, &service.metadata.namespace, &service.metadata.name)
    else {
        return Vec::new();
    };
    let Some(cluster_ip) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()) else {
        return Vec::new();
    };
    let policy = |policy: &Option<String>| {
        if policy.as_deref() == Some("Local") { Policy::Local } else { Policy::Cluster }
    };
    let mut external = load_balancer(service);
    external
        .extend(spec.external_ips.iter().flatten().filter_map(|ip| ip.parse::<Ipv4Addr>().ok()));
    let mine: Vec<&EndpointSlice> = slices
        .iter()
        .map(AsRef::as_ref)
        .filter(|slice| owner(slice) == Some((namespace, name)))
        .collect();
    spec.ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let protocol = protocol(port.protocol.as_deref())?;
            let found = endpoints(&mine, port, protocol);
            Some(Port {
                name: format!("{namespace}/{name}:{}", port.name.as_deref().unwrap_or_default()),
                protocol,
                port: u16::try_from(port.port).ok()?,
                cluster_ip,
                external: external.clone(),
                node_port: port
                    .node_port
                    .and_then(|port| u16::try_from(port).ok())
                    .filter(|port| *port != 0),
                internal_policy: policy(&spec.internal_traffic_policy),
                external_policy: policy(&spec.external_traffic_policy),
                sticky: spec.session_affinity.as_deref() == Some("ClientIP"),
                sources: spec
                    .load_balancer_source_ranges
                    .iter()
                    .flatten()
                    .filter_map(|range| range.parse().ok())
                    .collect(),
                endpoints: found.iter().map(|(address, _)| *address).collect(),
                local: found
                    .iter()
                    .filter(|(_, home)| home.as_deref() == Some(node))
                    .map(|(address, _)| *address)
                    .collect(),
            })
        })
        .collect()
}

/// The protocol that an object's field names, if a lab has it.
pub(crate) fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        // SCTP has no place on a lab's bridge.
        Some(_) => None,
    }
}

/// The endpoints that get traffic, with their nodes: the ready ones, or if there are none, those
/// that still serve while they end.
fn endpoints(
    slices: &[&EndpointSlice],
    port: &ServicePort,
    wanted: Protocol,
) -> BTreeSet<(SocketAddrV4, Option<String>)> {
    let (mut ready, mut ending) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let ports = slice.ports.iter().flatten().filter(|offered| {
            offered.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                && protocol(offered.protocol.as_deref()) == Some(wanted)
        });
        for number in ports.filter_map(|offered| u16::try_from(offered.port?).ok()) {
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(address) =
                    endpoint.addresses.first().and_then(|address| address.parse().ok())
                else {
                    continue;
                };
                let found = (SocketAddrV4::new(address, number), endpoint.node_name.clone());
                if is_ready(endpoint) {
                    ready.insert(found);
                } else if endpoint.conditions.as_ref().is_some_and(|conditions| {
                    conditions.serving == Some(true) && conditions.terminating == Some(true)
                }) {
                    ending.insert(found);
                }
            }
        }
    }
    if ready.is_empty() { ending } else { ready }
}

/// Whether an endpoint takes traffic; one that does not say does.
pub(crate) fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}
