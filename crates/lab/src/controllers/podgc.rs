//! Pods that nobody else will remove: those whose node is gone, and those that were deleted
//! before they had one.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client, ResourceExt};

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::failure::{Doing, Failure, unless_gone};
use crate::controllers::queue::{Key, Queue};
use crate::controllers::work::Controller;

/// How long a node may be missing before its pods go.
const QUARANTINE: Duration = Duration::from_secs(40);

/// The controller.
pub(crate) struct PodGarbage {
    client: Client,
    queue: Arc<Queue>,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
}

fn node_of(pod: &Pod) -> Option<&str> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    node.filter(|node| !node.is_empty())
}

impl PodGarbage {
    /// Follows pods and nodes.
    pub(crate) fn new(caches: &Caches) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let (pods, nodes) = (caches.all::<Pod>(), caches.all::<Node>());
        let (to, known) = (queue.clone(), nodes.clone());
        pods.on_change(move |change| {
            let Some(pod) = change.new else { return };
            match node_of(pod) {
                None if pod.metadata.deletion_timestamp.is_some() => to.add(Key::of(&**pod)),
                Some(node) if known.get(&Key::new("", node)).is_none() => {
                    to.add_after(Key::of(&**pod), QUARANTINE);
                }
                _ => (),
            }
        });
        let (to, known) = (queue.clone(), pods.clone());
        nodes.on_change(move |change| {
            let (Some(node), None) = (change.old, change.new) else { return };
            let name = node.name_any();
            for pod in known.all().iter().filter(|pod| node_of(pod) == Some(&name)) {
                to.add_after(Key::of(&**pod), QUARANTINE);
            }
        });
        Self { client: caches.client(), queue, pods, nodes }
    }
}

impl Controller for PodGarbage {
    const NAME: &'static str = "pod-garbage-collector";

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let Some(pod) = self.pods.get(key) else { return Ok(()) };
        let lost = match node_of(&pod) {
            None => pod.metadata.deletion_timestamp.is_some(),
            Some(node) if self.nodes.get(&Key::new("", node)).is_some() => false,
            Some(node) => {
                let nodes: Api<Node> = Api::all(self.client.clone());
                let found = unless_gone(nodes.get_metadata(node).await);
                found.doing(|| format!("look for node {node} of pod {key}"))?.is_none()
            }
        };
        if !lost {
            return Ok(());
        }
        let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
        let params = DeleteParams {
            preconditions: Some(preconditions),
            ..DeleteParams::default().grace_period(0)
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        unless_gone(api.delete(&key.name, &params).await)
            .doing(|| format!("delete pod {key}, which no node holds"))?;
        self.pods.deleted(&pod);
        Ok(())
    }
}
