//! DestinationRules: whether servers are verified, and whether there is anything to apply to.

use serde_json::Value;

use crate::analyze::message::{Level, Message};
use crate::analyze::world::{World, covers, full_host, items, labels, namespace, text};

/// IST0128 and IST0129: TLS that takes any server.
pub(super) fn certificates(world: &World, out: &mut Vec<Message>) {
    for rule in world.istio("DestinationRule") {
        let host = text(rule.value(), "/spec/host");
        if let Some(mode) = unverified(rule.value().pointer("/spec/trafficPolicy/tls")) {
            let text = format!(
                "TLS to {host} (mode {mode}) verifies no server certificate: set caCertificates \
                 or credentialName"
            );
            out.push(Message::about(rule, Level::Error, "IST0128", text));
        }
        for port in items(rule.value(), "/spec/trafficPolicy/portLevelSettings") {
            if let Some(mode) = unverified(port.get("tls")) {
                let number = port.pointer("/port/number").and_then(Value::as_u64).unwrap_or(0);
                let text = format!(
                    "TLS to port {number} of {host} (mode {mode}) verifies no server \
                     certificate: set caCertificates or credentialName"
                );
                out.push(Message::about(rule, Level::Warning, "IST0129", text));
            }
        }
    }
}

/// The mode, where it demands a certificate that nothing can check.
fn unverified(tls: Option<&Value>) -> Option<&str> {
    let tls = tls?;
    let mode = text(tls, "/mode");
    let checks =
        !text(tls, "/caCertificates").is_empty() || !text(tls, "/credentialName").is_empty();
    matches!(mode, "SIMPLE" | "MUTUAL").then_some(mode).filter(|_| !checks)
}

/// IST0173 and IST0174.
pub(super) fn targets(world: &World, out: &mut Vec<Message>) {
    let known = world.hosts();
    for rule in world.istio("DestinationRule") {
        let given = text(rule.value(), "/spec/host");
        let host = full_host(given, namespace(rule));
        let found: Vec<_> = known
            .iter()
            .filter(|(name, _)| covers(&host, name) || covers(name, &host))
            .flat_map(|(_, objects)| objects)
            .collect();
        if found.is_empty() {
            let text = format!("no service or service entry has its host {given}");
            out.push(Message::about(rule, Level::Warning, "IST0174", text));
            continue;
        }
        // Subsets of a wildcard or of entries say nothing about pods.
        let services: Vec<_> = found.iter().filter(|it| it.kind() == "Service").collect();
        if host.starts_with('*') || services.is_empty() {
            continue;
        }
        for subset in items(rule.value(), "/spec/subsets") {
            let wanted = labels(subset, "/labels");
            let selected = services.iter().any(|service| {
                let mut selector = labels(service.value(), "/spec/selector");
                selector.extend(wanted.clone());
                world.pods(Some(namespace(service)), &selector).next().is_some()
            });
            if !selected {
                let name = text(subset, "/name");
                let text =
                    format!("no pod of {given} in any cluster has the labels of subset {name}");
                out.push(Message::about(rule, Level::Warning, "IST0173", text));
            }
        }
    }
}
