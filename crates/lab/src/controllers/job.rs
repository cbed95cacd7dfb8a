//! Jobs: pods that run until enough of them have succeeded.
//!
//! What to do is decided by [`plan`], which is pure. Succeeded and failed pods are counted by
//! looking at them, and a count never goes down; indexed jobs and pod failure policies are refused
//! by a `Failed` condition that says so.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::failure::{Doing, Failure, unless_gone};
use crate::controllers::job::plan::View;
use crate::controllers::pods::{self, Claim};
use crate::controllers::queue::{Key, Queue};
use crate::controllers::status;
use crate::controllers::work::Controller;
use crate::events::Events;

mod plan;

/// The controller.
pub(crate) struct Jobs {
    client: Client,
    queue: Arc<Queue>,
    jobs: Arc<Cache<Job>>,
    pods: Arc<Cache<Pod>>,
    events: Events,
}

impl Jobs {
    /// Follows Jobs and their pods.
    pub(crate) fn new(caches: &Caches) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let (jobs, pods) = (caches.all::<Job>(), caches.all::<Pod>());
        let to = queue.clone();
        jobs.on_change(move |change| {
            change.states().take(1).for_each(|job| to.add(Key::of(&**job)));
        });
        let to = queue.clone();
        pods.on_change(move |change| {
            let keys = change.states().filter_map(|pod| pods::owner_key(&**pod, "Job"));
            keys.for_each(|key| to.add(key));
        });
        let events = Events::new(caches.client(), "job-controller", None);
        Self { client: caches.client(), queue, jobs, pods, events }
    }

    async fn create(&self, job: &Job, count: usize) -> Result<(), Failure> {
        let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let prefix = format!("{}-", job.name_any());
        let pod = pods::from_template(&template, pods::controller_ref(job)?, &prefix);
        let key = Key::of(job);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        for _ in 0..count {
            let made = api
                .create(&PostParams::default(), &pod)
                .await
                .doing(|| format!("create a pod of Job {key}"))?;
            self.pods.wrote(&made);
            let note = format!("Created pod: {}", made.name_any());
            self.events.normal(&job.object_ref(&()), "SuccessfulCreate", note).await;
        }
        Ok(())
    }

    async fn write_status(&self, job: &Job, new: JobStatus) -> Result<(), Failure> {
        let change = |job: &mut Job| job.status = Some(new);
        let written = status::write(&self.client, &self.jobs, job, change).await?;
        let end = written.as_ref().and_then(plan::finished);
        if let (None, Some(end)) = (plan::finished(job), end) {
            let about = job.object_ref(&());
            let message = end.message.clone().unwrap_or_default();
            if end.type_ == "Complete" {
                self.events.normal(&about, "Completed", "Job completed".into()).await;
            } else {
                let reason = end.reason.clone().unwrap_or_default();
                self.events.warning(&about, &reason, message).await;
            }
        }
        Ok(())
    }

    /// Removes a job whose time after its end is over.
    async fn expire(&self, job: &Job) -> Result<(), Failure> {
        let Some(wait) = plan::expires_in(job, Timestamp::now()) else { return Ok(()) };
        let key = Key::of(job);
        if !wait.is_zero() {
            self.queue.add_after(key, wait);
            return Ok(());
        }
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        unless_gone(api.delete(&key.name, &DeleteParams::background()).await)
            .doing(|| format!("delete Job {key}, whose time is over"))?;
        Ok(())
    }
}

impl Controller for Jobs {
    const NAME: &'static str = "job";

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let Some(job) = self.jobs.get(key) else { return Ok(()) };
        if job.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        if plan::finished(&job).is_some() {
            return self.expire(&job).await;
        }
        let Some(selector) = job.spec.as_ref().and_then(|spec| spec.selector.clone()) else {
            return Ok(());
        };
        let selector = pods::selector(&selector, &format!("Job {key}"))?;
        let claim =
            Claim { owner: &*job, selector: &selector, cache: &self.pods, client: &self.client };
        let owned = claim.owned().await?;
        let view = View { job: &job, pods: &owned, now: Timestamp::now() };
        let plan = view.plan();
        for pod in &plan.delete {
            pods::delete(&self.client, &self.pods, pod).await?;
            let note = format!("Deleted pod: {}", pod.name_any());
            self.events.normal(&job.object_ref(&()), "SuccessfulDelete", note).await;
        }
        let created = self.create(&job, plan.create).await;
        if let Some(wait) = plan.again {
            self.queue.add_after(key.clone(), wait);
        }
        self.write_status(&job, plan.status).await?;
        created
    }
}
