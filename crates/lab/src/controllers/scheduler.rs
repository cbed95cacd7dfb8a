//! The scheduler: gives every pending pod a node.
//!
//! Which nodes can take a pod is decided by [`fit`], which is pure. Of those that can, the one
//! with the fewest pods of the same owner, then the fewest pods, gets it. One worker, so that two
//! pods never count on the same room.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::failure::{Doing, Failure};
use crate::controllers::pods;
use crate::controllers::queue::{Key, Queue};
use crate::controllers::work::Controller;
use crate::events::Events;

pub(crate) mod fit;
pub(crate) mod quantity;

const NAME: &str = "default-scheduler";
/// A pod that fits nowhere is looked at again when nodes change, and at this interval.
const AGAIN: Duration = Duration::from_secs(10);

/// The controller.
pub struct Scheduler {
    client: Client,
    queue: Arc<Queue>,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    events: Events,
}

fn is_waiting(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let unbound = spec.is_some_and(|spec| spec.node_name.as_deref().unwrap_or("").is_empty());
    let ours =
        spec.is_some_and(|spec| spec.scheduler_name.as_deref().is_none_or(|name| name == NAME));
    unbound && ours && pods::is_active(pod)
}

impl Scheduler {
    /// Follows pods and nodes.
    pub fn new(caches: &Caches) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let (pods, nodes) = (caches.all::<Pod>(), caches.all::<Node>());
        let (to, known) = (queue.clone(), pods.clone());
        pods.on_change(move |change| match change.new {
            Some(pod) if is_waiting(pod) => to.add(Key::of(&**pod)),
            Some(_) => (),
            // Room was freed.
            None => add_waiting(&to, &known),
        });
        let (to, known) = (queue.clone(), pods.clone());
        nodes.on_change(move |change| {
            let shape = |node: &Node| {
                let spec = node.spec.clone().unwrap_or_default();
                let room = node.status.as_ref().and_then(|status| status.allocatable.clone());
                (spec.taints, spec.unschedulable, node.labels().clone(), room)
            };
            // Heartbeats change nothing that a pod waits for.
            if change.old.map(|node| shape(node)) != change.new.map(|node| shape(node)) {
                add_waiting(&to, &known);
            }
        });
        let events = Events::new(caches.client(), NAME, None);
        Self { client: caches.client(), queue, pods, nodes, events }
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Result<(), Failure> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                uid: pod.uid(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let _status: serde_json::Value = api
            .create_subresource("binding", &name, &PostParams::default(), &binding)
            .await
            .doing(|| format!("bind pod {namespace}/{name} to node {node}"))?;
        let note = format!("Successfully assigned {namespace}/{name} to {node}");
        self.events.normal(&pod.object_ref(&()), "Scheduled", note).await;
        Ok(())
    }

    async fn report(&self, pod: &Pod, message: String) -> Result<(), Failure> {
        let conditions =
            pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let known = conditions.iter().any(|c| {
            c.type_ == "PodScheduled" && c.status == "False" && c.message.as_ref() == Some(&message)
        });
        if known {
            return Ok(());
        }
        let patch = json!({"status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": message, "lastTransitionTime": Timestamp::now(),
            "observedGeneration": pod.metadata.generation,
        }]}});
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let patched = api
            .patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
            .doing(|| format!("say why pod {namespace}/{name} waits"))?;
        self.pods.wrote(&patched);
        self.events.warning(&pod.object_ref(&()), "FailedScheduling", message).await;
        Ok(())
    }

    /// The pods that stand on each node.
    fn placed(&self) -> BTreeMap<String, Vec<Arc<Pod>>> {
        let mut placed: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in self.pods.all() {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            if let Some(node) = node.filter(|node| !node.is_empty() && !pods::is_finished(&pod)) {
                placed.entry(node).or_default().push(pod);
            }
        }
        placed
    }
}

fn add_waiting(queue: &Queue, pods: &Cache<Pod>) {
    pods.all().iter().filter(|pod| is_waiting(pod)).for_each(|pod| queue.add(Key::of(&**pod)));
}

impl Controller for Scheduler {
    const NAME: &'static str = "scheduler";
    const WORKERS: usize = 1;

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let Some(pod) = self.pods.get(key).filter(|pod| is_waiting(pod)) else { return Ok(()) };
        let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
        if gates.is_some_and(|gates| !gates.is_empty()) {
            return Ok(());
        }
        let nodes = self.nodes.all();
        let placed = self.placed();
        match fit::choose(&pod, &nodes, &placed) {
            Ok(node) => {
                self.bind(&pod, &node).await?;
                // The next pod counts this one even before the watch shows it.
                let mut bound = (*pod).clone();
                bound.spec.get_or_insert_default().node_name = Some(node);
                self.pods.assume(bound);
                Ok(())
            }
            Err(message) => {
                self.report(&pod, message).await?;
                self.queue.add_after(key.clone(), AGAIN);
                Ok(())
            }
        }
    }
}
