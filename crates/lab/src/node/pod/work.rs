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
use crate::node::network::sandbox::{Namespace, Sandbox};
use crate::node::pod::fields::Facts;
use crate::node::pod::plan::{self, Outcome, Restart};
use crate::node::pod::prepare::{self, Waiting};
use crate::node::pod::probes::{Finding, Kind};
use crate::node::pod::process::{Folder, Launch, Process};
use crate::node::pod::record::{self, Ended, Record, Role, State};
use crate::node::pod::status::Progress;
use crate::node::pod::volumes::Volumes;

mod hear;
mod place;
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

/// What others may see of a pod: its containers that run, and the way into its network.
#[derive(Debug)]
pub(crate) struct Live {
    pub folder: PathBuf,
    pub running: Mutex<BTreeMap<String, Arc<Process>>>,
    /// None until the pod has its network, and when it has given it back.
    pub entrance: Mutex<Option<Entrance>>,
}

/// The way into a pod's network.
#[derive(Clone, Debug)]
pub(crate) enum Entrance {
    Own(Namespace),
    Host,
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
    /// It has its network and its volumes.
    settled: bool,
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
            settled: false,
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
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        self.progress.outcome = match phase {
            Some("Succeeded") => Some(Outcome::Succeeded),
            Some("Failed") => Some(Outcome::Failed),
            _ => None,
        };
        if self.progress.outcome.is_some() {
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
                self.leave().await;
                if self.done {
                    return;
                }
                tokio::time::sleep(RETRY).await;
                continue;
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
        if !self.settled && !self.settle().await {
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

    fn signal_all(&self, signal: Signal) {
        for run in self.runs.values() {
            run.process.signal(signal);
        }
    }
}
