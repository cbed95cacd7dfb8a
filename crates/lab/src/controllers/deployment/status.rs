//! What a Deployment's status says: counts, and the conditions that `kubectl rollout status` and
//! `kubectl wait` read. Pure.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::controllers::deployment::rollout::Strategy;

const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// What a pass did that the `Progressing` condition tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Created(String),
    Found(String),
}

/// What a status is made of.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) all: &'a [Arc<ReplicaSet>],
    pub(super) new: Option<&'a ReplicaSet>,
    pub(super) event: Option<&'a Event>,
    pub(super) now: Timestamp,
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_deref().unwrap_or_default().iter().find(|c| c.type_ == kind)
}

fn reason(status: &DeploymentStatus) -> &str {
    find(status, "Progressing").and_then(|c| c.reason.as_deref()).unwrap_or_default()
}

/// Whether nothing is said about progress yet.
pub(super) fn has_no_progress(status: &DeploymentStatus) -> bool {
    find(status, "Progressing").is_none()
}

/// Whether everything asked for is there, and nothing else.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

/// When to look again because the progress deadline may have passed.
pub(super) fn deadline_in(
    spec: &DeploymentSpec,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let deadline = spec.progress_deadline_seconds.filter(|seconds| *seconds < i32::MAX)?;
    let progressing = find(status, "Progressing")?;
    if matches!(reason(status), COMPLETE | TIMED_OUT | PAUSED) {
        return None;
    }
    let since = progressing.last_update_time.as_ref()?.0;
    let total = Duration::from_secs(u64::try_from(deadline).unwrap_or(0));
    let waited = Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO);
    Some(total.saturating_sub(waited))
}

impl Facts<'_> {
    /// The status that follows.
    pub(super) fn status(&self) -> DeploymentStatus {
        let mut status = self.counts();
        let old = self.deployment.status.clone().unwrap_or_default();
        status.conditions = old.conditions.clone();
        self.put_available(&mut status);
        self.put_progress(&old, &mut status);
        self.put_failure(&mut status);
        status
    }

    fn wanted(&self) -> i32 {
        self.deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn counts(&self) -> DeploymentStatus {
        let of = |read: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
            self.all.iter().filter_map(|set| set.status.as_ref()).map(read).sum()
        };
        let asked: i32 = self.all.iter().filter_map(|s| s.spec.as_ref()?.replicas).sum();
        let available = of(|status| status.available_replicas.unwrap_or(0));
        let updated = self.new.and_then(|set| set.status.as_ref()).map_or(0, |s| s.replicas);
        let some = |number: i32| Some(number).filter(|number| *number > 0);
        DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: some(of(|status| status.replicas)),
            updated_replicas: some(updated),
            ready_replicas: some(of(|status| status.ready_replicas.unwrap_or(0))),
            available_replicas: some(available),
            unavailable_replicas: some(asked - available),
            terminating_replicas: Some(of(|status| status.terminating_replicas.unwrap_or(0))),
            collision_count: self.deployment.status.as_ref().and_then(|s| s.collision_count),
            conditions: None,
        }
    }

    fn put_available(&self, status: &mut DeploymentStatus) {
        let strategy = self.deployment.spec.as_ref().map_or(Strategy::Recreate, Strategy::of);
        let least = self.wanted() - strategy.unavailable(self.wanted());
        let (state, reason, message) = if status.available_replicas.unwrap_or(0) >= least {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            let message = "Deployment does not have minimum availability.";
            ("False", "MinimumReplicasUnavailable", message)
        };
        self.put(status, ["Available", state, reason], message.into());
    }

    fn put_failure(&self, status: &mut DeploymentStatus) {
        let failures = self.new.into_iter().chain(self.all.iter().map(|set| &**set));
        let found = failures
            .filter_map(|set| set.status.as_ref()?.conditions.as_ref())
            .flat_map(|conditions| conditions.iter().find(|c| c.type_ == "ReplicaFailure"))
            .next();
        match found {
            Some(failure) => {
                let reason = failure.reason.clone().unwrap_or_default();
                let message = failure.message.clone().unwrap_or_default();
                self.put(status, ["ReplicaFailure", &failure.status, &reason], message);
            }
            None => {
                if let Some(conditions) = status.conditions.as_mut() {
                    conditions.retain(|c| c.type_ != "ReplicaFailure");
                }
            }
        }
    }

    fn subject(&self) -> String {
        match self.new {
            Some(set) => format!("ReplicaSet \"{}\"", set.name_any()),
            None => format!("Deployment \"{}\"", self.deployment.name_any()),
        }
    }

    fn put_progress(&self, old: &DeploymentStatus, status: &mut DeploymentStatus) {
        let spec = self.deployment.spec.clone().unwrap_or_default();
        let has_deadline = spec.progress_deadline_seconds.is_some_and(|s| s < i32::MAX);
        if !has_deadline {
            if let Some(conditions) = status.conditions.as_mut() {
                conditions.retain(|c| c.type_ != "Progressing");
            }
            return;
        }
        if spec.paused == Some(true) {
            if reason(old) != TIMED_OUT {
                self.put(status, ["Progressing", "Unknown", PAUSED], "Deployment is paused".into());
            }
            return;
        }
        if reason(old) == PAUSED {
            let message = "Deployment is resumed".into();
            self.put(status, ["Progressing", "Unknown", "DeploymentResumed"], message);
        }
        match self.event {
            Some(Event::Created(name)) => {
                let message = format!("Created new replica set \"{name}\"");
                self.put_now(status, "NewReplicaSetCreated", message);
            }
            Some(Event::Found(name)) => {
                let message = format!("Found new replica set \"{name}\"");
                self.put_now(status, "FoundNewReplicaSet", message);
            }
            None => (),
        }
        let settled = status.replicas == status.updated_replicas && reason(old) == COMPLETE;
        if settled && self.event.is_none() {
            return;
        }
        if is_complete(self.deployment, status) {
            let message = format!("{} has successfully progressed.", self.subject());
            self.put(status, ["Progressing", "True", COMPLETE], message);
        } else if progressed(old, status) {
            let message = format!("{} is progressing.", self.subject());
            self.put_now(status, "ReplicaSetUpdated", message);
        } else if self.timed_out(&spec, status) {
            let message = format!("{} has timed out progressing.", self.subject());
            self.put(status, ["Progressing", "False", TIMED_OUT], message);
        }
    }

    fn timed_out(&self, spec: &DeploymentSpec, status: &DeploymentStatus) -> bool {
        deadline_in(spec, status, self.now) == Some(Duration::ZERO)
    }

    /// Progress was made: true, as of now.
    fn put_now(&self, status: &mut DeploymentStatus, reason: &str, message: String) {
        self.put(status, ["Progressing", "True", reason], message);
        let conditions = status.conditions.iter_mut().flatten();
        for condition in conditions.filter(|c| c.type_ == "Progressing") {
            condition.last_update_time = Some(Time(self.now));
        }
    }

    /// Sets a condition; one that says the same already keeps its times.
    fn put(
        &self,
        status: &mut DeploymentStatus,
        [kind, state, reason]: [&str; 3],
        message: String,
    ) {
        let before = find(status, kind).cloned();
        if let Some(before) = &before
            && before.status == state
            && before.reason.as_deref() == Some(reason)
        {
            return;
        }
        let since = match before {
            Some(before) if before.status == state => before.last_transition_time,
            _ => Some(Time(self.now)),
        };
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|c| c.type_ != kind);
        conditions.push(DeploymentCondition {
            type_: kind.into(),
            status: state.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: since,
            last_update_time: Some(Time(self.now)),
        });
    }
}

fn progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let rest = |s: &DeploymentStatus| s.replicas.unwrap_or(0) - s.updated_replicas.unwrap_or(0);
    new.updated_replicas.unwrap_or(0) > old.updated_replicas.unwrap_or(0)
        || rest(new) < rest(old)
        || new.ready_replicas.unwrap_or(0) > old.ready_replicas.unwrap_or(0)
        || new.available_replicas.unwrap_or(0) > old.available_replicas.unwrap_or(0)
}
