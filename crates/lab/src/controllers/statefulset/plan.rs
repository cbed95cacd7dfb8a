//! Which pod of a StatefulSet comes or goes next. Pure.
//!
//! Pods are numbered. In order, a pod is made when all before it are available, and removed when
//! all after it are gone; an update goes from the last to the first, one pod at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::ObjectMeta;

use crate::controllers::pods;
use crate::controllers::revisions::HASH_LABEL;

/// What a decision is made of.
pub(super) struct View<'a> {
    pub(super) set: &'a StatefulSet,
    pub(super) pods: &'a [Arc<Pod>],
    /// The revision of the present template.
    pub(super) update: &'a str,
    pub(super) now: Timestamp,
}

/// One thing to do.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Create(Box<Pod>),
    Delete(Arc<Pod>),
}

impl View<'_> {
    fn spec(&self) -> StatefulSetSpec {
        self.set.spec.clone().unwrap_or_default()
    }

    fn first(&self) -> i32 {
        self.spec().ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0)
    }

    fn wanted(&self) -> i32 {
        self.spec().replicas.unwrap_or(1)
    }

    fn parallel(&self) -> bool {
        self.spec().pod_management_policy.as_deref() == Some("Parallel")
    }

    /// The pods by their number.
    fn by_number(&self) -> BTreeMap<i32, &Arc<Pod>> {
        let prefix = format!("{}-", self.set.name_any());
        let number = |pod: &Arc<Pod>| pod.name_any().strip_prefix(&prefix)?.parse().ok();
        self.pods.iter().filter_map(|pod| Some((number(pod)?, pod))).collect()
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let min_ready = self.spec().min_ready_seconds.unwrap_or(0);
        pods::is_active(pod)
            && pods::phase(pod) == "Running"
            && pods::is_available(pod, min_ready, self.now)
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        pod.labels().get(HASH_LABEL).is_some_and(|revision| revision == self.update)
    }

    fn pod(&self, number: i32) -> Pod {
        let template = self.spec().template;
        let meta = template.metadata.unwrap_or_default();
        let name = format!("{}-{number}", self.set.name_any());
        let mut labels = meta.labels.unwrap_or_default();
        labels.insert(HASH_LABEL.into(), self.update.to_owned());
        labels.insert("statefulset.kubernetes.io/pod-name".into(), name.clone());
        labels.insert("apps.kubernetes.io/pod-index".into(), number.to_string());
        let mut spec = template.spec.unwrap_or_default();
        spec.hostname = Some(name.clone());
        spec.subdomain = self.spec().service_name.filter(|name| !name.is_empty());
        let metadata = ObjectMeta {
            name: Some(name),
            labels: Some(labels),
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            ..ObjectMeta::default()
        };
        Pod { metadata, spec: Some(spec), status: None }
    }

    pub(super) fn steps(&self) -> Vec<Step> {
        let held = self.by_number();
        let wanted = self.first()..self.first() + self.wanted();
        let mut steps = Vec::new();
        for number in wanted.clone() {
            match held.get(&number) {
                None => steps.push(Step::Create(Box::new(self.pod(number)))),
                Some(pod)
                    if pods::is_finished(pod) && pod.metadata.deletion_timestamp.is_none() =>
                {
                    steps.push(Step::Delete((*pod).clone()));
                }
                Some(pod) if self.is_available(pod) || self.parallel() => continue,
                // In order: what comes after waits for this one.
                Some(_) => return steps,
            }
            if !self.parallel() {
                return steps;
            }
        }
        let excess = held.iter().rev().filter(|(number, _)| !wanted.contains(number));
        for (_, pod) in excess {
            if pod.metadata.deletion_timestamp.is_none() {
                steps.push(Step::Delete((*pod).clone()));
            }
            if !self.parallel() {
                return steps;
            }
        }
        steps.extend(self.next_update(&held));
        steps
    }

    /// The last pod that is of an old template, once all after it are available again.
    fn next_update(&self, held: &BTreeMap<i32, &Arc<Pod>>) -> Option<Step> {
        let strategy = self.spec().update_strategy.unwrap_or_default();
        if strategy.type_.as_deref() == Some("OnDelete") {
            return None;
        }
        let partition = strategy.rolling_update.and_then(|rolling| rolling.partition).unwrap_or(0);
        let from = self.first().max(partition);
        let within = from..self.first() + self.wanted();
        for (_, pod) in held.iter().rev().filter(|(number, _)| within.contains(number)) {
            if pod.metadata.deletion_timestamp.is_some() {
                return None;
            }
            if !self.is_updated(pod) {
                return Some(Step::Delete((*pod).clone()));
            }
            if !self.is_available(pod) {
                return None;
            }
        }
        None
    }

    pub(super) fn status(&self) -> StatefulSetStatus {
        let old = self.set.status.clone().unwrap_or_default();
        let active: Vec<_> = self.pods.iter().filter(|pod| pods::is_active(pod)).collect();
        let count = |wanted: &dyn Fn(&Pod) -> bool| -> i32 {
            i32::try_from(active.iter().filter(|pod| wanted(pod)).count()).unwrap_or(i32::MAX)
        };
        let some = |number: i32| Some(number).filter(|number| *number > 0);
        let updated = count(&|pod| self.is_updated(pod));
        let ready = count(&pods::is_ready);
        let replicas = count(&|_| true);
        let before = old.current_revision.clone().unwrap_or_else(|| self.update.to_owned());
        let done = updated == self.wanted() && replicas == updated && ready == updated;
        let current = if done { self.update.to_owned() } else { before };
        let is_current =
            |pod: &Pod| pod.labels().get(HASH_LABEL).is_some_and(|revision| *revision == current);
        StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas,
            ready_replicas: some(ready),
            available_replicas: Some(count(&|pod| self.is_available(pod))),
            current_replicas: some(count(&is_current)),
            updated_replicas: some(updated),
            current_revision: Some(current),
            update_revision: Some(self.update.to_owned()),
            collision_count: Some(old.collision_count.unwrap_or(0)),
            conditions: old.conditions,
        }
    }

    /// When the next pod that is ready will have been so for long enough.
    pub(super) fn next_availability(&self) -> Option<Duration> {
        let min_ready = self.spec().min_ready_seconds.unwrap_or(0);
        let waits = self.pods.iter().filter_map(|pod| pods::available_in(pod, min_ready, self.now));
        let next = waits.filter(|wait| *wait > Duration::ZERO).min();
        next.map(|wait| wait + Duration::from_millis(50))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(replicas: i32, policy: &str, pods: &[(i32, &str, &str)], want: &[&str]) {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "db"},
            "spec": {"replicas": replicas, "podManagementPolicy": policy, "serviceName": "db",
                "selector": {}, "template": {}},
        }))
        .unwrap();
        let pod = |(number, state, revision): &(i32, &str, &str)| -> Arc<Pod> {
            let ready = if *state == "ready" { "True" } else { "False" };
            let phase = if *state == "failed" { "Failed" } else { "Running" };
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"name": format!("db-{number}"), "labels": {HASH_LABEL: revision}},
                    "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
                }))
                .unwrap(),
            )
        };
        let pods: Vec<_> = pods.iter().map(pod).collect();
        let view = View { set: &set, pods: &pods, update: "new", now: Timestamp::now() };
        let shown: Vec<_> = view
            .steps()
            .iter()
            .map(|step| match step {
                Step::Create(pod) => format!("+{}", pod.name_any()),
                Step::Delete(pod) => format!("-{}", pod.name_any()),
            })
            .collect();
        assert_eq!(shown, want, "{pods:?}");
    }

    #[test]
    fn pods_come_in_order_and_each_waits_for_the_one_before() {
        check(3, "OrderedReady", &[], &["+db-0"]);
        check(3, "OrderedReady", &[(0, "starting", "new")], &[]);
        check(3, "OrderedReady", &[(0, "ready", "new")], &["+db-1"]);
        check(3, "Parallel", &[], &["+db-0", "+db-1", "+db-2"]);
    }

    #[test]
    fn pods_go_from_the_last_and_failed_ones_are_replaced() {
        let three = [(0, "ready", "new"), (1, "ready", "new"), (2, "ready", "new")];
        check(1, "OrderedReady", &three, &["-db-2"]);
        check(1, "Parallel", &three, &["-db-2", "-db-1"]);
        check(2, "OrderedReady", &[(0, "failed", "new"), (1, "ready", "new")], &["-db-0"]);
    }

    #[test]
    fn an_update_goes_from_the_last_pod_to_the_first() {
        let old = [(0, "ready", "old"), (1, "ready", "old")];
        check(2, "OrderedReady", &old, &["-db-1"]);
        check(2, "OrderedReady", &[(0, "ready", "old"), (1, "starting", "new")], &[]);
        check(2, "OrderedReady", &[(0, "ready", "old"), (1, "ready", "new")], &["-db-0"]);
    }
}
