//! StatefulSets: pods with a name and a place each, made and removed in order.
//!
//! What to do next is decided by [`plan`], which is pure. Volume claims are not there in lab
//! clusters: a set that asks for them gets an event that says so, and no pods.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt};

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::failure::{Doing, Failure, already_exists};
use crate::controllers::pods::{self, Claim};
use crate::controllers::queue::{Key, Queue};
use crate::controllers::revisions::{HASH_LABEL, Revisions};
use crate::controllers::statefulset::plan::{Step, View};
use crate::controllers::status;
use crate::controllers::work::Controller;
use crate::events::Events;

mod plan;

/// The controller.
pub(crate) struct StatefulSets {
    client: Client,
    queue: Arc<Queue>,
    sets: Arc<Cache<StatefulSet>>,
    pods: Arc<Cache<Pod>>,
    revisions: Arc<Cache<ControllerRevision>>,
    events: Events,
}

impl StatefulSets {
    /// Follows StatefulSets and their pods.
    pub(crate) fn new(caches: &Caches) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let (sets, pods) = (caches.all::<StatefulSet>(), caches.all::<Pod>());
        let to = queue.clone();
        sets.on_change(move |change| {
            change.states().take(1).for_each(|set| to.add(Key::of(&**set)));
        });
        let to = queue.clone();
        pods.on_change(move |change| {
            let keys = change.states().filter_map(|pod| pods::owner_key(&**pod, "StatefulSet"));
            keys.for_each(|key| to.add(key));
        });
        let events = Events::new(caches.client(), "statefulset-controller", None);
        let revisions = caches.all::<ControllerRevision>();
        Self { client: caches.client(), queue, sets, pods, revisions, events }
    }

    async fn step(&self, set: &StatefulSet, step: &Step) -> Result<(), Failure> {
        let about = set.object_ref(&());
        match step {
            Step::Create(pod) => {
                let mut pod = (**pod).clone();
                pod.metadata.owner_references = Some(vec![pods::controller_ref(set)?]);
                let name = pod.name_any();
                let api: Api<Pod> =
                    Api::namespaced(self.client.clone(), &set.namespace().unwrap_or_default());
                match api.create(&PostParams::default(), &pod).await {
                    Ok(made) => self.pods.wrote(&made),
                    // The one before has not gone yet.
                    Err(error) if already_exists(&error) => return Ok(()),
                    Err(error) => {
                        return Err(error).doing(|| format!("create pod {name}"));
                    }
                }
                let set = set.name_any();
                let note = format!("create Pod {name} in StatefulSet {set} successful");
                self.events.normal(&about, "SuccessfulCreate", note).await;
            }
            Step::Delete(pod) => {
                pods::delete(&self.client, &self.pods, pod).await?;
                let (name, set) = (pod.name_any(), set.name_any());
                let note = format!("delete Pod {name} in StatefulSet {set} successful");
                self.events.normal(&about, "SuccessfulDelete", note).await;
            }
        }
        Ok(())
    }
}

impl Controller for StatefulSets {
    const NAME: &'static str = "statefulset";

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let Some(set) = self.sets.get(key) else { return Ok(()) };
        let Some(spec) = set.spec.clone() else { return Ok(()) };
        let selector = pods::selector(&spec.selector, &format!("StatefulSet {key}"))?;
        let claim =
            Claim { owner: &*set, selector: &selector, cache: &self.pods, client: &self.client };
        let owned = claim.owned().await?;
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        if spec.volume_claim_templates.as_ref().is_some_and(|claims| !claims.is_empty()) {
            let note = "volumeClaimTemplates are not supported by lab clusters, which have no \
                        persistent volumes: use an emptyDir volume";
            self.events.warning(&set.object_ref(&()), "FailedCreate", note.into()).await;
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
        let update = history.present().await?.name_any();
        let view = View { set: &set, pods: &owned, update: &update, now: Timestamp::now() };
        let mut outcome = Ok(());
        for step in view.steps() {
            outcome = self.step(&set, &step).await;
            if outcome.is_err() {
                break;
            }
        }
        let new = view.status();
        status::write(&self.client, &self.sets, &set, |set| set.status = Some(new)).await?;
        if let Some(wait) = view.next_availability() {
            self.queue.add_after(key.clone(), wait);
        }
        let prefix = format!("{}-", set.name_any());
        let labels = owned.iter().filter_map(|pod| pod.labels().get(HASH_LABEL));
        let in_use: BTreeSet<String> = labels
            .chain([&update])
            .chain(set.status.as_ref().and_then(|status| status.current_revision.as_ref()))
            .map(|name| name.strip_prefix(&prefix).unwrap_or(name).to_owned())
            .collect();
        history.forget(&in_use).await?;
        outcome
    }
}
