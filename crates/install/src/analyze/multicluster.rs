//! What only shows when clusters are looked at together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use crate::analyze::message::{Level, Message};
use crate::analyze::world::{World, items, namespace, text};
use crate::object::Object;

/// Registries that are not clusters.
const REGISTRIES: [&str; 3] = ["Mock", "Kubernetes", "External"];

/// IST0126: `meshNetworks` names a registry that no remote secret links.
pub(super) fn mesh_networks(world: &World, out: &mut Vec<Message>) {
    let networks = world.networks.get("networks").and_then(Value::as_object);
    for (network, settings) in networks.into_iter().flatten() {
        for endpoint in items(settings, "/endpoints") {
            let registry = text(endpoint, "/fromRegistry");
            let known = REGISTRIES.contains(&registry)
                || world.linked.iter().any(|cluster| cluster == registry)
                || world.clusters.iter().any(|cluster| cluster.name == registry);
            if registry.is_empty() || known {
                continue;
            }
            out.push(Message {
                level: Level::Error,
                code: "IST0126",
                kind: "MeshNetworks".to_owned(),
                namespace: Some(world.system.clone()),
                name: "istio".to_owned(),
                reference: String::new(),
                text: format!(
                    "network {network} takes endpoints from registry {registry}, but no cluster \
                     of that name is linked by a remote secret"
                ),
            });
        }
    }
}

/// IST0170: a service that clusters see differently.
pub(super) fn services(world: &World, out: &mut Vec<Message>) {
    let mut seen: BTreeMap<(&str, &str), Vec<(&str, &Object)>> = BTreeMap::new();
    for cluster in &world.clusters {
        for service in cluster.of("Service") {
            let key = (namespace(service), service.name());
            seen.entry(key).or_default().push((&cluster.name, service));
        }
    }
    for ((space, _), places) in &seen {
        // The API server's own service, and those of the cluster itself, are each cluster's own.
        let own = places.iter().any(|(_, it)| *space == "default" && it.name() == "kubernetes");
        let Some((_, first)) = places.first().filter(|_| places.len() > 1 && !own) else {
            continue;
        };
        if *space == "kube-system" || *space == world.system {
            continue;
        }
        let mut reasons = Vec::new();
        if different(places, |it| text(it, "/spec/clusterIP") == "None") {
            reasons.push("it is headless in some and has an address in others");
        }
        let kind = |it: &Value| match text(it, "/spec/type") {
            "" => "ClusterIP".to_owned(),
            kind => kind.to_owned(),
        };
        if different(places, kind) {
            reasons.push("its type is not the same");
        }
        if different(places, ports) {
            reasons.push("its ports are not the same");
        }
        if reasons.is_empty() {
            continue;
        }
        let clusters: Vec<&str> = places.iter().map(|(cluster, _)| *cluster).collect();
        let text = format!(
            "clusters {} see this service differently, so where requests go depends on where \
             they start: {}",
            clusters.join(", "),
            reasons.join("; ")
        );
        out.push(Message::about(first, Level::Warning, "IST0170", text));
    }
}

fn different<T: PartialEq>(places: &[(&str, &Object)], of: impl Fn(&Value) -> T) -> bool {
    let mut all = places.iter().map(|(_, service)| of(service.value()));
    let first = all.next();
    all.any(|other| Some(&other) != first.as_ref())
}

fn ports(service: &Value) -> BTreeSet<(u64, String, String)> {
    let port = |port: &Value| {
        let number = port.get("port").and_then(Value::as_u64).unwrap_or_default();
        let protocol = match text(port, "/protocol") {
            "" => "TCP",
            protocol => protocol,
        };
        (number, text(port, "/name").to_owned(), protocol.to_owned())
    };
    items(service, "/spec/ports").iter().map(port).collect()
}

/// IST0163 and IST0164: webhooks that lead to a control plane elsewhere.
pub(super) fn external_control_plane(world: &World, out: &mut Vec<Message>) {
    let names = |object: &Object| {
        ["istiod-default-validator", "istio-validator", "istio-sidecar-injector"]
            .iter()
            .any(|prefix| object.name().starts_with(prefix))
    };
    let kinds = ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"];
    for object in kinds.iter().flat_map(|kind| world.of(kind)).filter(|it| names(it)) {
        for webhook in items(object.value(), "/webhooks") {
            let name = text(webhook, "/name");
            let client = webhook.get("clientConfig");
            let Some(url) = client.and_then(|it| it.get("url")).and_then(Value::as_str) else {
                continue;
            };
            let say = |level, code, problem: &str| {
                let text = format!("webhook {name} calls {url}: {problem}");
                Message::about(object, level, code, text)
            };
            let Ok(uri) = url.parse::<http::Uri>() else {
                out.push(say(Level::Warning, "IST0163", "this is not a URL"));
                continue;
            };
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            if uri.scheme_str() != Some("https") || host.is_empty() {
                let problem = "API servers call webhooks by https only";
                out.push(say(Level::Warning, "IST0163", problem));
            } else if host.parse::<IpAddr>().is_ok() {
                let problem = "an address may change; a host name whose certificate can be \
                               checked is better";
                out.push(say(Level::Info, "IST0164", problem));
            }
        }
    }
}
