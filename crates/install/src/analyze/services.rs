//! Services and the ports they open.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::analyze::message::{Level, Message};
use crate::analyze::world::{World, items, labels, namespace, selects, text};
use crate::object::Object;

/// The protocols that the name of a port may begin with.
const PROTOCOLS: [&str; 14] = [
    "grpc",
    "grpc-web",
    "http",
    "http2",
    "https",
    "mongo",
    "mysql",
    "redis",
    "tcp",
    "tls",
    "udp",
    "hbone",
    "double-hbone",
    "auto",
];

/// IST0118: a port whose protocol has to be found out from its first bytes.
pub(super) fn port_names(world: &World, out: &mut Vec<Message>) {
    for cluster in &world.clusters {
        for service in cluster.of("Service") {
            let space = namespace(service);
            let own = space == "default" && service.name() == "kubernetes";
            let of_the_mesh = service.label("operator.istio.io/component").is_some();
            if own || of_the_mesh || space == "kube-system" || space == world.system {
                continue;
            }
            for port in items(service.value(), "/spec/ports") {
                let name = text(port, "/name");
                let says = !text(port, "/appProtocol").is_empty() || is_conventional(name);
                if says || matches!(text(port, "/protocol"), "UDP" | "SCTP") {
                    continue;
                }
                let number = port.get("port").and_then(Value::as_u64).unwrap_or_default();
                let target = port.get("targetPort").map_or_else(
                    || number.to_string(),
                    |target| target.as_str().map_or_else(|| target.to_string(), str::to_owned),
                );
                let text = format!(
                    "the name of port {number} (`{name}`, target port {target}) does not say its \
                     protocol: name it <protocol>[-suffix], or set appProtocol"
                );
                out.push(Message::about(service, Level::Info, "IST0118", text));
            }
        }
    }
}

fn is_conventional(name: &str) -> bool {
    PROTOCOLS.iter().any(|protocol| {
        name == *protocol || name.strip_prefix(protocol).is_some_and(|rest| rest.starts_with('-'))
    })
}

/// IST0116: services that give one container port two meanings.
pub(super) fn deployments(world: &World, out: &mut Vec<Message>) {
    for cluster in &world.clusters {
        for deployment in cluster.of("Deployment") {
            let template = "/spec/template/metadata/labels";
            let services: Vec<&Object> = cluster
                .of("Service")
                .filter(|service| namespace(service) == namespace(deployment))
                .filter(|service| {
                    let selector = labels(service.value(), "/spec/selector");
                    !selector.is_empty() && selects(&selector, deployment.value(), template)
                })
                .collect();
            if services.len() < 2 {
                continue;
            }
            // By container port: which protocol and which service port each service says.
            let mut meanings: BTreeMap<String, Vec<(&str, String, u64)>> = BTreeMap::new();
            for service in &services {
                for port in items(service.value(), "/spec/ports") {
                    let number = port.get("port").and_then(Value::as_u64).unwrap_or_default();
                    let target = port
                        .get("targetPort")
                        .map_or_else(|| number.to_string(), |it| it.to_string().replace('"', ""));
                    let protocol = match text(port, "/appProtocol") {
                        "" => text(port, "/name").split('-').next().unwrap_or_default(),
                        given => given,
                    };
                    let meaning = (service.name(), protocol.to_owned(), number);
                    meanings.entry(target).or_default().push(meaning);
                }
            }
            for (port, said) in meanings {
                let Some((_, first, _)) = said.first() else { continue };
                if said.iter().all(|(_, protocol, _)| protocol == first) {
                    continue;
                }
                let names: Vec<&str> = said.iter().map(|(name, ..)| *name).collect();
                let text = format!(
                    "services {} say different protocols for its port {port}",
                    names.join(", ")
                );
                out.push(Message::about(deployment, Level::Warning, "IST0116", text));
            }
        }
    }
}

/// IST0134: without an address, all traffic to a TCP port would match the entry.
pub(super) fn entries(world: &World, out: &mut Vec<Message>) {
    for entry in world.istio("ServiceEntry") {
        let spec = entry.value();
        let dns = text(spec, "/spec/resolution").starts_with("DNS");
        if !items(spec, "/spec/addresses").is_empty() || dns {
            continue;
        }
        for port in items(spec, "/spec/ports") {
            if matches!(text(port, "/protocol"), "TCP" | "MONGO" | "MYSQL" | "REDIS" | "") {
                let number = port.get("number").and_then(Value::as_u64).unwrap_or_default();
                let text = format!(
                    "port {number} carries TCP and the entry has no addresses, so it takes \
                     traffic to any address on that port: add addresses"
                );
                out.push(Message::about(entry, Level::Warning, "IST0134", text));
            }
        }
    }
}
