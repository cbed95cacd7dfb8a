//! What a Job needs next, and when it has ended. Pure.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::controllers::pods;

/// What a decision is made of.
pub(super) struct View<'a> {
    pub(super) job: &'a Job,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) now: Timestamp,
}

/// What to do.
pub(super) struct Plan {
    pub(super) create: usize,
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) status: JobStatus,
    /// When to look again because of a deadline or a pause after a failure.
    pub(super) again: Option<Duration>,
}

/// The condition that ended the job, if it has ended.
pub(super) fn finished(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

/// How long until a job that has ended is to be removed; `None` when it stays.
pub(super) fn expires_in(job: &Job, now: Timestamp) -> Option<Duration> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let end = finished(job)?.last_transition_time.as_ref()?.0;
    Some(left(end, seconds.into(), now))
}

fn left(since: Timestamp, seconds: i64, now: Timestamp) -> Duration {
    let total = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO);
    total.saturating_sub(passed)
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl View<'_> {
    fn in_phase(&self, phase: &str) -> i32 {
        count(self.pods.iter().filter(|pod| pods::phase(pod) == phase).count())
    }

    /// Why the job is over, as condition, reason and message.
    fn verdict(&self, succeeded: i32, failed: i32) -> Option<[String; 3]> {
        let spec = self.job.spec.clone().unwrap_or_default();
        let fail = |reason: &str, message: &str| {
            Some(["Failed".to_owned(), reason.to_owned(), message.to_owned()])
        };
        if spec.completion_mode.as_deref() == Some("Indexed") {
            return fail("NotSupported", "indexed jobs are not supported by lab clusters");
        }
        if spec.pod_failure_policy.is_some() || spec.success_policy.is_some() {
            return fail("NotSupported", "job policies are not supported by lab clusters");
        }
        if failed > spec.backoff_limit.unwrap_or(6) {
            return fail("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        let started = self.job.status.as_ref().and_then(|status| status.start_time.as_ref());
        if let (Some(deadline), Some(started)) = (spec.active_deadline_seconds, started)
            && left(started.0, deadline, self.now).is_zero()
        {
            return fail("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        let active = self.pods.iter().any(|pod| pods::is_active(pod));
        let done = match spec.completions {
            Some(completions) => succeeded >= completions,
            // Without a number, one success ends the job once the others have ended too.
            None => succeeded > 0 && !active,
        };
        let complete =
            ["Complete", "CompletionsReached", "Reached expected number of succeeded pods"];
        done.then(|| complete.map(str::to_owned))
    }

    pub(super) fn plan(&self) -> Plan {
        let spec = self.job.spec.clone().unwrap_or_default();
        let old = self.job.status.clone().unwrap_or_default();
        let succeeded = self.in_phase("Succeeded").max(old.succeeded.unwrap_or(0));
        let failed = self.in_phase("Failed").max(old.failed.unwrap_or(0));
        let active: Vec<_> = self.pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let suspended = spec.suspend == Some(true);
        let verdict = self.verdict(succeeded, failed);
        let over = verdict.is_some();
        let parallel = spec.parallelism.unwrap_or(1);
        let wanted = match spec.completions {
            _ if over || suspended => 0,
            Some(completions) => parallel.min(completions - succeeded).max(0),
            None if succeeded > 0 => count(active.len()).min(parallel),
            None => parallel,
        };
        let wanted = usize::try_from(wanted).unwrap_or(0);
        let pause = self.pause(failed).filter(|wait| !wait.is_zero() && active.len() < wanted);
        let create = if pause.is_some() { 0 } else { wanted.saturating_sub(active.len()) };
        let delete = active.iter().skip(wanted).cloned().collect();
        let deadline = spec.active_deadline_seconds.zip(old.start_time.as_ref());
        let deadline = deadline.map(|(seconds, since)| left(since.0, seconds, self.now));
        let again = pause.or(deadline.filter(|_| !over));
        Plan { create, delete, status: self.status(old, [succeeded, failed], verdict), again }
    }

    /// After failures the next pod waits: ten seconds, doubling up to six minutes.
    fn pause(&self, failed: i32) -> Option<Duration> {
        let last = self
            .pods
            .iter()
            .filter(|pod| pods::phase(pod) == "Failed")
            .filter_map(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
            .max()?;
        let doublings = u32::try_from(failed - 1).unwrap_or(0).min(6);
        Some(left(last, (10 * (1_i64 << doublings)).min(360), self.now))
    }

    fn status(
        &self,
        old: JobStatus,
        [succeeded, failed]: [i32; 2],
        verdict: Option<[String; 3]>,
    ) -> JobStatus {
        let spec = self.job.spec.clone().unwrap_or_default();
        let some = |number: i32| Some(number).filter(|number| *number > 0);
        let active = self.pods.iter().filter(|pod| pods::is_active(pod));
        let ready = self.pods.iter().filter(|pod| pods::is_active(pod) && pods::is_ready(pod));
        let terminating = self
            .pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_some() && !pods::is_finished(pod));
        let over = verdict.is_some();
        let mut status = JobStatus {
            active: if over { None } else { some(count(active.count())) },
            ready: Some(if over { 0 } else { count(ready.count()) }),
            succeeded: some(succeeded),
            failed: some(failed),
            terminating: Some(if over { 0 } else { count(terminating.count()) }),
            start_time: old.start_time.clone(),
            ..old
        };
        if status.start_time.is_none() && spec.suspend != Some(true) {
            status.start_time = Some(Time(self.now));
        }
        if let Some([kind, reason, message]) = verdict {
            // The API server wants the reason for the end before the end.
            let first = if kind == "Complete" { "SuccessCriteriaMet" } else { "FailureTarget" };
            if kind == "Complete" {
                status.completion_time = Some(Time(self.now));
            }
            let conditions = status.conditions.get_or_insert_default();
            conditions.extend([first, kind.as_str()].map(|kind| JobCondition {
                type_: kind.into(),
                status: "True".into(),
                reason: Some(reason.clone()),
                message: Some(message.clone()),
                last_probe_time: Some(Time(self.now)),
                last_transition_time: Some(Time(self.now)),
            }));
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(spec: Value, phases: &[&str], want: (usize, usize, Option<&str>)) {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "j"},
            "spec": {"template": {}, "parallelism": spec["parallelism"],
                "completions": spec["completions"], "backoffLimit": spec["backoffLimit"],
                "suspend": spec["suspend"]},
        }))
        .unwrap();
        let pod = |(number, phase): (usize, &&str)| -> Arc<Pod> {
            let value = json!({
                "metadata": {"name": number.to_string(), "creationTimestamp": "2020-01-01T00:00:00Z"},
                "status": {"phase": phase},
            });
            Arc::new(serde_json::from_value(value).unwrap())
        };
        let pods: Vec<_> = phases.iter().enumerate().map(pod).collect();
        let plan = View { job: &job, pods: &pods, now: Timestamp::now() }.plan();
        let end = plan.status.conditions.iter().flatten().next_back().map(|c| c.type_.as_str());
        assert_eq!((plan.create, plan.delete.len(), end), want, "{phases:?}");
    }

    #[test]
    fn a_job_runs_as_many_pods_as_it_may_until_enough_have_succeeded() {
        let three = json!({"parallelism": 2, "completions": 3});
        check(three.clone(), &[], (2, 0, None));
        check(three.clone(), &["Succeeded", "Running"], (1, 0, None));
        check(three.clone(), &["Succeeded", "Succeeded", "Running"], (0, 0, None));
        check(three, &["Succeeded"; 3], (0, 0, Some("Complete")));
    }

    #[test]
    fn a_job_that_fails_too_often_ends_and_takes_its_pods_along() {
        let spec = json!({"parallelism": 2, "completions": 5, "backoffLimit": 1});
        check(spec.clone(), &["Failed", "Running"], (1, 0, None));
        check(spec, &["Failed", "Failed", "Running"], (0, 1, Some("Failed")));
    }

    #[test]
    fn a_suspended_job_has_no_pods() {
        let spec = json!({"parallelism": 1, "completions": 1, "suspend": true});
        check(spec, &["Running"], (0, 1, None));
    }
}
