//! The life of one pod: a task that starts what the plan says, hears what happens and reports.
//!
//! Expected flow: volumes and network, init containers and sidecars in order, the pod's own
//! containers, restarts; when the pod is deleted, or has ended, everything is stopped and given
//! back, and a deleted pod's object is removed. The task owns the pod's records; others see its
//! running processes through [`Live`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tombolo_runtime::errors::chain;

use crate::node::Node;
use crate::node::network::addresses;
use crate::node::network::sandbox::Sandbox;
use crate::node::pod::fields::Facts;
use crate::node::pod::hooks::Asked;
use crate::node::pod::plan::{self, Outcome, Restart};
use crate::node::pod::prepare::{self, Waiting};
use crate::node::pod::probes::{self, Finding, Kind};
use crate::node::pod::process::{Folder, Launch, Process};
use crate::node::pod::record::{self, Ended, Record, Role, State};
use crate::node::pod::status::Progress;
use crate::node::pod::volumes::Volumes;

mod report;
mod stop;

/// Something that happened to a container of the pod.
#[derive(Debug)]
pub(crate) enum Happening {
    Ended { index: usize, ended: Ended },
    Probed { container: String, id: String, kind: Kind, finding: Finding },
    Hooked { index: usize, id: String, result: Result<String, String> },
}

/// What the API server wants of the pod.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub pod: Arc<Pod>,
    /// The object is gone.
    pub gone: bool,
}

/// What others may see of a pod: its containers that run.
#[derive(Debug)]
pub(crate) struct Live {
    pub folder: PathBuf,
    pub running: Mutex<BTreeMap<String, Arc<Process>>>,
    /// The number of the latest run, by container.
    pub runs: Mutex<BTreeMap<String, i32>>,
}

/// Happenings that may wait; who reports more waits.
const HAPPENINGS: usize = 32;

/// How often volumes that are made from objects are brought up to date.
const REFRESH: Duration = Duration::from_secs(5);

/// The delay after a failed set-up or a bad container configuration.
const RETRY: Duration = Duration::from_secs(2);

/// A run of a container, as its pod's task knows it.
struct Run {
    process: Arc<Process>,
    started: watch::Sender<bool>,
    /// It has no startup probe, or has passed it.
    awake: bool,
}

pub(crate) struct Worker {
    node: Arc<Node>,
    pod: Arc<Pod>,
    wanted: watch::Receiver<Wanted>,
    live: Arc<Live>,
    records: Vec<Record>,
    runs: BTreeMap<usize, Run>,
    progress: Progress,
    network: Option<Network>,
    volumes: Volumes,
    happened: mpsc::Receiver<Happening>,
    happenings: mpsc::Sender<Happening>,
    wake: Option<Instant>,
    refresh: Instant,
    stopping: bool,
    gone: bool,
    done: bool,
}

/// The pod's place in the network.
enum Network {
    Own(Sandbox),
    Host,
}

impl Worker {
    pub(crate) fn new(node: Arc<Node>, wanted: watch::Receiver<Wanted>, live: Arc<Live>) -> Self {
        let pod = Arc::clone(&wanted.borrow().pod);
        let now = Timestamp::now();
        let (happenings, happened) = mpsc::channel(HAPPENINGS);
        let progress = Progress {
            started: now,
            host_ip: node.settings.node_ip.to_string(),
            pod_ip: None,
            initialized: false,
            outcome: None,
            reason: None,
        };
        Self {
            records: Record::of(&pod, now),
            volumes: Volumes::new(&live.folder),
            refresh: Instant::now() + REFRESH,
            runs: BTreeMap::new(),
            network: None,
            wake: None,
            stopping: false,
            gone: false,
            done: false,
            node,
            pod,
            wanted,
            live,
            progress,
            happened,
            happenings,
        }
    }

    /// Drives the pod until its object is gone.
    pub(crate) async fn run(mut self) {
        if matches!(
            self.pod.status.as_ref().and_then(|status| status.phase.as_deref()),
            Some("Succeeded" | "Failed")
        ) {
            self.rest().await;
        }
        while !self.done {
            self.step().await;
            if self.done {
                break;
            }
            self.report().await;
            let wake = self.wake.unwrap_or(self.refresh).min(self.refresh);
            let shutdown = self.node.shutdown.clone();
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.take_wanted(),
                    Err(_) => break,
                },
                Some(happening) = self.happened.recv() => self.hear(happening),
                () = tokio::time::sleep_until(wake) => (),
                () = shutdown.draining() => break,
            }
            while let Ok(happening) = self.happened.try_recv() {
                self.hear(happening);
            }
        }
    }

    /// A pod that had ended before this agent began only waits for its deletion.
    async fn rest(&mut self) {
        let shutdown = self.node.shutdown.clone();
        loop {
            self.take_wanted();
            if self.gone || self.pod.metadata.deletion_timestamp.is_some() {
                return self.leave().await;
            }
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { break },
                () = shutdown.draining() => break,
            }
        }
        self.done = true;
    }

    fn take_wanted(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        self.gone = wanted.gone;
        // The watch may still be behind what this task has written itself.
        let version = |pod: &Pod| {
            pod.metadata.resource_version.as_deref().and_then(|version| version.parse::<u64>().ok())
        };
        if version(&wanted.pod) >= version(&self.pod) {
            self.pod = wanted.pod;
        }
    }

    fn spec(&self) -> PodSpec {
        self.pod.spec.clone().unwrap_or_default()
    }

    fn facts(&self) -> Facts {
        Facts {
            pod_ip: self.progress.pod_ip.clone().unwrap_or_default(),
            host_ip: self.progress.host_ip.clone(),
            cpus: self.node.capacity.cpus,
            memory: self.node.capacity.memory,
        }
    }

    /// Does what is to be done now, and sets when to look again.
    async fn step(&mut self) {
        self.wake = None;
        if self.gone || self.pod.metadata.deletion_timestamp.is_some() {
            self.stop_everything();
            if self.runs.is_empty() {
                self.leave().await;
            }
            return;
        }
        if self.progress.outcome.is_some() {
            return;
        }
        if self.too_late() {
            self.progress.reason = Some((
                "DeadlineExceeded".into(),
                "Pod was active on the node longer than the specified deadline".into(),
            ));
            self.stop_everything();
        }
        if self.stopping {
            if self.runs.is_empty() {
                self.finish(Outcome::Failed).await;
            }
            return;
        }
        if self.network.is_none() && !self.settle().await {
            self.wake = Some(Instant::now() + RETRY);
            return;
        }
        self.refresh_volumes().await;
        self.advance().await;
    }

    fn too_late(&mut self) -> bool {
        let Some(seconds) = self.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds)
        else {
            return false;
        };
        let since = self
            .pod
            .status
            .as_ref()
            .and_then(|status| status.start_time.as_ref())
            .map_or(self.progress.started, |time| time.0);
        let left = seconds - Timestamp::now().duration_since(since).as_secs();
        if let Ok(left) = u64::try_from(left) {
            self.wake_within(Duration::from_secs(left + 1));
        }
        left <= 0
    }

    fn wake_within(&mut self, delay: Duration) {
        let at = Instant::now() + delay;
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Gives the pod its network and volumes; false when it must be tried again.
    async fn settle(&mut self) -> bool {
        if self.progress.pod_ip.is_none() {
            match self.join_network().await {
                Ok(ip) => self.progress.pod_ip = Some(ip),
                Err(error) => {
                    self.node.events.warning(&self.pod, None, "FailedCreatePodSandBox", error);
                    return false;
                }
            }
        }
        let facts = self.facts();
        if let Err(error) = self.volumes.set_up(&self.node, &self.pod, &facts).await {
            self.node.events.warning(&self.pod, None, "FailedMount", chain(&error).to_string());
            // The network stays; only the volumes are tried again.
            return false;
        }
        if self.network.is_none() {
            self.network = Some(Network::Host);
        }
        true
    }

    async fn join_network(&mut self) -> Result<String, String> {
        let spec = self.spec();
        if spec.host_network == Some(true) {
            return Ok(self.progress.host_ip.clone());
        }
        let before = self
            .pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.as_deref())
            .and_then(|ip| ip.parse().ok());
        let range = self.node.settings.pod_cidr;
        let address = self
            .node
            .addresses
            .lock()
            .take(before)
            .ok_or_else(|| format!("no address is left in {range}"))?;
        let sysctls =
            spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
        let sysctls = sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect();
        let uid = self.pod.metadata.uid.clone().unwrap_or_default();
        match Sandbox::new(&self.node.links, &uid, address, addresses::gateway(range), sysctls)
            .await
        {
            Ok(sandbox) => {
                self.network = Some(Network::Own(sandbox));
                Ok(address.to_string())
            }
            Err(error) => {
                self.node.addresses.lock().give_back(address);
                Err(chain(&error).to_string())
            }
        }
    }

    async fn refresh_volumes(&mut self) {
        if Instant::now() < self.refresh {
            return;
        }
        self.refresh = Instant::now() + REFRESH;
        let facts = self.facts();
        if let Err(error) = self.volumes.refresh(&self.node, &self.pod, &facts).await {
            self.node.events.warning(&self.pod, None, "FailedMount", chain(&error).to_string());
        }
    }

    /// Starts the containers whose turn it is.
    async fn advance(&mut self) {
        let restart = Restart::parse(self.spec().restart_policy.as_deref());
        let now = Timestamp::now();
        let plan = plan::plan(&self.records, restart, self.progress.initialized, now);
        for index in plan.back_off {
            self.back_off(index);
        }
        if let Some(wake) = plan.wake {
            let delay = Duration::try_from(wake.duration_since(now)).unwrap_or_default();
            self.wake_within(delay + Duration::from_millis(10));
        }
        if let Some(outcome) = plan.outcome {
            self.stop_everything();
            self.stopping = false;
            if self.runs.is_empty() {
                self.finish(outcome).await;
            }
            return;
        }
        let main = |index: &usize| {
            self.records.get(*index).is_some_and(|record| record.role == Role::Main)
        };
        if plan.start.iter().any(main)
            || self.records.iter().any(|record| record.role == Role::Main && record.running())
        {
            self.progress.initialized = true;
        }
        for index in plan.start {
            self.start(index).await;
            if self.records.get(index).is_some_and(|record| record.hooked) {
                break;
            }
        }
    }

    fn back_off(&mut self, index: usize) {
        let name = format!(
            "{}_{}({})",
            self.pod.metadata.name.as_deref().unwrap_or_default(),
            self.pod.metadata.namespace.as_deref().unwrap_or_default(),
            self.pod.metadata.uid.as_deref().unwrap_or_default(),
        );
        let Some(record) = self.records.get_mut(index) else { return };
        record.back_off(&name);
        let text = format!("Back-off restarting failed container {} in pod {name}", record.name);
        self.node.events.warning(&self.pod, Some(&record.name), "BackOff", text);
    }

    async fn start(&mut self, index: usize) {
        let Some(container) = record::container(&self.pod, index).cloned() else { return };
        let folder = Folder::new(&self.live.folder, &container.name);
        let started = match self.order(&container, &folder).await {
            Ok(order) => {
                self.node.events.normal(
                    &self.pod,
                    Some(&container.name),
                    "Pulled",
                    format!(
                        "Container image \"{}\" already present on machine",
                        container.image.as_deref().unwrap_or_default()
                    ),
                );
                self.launch(index, &container, &folder, order)
                    .await
                    .map_err(|message| Waiting { reason: "RunContainerError", message })
            }
            Err(waiting) => Err(waiting),
        };
        let Some(record) = self.records.get_mut(index) else { return };
        match started {
            Ok(process) => {
                record.begin(process.id.clone(), Timestamp::now());
                self.live.runs.lock().insert(container.name.clone(), record.restarts);
                self.live.running.lock().insert(container.name.clone(), Arc::clone(&process));
                self.node.events.normal(
                    &self.pod,
                    Some(&container.name),
                    "Created",
                    format!("Container created: {}", container.name),
                );
                self.node.events.normal(
                    &self.pod,
                    Some(&container.name),
                    "Started",
                    format!("Container started: {}", container.name),
                );
                self.observe(index, &container, process);
            }
            Err(waiting) if waiting.reason == "RunContainerError" => {
                self.node.events.warning(
                    &self.pod,
                    Some(&container.name),
                    "Failed",
                    format!("Error: {}", waiting.message),
                );
                let now = Timestamp::now();
                record.begin(format!("tombolo://{}", uuid::Uuid::new_v4().simple()), now);
                let id = record.id.clone();
                record.end(Ended {
                    code: 128,
                    reason: "StartError",
                    message: waiting.message,
                    started: Some(now),
                    finished: now,
                    id,
                });
                self.wake_within(Duration::ZERO);
            }
            Err(waiting) => {
                self.node.events.warning(
                    &self.pod,
                    Some(&container.name),
                    "Failed",
                    format!("Error: {}: {}", waiting.reason, waiting.message),
                );
                if let State::Ended(ended) = &record.state {
                    record.last = Some(ended.clone());
                }
                record.state =
                    State::Waiting { reason: waiting.reason.into(), message: waiting.message };
                record.not_before = Timestamp::now()
                    .checked_add(jiff::SignedDuration::try_from(RETRY).unwrap_or_default())
                    .ok();
                self.wake_within(RETRY);
            }
        }
    }

    async fn order(
        &self,
        container: &Container,
        folder: &Folder,
    ) -> Result<crate::node::container::order::Order, Waiting> {
        let spec = self.spec();
        let facts = self.facts();
        let request = prepare::Request {
            node: &self.node,
            pod: &self.pod,
            spec: &spec,
            container,
            facts: &facts,
            volumes: &self.volumes,
            folder,
        };
        prepare::order(&request).await
    }

    async fn launch(
        &self,
        index: usize,
        container: &Container,
        folder: &Folder,
        order: crate::node::container::order::Order,
    ) -> Result<Arc<Process>, String> {
        let record = self.records.get(index);
        let again = record
            .is_some_and(|record| record.last.is_some() || matches!(record.state, State::Ended(_)));
        let launch = Launch {
            program: &self.node.program,
            folder,
            index,
            run: record.map_or(0, |record| record.restarts + i32::from(again)),
            stdin: container.stdin == Some(true),
            namespace: match &self.network {
                Some(Network::Own(sandbox)) => Some(sandbox.namespace()),
                _ => None,
            },
            happenings: self.happenings.clone(),
            log_as_message: container.termination_message_policy.as_deref()
                == Some("FallbackToLogsOnError"),
        };
        Process::start(order, launch, &self.node.shutdown)
            .await
            .map_err(|error| chain(&error).to_string())
    }

    /// Starts the probes and the postStart hook of a run.
    fn observe(&mut self, index: usize, container: &Container, process: Arc<Process>) {
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
    fn perhaps_started(&mut self, index: usize) {
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

    fn hear(&mut self, happening: Happening) {
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
                self.hear_probe(&container, &id, kind, finding)
            }
        }
    }

    fn hear_probe(&mut self, container: &str, id: &str, kind: Kind, finding: Finding) {
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

    fn signal_all(&self, signal: Signal) {
        for run in self.runs.values() {
            run.process.signal(signal);
        }
    }
}
