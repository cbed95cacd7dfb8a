//! Gateways: the workloads they select, the ports and secrets they need.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::analyze::message::{Level, Message};
use crate::analyze::world::{World, covers, items, labels, namespace, selects, text, texts};
use crate::object::Object;

/// IST0101 (nothing is selected) and IST0162 (no service leads
/// there).
pub(super) fn ports(world: &World, out: &mut Vec<Message>) {
    for gateway in world.istio("Gateway") {
        let selector = labels(gateway.value(), "/spec/selector");
        let pods: Vec<&Object> = world.pods(None, &selector).collect();
        if pods.is_empty() {
            let shown: Vec<String> =
                selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let text = format!("no pod has the labels it selects ({})", shown.join(","));
            out.push(Message::about(gateway, Level::Error, "IST0101", text));
            continue;
        }
        let open = service_ports(world, &pods);
        for number in numbers(gateway) {
            // A service port is what clients see; a gateway listens at its target port.
            if open.iter().any(|(port, target)| *port == number || *target == number) {
                continue;
            }
            let text = if open.is_empty() {
                format!("no service leads to the pods it selects, so port {number} is not reached")
            } else {
                format!("no service of the pods it selects has port {number}")
            };
            out.push(Message::about(gateway, Level::Warning, "IST0162", text));
        }
    }
}

fn numbers(gateway: &Object) -> BTreeSet<u64> {
    items(gateway.value(), "/spec/servers")
        .iter()
        .filter_map(|server| server.pointer("/port/number").and_then(Value::as_u64))
        .collect()
}

/// Ports and target ports of the services that select any of the pods.
fn service_ports(world: &World, pods: &[&Object]) -> Vec<(u64, u64)> {
    let mut ports = Vec::new();
    for service in world.clusters.iter().flat_map(|cluster| cluster.of("Service")) {
        let selector = labels(service.value(), "/spec/selector");
        let leads = !selector.is_empty()
            && pods.iter().any(|pod| {
                namespace(pod) == namespace(service)
                    && selects(&selector, pod.value(), "/metadata/labels")
            });
        for port in items(service.value(), "/spec/ports").iter().filter(|_| leads) {
            let number = port.get("port").and_then(Value::as_u64).unwrap_or_default();
            let target = port.get("targetPort").and_then(Value::as_u64).unwrap_or(number);
            ports.push((number, target));
        }
    }
    ports
}

/// IST0145: two gateways of the same workloads ask for the same host at the same port.
pub(super) fn conflicts(world: &World, out: &mut Vec<Message>) {
    let gateways: Vec<&Object> = world.istio("Gateway").collect();
    for (i, one) in gateways.iter().enumerate() {
        for other in gateways.iter().skip(i + 1) {
            let (a, b) =
                (labels(one.value(), "/spec/selector"), labels(other.value(), "/spec/selector"));
            let same = a == b
                || world.pods(None, &a).any(|pod| selects(&b, pod.value(), "/metadata/labels"));
            if !same {
                continue;
            }
            for (port, host) in shared(one, other) {
                let say = |about: &Object, with: &Object| {
                    let text = format!(
                        "it and gateway {}/{} select the same workloads and both serve host \
                         {host} at port {port}",
                        namespace(with),
                        with.name()
                    );
                    Message::about(about, Level::Error, "IST0145", text)
                };
                out.push(say(one, other));
                out.push(say(other, one));
            }
        }
    }
}

/// Ports and hosts that both serve.
fn shared(one: &Object, other: &Object) -> BTreeSet<(u64, String)> {
    let served = |gateway: &Object| -> BTreeSet<(u64, String)> {
        let servers = items(gateway.value(), "/spec/servers").iter();
        servers
            .flat_map(|server| {
                let port = server.pointer("/port/number").and_then(Value::as_u64).unwrap_or(0);
                let host = |host: &str| host.rsplit('/').next().unwrap_or(host).to_owned();
                let hosts: Vec<String> = texts(server, "/hosts").into_iter().map(host).collect();
                hosts.into_iter().map(move |host| (port, host))
            })
            .collect()
    };
    served(one).intersection(&served(other)).cloned().collect()
}

/// IST0101: a secret that a server names is not in the namespace of the gateway's pods.
pub(super) fn secrets(world: &World, out: &mut Vec<Message>) {
    for gateway in world.istio("Gateway") {
        let selector = labels(gateway.value(), "/spec/selector");
        let spaces: BTreeSet<&str> = world.pods(None, &selector).map(namespace).collect();
        for server in items(gateway.value(), "/spec/servers") {
            let name = text(server, "/tls/credentialName");
            if name.is_empty() || spaces.is_empty() {
                continue;
            }
            let there = world
                .of("Secret")
                .any(|secret| secret.name() == name && spaces.contains(namespace(secret)));
            if !there {
                let spaces: Vec<&str> = spaces.iter().copied().collect();
                let text = format!(
                    "secret {name}, which it takes its certificate from, is not in namespace {}",
                    spaces.join(" or ")
                );
                out.push(Message::about(gateway, Level::Error, "IST0101", text));
            }
        }
    }
}

/// Whether a gateway serves a host to virtual services of a namespace.
pub(super) fn serves(gateway: &Object, host: &str, from: &str) -> bool {
    items(gateway.value(), "/spec/servers").iter().flat_map(|it| texts(it, "/hosts")).any(
        |served| {
            let (space, served) = served.split_once('/').unwrap_or(("*", served));
            let visible =
                space == "*" || space == from || (space == "." && namespace(gateway) == from);
            visible && (covers(served, host) || covers(host, served) || served == "*")
        },
    )
}
