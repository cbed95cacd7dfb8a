//! Who runs, and how it stops.
//!
//! Every task has a name and an owner: `Shutdown::spawn` for work that may end,
//! `Shutdown::spawn_essential` for work the process cannot live without. Stopping has two phases:
//! *draining* (refuse new work, finish old) and *aborted* (drop it).

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A handle to the process's shutdown state. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    aborted: CancellationToken,
    tasks: TaskTracker,
    running: Arc<Mutex<Running>>,
    failed: Arc<watch::Sender<Option<&'static str>>>,
}

#[derive(Debug, Default)]
struct Running {
    next: u64,
    names: BTreeMap<u64, &'static str>,
}

/// How a stop went.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every task ended within the grace period.
    Clean,
    /// These tasks did not, and were dropped.
    Forced(Vec<&'static str>),
}

impl Shutdown {
    /// Starts a task that may end at any time, such as a connection.
    ///
    /// The task is dropped when the process aborts; it should end by itself when it drains.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_listed(Listed::new(self, name, false), task);
    }

    /// Starts a task the process cannot live without, such as a watch or an accept loop.
    ///
    /// If it ends before the process drains, by return or panic, [`Shutdown::failed`] fires.
    pub fn spawn_essential<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_listed(Listed::new(self, name, true), task);
    }

    fn spawn_listed<F>(&self, listed: Listed, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let aborted = self.aborted.clone();
        self.tasks.spawn(async move {
            let _listed = listed;
            tokio::select! {
                () = task => (),
                () = aborted.cancelled() => (),
            }
        });
    }

    /// Returns when the process begins to drain. Cancel safe.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Whether the process drains or is aborted.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// A token that is cancelled when the process begins to drain, for libraries that take one.
    pub fn draining_token(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Returns when remaining work is dropped. Cancel safe.
    pub async fn aborted(&self) {
        self.aborted.cancelled().await;
    }

    /// Returns the name of the first essential task that ended early. Cancel safe.
    pub async fn failed(&self) -> &'static str {
        let mut failed = self.failed.subscribe();
        loop {
            if let Some(name) = *failed.borrow_and_update() {
                return name;
            }
            if failed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The names of the tasks that run now, sorted by start.
    pub fn running(&self) -> Vec<&'static str> {
        self.running.lock().names.values().copied().collect()
    }

    /// Asks every task to drain, waits up to `grace`, then drops the rest.
    pub async fn stop(&self, grace: Duration) -> Outcome {
        self.draining.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_ok() {
            return Outcome::Clean;
        }
        let late = self.running();
        tracing::warn!(?late, "grace period over, aborting");
        self.aborted.cancel();
        self.tasks.wait().await;
        Outcome::Forced(late)
    }

    /// Runs until a termination signal or the early end of an essential task, then stops.
    ///
    /// # Errors
    /// When signals cannot be listened to, or an essential task ended early.
    pub async fn run_until_asked(&self, grace: Duration) -> io::Result<Outcome> {
        let failed = tokio::select! {
            asked = asked_to_stop() => asked.map(|()| None)?,
            task = self.failed() => Some(task),
        };
        let outcome = self.stop(grace).await;
        match failed {
            Some(task) => Err(io::Error::other(format!("essential task `{task}` ended early"))),
            None => Ok(outcome),
        }
    }
}

/// Returns on SIGTERM or SIGINT.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub async fn asked_to_stop() -> io::Result<()> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => (),
        _ = interrupt.recv() => (),
    }
    Ok(())
}

/// Lists a task by name while it lives. Being a drop guard, it also sees panics.
#[derive(Debug)]
struct Listed {
    shutdown: Shutdown,
    name: &'static str,
    essential: bool,
    id: u64,
}

impl Listed {
    fn new(shutdown: &Shutdown, name: &'static str, essential: bool) -> Self {
        let mut running = shutdown.running.lock();
        let id = running.next;
        running.next += 1;
        running.names.insert(id, name);
        Self { shutdown: shutdown.clone(), name, essential, id }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shutdown.running.lock().names.remove(&self.id);
        if self.essential && !self.shutdown.draining.is_cancelled() {
            tracing::error!(task = self.name, "essential task ended early");
            self.shutdown.failed.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert(self.name);
                is_first
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_that_drain_make_a_clean_stop() {
        let shutdown = Shutdown::default();
        let task = shutdown.clone();
        shutdown.spawn_essential("watch", async move { task.draining().await });
        assert_eq!(shutdown.stop(Duration::from_secs(1)).await, Outcome::Clean);
    }

    #[tokio::test]
    async fn a_stuck_task_is_named_and_dropped() {
        let shutdown = Shutdown::default();
        shutdown.spawn("stuck", std::future::pending());
        assert_eq!(shutdown.stop(Duration::from_millis(20)).await, Outcome::Forced(vec!["stuck"]));
    }

    #[tokio::test]
    async fn an_essential_task_that_ends_early_is_reported() {
        let shutdown = Shutdown::default();
        shutdown.spawn_essential("accept", async {});
        assert_eq!(shutdown.failed().await, "accept");
    }

    #[tokio::test]
    async fn an_essential_task_that_panics_is_reported() {
        let shutdown = Shutdown::default();
        shutdown.spawn_essential("accept", async { panic!("told to") });
        assert_eq!(shutdown.failed().await, "accept");
    }
}
