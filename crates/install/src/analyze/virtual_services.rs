//! VirtualServices: where their routes lead, and whether they are reached.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::analyze::gateways::serves;
use crate::analyze::message::{Level, Message};
use crate::analyze::world::{World, covers, full_host, items, namespace, text, texts};
use crate::object::Object;

const PROTOCOLS: [&str; 3] = ["http", "tls", "tcp"];

/// Every destination of an object, mirrors included.
fn destinations(object: &Object) -> Vec<&Value> {
    let mut found = Vec::new();
    for protocol in PROTOCOLS {
        for route in items(object.value(), &format!("/spec/{protocol}")) {
            found.extend(items(route, "/route").iter().filter_map(|it| it.get("destination")));
            found.extend(route.get("mirror"));
            found.extend(items(route, "/mirrors").iter().filter_map(|it| it.get("destination")));
        }
    }
    found
}

/// IST0101 and IST0112: destinations that do not exist, or are not told apart.
pub(super) fn hosts(world: &World, out: &mut Vec<Message>) {
    let known = world.hosts();
    for object in world.istio("VirtualService") {
        for destination in destinations(object) {
            let given = text(destination, "/host");
            let host = full_host(given, namespace(object));
            let Some((_, found)) = known.iter().find(|(pattern, _)| covers(pattern, &host)) else {
                let text = format!("no service or service entry has the host {given}");
                out.push(Message::about(object, Level::Error, "IST0101", text));
                continue;
            };
            let several = found
                .first()
                .is_some_and(|service| items(service.value(), "/spec/ports").len() > 1);
            if several && destination.pointer("/port/number").is_none() {
                let text = format!(
                    "host {given} has several ports, and the route does not say which: set \
                     destination.port.number"
                );
                out.push(Message::about(object, Level::Error, "IST0112", text));
            }
        }
    }
}

/// IST0101: subsets that no destination rule defines.
pub(super) fn subsets(world: &World, out: &mut Vec<Message>) {
    for object in world.istio("VirtualService") {
        for destination in destinations(object) {
            let subset = text(destination, "/subset");
            if subset.is_empty() {
                continue;
            }
            let host = full_host(text(destination, "/host"), namespace(object));
            let defined = world.istio("DestinationRule").any(|rule| {
                full_host(text(rule.value(), "/spec/host"), namespace(rule)) == host
                    && items(rule.value(), "/spec/subsets")
                        .iter()
                        .any(|it| text(it, "/name") == subset)
            });
            if !defined {
                let text = format!("no destination rule for {host} has the subset {subset}");
                out.push(Message::about(object, Level::Error, "IST0101", text));
            }
        }
    }
}

/// The gateways an object names, with the namespaces they are in. `mesh` is left out.
fn gateway_names(object: &Object) -> Vec<(&str, &str)> {
    texts(object.value(), "/spec/gateways")
        .into_iter()
        .filter(|name| *name != "mesh")
        .map(|name| name.split_once('/').unwrap_or((namespace(object), name)))
        .collect()
}

/// IST0101 and IST0132.
pub(super) fn gateways(world: &World, out: &mut Vec<Message>) {
    for object in world.istio("VirtualService") {
        for (space, name) in gateway_names(object) {
            let found = world
                .istio("Gateway")
                .find(|gateway| gateway.name() == name && namespace(gateway) == space);
            let Some(gateway) = found else {
                let text = format!("gateway {space}/{name} does not exist");
                out.push(Message::about(object, Level::Error, "IST0101", text));
                continue;
            };
            for host in texts(object.value(), "/spec/hosts") {
                if !serves(gateway, host, namespace(object)) {
                    let text = format!(
                        "gateway {space}/{name} does not serve its host {host} to this namespace"
                    );
                    out.push(Message::about(object, Level::Warning, "IST0132", text));
                }
            }
        }
    }
}

/// IST0109: one host inside the mesh, several virtual services.
pub(super) fn conflicts(world: &World, out: &mut Vec<Message>) {
    let mut by_host: BTreeMap<String, Vec<&Object>> = BTreeMap::new();
    for object in world.istio("VirtualService") {
        let given = texts(object.value(), "/spec/gateways");
        if !given.is_empty() && !given.contains(&"mesh") {
            continue;
        }
        for host in texts(object.value(), "/spec/hosts") {
            by_host.entry(full_host(host, namespace(object))).or_default().push(object);
        }
    }
    for (host, objects) in by_host.into_iter().filter(|(_, objects)| objects.len() > 1) {
        let names: Vec<String> =
            objects.iter().map(|it| format!("{}/{}", namespace(it), it.name())).collect();
        for object in objects.iter().filter(|it| overlaps(it, &objects)) {
            let text = format!(
                "virtual services {} are all for host {host} inside the mesh; only one has an \
                 effect",
                names.join(", ")
            );
            out.push(Message::about(object, Level::Error, "IST0109", text));
        }
    }
}

/// Whether anybody sees this object and another one for the same host.
fn overlaps(object: &Object, all: &[&Object]) -> bool {
    let seen_by = |it: &Object| -> Vec<String> {
        let given = texts(it.value(), "/spec/exportTo");
        if given.is_empty() {
            return vec!["*".to_owned()];
        }
        let own = |to: &str| if to == "." { namespace(it).to_owned() } else { to.to_owned() };
        given.into_iter().map(own).collect()
    };
    let mine = seen_by(object);
    all.iter().filter(|it| it.reference() != object.reference()).any(|other| {
        let theirs = seen_by(other);
        let both = |list: &[String]| list.iter().any(|to| to == "*");
        both(&mine) || both(&theirs) || mine.iter().any(|to| theirs.contains(to))
    })
}

/// IST0130 and IST0131: routes after one that takes everything, and matches that came before.
pub(super) fn unreachable(world: &World, out: &mut Vec<Message>) {
    for object in world.istio("VirtualService") {
        for protocol in PROTOCOLS {
            let routes = items(object.value(), &format!("/spec/{protocol}"));
            let mut seen: Vec<(&Value, usize)> = Vec::new();
            let mut all: Option<usize> = None;
            for (i, route) in routes.iter().enumerate() {
                let name = shown(route, i);
                if let Some(before) = all {
                    let text = format!(
                        "{protocol} route {name} is never reached: route {} takes everything",
                        shown(routes.get(before).unwrap_or(route), before)
                    );
                    out.push(Message::about(object, Level::Warning, "IST0130", text));
                    continue;
                }
                let matches = items(route, "/match");
                let known = |it: &Value| seen.iter().find(|(known, _)| *known == it).map(|it| it.1);
                let repeated: Vec<Option<usize>> = matches.iter().map(known).collect();
                if !matches.is_empty() && repeated.iter().all(Option::is_some) {
                    let text = format!(
                        "{protocol} route {name} is never reached: earlier routes take what it \
                         matches"
                    );
                    out.push(Message::about(object, Level::Warning, "IST0130", text));
                } else {
                    for (at, before) in repeated.iter().enumerate() {
                        let Some(before) = before else { continue };
                        let text = format!(
                            "match {at} of {protocol} route {name} has no effect: route #{before} \
                             has the same"
                        );
                        out.push(Message::about(object, Level::Info, "IST0131", text));
                    }
                }
                seen.extend(matches.iter().map(|it| (it, i)));
                if matches.is_empty() || matches.iter().any(takes_all) {
                    all = Some(i);
                }
            }
        }
    }
}

fn shown(route: &Value, index: usize) -> String {
    match text(route, "/name") {
        "" => format!("#{index}"),
        name => format!("{name} (#{index})"),
    }
}

/// An empty match, or a path prefix of `/` and nothing else.
fn takes_all(one: &Value) -> bool {
    let Some(fields) = one.as_object() else { return false };
    let prefix = one.pointer("/uri/prefix").and_then(Value::as_str) == Some("/");
    fields.iter().all(|(key, _)| key == "name" || (key == "uri" && prefix))
}
