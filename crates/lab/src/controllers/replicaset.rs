//! ReplicaSets: as many pods of a template as asked for.
//!
//! Pods are made in growing batches, so that a template the API server refuses costs few calls,
//! and removed in the order that hurts least ([`rank`]).

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::SelectorExt;
use kube::{Api, Client, Resource, ResourceExt};

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::failure::{Doing, Failure, Refused};
use crate::controllers::pods::{self, Claim};
use crate::controllers::queue::{Key, Queue};
use crate::controllers::status;
use crate::controllers::work::Controller;
use crate::events::Events;

mod rank;

/// The controller.
pub struct ReplicaSets {
    client: Client,
    queue: Arc<Queue>,
    sets: Arc<Cache<ReplicaSet>>,
    pods: Arc<Cache<Pod>>,
    events: Events,
}

impl ReplicaSets {
    /// Follows ReplicaSets and their pods.
    pub fn new(caches: &Caches) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let (sets, pods) = (caches.all::<ReplicaSet>(), caches.all::<Pod>());
        let to = queue.clone();
        sets.on_change(move |change| {
            change.states().take(1).for_each(|set| to.add(Key::of(&**set)));
        });
        let (to, known) = (queue.clone(), sets.clone());
        pods.on_change(move |change| {
            let mut owned = false;
            for pod in change.states() {
                if let Some(key) = pods::owner_key(&**pod, "ReplicaSet") {
                    owned = true;
                    to.add(key);
                }
            }
            if let (false, Some(pod)) = (owned, change.new) {
                add_adopters(&to, &known, pod);
            }
        });
        let events = Events::new(caches.client(), "replicaset-controller", None);
        Self { client: caches.client(), queue, sets, pods, events }
    }

    /// Brings the number of active pods to `wanted`; returns what was refused.
    async fn scale(&self, set: &ReplicaSet, active: &[Arc<Pod>]) -> Result<(), Failure> {
        let spec = set.spec.as_ref();
        let wanted = usize::try_from(spec.and_then(|s| s.replicas).unwrap_or(1)).unwrap_or(0);
        if active.len() < wanted {
            return self.create(set, wanted - active.len()).await;
        }
        let excess = active.len() - wanted;
        let now = Timestamp::now();
        for pod in rank::victims(active, excess, now) {
            pods::delete(&self.client, &self.pods, &pod).await?;
            let note = format!("Deleted pod: {}", pod.name_any());
            self.events.normal(&set.object_ref(&()), "SuccessfulDelete", note).await;
        }
        Ok(())
    }

    async fn create(&self, set: &ReplicaSet, count: usize) -> Result<(), Failure> {
        let owner = pods::controller_ref(set)?;
        let namespace = set.namespace().unwrap_or_default();
        let template: PodTemplateSpec =
            set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
        let pod = pods::from_template(&template, owner, &format!("{}-", set.name_any()));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let now = batch.min(left);
            let params = PostParams::default();
            let calls = (0..now).map(|_| api.create(&params, &pod));
            let made: Vec<_> = futures::stream::iter(calls).buffer_unordered(8).collect().await;
            for result in made {
                match result {
                    Ok(pod) => {
                        self.pods.wrote(&pod);
                        let note = format!("Created pod: {}", pod.name_any());
                        let about = set.object_ref(&());
                        self.events.normal(&about, "SuccessfulCreate", note).await;
                    }
                    Err(error) => {
                        let error = Refused(error);
                        let note = format!("Error creating: {error}");
                        self.events.warning(&set.object_ref(&()), "FailedCreate", note).await;
                        return Err(error.0).doing(|| format!("create a pod of {}", Key::of(set)));
                    }
                }
            }
            (left, batch) = (left - now, batch * 2);
        }
        Ok(())
    }
}

/// An orphan may belong to a set that selects it.
fn add_adopters(queue: &Queue, sets: &Cache<ReplicaSet>, pod: &Pod) {
    if pods::controller_of(pod).is_some() {
        return;
    }
    for set in sets.in_namespace(&pod.namespace().unwrap_or_default()) {
        let Some(spec) = set.spec.as_ref() else { continue };
        let selects = pods::selector(&spec.selector, "").is_ok_and(|s| s.matches(pod.labels()));
        if selects {
            queue.add(Key::of(&*set));
        }
    }
}

impl Controller for ReplicaSets {
    const NAME: &'static str = "replicaset";

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let Some(set) = self.sets.get(key) else { return Ok(()) };
        let Some(spec) = set.spec.as_ref() else { return Ok(()) };
        let selector = pods::selector(&spec.selector, &format!("ReplicaSet {key}"))?;
        let claim =
            Claim { owner: &*set, selector: &selector, cache: &self.pods, client: &self.client };
        let owned = claim.owned().await?;
        let active: Vec<_> = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let scaled = if set.metadata.deletion_timestamp.is_none() {
            self.scale(&set, &active).await
        } else {
            Ok(())
        };
        let now = Timestamp::now();
        let new = status_of(&set, &owned, scaled.as_ref().err(), now);
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        let soonest = active.iter().filter_map(|pod| pods::available_in(pod, min_ready, now));
        if let Some(wait) = soonest.filter(|wait| *wait > Duration::ZERO).min() {
            self.queue.add_after(key.clone(), wait + Duration::from_millis(50));
        }
        status::write(&self.client, &self.sets, &set, |set| set.status = Some(new)).await?;
        scaled
    }
}

fn count(number: usize) -> Option<i32> {
    Some(i32::try_from(number).unwrap_or(i32::MAX))
}

/// The status that the pods justify. Zero is left out where Kubernetes leaves it out.
fn status_of(
    set: &ReplicaSet,
    owned: &[Arc<Pod>],
    failed: Option<&Failure>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let wanted = pods::template_labels(&spec.template.unwrap_or_default());
    let active: Vec<_> = owned.iter().filter(|pod| pods::is_active(pod)).collect();
    let labeled = |pod: &&&Arc<Pod>| wanted.iter().all(|(k, v)| pod.labels().get(k) == Some(v));
    let some = |number: usize| count(number).filter(|number| *number > 0);
    let terminating =
        owned.iter().filter(|p| p.metadata.deletion_timestamp.is_some() && !pods::is_finished(p));
    ReplicaSetStatus {
        replicas: count(active.len()).unwrap_or(0),
        fully_labeled_replicas: some(active.iter().filter(labeled).count()),
        ready_replicas: some(active.iter().filter(|pod| pods::is_ready(pod)).count()),
        available_replicas: some(
            active.iter().filter(|pod| pods::is_available(pod, min_ready, now)).count(),
        ),
        observed_generation: set.metadata.generation,
        terminating_replicas: count(terminating.count()),
        conditions: conditions(set, failed, now),
    }
}

fn conditions(
    set: &ReplicaSet,
    failed: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let old = set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let before = old.iter().find(|c| c.type_ == "ReplicaFailure").cloned();
    let mut kept: Vec<_> = old.into_iter().filter(|c| c.type_ != "ReplicaFailure").collect();
    if let Some(failure) = failed {
        let since = before.as_ref().map(|c| (c.status.as_str(), c.last_transition_time.as_ref()));
        kept.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            message: Some(tombolo_runtime::errors::chain(failure).to_string()),
            last_transition_time: Some(pods::transition(since, "True", now)),
        });
    }
    Some(kept).filter(|kept| !kept.is_empty())
}
