//! Which node a pod goes to, or Kubernetes' words for why none will do. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, Taint,
    Toleration,
};
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

use crate::controllers::pods;
use crate::controllers::scheduler::quantity::thousandths;

const MATCH_AFFINITY: &str = "node(s) didn't match Pod's node affinity/selector";
const HOST_PORTS: &str = "node(s) didn't have free ports for the requested pod ports";

type Placed = BTreeMap<String, Vec<Arc<Pod>>>;

/// The name of the node for `pod`, or why there is none.
pub(super) fn choose(pod: &Pod, nodes: &[Arc<Node>], placed: &Placed) -> Result<String, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut fitting = Vec::new();
    for node in nodes {
        match refusals(pod, &spec, node, nodes, placed) {
            none if none.is_empty() => fitting.push(node.name_any()),
            found => found.into_iter().for_each(|r| *reasons.entry(r).or_default() += 1),
        }
    }
    let crowd = |name: &String| {
        let here = placed.get(name).map(Vec::as_slice).unwrap_or_default();
        let owner = pods::controller_of(pod).map(|owner| &owner.uid);
        let kin = here.iter().filter(|other| {
            owner.is_some() && pods::controller_of(&***other).map(|o| &o.uid) == owner
        });
        (kin.count(), here.len())
    };
    if let Some(best) = fitting.into_iter().min_by_key(crowd) {
        return Ok(best);
    }
    if nodes.is_empty() {
        return Err("no nodes available to schedule pods".into());
    }
    let mut list: Vec<_> = reasons.iter().map(|(why, count)| format!("{count} {why}")).collect();
    list.sort();
    Err(format!("0/{} nodes are available: {}.", nodes.len(), list.join(", ")))
}

/// Why `node` cannot take the pod: the first kind of reason, as Kubernetes stops there too.
fn refusals(
    pod: &Pod,
    spec: &PodSpec,
    node: &Node,
    nodes: &[Arc<Node>],
    placed: &Placed,
) -> Vec<String> {
    let here = placed.get(&node.name_any()).map(Vec::as_slice).unwrap_or_default();
    let node_spec = node.spec.clone().unwrap_or_default();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    if node_spec.unschedulable == Some(true) && !tolerates(tolerations, &cordon()) {
        return vec!["node(s) were unschedulable".into()];
    }
    let taints = node_spec.taints.unwrap_or_default();
    let hard = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    if let Some(taint) = taints.iter().filter(hard).find(|t| !tolerates(tolerations, t)) {
        let value = taint.value.as_deref().unwrap_or_default();
        return vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)];
    }
    if !selected(spec, node) {
        return vec![MATCH_AFFINITY.into()];
    }
    let wanted = host_ports(spec);
    let taken = |port: &(i32, String)| {
        here.iter().filter_map(|p| p.spec.as_ref()).any(|s| host_ports(s).contains(port))
    };
    if wanted.iter().any(taken) {
        return vec![HOST_PORTS.into()];
    }
    let short = shortages(spec, node, here);
    if !short.is_empty() {
        return short;
    }
    affinity_refusal(pod, spec, node, nodes, placed).into_iter().collect()
}

fn cordon() -> Taint {
    Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    }
}

/// Whether any toleration covers the taint.
pub(crate) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        let value = toleration.value.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        (effect.is_empty() || effect == taint.effect)
            && (key == taint.key || (key.is_empty() && exists))
            && (exists || value == taint.value.as_deref().unwrap_or_default())
    })
}

/// Whether the pod's node selector and required node affinity pick the node.
pub(crate) fn selected(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.labels();
    let plain = spec.node_selector.iter().flatten();
    if !plain.into_iter().all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|r| r.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let by_label = term.match_expressions.as_deref().unwrap_or_default();
    let by_field = term.match_fields.as_deref().unwrap_or_default();
    if by_label.is_empty() && by_field.is_empty() {
        return false;
    }
    let name = node.name_any();
    by_label.iter().all(|wanted| requirement(wanted, node.labels().get(&wanted.key)))
        && by_field.iter().all(|wanted| {
            requirement(wanted, Some(&name).filter(|_| wanted.key == "metadata.name"))
        })
}

fn requirement(wanted: &NodeSelectorRequirement, found: Option<&String>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let number = |text: &String| text.parse::<i64>().ok();
    let bound = || values.first().and_then(number);
    match wanted.operator.as_str() {
        "In" => found.is_some_and(|found| values.contains(found)),
        "NotIn" => found.is_none_or(|found| !values.contains(found)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => found.and_then(number) > bound() && bound().is_some(),
        "Lt" => found.and_then(number).is_some_and(|n| bound().is_some_and(|b| n < b)),
        _ => false,
    }
}

fn host_ports(spec: &PodSpec) -> Vec<(i32, String)> {
    let ports = spec.containers.iter().flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
            port.host_port.filter(|number| *number > 0).map(|number| (number, protocol))
        })
        .collect()
}

/// What the pod asks for: the sum of its containers, or its largest init container.
fn requested(spec: &PodSpec, resource: &str) -> i128 {
    let of = |container: &k8s_openapi::api::core::v1::Container| {
        let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        requests.and_then(|all| thousandths(all.get(resource)?)).unwrap_or(0)
    };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let sidecars: i128 = init
        .iter()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(of)
        .sum();
    let together: i128 = spec.containers.iter().map(of).sum::<i128>() + sidecars;
    together.max(init.iter().map(of).max().unwrap_or(0))
}

fn shortages(spec: &PodSpec, node: &Node, here: &[Arc<Pod>]) -> Vec<String> {
    let room = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let Some(room) = room else { return Vec::new() };
    let mut short = Vec::new();
    if let Some(most) = room.get("pods").and_then(thousandths)
        && i128::try_from(here.len()).unwrap_or(i128::MAX) >= most / 1000
    {
        short.push("Too many pods".to_owned());
    }
    let mut resources: Vec<&String> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .filter_map(|container| container.resources.as_ref()?.requests.as_ref())
        .flat_map(BTreeMap::keys)
        .collect();
    resources.sort();
    resources.dedup();
    for resource in resources {
        let wanted = requested(spec, resource);
        let specs = here.iter().filter_map(|pod| pod.spec.as_ref());
        let taken: i128 = specs.map(|spec| requested(spec, resource)).sum();
        let total = room.get(resource).and_then(thousandths).unwrap_or(0);
        if wanted > 0 && taken + wanted > total {
            short.push(format!("Insufficient {resource}"));
        }
    }
    short
}

/// Required pod affinity and anti-affinity, the pod's own and that of the pods in place.
fn affinity_refusal(
    pod: &Pod,
    spec: &PodSpec,
    node: &Node,
    nodes: &[Arc<Node>],
    placed: &Placed,
) -> Option<String> {
    let there = |term: &PodAffinityTerm, owner: &Pod, wanted: &dyn Fn(&Pod) -> bool| {
        let zone = node.labels().get(&term.topology_key)?;
        let same = |other: &&Arc<Node>| other.labels().get(&term.topology_key) == Some(zone);
        let names = nodes.iter().filter(same).map(|node| node.name_any());
        let mut all = names.flat_map(|name| placed.get(&name).into_iter().flatten());
        all.find(|other| wanted(other) && other.uid() != owner.uid()).map(|_| ())
    };
    let affinity = spec.affinity.clone().unwrap_or_default();
    let together = affinity
        .pod_affinity
        .and_then(|a| a.required_during_scheduling_ignored_during_execution)
        .unwrap_or_default();
    for term in &together {
        // The first of a group that wants to be together may stand alone.
        let anywhere = placed.values().flatten().any(|other| picks(term, pod, other));
        let first = !anywhere && picks(term, pod, pod);
        if there(term, pod, &|other| picks(term, pod, other)).is_none() && !first {
            return Some("node(s) didn't match pod affinity rules".into());
        }
    }
    let apart = affinity
        .pod_anti_affinity
        .and_then(|a| a.required_during_scheduling_ignored_during_execution)
        .unwrap_or_default();
    for term in &apart {
        if there(term, pod, &|other| picks(term, pod, other)).is_some() {
            return Some("node(s) didn't match pod anti-affinity rules".into());
        }
    }
    for other in placed.values().flatten() {
        let terms = other.spec.as_ref().and_then(|spec| {
            let apart = spec.affinity.as_ref()?.pod_anti_affinity.as_ref()?;
            apart.required_during_scheduling_ignored_during_execution.as_ref()
        });
        for term in terms.into_iter().flatten().filter(|term| picks(term, other, pod)) {
            let uid = other.uid();
            if there(term, pod, &|found| found.uid() == uid).is_some() {
                return Some("node(s) didn't satisfy existing pods anti-affinity rules".into());
            }
        }
    }
    None
}

fn picks(term: &PodAffinityTerm, owner: &Pod, other: &Pod) -> bool {
    let namespace = other.namespace().unwrap_or_default();
    let listed = term.namespaces.as_deref().unwrap_or_default();
    // An empty namespace selector picks all; others need the namespaces' labels and are taken as
    // all too, which only ever makes the rule stricter.
    let in_scope = if term.namespace_selector.is_some() {
        true
    } else if listed.is_empty() {
        Some(namespace) == owner.namespace()
    } else {
        listed.contains(&namespace)
    };
    let selector = term.label_selector.clone().map(Selector::try_from);
    in_scope && matches!(selector, Some(Ok(selector)) if selector.matches(other.labels()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, labels: Value, spec: Value, room: Value) -> Arc<Node> {
        let value = json!({"metadata": {"name": name, "labels": labels}, "spec": spec,
            "status": {"allocatable": room}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn pod(name: &str, spec: Value) -> Arc<Pod> {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([]);
        }
        let value = json!({"metadata": {"name": name, "namespace": "ns", "uid": name,
            "labels": {"app": "web"}}, "spec": spec});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn check(
        spec: Value,
        nodes: &[Arc<Node>],
        here: &[(&str, Vec<Arc<Pod>>)],
        want: Result<&str, &str>,
    ) {
        let placed = here.iter().map(|(n, p)| ((*n).to_owned(), p.clone())).collect();
        let got = choose(&pod("new", spec), nodes, &placed);
        assert_eq!(got.as_deref().map_err(String::as_str), want);
    }

    #[test]
    fn the_least_crowded_node_wins() {
        let nodes = [
            node("a", json!({}), json!({}), json!({})),
            node("b", json!({}), json!({}), json!({})),
        ];
        check(json!({}), &nodes, &[("a", vec![pod("x", json!({}))])], Ok("b"));
    }

    #[test]
    fn why_no_node_will_do_is_said_in_kubernetes_words() {
        check(json!({}), &[], &[], Err("no nodes available to schedule pods"));
        let taint = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
        let nodes = [
            node("a", json!({"disk": "hdd"}), json!({}), json!({})),
            node("b", json!({"disk": "ssd"}), taint, json!({})),
            node("c", json!({"disk": "ssd"}), json!({"unschedulable": true}), json!({})),
            node("d", json!({"disk": "ssd"}), json!({}), json!({"cpu": "1", "pods": "10"})),
        ];
        check(
            json!({"nodeSelector": {"disk": "ssd"}, "containers": [
                {"name": "c", "resources": {"requests": {"cpu": "1500m"}}}]}),
            &nodes,
            &[],
            Err("0/4 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node \
                 affinity/selector, 1 node(s) had untolerated taint {k: v}, 1 node(s) were \
                 unschedulable."),
        );
        check(
            json!({"nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "k", "operator": "Exists"}]}),
            &nodes,
            &[("d", vec![pod("x", json!({}))])],
            Ok("b"),
        );
    }

    #[test]
    fn required_node_affinity_by_expression_and_by_name_is_kept() {
        let nodes = [
            node("a", json!({"gen": "3"}), json!({}), json!({})),
            node("b", json!({"gen": "7"}), json!({}), json!({})),
        ];
        let wants = |term: Value| {
            json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}})
        };
        let newer =
            json!({"matchExpressions": [{"key": "gen", "operator": "Gt", "values": ["5"]}]});
        check(wants(newer), &nodes, &[], Ok("b"));
        let named =
            json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]});
        check(wants(named), &nodes, &[], Ok("a"));
    }

    #[test]
    fn pods_that_must_be_apart_are_kept_apart() {
        let nodes = [
            node("a", json!({"host": "a"}), json!({}), json!({})),
            node("b", json!({"host": "b"}), json!({}), json!({})),
        ];
        let apart = json!({"affinity": {"podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "host", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
        let one = vec![pod("x", json!({}))];
        check(apart.clone(), &nodes, &[("a", one.clone())], Ok("b"));
        check(
            apart,
            &nodes,
            &[("a", one), ("b", vec![pod("y", json!({}))])],
            Err("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."),
        );
    }
}
