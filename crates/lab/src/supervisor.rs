//! The supervisor: first process of the lab's namespaces, and owner of everything in them.
//!
//! Being process 1 of its own process, mount and network namespaces (and user namespace, when the
//! user is not root), its end, however it comes, makes the kernel end every process, link, mount
//! and namespace of the lab. It therefore has nothing to clean up when it is killed, and the rest
//! of the program can rely on: *no supervisor, no lab*.
//!
//! It starts in two steps. [`launch`] runs in the caller's namespaces, makes the new ones and
//! starts [`run`] in them, which serves the control socket until the last cluster is gone.

mod clusters;
mod forward;
pub mod launch;
mod mounts;
pub mod node_init;
mod processes;
mod ready;
mod refusal;
mod serve;
mod service;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tombolo_runtime::shutdown::Shutdown;

use crate::children::Children;
use crate::directory::LabDirectory;
use crate::network;
use crate::supervisor::clusters::Clusters;

/// How long connections of a stopping lab may take to end.
const GRACE: Duration = Duration::from_millis(200);

/// What the supervisor is told by its launcher.
#[derive(Clone, Debug)]
pub struct SupervisorSettings {
    /// The lab's folder.
    pub folder: PathBuf,
    /// Whether the host has a link into the bridge.
    pub attached: bool,
}

/// Runs the lab until its last cluster is deleted. Must be process 1 of new namespaces; prints
/// `ready` to standard output once the control socket answers.
///
/// # Errors
/// When the lab cannot be set up.
pub async fn run(settings: SupervisorSettings) -> io::Result<()> {
    if std::process::id() != 1 {
        return Err(io::Error::other(
            "the supervisor is started by `tombolo lab create`, in namespaces of its own",
        ));
    }
    let directory = LabDirectory::new(settings.folder);
    mounts::set_up(&directory)?;
    let Some(_lock) = directory.lock_supervisor()? else {
        return Err(io::Error::other("another supervisor runs in this folder"));
    };
    let shutdown = Shutdown::default();
    let children = Children::default();
    shutdown.spawn_essential("reaper", children.clone().reap(shutdown.clone())?);
    network::make_bridge(&children, settings.attached).await?;
    let listener = directory.listen()?;
    let clusters = Clusters::new(directory, children.clone(), shutdown.clone());
    let finished = CancellationToken::new();
    let serve = serve::run(listener, clusters, finished.clone(), shutdown.clone());
    shutdown.spawn_essential("control socket", serve);
    tell_launcher("ready")?;
    tracing::info!(attached = settings.attached, "lab started");
    let stopped = tokio::select! {
        stopped = shutdown.run_until_asked(GRACE) => stopped.map(|_| ()),
        () = finished.cancelled() => {
            // The kernel takes its time with what is left; users look at their links at once.
            network::remove_bridge(&children, settings.attached).await?;
            shutdown.stop(GRACE).await;
            Ok(())
        }
    };
    tracing::info!("lab stopped");
    stopped
}

/// The launcher's pipe is this process's standard output; nothing else is ever written to it.
fn tell_launcher(line: &str) -> io::Result<()> {
    let mut pipe = io::stdout().lock();
    writeln!(pipe, "{line}")?;
    pipe.flush()
}
