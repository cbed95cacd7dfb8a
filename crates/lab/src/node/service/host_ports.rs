//! The ports of pods that their node opens on its own address (`hostPort`). Pure.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerPort, Pod, PodSpec};

use crate::node::service::ports::{Protocol, protocol};

/// A port of the node and the pod that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// `namespace/pod`.
    pub name: String,
    pub protocol: Protocol,
    pub number: u16,
    pub to: SocketAddrV4,
}

/// Whether a container's port is opened on the node: on all its addresses, over TCP or UDP.
pub(crate) fn opened(port: &ContainerPort) -> bool {
    let everywhere = matches!(port.host_ip.as_deref(), None | Some("" | "0.0.0.0" | "::"));
    everywhere && protocol(port.protocol.as_deref()).is_some()
}

/// The ports of a pod that ask for one of the node. In the node's own network a container's port
/// is the node's anyway.
pub(crate) fn asked(spec: &PodSpec) -> impl Iterator<Item = (&str, &ContainerPort)> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let ports = containers.filter(|_| spec.host_network != Some(true)).flat_map(|container| {
        container.ports.iter().flatten().map(|port| (container.name.as_str(), port))
    });
    ports.filter(|(_, port)| port.host_port.is_some_and(|number| number != 0))
}

/// The node's ports that `pods` of this node have, in order; each goes to one pod.
pub(crate) fn host_ports(pods: &[Arc<Pod>]) -> Vec<HostPort> {
    let mut all = BTreeMap::new();
    for pod in pods {
        let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { continue };
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let address = status.pod_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
        let Some(address) = address.filter(|_| !ended) else { continue };
        for (_, port) in asked(spec).filter(|(_, port)| opened(port)) {
            let number = port.host_port.and_then(|number| u16::try_from(number).ok());
            let (Some(protocol), Some(number), Ok(own)) =
                (protocol(port.protocol.as_deref()), number, u16::try_from(port.container_port))
            else {
                continue;
            };
            let name = format!(
                "{}/{}",
                pod.metadata.namespace.as_deref().unwrap_or_default(),
                pod.metadata.name.as_deref().unwrap_or_default()
            );
            let to = SocketAddrV4::new(address, own);
            all.entry((protocol, number)).or_insert(HostPort { name, protocol, number, to });
        }
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, more: Value, phase: &str) -> Arc<Pod> {
        let mut spec = json!({"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 8080}, {"containerPort": 81},
            {"containerPort": 53, "hostPort": 8053, "protocol": "UDP", "hostIP": "0.0.0.0"},
            {"containerPort": 82, "hostPort": 8082, "hostIP": "127.0.0.1"},
            {"containerPort": 83, "hostPort": 8083, "protocol": "SCTP"},
        ]}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let pod = json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec, "status": {"podIP": "10.10.0.5", "phase": phase}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_running_pod_has_the_ports_that_it_asks_for() {
        let found = host_ports(&[
            pod("ended", json!({}), "Failed"),
            pod("own", json!({"hostNetwork": true}), "Running"),
            pod("p", json!({}), "Running"),
        ]);
        let found: Vec<_> =
            found.iter().map(|port| format!("{} {} {}", port.name, port.number, port.to)).collect();
        assert_eq!(found, ["ns/p 8080 10.10.0.5:80", "ns/p 8053 10.10.0.5:53"]);
    }
}
