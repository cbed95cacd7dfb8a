//! Starting a container or a command in one, from the node agent's side.
//!
//! Must be called on the agent's main thread: the kernel ends a container when the thread that
//! started it ends, and the PID namespace of future children belongs to one thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::Stdio;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::node::container::order::{Order, Place};

/// Why a container did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("start the container's process")]
    Spawn(#[from] io::Error),
    #[error("{0}")]
    Become(String),
}

/// Standard output and error of a process to start.
pub(crate) struct Output {
    pub stdout: Stdio,
    pub stderr: Stdio,
}

/// Starts `order` and returns when its command has begun.
///
/// `hand_over` are the descriptors whose numbers the order names.
pub(crate) async fn start(
    program: &Path,
    order: &Order,
    output: Output,
    hand_over: &[BorrowedFd<'_>],
) -> Result<Child, StartError> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut ours = UnixStream::from_std(ours)?;
    let text = serde_json::to_vec(order).map_err(io::Error::other)?;
    let mut child = spawn(program, order, output, theirs.into(), hand_over)?;
    let answer = async {
        ours.write_all(&text).await?;
        ours.shutdown().await?;
        let mut answer = String::new();
        ours.read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    match answer.await {
        Ok(answer) if answer.is_empty() => Ok(child),
        Ok(answer) => {
            child.wait().await?;
            Err(StartError::Become(answer))
        }
        Err(error) => {
            child.kill().await?;
            Err(error.into())
        }
    }
}

/// Forks the process into its PID namespace. No await: nothing else may run meanwhile.
fn spawn(
    program: &Path,
    order: &Order,
    output: Output,
    socket: OwnedFd,
    hand_over: &[BorrowedFd<'_>],
) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.args(["lab", "become-container"]).env_clear().kill_on_drop(false);
    command.stdin(socket).stdout(output.stdout).stderr(output.stderr);
    let own = File::open("/proc/self/ns/pid")?;
    for descriptor in hand_over {
        fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    let spawned = enter_pid_namespace(&order.place).and_then(|()| command.spawn());
    // Whatever happened, further children of the agent belong beside it again.
    setns(&own, CloneFlags::CLONE_NEWPID)?;
    for descriptor in hand_over {
        fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    spawned
}

fn enter_pid_namespace(place: &Place) -> io::Result<()> {
    match place {
        Place::New(_) => Ok(unshare(CloneFlags::CLONE_NEWPID)?),
        Place::Beside(pid) => {
            let theirs = File::open(format!("/proc/{pid}/ns/pid"))?;
            Ok(setns(theirs.as_fd(), CloneFlags::CLONE_NEWPID)?)
        }
    }
}
