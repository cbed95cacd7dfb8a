//! Which pods go first when there are too many. Pure.
//!
//! The order is Kubernetes': not yet on a node, then not running, then not ready, then cheap by
//! annotation, then on a crowded node, then ready for a short time, then often restarted, then
//! young.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::controllers::pods;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` pods whose loss hurts least.
pub(super) fn victims(active: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for pod in active {
        *crowd.entry(node(pod)).or_default() += 1;
    }
    let mut ranked = active.to_vec();
    ranked.sort_by_cached_key(|pod| {
        (
            !node(pod).is_empty(),
            phase_rank(pod),
            pods::is_ready(pod),
            deletion_cost(pod),
            Reverse(crowd.get(node(pod)).copied().unwrap_or(0)),
            Reverse(pods::ready_since(pod).unwrap_or(now)),
            Reverse(restarts(pod)),
            Reverse(pod.creation_timestamp().map(|time| time.0)),
            pod.name_any(),
        )
    });
    ranked.truncate(count);
    ranked
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn phase_rank(pod: &Pod) -> u8 {
    match pods::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    }
}

/// An annotation that is no number counts as none, as in Kubernetes.
fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations().get(DELETION_COST).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    statuses.unwrap_or_default().iter().map(|status| status.restart_count).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str, phase: &str, ready: Option<&str>, cost: Value) -> Arc<Pod> {
        let conditions = ready
            .map(|since| json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]));
        let value = json!({
            "metadata": {"name": name, "annotations": {DELETION_COST: cost}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "conditions": conditions},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn the_pods_that_serve_best_go_last() {
        let old = Some("2026-01-01T00:00:00Z");
        let young = Some("2026-02-01T00:00:00Z");
        let all = [
            pod("serves-long", "n1", "Running", old, json!("0")),
            pod("serves-briefly", "n1", "Running", young, json!("0")),
            pod("cheap", "n1", "Running", old, json!("-5")),
            pod("not-ready", "n1", "Running", None, json!("0")),
            pod("pending", "n1", "Pending", None, json!("0")),
            pod("unscheduled", "", "Pending", None, json!("0")),
        ];
        let now = "2026-03-01T00:00:00Z".parse().unwrap();
        let order: Vec<_> = victims(&all, 6, now).iter().map(|pod| pod.name_any()).collect();
        let want =
            ["unscheduled", "pending", "not-ready", "cheap", "serves-briefly", "serves-long"];
        assert_eq!(order, want);
        assert_eq!(victims(&all, 1, now).len(), 1);
    }

    #[test]
    fn of_equal_pods_the_one_on_the_crowded_node_goes_first() {
        let since = Some("2026-01-01T00:00:00Z");
        let all = [
            pod("a", "n1", "Running", since, json!("0")),
            pod("b", "n2", "Running", since, json!("0")),
            pod("c", "n2", "Running", since, json!("0")),
        ];
        let now = "2026-03-01T00:00:00Z".parse().unwrap();
        assert_eq!(victims(&all, 1, now)[0].name_any(), "b");
    }
}
