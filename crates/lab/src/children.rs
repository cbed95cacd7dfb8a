//! Child processes: started in a namespace of choice, reaped in one place.
//!
//! As process 1 the supervisor inherits every orphan, so it must wait for *any* child. Whoever
//! starts a process therefore learns of its end from here, and never waits for it directly.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tombolo_runtime::shutdown::Shutdown;

use crate::namespace::{NetNamespace, on_own_thread};

/// Where a process runs.
#[derive(Clone, Debug)]
pub enum Place {
    /// In the lab's own namespaces.
    Lab,
    /// In a node's network, else in the lab's namespaces.
    Network(NetNamespace),
    /// As process 1 of a node: its network, and process, mount, host-name and IPC namespaces
    /// that are new.
    NewNode(NetNamespace),
    /// In all namespaces of the node whose process 1 has this id.
    Node(i32),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It returned this code.
    Code(i32),
    /// This signal killed it.
    Killed(Signal),
}

impl End {
    /// The code a shell would show.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Killed(signal) => 128 + signal as i32,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with code {code}"),
            Self::Killed(signal) => write!(f, "was killed by {signal}"),
        }
    }
}

/// A started process.
#[derive(Debug)]
pub struct Child {
    /// Its id in the lab's process namespace.
    pub pid: i32,
    /// Tells how it ended.
    pub end: oneshot::Receiver<End>,
}

/// All children that someone waits for. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Children {
    awaited: Arc<Mutex<HashMap<i32, oneshot::Sender<End>>>>,
}

impl Children {
    /// Starts `command` in `place`.
    ///
    /// # Errors
    /// When the program is not there or the namespace cannot be entered.
    pub fn spawn(&self, place: &Place, command: &mut Command) -> io::Result<Child> {
        // Held while starting, so that the reaper cannot see the child before it is listed.
        let mut awaited = self.awaited.lock();
        let started = match place {
            Place::Lab => command.spawn()?,
            Place::Network(namespace) => namespace.run(|| command.spawn())?,
            Place::NewNode(namespace) => on_own_thread(|| {
                unshare(
                    CloneFlags::CLONE_FS
                        | CloneFlags::CLONE_NEWNS
                        | CloneFlags::CLONE_NEWUTS
                        | CloneFlags::CLONE_NEWIPC,
                )?;
                namespace.enter()?;
                unshare(CloneFlags::CLONE_NEWPID)?;
                command.spawn()
            })?,
            Place::Node(pid) => on_own_thread(|| {
                enter_node(*pid)?;
                command.spawn()
            })?,
        };
        let pid = i32::try_from(started.id()).map_err(io::Error::other)?;
        let (sender, end) = oneshot::channel();
        awaited.insert(pid, sender);
        Ok(Child { pid, end })
    }

    /// Runs a program to its end with `input`, and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started or fails; the text holds the command and what it said.
    pub async fn run(
        &self,
        place: &Place,
        program: &str,
        arguments: &[&str],
        input: &str,
    ) -> io::Result<String> {
        let ((stdin, mut feed), (mut output, stdout), (mut errors, stderr)) =
            (io::pipe()?, io::pipe()?, io::pipe()?);
        let mut command = Command::new(program);
        command.args(arguments).stdin(stdin).stdout(stdout).stderr(stderr);
        let child = self
            .spawn(place, &mut command)
            .map_err(|error| io::Error::other(format!("start `{program}`: {error}")))?;
        drop(command);
        let input = input.to_owned();
        let read = tokio::task::spawn_blocking(move || {
            // Scripts are shorter than a pipe, so this does not wait for what is read below.
            feed.write_all(input.as_bytes())?;
            drop(feed);
            let (mut text, mut said) = (String::new(), String::new());
            output.read_to_string(&mut text)?;
            errors.read_to_string(&mut said)?;
            io::Result::Ok((text, said))
        });
        let (text, said) = read.await.map_err(io::Error::other)??;
        match child.end.await.map_err(io::Error::other)? {
            End::Code(0) => Ok(text),
            end => Err(io::Error::other(format!(
                "`{program} {}` {end}: {}",
                arguments.join(" "),
                said.trim()
            ))),
        }
    }

    /// Sends `signal` to a child that has not ended yet; says whether there was one.
    pub fn signal(&self, pid: i32, signal: Signal) -> bool {
        // While the lock is held nothing is reaped, so the id cannot belong to another process.
        let awaited = self.awaited.lock();
        awaited.contains_key(&pid) && kill(Pid::from_raw(pid), signal).is_ok()
    }

    /// Waits for children and orphans until the process drains, when the kernel takes over.
    ///
    /// # Errors
    /// When the end of children cannot be listened for.
    pub fn reap(self, shutdown: Shutdown) -> io::Result<impl Future<Output = ()> + Send + 'static> {
        let mut ended = signal(SignalKind::child())?;
        Ok(async move {
            loop {
                self.reap_ended();
                tokio::select! {
                    _ = ended.recv() => (),
                    () = shutdown.draining() => return,
                }
            }
        })
    }

    fn reap_ended(&self) {
        let mut awaited = self.awaited.lock();
        loop {
            let (pid, end) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, End::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, End::Killed(signal)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "waiting for children failed");
                    return;
                }
            };
            let waiter = awaited.remove(&pid.as_raw());
            // Orphans have nobody who waits, and some no longer care.
            if waiter.is_none_or(|waiter| waiter.send(end).is_err()) {
                tracing::debug!(%pid, %end, "orphan reaped");
            }
        }
    }
}

/// Moves the calling thread's future children into the namespaces of a node's process 1.
fn enter_node(pid: i32) -> io::Result<()> {
    unshare(CloneFlags::CLONE_FS)?;
    let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}"));
    // All are opened first: entering the mount namespace changes what /proc shows.
    let namespaces =
        [open("net")?, open("uts")?, open("ipc")?, open("pid_for_children")?, open("mnt")?];
    for namespace in namespaces {
        setns(namespace, CloneFlags::empty())?;
    }
    Ok(())
}

/// A command that logs to `log` and reads nothing.
///
/// # Errors
/// When the log cannot be opened.
pub fn logged(program: &str, log: &std::path::Path) -> io::Result<Command> {
    let file = File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).current_dir("/");
    Ok(command)
}
