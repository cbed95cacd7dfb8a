//! The gateways through which other networks are entered.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tombolo_model::id::{ClusterId, NetworkId, ObjectName};

use crate::diagnostic::Diagnostic;
use crate::index::live::{ClusterObjects, Live};
use crate::index::networks::NETWORK_LABEL;
use crate::index::objects::{External, ServiceObject};

/// The port of a gateway's service that passes mutual TLS through, unless a label says otherwise.
const GATEWAY_PORT: u16 = 15443;
const GATEWAY_PORT_LABEL: &str = "networking.istio.io/gatewayPort";

/// One address by which a network is entered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetworkGateway {
    /// The network behind it.
    pub network: NetworkId,
    /// The cluster it runs in; nothing when it is declared by address.
    pub cluster: Option<ClusterId>,
    /// Its address.
    pub address: IpAddr,
    /// Its port for mutual TLS.
    pub port: u16,
}

/// Finds the gateways of all clusters, and reports those that cannot be used.
pub(crate) fn of(live: &Live, diagnostics: &mut Vec<Diagnostic>) -> BTreeSet<NetworkGateway> {
    let mut found = BTreeSet::new();
    for (cluster, objects) in live.clusters() {
        for service in objects.services.values() {
            let Some(network) = service.labels.get(NETWORK_LABEL).filter(|name| !name.is_empty())
            else {
                continue;
            };
            let port = service
                .labels
                .get(GATEWAY_PORT_LABEL)
                .and_then(|text| text.parse().ok())
                .unwrap_or(GATEWAY_PORT);
            let mut report = |message: String| {
                diagnostics.push(remark(cluster, &service.name, message));
            };
            if !service.ports.iter().any(|declared| declared.number == port) {
                report(format!(
                    "it is labelled as gateway of network `{network}` but has no port {port}; \
                     add the port, or name another by the label {GATEWAY_PORT_LABEL}"
                ));
                continue;
            }
            for (address, port) in addresses(service, port, objects) {
                match address.parse() {
                    Ok(address) => {
                        found.insert(NetworkGateway {
                            network: NetworkId::new(network),
                            cluster: Some(cluster.clone()),
                            address,
                            port,
                        });
                    }
                    Err(_) => report(format!(
                        "its external address `{address}` is a DNS name, which is not resolved; \
                         give the gateway of network `{network}` an IP address"
                    )),
                }
            }
        }
    }
    declared(live, &mut found, diagnostics);
    found
}

/// The addresses at which a service's `port` is reached from outside, with the port there.
fn addresses(service: &ServiceObject, port: u16, objects: &ClusterObjects) -> Vec<(String, u16)> {
    match &service.external {
        External::No => Vec::new(),
        External::Addresses(addresses) => {
            addresses.iter().map(|address| (address.clone(), port)).collect()
        }
        External::NodePorts { selector, ports } => {
            let Some(node_port) = ports.get(&port) else { return Vec::new() };
            let chosen = objects.nodes.values().filter(|node| {
                selector.iter().all(|(name, value)| node.labels.get(name) == Some(value))
            });
            chosen
                .flat_map(|node| node.external_ips.iter().map(|ip| (ip.clone(), *node_port)))
                .collect()
        }
    }
}

/// Adds the gateways that the mesh's settings declare.
fn declared(live: &Live, found: &mut BTreeSet<NetworkGateway>, diagnostics: &mut Vec<Diagnostic>) {
    let settings = ObjectName::new(&live.system_namespace, "istio");
    for (name, network) in &live.mesh.networks.networks {
        let registries: BTreeSet<&str> =
            network.endpoints.iter().filter_map(|of| of.from_registry.as_deref()).collect();
        for gateway in &network.gateways {
            if let Some(address) = &gateway.address {
                match address.parse() {
                    Ok(address) => {
                        found.insert(NetworkGateway {
                            network: NetworkId::new(name),
                            cluster: None,
                            address,
                            port: gateway.port,
                        });
                    }
                    Err(_) => diagnostics.push(Diagnostic {
                        kind: String::from("ConfigMap"),
                        ..remark(
                            &live.config_cluster,
                            &settings,
                            format!(
                                "gateway `{address}` of network `{name}` is not an IP address; \
                                 DNS names of gateways are not resolved"
                            ),
                        )
                    }),
                }
            }
            let Some(host) = &gateway.registry_service_name else { continue };
            let mut labels = host.split('.');
            let (Some(service), Some(namespace)) = (labels.next(), labels.next()) else {
                continue;
            };
            let service = ObjectName::new(namespace, service);
            for (cluster, objects) in live.clusters() {
                if !registries.contains(cluster.as_str()) {
                    continue;
                }
                let Some(service) = objects.services.get(&service) else { continue };
                for (address, port) in addresses(service, gateway.port, objects) {
                    if let Ok(address) = address.parse() {
                        found.insert(NetworkGateway {
                            network: NetworkId::new(name),
                            cluster: Some(cluster.clone()),
                            address,
                            port,
                        });
                    }
                }
            }
        }
    }
}

fn remark(cluster: &ClusterId, object: &ObjectName, message: String) -> Diagnostic {
    Diagnostic {
        cluster: cluster.clone(),
        kind: String::from("Service"),
        object: object.clone(),
        message,
    }
}
