//! Which pods of a DaemonSet to make and to remove, and what its status says. Pure.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::controllers::deployment::scaled;
use crate::controllers::pods;
use crate::controllers::revisions::HASH_LABEL;
use crate::controllers::scheduler::fit;

/// Taints that no daemon pod minds, with their effects.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// What a decision is made of.
pub(super) struct View<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) nodes: &'a [Arc<Node>],
    pub(super) pods: &'a [Arc<Pod>],
    /// Of the present template.
    pub(super) hash: &'a str,
    pub(super) now: Timestamp,
}

/// What to do.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Names of nodes that need a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
}

/// Makes the pod one for `node` alone, and tolerant of what no daemon minds.
pub(super) fn pin(pod: &mut Pod, node: &str) {
    let spec = pod.spec.get_or_insert_default();
    tolerate(spec);
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let by_name = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    // As in Kubernetes, this takes the place of the template's terms, which chose the node.
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![by_name]),
            match_expressions: None,
        }],
    });
}

fn tolerate(spec: &mut PodSpec) {
    let tolerations = spec.tolerations.get_or_insert_default();
    let mut wanted = TOLERATED.to_vec();
    if spec.host_network == Some(true) {
        wanted.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    for (key, effect) in wanted {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
}

/// The node that a daemon pod is on, or for.
fn node_of(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.clone().filter(|node| !node.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut fields = terms.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    let field = fields.find(|field| field.key == "metadata.name")?;
    field.values.as_ref()?.first().cloned()
}

impl View<'_> {
    fn spec(&self) -> PodSpec {
        let spec = self.set.spec.as_ref().and_then(|spec| spec.template.spec.clone());
        let mut spec = spec.unwrap_or_default();
        tolerate(&mut spec);
        spec
    }

    fn min_ready(&self) -> i32 {
        self.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn tolerates_all(&self, node: &Node, spec: &PodSpec, effects: &[&str]) -> bool {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
        let tolerations = spec.tolerations.as_deref().unwrap_or_default();
        let hard = |taint: &&Taint| effects.contains(&taint.effect.as_str());
        taints.unwrap_or_default().iter().filter(hard).all(|t| fit::tolerates(tolerations, t))
    }

    /// Whether the node should have a pod, and whether it may keep the one it has.
    fn wants(&self, node: &Node) -> (bool, bool) {
        let spec = self.spec();
        let selected = fit::selected(&spec, node);
        let run = selected && self.tolerates_all(node, &spec, &["NoSchedule", "NoExecute"]);
        let keep = selected && self.tolerates_all(node, &spec, &["NoExecute"]);
        (run, keep)
    }

    fn on(&self, node: &str) -> Vec<&Arc<Pod>> {
        let mut pods: Vec<_> =
            self.pods.iter().filter(|pod| node_of(pod).as_deref() == Some(node)).collect();
        pods.sort_by_key(|pod| (pod.creation_timestamp().map(|time| time.0), pod.name_any()));
        pods
    }

    fn is_present(&self, pod: &Pod) -> bool {
        pod.labels().get(HASH_LABEL).is_some_and(|hash| hash == self.hash)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_active(pod) && pods::is_available(pod, self.min_ready(), self.now)
    }

    pub(super) fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        for node in self.nodes {
            let name = node.name_any();
            let (run, keep) = self.wants(node);
            let here = self.on(&name);
            let (alive, dead): (Vec<_>, Vec<_>) =
                here.into_iter().partition(|pod| !pods::is_finished(pod));
            let dead = dead.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
            plan.delete.extend(dead.cloned());
            let staying =
                alive.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).copied();
            if !keep {
                plan.delete.extend(staying.cloned());
            } else if run && alive.is_empty() {
                plan.create.push(name);
            } else {
                plan.delete.extend(staying.skip(1).cloned());
            }
        }
        let known: Vec<String> = self.nodes.iter().map(|node| node.name_any()).collect();
        let stray = self.pods.iter().filter(|pod| {
            let bound = node_of(pod).is_some_and(|node| known.contains(&node));
            !bound && pod.metadata.deletion_timestamp.is_none()
        });
        plan.delete.extend(stray.cloned());
        self.update(&mut plan);
        plan
    }

    /// Removes pods of old templates, as many at a time as may be missing.
    fn update(&self, plan: &mut Plan) {
        let strategy =
            self.set.spec.as_ref().and_then(|s| s.update_strategy.clone()).unwrap_or_default();
        if strategy.type_.as_deref() == Some("OnDelete") {
            return;
        }
        let wanting: Vec<_> = self
            .nodes
            .iter()
            .filter(|node| self.wants(node).0)
            .map(|node| node.name_any())
            .collect();
        let total = i32::try_from(wanting.len()).unwrap_or(i32::MAX);
        let most = strategy.rolling_update.and_then(|rolling| rolling.max_unavailable);
        let most = scaled(&most.unwrap_or(IntOrString::Int(1)), total, true).max(1);
        let serving = |node: &String| self.on(node).iter().any(|pod| self.is_available(pod));
        let missing = wanting.iter().filter(|node| !serving(node)).count();
        let mut room = most - i32::try_from(missing).unwrap_or(i32::MAX);
        for node in &wanting {
            let here = self.on(node);
            let old: Vec<_> = here
                .into_iter()
                .filter(|pod| pods::is_active(pod) && !self.is_present(pod))
                .filter(|pod| !plan.delete.iter().any(|gone| gone.uid() == pod.uid()))
                .collect();
            for pod in old {
                if !self.is_available(pod) {
                    plan.delete.push(pod.clone());
                } else if room > 0 {
                    room -= 1;
                    plan.delete.push(pod.clone());
                }
            }
        }
    }

    pub(super) fn status(&self) -> DaemonSetStatus {
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for node in self.nodes {
            let here = self.on(&node.name_any());
            let oldest = here.iter().find(|pod| pods::is_active(pod));
            let (run, _) = self.wants(node);
            if !run {
                status.number_misscheduled += i32::from(oldest.is_some());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(pod) = oldest else { continue };
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(pods::is_ready(pod));
            updated += i32::from(self.is_present(pod));
            available += i32::from(self.is_available(pod));
        }
        let unavailable = status.desired_number_scheduled - available;
        let some = |number: i32| Some(number).filter(|number| *number > 0);
        status.updated_number_scheduled = some(updated);
        status.number_available = some(available);
        status.number_unavailable = some(unavailable);
        status
    }

    /// When the next pod that is ready will have been so for long enough.
    pub(super) fn next_availability(&self) -> Option<Duration> {
        self.pods
            .iter()
            .filter_map(|pod| pods::available_in(pod, self.min_ready(), self.now))
            .filter(|wait| *wait > Duration::ZERO)
            .min()
            .map(|wait| wait + Duration::from_millis(50))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, spec: Value) -> Arc<Node> {
        let value = json!({"metadata": {"name": name, "labels": {"os": "linux"}}, "spec": spec});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn pod(name: &str, node: &str, hash: &str, ready: &str, phase: &str) -> Arc<Pod> {
        let value = json!({
            "metadata": {"name": name, "uid": name, "labels": {HASH_LABEL: hash}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn set() -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "generation": 2},
            "spec": {"selector": {}, "template": {"spec": {
                "nodeSelector": {"os": "linux"}, "containers": []}}},
        }))
        .unwrap()
    }

    fn show(plan: &Plan) -> (Vec<String>, Vec<String>) {
        (plan.create.clone(), plan.delete.iter().map(|pod| pod.name_any()).collect())
    }

    #[test]
    fn every_node_gets_one_pod_unless_it_is_tainted() {
        let taint = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        let nodes =
            [node("a", json!({})), node("b", json!({"unschedulable": true})), node("c", taint)];
        let pods =
            [pod("a1", "a", "h", "True", "Running"), pod("x", "gone", "h", "True", "Running")];
        let (set, now) = (set(), Timestamp::now());
        let view = View { set: &set, nodes: &nodes, pods: &pods, hash: "h", now };
        assert_eq!(show(&view.plan()), (vec!["b".to_owned()], vec!["x".to_owned()]));
        let status = view.status();
        let counts =
            (status.desired_number_scheduled, status.number_ready, status.number_unavailable);
        assert_eq!(counts, (2, 1, Some(1)));
    }

    #[test]
    fn old_pods_are_replaced_one_at_a_time_and_failed_ones_at_once() {
        let nodes = [node("a", json!({})), node("b", json!({})), node("c", json!({}))];
        let pods = [
            pod("a1", "a", "old", "True", "Running"),
            pod("b1", "b", "old", "True", "Running"),
            pod("c1", "c", "h", "True", "Running"),
            pod("c0", "c", "old", "False", "Failed"),
        ];
        let (set, now) = (set(), Timestamp::now());
        let view = View { set: &set, nodes: &nodes, pods: &pods, hash: "h", now };
        assert_eq!(show(&view.plan()), (vec![], vec!["c0".to_owned(), "a1".to_owned()]));
    }

    #[test]
    fn a_pinned_pod_is_for_its_node_before_it_is_bound() {
        let mut pod = Pod::default();
        pin(&mut pod, "a");
        assert_eq!(node_of(&pod).as_deref(), Some("a"));
    }
}
