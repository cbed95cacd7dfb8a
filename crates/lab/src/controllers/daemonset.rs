//! DaemonSets: one pod on every node that wants it.
//!
//! Which pods to make and which to remove is decided by [`plan`], which is pure. The scheduler
//! binds the pods: each is pinned to its node by affinity.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt};

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::daemonset::plan::Plan;
use crate::controllers::failure::{Doing, Failure};
use crate::controllers::pods::{self, Claim};
use crate::controllers::queue::{Key, Queue};
use crate::controllers::revisions::{self, HASH_LABEL, Revisions};
use crate::controllers::status;
use crate::controllers::work::Controller;
use crate::events::Events;

mod plan;

/// The controller.
pub(crate) struct DaemonSets {
    client: Client,
    queue: Arc<Queue>,
    sets: Arc<Cache<DaemonSet>>,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    revisions: Arc<Cache<ControllerRevision>>,
    events: Events,
}

impl DaemonSets {
    /// Follows DaemonSets, nodes and pods.
    pub(crate) fn new(caches: &Caches) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let (sets, pods) = (caches.all::<DaemonSet>(), caches.all::<Pod>());
        let nodes = caches.all::<Node>();
        let to = queue.clone();
        sets.on_change(move |change| {
            change.states().take(1).for_each(|set| to.add(Key::of(&**set)));
        });
        let to = queue.clone();
        pods.on_change(move |change| {
            let keys = change.states().filter_map(|pod| pods::owner_key(&**pod, "DaemonSet"));
            keys.for_each(|key| to.add(key));
        });
        let (to, known) = (queue.clone(), sets.clone());
        nodes.on_change(move |change| {
            let shape = |node: &Arc<Node>| {
                let spec = node.spec.clone().unwrap_or_default();
                (node.labels().clone(), spec.taints, spec.unschedulable)
            };
            if change.old.map(shape) != change.new.map(shape) {
                known.all().iter().for_each(|set| to.add(Key::of(&**set)));
            }
        });
        let events = Events::new(caches.client(), "daemonset-controller", None);
        let revisions = caches.all::<ControllerRevision>();
        Self { client: caches.client(), queue, sets, pods, nodes, revisions, events }
    }

    async fn apply(&self, set: &DaemonSet, plan: &Plan, hash: &str) -> Result<(), Failure> {
        let about = set.object_ref(&());
        for pod in &plan.delete {
            if pods::phase(pod) == "Failed" {
                let note =
                    format!("Found failed daemon pod {}, will try to kill it", Key::of(&**pod));
                self.events.warning(&about, "FailedDaemonPod", note).await;
            }
            pods::delete(&self.client, &self.pods, pod).await?;
            let note = format!("Deleted pod: {}", pod.name_any());
            self.events.normal(&about, "SuccessfulDelete", note).await;
        }
        let api: Api<Pod> =
            Api::namespaced(self.client.clone(), &set.namespace().unwrap_or_default());
        for node in &plan.create {
            let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
            let prefix = format!("{}-", set.name_any());
            let mut pod = pods::from_template(&template, pods::controller_ref(set)?, &prefix);
            plan::pin(&mut pod, node);
            let labels = pod.metadata.labels.get_or_insert_default();
            labels.insert(HASH_LABEL.into(), hash.to_owned());
            let made = api
                .create(&PostParams::default(), &pod)
                .await
                .doing(|| format!("create the pod of {} on node {node}", Key::of(set)))?;
            self.pods.wrote(&made);
            let note = format!("Created pod: {}", made.name_any());
            self.events.normal(&about, "SuccessfulCreate", note).await;
        }
        Ok(())
    }
}

impl Controller for DaemonSets {
    const NAME: &'static str = "daemonset";

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let Some(set) = self.sets.get(key) else { return Ok(()) };
        let Some(spec) = set.spec.clone() else { return Ok(()) };
        let selector = pods::selector(&spec.selector, &format!("DaemonSet {key}"))?;
        let claim =
            Claim { owner: &*set, selector: &selector, cache: &self.pods, client: &self.client };
        let owned = claim.owned().await?;
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let limit = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        let history = Revisions {
            owner: &*set,
            template: &spec.template,
            client: &self.client,
            cache: &self.revisions,
            limit,
        };
        let hash = revisions::hash(&*history.present().await?);
        let nodes = self.nodes.all();
        let now = Timestamp::now();
        let view = plan::View { set: &set, nodes: &nodes, pods: &owned, hash: &hash, now };
        let plan = view.plan();
        let applied = self.apply(&set, &plan, &hash).await;
        let mut new = view.status();
        new.collision_count = set.status.as_ref().and_then(|status| status.collision_count);
        status::write(&self.client, &self.sets, &set, |set| set.status = Some(new)).await?;
        let in_use: BTreeSet<String> =
            owned.iter().filter_map(|pod| pod.labels().get(HASH_LABEL).cloned()).collect();
        history.forget(&in_use.into_iter().chain([hash.clone()]).collect()).await?;
        if let Some(wait) = view.next_availability() {
            self.queue.add_after(key.clone(), wait);
        }
        applied
    }
}
