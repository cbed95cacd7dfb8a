//! Ending containers: hooks, signals, the order among them, and what is given back afterwards.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LifecycleHandler, Pod};
use kube::api::{Api, DeleteParams, Preconditions};
use nix::sys::signal::Signal;
use tokio::time::Instant;
use tombolo_runtime::errors::chain;

use crate::node::pod::hooks::Asked;
use crate::node::pod::plan::Outcome;
use crate::node::pod::process::Process;
use crate::node::pod::record::{self, Role};
use crate::node::pod::volumes::remove_folder;
use crate::node::pod::work::{Network, RETRY, Worker};

/// Every container gets this long between SIGTERM and SIGKILL, even when hooks used up the time.
const LEAST: Duration = Duration::from_secs(2);

/// How one run is ended.
struct Ending {
    asked: Asked,
    hook: Option<LifecycleHandler>,
    grace: Duration,
    /// Runs that must end before this one is asked to.
    before: Vec<Arc<Process>>,
}

impl Worker {
    /// Begins to end every container: the pod's own at once, sidecars after those, in reverse
    /// order.
    pub(super) fn stop_everything(&mut self) {
        self.stopping = true;
        let deleted = self.pod.metadata.deletion_grace_period_seconds;
        let spec = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        // An object that is gone can only be cleaned up after.
        let grace = if self.gone { Some(0) } else { deleted.or(spec) };
        if grace == Some(0) {
            self.signal_all(Signal::SIGKILL);
        }
        for index in self.runs.keys().copied().collect::<Vec<_>>() {
            self.stop_one(index, "", grace);
        }
    }

    /// Begins to end one container, unless that has begun already. `why` goes into the event.
    pub(super) fn stop_one(&mut self, index: usize, why: &str, grace: Option<i64>) {
        let whole = self.stopping;
        let Some(run) = self.runs.get(&index) else { return };
        let process = Arc::clone(&run.process);
        let Some(container) = record::container(&self.pod, index).cloned() else { return };
        let before = if whole { self.before(index) } else { Vec::new() };
        let Some(record) = self.records.get_mut(index) else { return };
        if std::mem::replace(&mut record.stopping, true) {
            return;
        }
        let text = if why.is_empty() {
            format!("Stopping container {}", record.name)
        } else {
            format!("Container {} {why}", record.name)
        };
        self.node.events.normal(&self.pod, Some(&record.name), "Killing", text);
        let spec = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let grace = grace.or(spec).and_then(|grace| u64::try_from(grace).ok()).unwrap_or(30);
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone());
        let pod_ip = self.progress.pod_ip.clone().unwrap_or_default();
        let asked = Asked { container, process, pod_ip, program: self.node.program.clone() };
        let ending = Ending { asked, hook, grace: Duration::from_secs(grace), before };
        let (events, pod) = (self.node.events.clone(), Arc::clone(&self.pod));
        self.node.shutdown.spawn("stop container", async move {
            let name = ending.asked.container.name.clone();
            if let Some(error) = ending.run().await {
                events.warning(
                    &pod,
                    Some(&name),
                    "FailedPreStopHook",
                    format!("PreStopHook failed: {error}"),
                );
            }
        });
    }

    /// The runs that must have ended before a sidecar may.
    fn before(&self, index: usize) -> Vec<Arc<Process>> {
        if self.records.get(index).is_none_or(|record| record.role != Role::Sidecar) {
            return Vec::new();
        }
        self.runs
            .iter()
            .filter(|(other, _)| **other > index)
            .map(|(_, run)| Arc::clone(&run.process))
            .collect()
    }

    /// Notes how the pod ended and gives its place back.
    pub(super) async fn finish(&mut self, outcome: Outcome) {
        self.progress.outcome = Some(outcome);
        self.give_back().await;
    }

    /// Reports the end of a deleted pod, gives its place back and removes its object.
    pub(super) async fn leave(&mut self) {
        if !self.gone {
            if self.progress.outcome.is_none() {
                let failed = self
                    .records
                    .iter()
                    .any(|record| record.role == Role::Main && !record.succeeded());
                self.progress.outcome =
                    Some(if failed { Outcome::Failed } else { Outcome::Succeeded });
                self.report().await;
            }
            self.give_back().await;
            if !self.remove_object().await {
                self.wake = Some(Instant::now() + RETRY);
                return;
            }
        }
        self.give_back().await;
        if let Err(error) = self.volumes.remove().and_then(|()| remove_folder(&self.live.folder)) {
            tracing::warn!(%error, folder = %self.live.folder.display(), "pod's folder could not be removed");
        }
        self.done = true;
    }

    async fn give_back(&mut self) {
        *self.live.entrance.lock() = None;
        if let Some(Network::Own(sandbox)) = self.network.take() {
            let address = sandbox.address;
            if let Err(error) = sandbox.remove(&self.node.links).await {
                tracing::warn!(error = %chain(&error), "pod's network could not be removed");
            }
            self.node.addresses.lock().give_back(address);
        }
    }

    /// Removes the pod's object; false when it must be tried again.
    async fn remove_object(&mut self) -> bool {
        let meta = &self.pod.metadata;
        let (Some(name), Some(namespace)) = (&meta.name, &meta.namespace) else { return true };
        let only_this = Preconditions { uid: meta.uid.clone(), resource_version: None };
        let params = DeleteParams::default().grace_period(0).preconditions(only_this);
        match Api::<Pod>::namespaced(self.node.client.clone(), namespace)
            .delete(name, &params)
            .await
        {
            Ok(_) => true,
            // Gone, or another pod of the same name.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => true,
            Err(error) => {
                tracing::warn!(error = %chain(&error), %namespace, pod = %name, "pod could not be removed, trying again");
                false
            }
        }
    }
}

impl Ending {
    /// Ends the run; returns why its hook failed.
    async fn run(self) -> Option<String> {
        let deadline = Instant::now() + self.grace;
        let process = Arc::clone(&self.asked.process);
        let mut failed = None;
        if let Some(hook) = self.hook.as_ref().filter(|_| !self.grace.is_zero()) {
            tokio::select! {
                result = tokio::time::timeout_at(deadline, self.asked.hook(hook)) => {
                    failed = result.map_err(|_| "it took longer than the grace period".to_owned()).and_then(|result| result).err();
                }
                () = process.ended() => return None,
            }
        }
        if !self.before.is_empty() {
            let others =
                futures::future::join_all(self.before.iter().map(|process| process.ended()));
            // Late or not, it is this one's turn now.
            let _late = tokio::time::timeout_at(deadline, others).await;
        }
        process.signal(Signal::SIGTERM);
        let rest = deadline.saturating_duration_since(Instant::now());
        let rest = if self.grace.is_zero() { rest } else { rest.max(LEAST) };
        // Waiting for a process that will never hear the signal would only delay everyone.
        let rest = if process.heeds_termination() { rest } else { Duration::ZERO };
        if tokio::time::timeout(rest, process.ended()).await.is_err() {
            process.signal(Signal::SIGKILL);
            process.ended().await;
        }
        failed
    }
}
