//! Whether nodes are alive, and what follows for the pods on them.
//!
//! A node that stops renewing its Lease is marked unknown after a grace period. Conditions become
//! taints; pods on a node that is not ready are marked not ready, so that nothing is sent to them;
//! pods that do not tolerate that for longer are removed. Time is measured from when this process
//! saw the Lease change, so clocks that differ do no harm.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::failure::{Doing, Failure, unless_gone};
use crate::controllers::pods;
use crate::controllers::queue::{Key, Queue};
use crate::controllers::scheduler::fit::tolerates;
use crate::controllers::work::Controller;
use crate::events::Events;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that are bad when true, and their taints.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// How long a Lease may stay as it is.
const GRACE: Duration = Duration::from_secs(40);
const CHECK: Duration = Duration::from_secs(5);

/// The controller.
pub struct Nodes {
    client: Client,
    queue: Arc<Queue>,
    nodes: Arc<Cache<Node>>,
    leases: Arc<Cache<Lease>>,
    pods: Arc<Cache<Pod>>,
    /// The last renewal of each node, and when it was seen.
    heartbeats: Mutex<HashMap<String, (String, Instant)>>,
    events: Events,
}

impl Nodes {
    /// Follows nodes, their Leases and their pods.
    pub fn new(caches: &Caches) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let (nodes, pods) = (caches.all::<Node>(), caches.all::<Pod>());
        let leases = caches.filtered::<Lease>("metadata.namespace=kube-node-lease");
        let to = queue.clone();
        nodes.on_change(move |change| {
            change.new.into_iter().for_each(|node| to.add(Key::of(&**node)));
        });
        let to = queue.clone();
        leases.on_change(move |change| {
            let lease = change.new.into_iter();
            lease.for_each(|lease| to.add(Key::new("", &lease.name_any())));
        });
        let events = Events::new(caches.client(), "node-controller", None);
        let heartbeats = Mutex::default();
        Self { client: caches.client(), queue, nodes, leases, pods, heartbeats, events }
    }

    /// How long the node has been silent.
    fn silence(&self, node: &Node) -> Duration {
        let lease = self.leases.get(&Key::new("kube-node-lease", &node.name_any()));
        let renewed = lease
            .and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0))
            .map(|time| time.to_string());
        let reported = ready(node).and_then(|c| c.last_heartbeat_time.as_ref());
        let beat = format!("{renewed:?} {:?}", reported.map(|time| time.0));
        let mut heartbeats = self.heartbeats.lock();
        let seen = heartbeats.entry(node.name_any()).or_insert((beat.clone(), Instant::now()));
        if seen.0 != beat {
            *seen = (beat, Instant::now());
        }
        seen.1.elapsed()
    }

    async fn mark_unknown(&self, node: &Node) -> Result<Node, Failure> {
        let name = node.name_any();
        let now = Timestamp::now();
        let since = ready(node)
            .filter(|condition| condition.status == "Unknown")
            .and_then(|condition| condition.last_transition_time.clone());
        let patch = json!({"status": {"conditions": [{
            "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
            "message": "Kubelet stopped posting node status.",
            "lastTransitionTime": since.unwrap_or(Time(now)),
        }]}});
        let api: Api<Node> = Api::all(self.client.clone());
        let node = api
            .patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
            .doing(|| format!("mark node {name} unknown"))?;
        self.nodes.wrote(&node);
        let note = format!("Node {name} status is now: NodeNotReady");
        self.events.normal(&node.object_ref(&()), "NodeNotReady", note).await;
        // A late heartbeat must not be hidden by this very change.
        self.heartbeats.lock().remove(&name);
        Ok(node)
    }

    async fn write_taints(&self, node: &Node) -> Result<(), Failure> {
        let Some(taints) = changed_taints(node, Timestamp::now()) else { return Ok(()) };
        let mut changed = node.clone();
        changed.spec.get_or_insert_default().taints = Some(taints).filter(|all| !all.is_empty());
        let name = node.name_any();
        let api: Api<Node> = Api::all(self.client.clone());
        let written = api
            .replace(&name, &PostParams::default(), &changed)
            .await
            .doing(|| format!("taint node {name}"))?;
        self.nodes.wrote(&written);
        Ok(())
    }

    async fn mark_pods(&self, node: &str) -> Result<(), Failure> {
        for pod in self.pods_on(node) {
            if !pods::is_ready(&pod) {
                continue;
            }
            let patch = json!({"status": {"conditions": [{
                "type": "Ready", "status": "False", "reason": "NodeNotReady",
                "message": "Node is not ready", "lastTransitionTime": Timestamp::now(),
            }]}});
            let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
            let patch = Patch::Strategic(patch);
            let patched = api.patch_status(&name, &PatchParams::default(), &patch).await;
            let patched = unless_gone(patched)
                .doing(|| format!("mark pod {namespace}/{name} on node {node} not ready"))?;
            patched.iter().for_each(|pod| self.pods.wrote(pod));
        }
        Ok(())
    }

    fn pods_on(&self, node: &str) -> Vec<Arc<Pod>> {
        let mut pods = self.pods.all();
        pods.retain(|pod| {
            let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            bound == Some(node) && !pods::is_finished(pod)
        });
        pods
    }

    /// Removes the pods that have not tolerated the node's taints for long enough; returns when
    /// the next one's time has come.
    async fn evict(&self, node: &Node) -> Result<Option<Duration>, Failure> {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let taints: Vec<_> = taints.into_iter().filter(|t| t.effect == "NoExecute").collect();
        let mut next: Option<Duration> = None;
        if taints.is_empty() {
            return Ok(None);
        }
        for pod in self.pods_on(&node.name_any()) {
            let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref());
            match stays_for(&taints, tolerations.unwrap_or_default(), Timestamp::now()) {
                Stay::Forever => (),
                Stay::For(wait) if wait > Duration::ZERO => {
                    next = Some(next.map_or(wait, |next| next.min(wait)));
                }
                Stay::For(_) if pod.metadata.deletion_timestamp.is_some() => (),
                Stay::For(_) => {
                    let note = format!("Marking for deletion Pod {}", Key::of(&*pod));
                    self.events.normal(&pod.object_ref(&()), "TaintManagerEviction", note).await;
                    pods::delete(&self.client, &self.pods, &pod).await?;
                }
            }
        }
        Ok(next)
    }
}

fn ready(node: &Node) -> Option<&k8s_openapi::api::core::v1::NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == "Ready")
}

/// The taints that the node's conditions ask for, as key and effect.
fn wanted_taints(node: &Node) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    match ready(node).map(|condition| condition.status.as_str()) {
        Some("True") => (),
        Some("Unknown") => {
            wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]);
        }
        _ => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
    }
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    for condition in conditions.filter(|condition| condition.status == "True") {
        let pressure = PRESSURES.iter().find(|(kind, _)| *kind == condition.type_);
        wanted.extend(pressure.map(|(_, key)| (*key, "NoSchedule")));
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

/// The node's taints after its conditions have spoken, if that changes them. Taints that users
/// set stay.
fn changed_taints(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let held = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let ours = |key: &str| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key)
            || PRESSURES.iter().any(|(_, taint)| *taint == key)
    };
    let mut wanted = wanted_taints(node);
    let mut taints: Vec<Taint> = held
        .iter()
        .filter(|taint| {
            let pair = wanted.iter().position(|pair| *pair == (&taint.key, &taint.effect));
            pair.map(|at| wanted.swap_remove(at)).is_some() || !ours(&taint.key)
        })
        .cloned()
        .collect();
    taints.extend(wanted.into_iter().map(|(key, effect)| Taint {
        key: key.into(),
        effect: effect.into(),
        value: None,
        time_added: (effect == "NoExecute").then_some(Time(now)),
    }));
    (taints != held).then_some(taints)
}

#[derive(Debug, PartialEq, Eq)]
enum Stay {
    Forever,
    For(Duration),
}

/// How long a pod with these tolerations may stay on a node with these `NoExecute` taints.
fn stays_for(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Stay {
    let mut stay = Stay::Forever;
    for taint in taints {
        let matching: Vec<_> = tolerations
            .iter()
            .filter(|toleration| tolerates(std::slice::from_ref(*toleration), taint))
            .collect();
        if matching.is_empty() {
            return Stay::For(Duration::ZERO);
        }
        let limit = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min();
        let Some(limit) = limit else { continue };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let passed = Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO);
        let limit = Duration::from_secs(u64::try_from(limit).unwrap_or(0));
        let left = limit.saturating_sub(passed);
        stay = match stay {
            Stay::For(before) => Stay::For(before.min(left)),
            Stay::Forever => Stay::For(left),
        };
    }
    stay
}

impl Controller for Nodes {
    const NAME: &'static str = "node-lifecycle";
    const WORKERS: usize = 1;

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let Some(mut node) = self.nodes.get(key) else {
            self.heartbeats.lock().remove(&*key.name);
            return Ok(());
        };
        let unknown = ready(&node).is_some_and(|condition| condition.status == "Unknown");
        if !unknown && self.silence(&node) > GRACE {
            node = Arc::new(self.mark_unknown(&node).await?);
        }
        self.write_taints(&node).await?;
        if ready(&node).is_some_and(|condition| condition.status != "True") {
            self.mark_pods(&key.name).await?;
        }
        let next = self.evict(&node).await?.unwrap_or(CHECK);
        self.queue.add_after(key.clone(), next.min(CHECK));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn node(ready: Value, taints: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:05:00Z".parse().unwrap()
    }

    fn taints(node: &Node) -> Option<Vec<String>> {
        let taints = changed_taints(node, now())?;
        Some(taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect())
    }

    #[test]
    fn conditions_become_taints_and_users_taints_stay() {
        let users = json!([{"key": "mine", "effect": "NoSchedule"},
            {"key": NOT_READY, "effect": "NoSchedule"}]);
        assert_eq!(
            taints(&node(json!("True"), users.clone())),
            Some(vec!["mine:NoSchedule".into()])
        );
        assert_eq!(
            taints(&node(json!("Unknown"), users)),
            Some(vec![
                "mine:NoSchedule".into(),
                format!("{UNREACHABLE}:NoSchedule"),
                format!("{UNREACHABLE}:NoExecute"),
            ])
        );
        assert_eq!(taints(&node(json!("True"), json!([]))), None);
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_the_taint() {
        let taint: Taint = serde_json::from_value(json!({"key": UNREACHABLE,
            "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}))
        .unwrap();
        let toleration = |seconds: Value| -> Vec<Toleration> {
            serde_json::from_value(json!([{"key": UNREACHABLE, "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": seconds}]))
            .unwrap()
        };
        let stay = |tolerations: &[Toleration]| {
            stays_for(std::slice::from_ref(&taint), tolerations, now())
        };
        assert_eq!(stay(&toleration(json!(null))), Stay::Forever);
        assert_eq!(stay(&toleration(json!(310))), Stay::For(Duration::from_secs(10)));
        assert_eq!(stay(&[]), Stay::For(Duration::ZERO));
    }
}
