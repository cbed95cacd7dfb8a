//! PodDisruptionBudgets: how many pods may be evicted right now.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::core::{Selector, SelectorExt};
use kube::{Client, ResourceExt};

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::deployment::scaled;
use crate::controllers::failure::Failure;
use crate::controllers::pods;
use crate::controllers::queue::{Key, Queue};
use crate::controllers::status;
use crate::controllers::work::Controller;

/// The controller.
pub(crate) struct Disruptions {
    client: Client,
    queue: Arc<Queue>,
    budgets: Arc<Cache<PodDisruptionBudget>>,
    pods: Arc<Cache<Pod>>,
    deployments: Arc<Cache<Deployment>>,
    replica_sets: Arc<Cache<ReplicaSet>>,
    stateful_sets: Arc<Cache<StatefulSet>>,
}

impl Disruptions {
    /// Follows budgets, pods and what scales them.
    pub(crate) fn new(caches: &Caches) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let budgets = caches.all::<PodDisruptionBudget>();
        let to = queue.clone();
        budgets.on_change(move |change| {
            change.new.into_iter().for_each(|budget| to.add(Key::of(&**budget)));
        });
        let pods = caches.all::<Pod>();
        let (to, known) = (queue.clone(), budgets.clone());
        pods.on_change(move |change| {
            let namespace = change.states().next().and_then(|pod| pod.namespace());
            let all = known.in_namespace(&namespace.unwrap_or_default());
            all.iter().for_each(|budget| to.add(Key::of(&**budget)));
        });
        Self {
            client: caches.client(),
            queue,
            budgets,
            pods,
            deployments: caches.all(),
            replica_sets: caches.all(),
            stateful_sets: caches.all(),
        }
    }

    /// How many pods the controllers of these pods want.
    fn scale(&self, pods: &[Arc<Pod>]) -> i32 {
        let mut scales: BTreeMap<String, i32> = BTreeMap::new();
        for pod in pods {
            let Some(owner) = pods::controller_of(&**pod) else { continue };
            let key = Key::new(&pod.namespace().unwrap_or_default(), &owner.name);
            let set = self.replica_sets.get(&key).filter(|_| owner.kind == "ReplicaSet");
            let above = set.as_ref().and_then(|set| pods::owner_key(&**set, "Deployment"));
            let deployment = above.and_then(|key| self.deployments.get(&key));
            let stateful = self.stateful_sets.get(&key).filter(|_| owner.kind == "StatefulSet");
            let found = deployment
                .and_then(|d| Some((d.uid()?, d.spec.as_ref()?.replicas)))
                .or_else(|| set.and_then(|s| Some((s.uid()?, s.spec.as_ref()?.replicas))))
                .or_else(|| stateful.and_then(|s| Some((s.uid()?, s.spec.as_ref()?.replicas))));
            if let Some((uid, replicas)) = found {
                scales.insert(uid, replicas.unwrap_or(1));
            }
        }
        scales.values().sum()
    }
}

/// Expected, healthy and needed pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    expected: i32,
    healthy: i32,
    needed: i32,
}

fn counts(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], scale: i32) -> Counts {
    let spec = budget.spec.clone().unwrap_or_default();
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let healthy =
        number(pods.iter().filter(|pod| pods::is_active(pod) && pods::is_ready(pod)).count());
    match (spec.max_unavailable, spec.min_available) {
        (Some(most), _) => {
            let needed = (scale - scaled(&most, scale, true)).max(0);
            Counts { expected: scale, healthy, needed }
        }
        (None, Some(IntOrString::Int(least))) => {
            Counts { expected: number(pods.len()), healthy, needed: least }
        }
        (None, Some(share)) => {
            Counts { expected: scale, healthy, needed: scaled(&share, scale, true) }
        }
        (None, None) => Counts { expected: scale, healthy, needed: scale - 1 },
    }
}

fn status_of(budget: &PodDisruptionBudget, counts: Counts) -> PodDisruptionBudgetStatus {
    let old = budget.status.clone().unwrap_or_default();
    let evicted = old.disrupted_pods.as_ref().map_or(0, BTreeMap::len);
    let healthy = counts.healthy - i32::try_from(evicted).unwrap_or(0);
    let allowed = (healthy - counts.needed).max(0);
    let allowed = if counts.expected <= 0 { 0 } else { allowed };
    let (state, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let before = conditions.iter().find(|condition| condition.type_ == "DisruptionAllowed");
    let since = before
        .filter(|before| before.status == state)
        .map_or_else(|| Time(Timestamp::now()), |before| before.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != "DisruptionAllowed");
    conditions.push(Condition {
        type_: "DisruptionAllowed".into(),
        status: state.into(),
        reason: reason.into(),
        message: String::new(),
        last_transition_time: since,
        observed_generation: budget.metadata.generation,
    });
    PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: Some(counts.healthy),
        desired_healthy: Some(counts.needed),
        disrupted_pods: old.disrupted_pods,
        disruptions_allowed: Some(allowed),
        expected_pods: Some(counts.expected),
        observed_generation: budget.metadata.generation,
    }
}

impl Controller for Disruptions {
    const NAME: &'static str = "disruption";

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let Some(budget) = self.budgets.get(key) else { return Ok(()) };
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.clone());
        let Some(selector) = selector else { return Ok(()) };
        let selector = Selector::try_from(selector).map_err(|error| {
            Failure::Object(format!("selector of PodDisruptionBudget {key}: {error}"))
        })?;
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| selector.matches(pod.labels()));
        let mut wanted = status_of(&budget, counts(&budget, &pods, self.scale(&pods)));
        // An eviction is over once the pod is gone or on its way out.
        if let Some(evicted) = wanted.disrupted_pods.as_mut() {
            evicted.retain(|name, _| {
                let pod = pods.iter().find(|pod| pod.name_any() == *name);
                pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none())
            });
        }
        wanted.disrupted_pods = wanted.disrupted_pods.filter(|evicted| !evicted.is_empty());
        let change = |budget: &mut PodDisruptionBudget| budget.status = Some(wanted);
        status::write(&self.client, &self.budgets, &budget, change).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(spec: Value, ready: usize, scale: i32, want: (i32, i32)) {
        let budget: PodDisruptionBudget =
            serde_json::from_value(json!({"metadata": {"name": "b"}, "spec": spec})).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}))
        .unwrap();
        let pod = Arc::new(pod);
        let pods: Vec<_> = std::iter::repeat_n(pod, ready).collect();
        let status = status_of(&budget, counts(&budget, &pods, scale));
        assert_eq!(
            (status.desired_healthy, status.disruptions_allowed),
            (Some(want.0), Some(want.1))
        );
    }

    #[test]
    fn what_may_be_evicted_follows_from_either_limit() {
        check(json!({"minAvailable": 1}), 3, 3, (1, 2));
        check(json!({"minAvailable": 1}), 1, 1, (1, 0));
        check(json!({"minAvailable": "50%"}), 3, 3, (2, 1));
        check(json!({"maxUnavailable": 1}), 3, 3, (2, 1));
        check(json!({"maxUnavailable": 1}), 2, 3, (2, 0));
    }
}
