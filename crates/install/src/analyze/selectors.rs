//! Sidecars and policies: the workloads that they select.

use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::message::{Level, Message};
use crate::analyze::world::{World, labels, namespace, selects};
use crate::object::Object;

/// IST0110 and IST0111.
pub(super) fn sidecars(world: &World, out: &mut Vec<Message>) {
    let mut defaults: BTreeMap<&str, Vec<&Object>> = BTreeMap::new();
    let mut conflicts: BTreeMap<String, (&Object, BTreeSet<&str>, Vec<String>)> = BTreeMap::new();
    let selecting: Vec<(&Object, BTreeMap<String, String>)> = world
        .istio("Sidecar")
        .map(|it| (it, labels(it.value(), "/spec/workloadSelector/labels")))
        .collect();
    for (sidecar, selector) in &selecting {
        if selector.is_empty() {
            defaults.entry(namespace(sidecar)).or_default().push(sidecar);
            continue;
        }
        for pod in world.pods(Some(namespace(sidecar)), selector) {
            let others = selecting.iter().filter(|(other, selector)| {
                namespace(other) == namespace(sidecar)
                    && other.name() != sidecar.name()
                    && !selector.is_empty()
                    && selects(selector, pod.value(), "/metadata/labels")
            });
            for (other, _) in others {
                let entry = conflicts
                    .entry(sidecar.reference())
                    .or_insert_with(|| (sidecar, BTreeSet::new(), Vec::new()));
                entry.1.insert(other.name());
                entry.2.push(pod.name().to_owned());
            }
        }
    }
    for (sidecar, others, mut pods) in conflicts.into_values() {
        pods.sort();
        pods.dedup();
        let others: Vec<&str> = others.into_iter().collect();
        let text = format!(
            "it and Sidecar {} select the same pods ({}); which one has an effect is not defined",
            others.join(", "),
            pods.join(", ")
        );
        out.push(Message::about(sidecar, Level::Error, "IST0110", text));
    }
    for (space, sidecars) in defaults.into_iter().filter(|(_, all)| all.len() > 1) {
        let names: Vec<&str> = sidecars.iter().map(|it| it.name()).collect();
        for sidecar in &sidecars {
            let text = format!(
                "namespace {space} has several Sidecars without a workload selector ({}); which \
                 one has an effect is not defined",
                names.join(", ")
            );
            out.push(Message::about(sidecar, Level::Error, "IST0111", text));
        }
    }
}

/// IST0127: a policy that selects nothing protects nothing.
pub(super) fn policies(world: &World, out: &mut Vec<Message>) {
    for kind in ["AuthorizationPolicy", "RequestAuthentication", "PeerAuthentication"] {
        for policy in world.istio(kind) {
            let selector = labels(policy.value(), "/spec/selector/matchLabels");
            if selector.is_empty() {
                continue;
            }
            let space = namespace(policy);
            // Policies of the root namespace hold for all.
            let inside = (space != world.system).then_some(space);
            if world.pods(inside, &selector).next().is_none() {
                let shown: Vec<String> =
                    selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let text = format!("no workload has the labels it selects ({})", shown.join(","));
                out.push(Message::about(policy, Level::Warning, "IST0127", text));
            }
        }
    }
}
