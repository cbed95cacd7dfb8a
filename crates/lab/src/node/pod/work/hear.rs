//! What a pod's containers tell: their end, what probes find, how hooks went.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use tokio::sync::watch;

use crate::node::pod::hooks::Asked;
use crate::node::pod::probes::{self, Finding, Kind};
use crate::node::pod::process::Process;
use crate::node::pod::record;
use crate::node::pod::work::{Happening, Run, Worker};

impl Worker {
    /// Starts the probes and the postStart hook of a run.
    pub(super) fn observe(&mut self, index: usize, container: &Container, process: Arc<Process>) {
        let asked = Asked {
            container: container.clone(),
            process: Arc::clone(&process),
            pod_ip: self.progress.pod_ip.clone().unwrap_or_default(),
            program: self.node.program.clone(),
        };
        let (started, receiver) = watch::channel(false);
        let all = [
            (Kind::Startup, &container.startup_probe),
            (Kind::Liveness, &container.liveness_probe),
            (Kind::Readiness, &container.readiness_probe),
        ];
        for (kind, probe) in all {
            if let Some(probe) = probe {
                probes::start(
                    kind,
                    probe.clone(),
                    asked.clone(),
                    receiver.clone(),
                    self.happenings.clone(),
                    &self.node.shutdown,
                );
            }
        }
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone());
        if let Some(record) = self.records.get_mut(index) {
            record.hooked = hook.is_some();
        }
        if let Some(hook) = hook {
            let (happenings, id) = (self.happenings.clone(), process.id.clone());
            self.node.shutdown.spawn("postStart", async move {
                let result = tokio::select! {
                    result = asked.hook(&hook) => result,
                    () = asked.process.ended() => return,
                };
                // Nobody listens any more only when the pod is gone.
                let _unheard = happenings.send(Happening::Hooked { index, id, result }).await;
            });
        }
        self.runs.insert(index, Run { process, started, awake: container.startup_probe.is_none() });
        self.perhaps_started(index);
    }

    /// Marks a container as started once nothing holds it back, and lets its probes begin.
    pub(super) fn perhaps_started(&mut self, index: usize) {
        let (Some(run), Some(record)) = (self.runs.get(&index), self.records.get_mut(index)) else {
            return;
        };
        if !run.awake || record.hooked || record.started {
            return;
        }
        record.started = true;
        run.started.send_replace(true);
        let probed = record::container(&self.pod, index)
            .is_some_and(|container| container.readiness_probe.is_some());
        record.ready = !probed;
        self.wake_within(Duration::ZERO);
    }

    pub(super) fn hear(&mut self, happening: Happening) {
        match happening {
            Happening::Ended { index, ended } => {
                let Some(record) =
                    self.records.get_mut(index).filter(|record| record.id == ended.id)
                else {
                    return;
                };
                self.live.running.lock().remove(&record.name);
                self.runs.remove(&index);
                record.end(ended);
            }
            Happening::Hooked { index, id, result } => {
                let Some(record) = self
                    .records
                    .get_mut(index)
                    .filter(|record| record.id == id && record.running())
                else {
                    return;
                };
                record.hooked = false;
                match result {
                    Ok(_) => self.perhaps_started(index),
                    Err(error) => {
                        self.node.events.warning(
                            &self.pod,
                            Some(&record.name),
                            "FailedPostStartHook",
                            format!("PostStartHook failed: {error}"),
                        );
                        self.stop_one(index, "FailedPostStartHook", None);
                    }
                }
            }
            Happening::Probed { container, id, kind, finding } => {
                self.hear_probe(&container, &id, kind, finding);
            }
        }
    }

    pub(super) fn hear_probe(&mut self, container: &str, id: &str, kind: Kind, finding: Finding) {
        let Some(index) = self
            .records
            .iter()
            .position(|record| record.name == container && record.id == id && record.running())
        else {
            return;
        };
        let Some(record) = self.records.get_mut(index) else { return };
        match (kind, finding) {
            (_, Finding::Unhealthy(text)) if !record.stopping => {
                self.node.events.warning(
                    &self.pod,
                    Some(container),
                    "Unhealthy",
                    format!("{} probe failed: {text}", kind.name()),
                );
            }
            (_, Finding::Unhealthy(_)) | (Kind::Liveness, Finding::Good) => (),
            (Kind::Readiness, finding) => record.ready = finding == Finding::Good && record.started,
            (Kind::Startup, Finding::Good) => {
                if let Some(run) = self.runs.get_mut(&index) {
                    run.awake = true;
                }
                self.perhaps_started(index);
            }
            (Kind::Startup | Kind::Liveness, Finding::Bad) => {
                let container = record::container(&self.pod, index);
                let probe = container.and_then(|container| {
                    if kind == Kind::Startup {
                        container.startup_probe.as_ref()
                    } else {
                        container.liveness_probe.as_ref()
                    }
                });
                let grace = probe.and_then(|probe| probe.termination_grace_period_seconds);
                let text = if kind == Kind::Startup {
                    "failed startup probe, will be restarted"
                } else {
                    "failed liveness probe, will be restarted"
                };
                self.stop_one(index, text, grace);
            }
        }
    }
}
