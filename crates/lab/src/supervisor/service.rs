//! One process that is kept running: started, watched, and started again with a growing delay.

use std::io;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tombolo_runtime::backoff::Backoff;
use tombolo_runtime::shutdown::Shutdown;

use crate::children::{Child, Children, End, Place};
use crate::control::ProcessState;

/// The delay before the first new start.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// The longest delay between two starts.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// A process that lived this long did not fail to start.
const HEALTHY: Duration = Duration::from_secs(10);

/// A process that is kept running until its cluster is deleted.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    children: Children,
    state: Arc<Mutex<ProcessState>>,
}

impl Service {
    /// A service that is not started yet.
    pub(crate) fn new(name: String, children: Children) -> Self {
        let state = ProcessState { name, pid: None, restarts: 0, last_end: None };
        Self { children, state: Arc::new(Mutex::new(state)) }
    }

    /// How the process is now.
    pub(crate) fn state(&self) -> ProcessState {
        self.state.lock().clone()
    }

    /// Kills the process; it is started again. Says whether there was one.
    pub(crate) fn kill(&self) -> bool {
        let pid = self.state.lock().pid;
        pid.is_some_and(|pid| self.children.signal(pid, Signal::SIGKILL))
    }

    /// Keeps the process running until `stop`, then kills it and returns when it is gone.
    pub(crate) async fn keep_running(
        self,
        place: Place,
        command: impl Fn() -> io::Result<Command> + Send,
        stop: CancellationToken,
    ) {
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        while !stop.is_cancelled() {
            let started = Instant::now();
            let name = self.state.lock().name.clone();
            let end = match command().and_then(|mut c| self.children.spawn(&place, &mut c)) {
                Ok(child) => {
                    tracing::info!(process = name, pid = child.pid, "started");
                    self.state.lock().pid = Some(child.pid);
                    self.wait(child, &stop).await
                }
                Err(error) => format!("could not be started: {error}"),
            };
            self.note_end(&end);
            if stop.is_cancelled() {
                return;
            }
            if started.elapsed() >= HEALTHY {
                backoff.reset();
            }
            let delay = backoff.delay();
            tracing::warn!(process = name, end, ?delay, "ended, starts again");
            tokio::select! {
                () = tokio::time::sleep(delay) => (),
                () = stop.cancelled() => (),
            }
        }
    }

    fn note_end(&self, end: &str) {
        let mut state = self.state.lock();
        state.pid = None;
        state.last_end = Some(end.to_owned());
        state.restarts += 1;
    }

    async fn wait(&self, mut child: Child, stop: &CancellationToken) -> String {
        let told = |end: Result<End, _>| {
            end.map_or_else(|_| "was lost".to_owned(), |end: End| end.to_string())
        };
        tokio::select! {
            end = &mut child.end => return told(end.map_err(drop)),
            () = stop.cancelled() => (),
        }
        // Everything it has is about to be removed, so there is nothing to end in good order.
        self.children.signal(child.pid, Signal::SIGKILL);
        told(child.end.await.map_err(drop))
    }
}

/// The services of one cluster, which stop together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Services {
    all: Arc<Mutex<Vec<Service>>>,
    stop: CancellationToken,
    running: TaskTracker,
}

impl Services {
    /// Adds a service and keeps it running.
    pub(crate) fn start(
        &self,
        shutdown: &Shutdown,
        service: Service,
        place: Place,
        command: impl Fn() -> io::Result<Command> + Send + Sync + 'static,
    ) {
        self.all.lock().push(service.clone());
        let work = service.keep_running(place, command, self.stop.clone());
        shutdown.spawn("service", self.running.track_future(work));
    }

    /// All services, in the order they were added.
    pub(crate) fn states(&self) -> Vec<ProcessState> {
        self.all.lock().iter().map(Service::state).collect()
    }

    /// The services whose name `wanted` accepts.
    pub(crate) fn find(&self, wanted: impl Fn(&str) -> bool) -> Vec<Service> {
        let all = self.all.lock();
        all.iter().filter(|service| wanted(&service.state.lock().name)).cloned().collect()
    }

    /// Adds work that belongs to the cluster and ends with it.
    pub(crate) fn track(
        &self,
        shutdown: &Shutdown,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = self.stop.clone();
        let work = async move {
            tokio::select! {
                () = work => (),
                () = stop.cancelled() => (),
            }
        };
        shutdown.spawn(name, self.running.track_future(work));
    }

    /// Kills all processes and returns when they are gone.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
    }
}
