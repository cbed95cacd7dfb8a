//! The launcher: makes the lab's namespaces and starts the supervisor in them.
//!
//! It must run before the process has a second thread, and talks to the client that started it
//! in lines: `map` asks the client to map the user ids of its new user namespace (only a process
//! outside may), `note TEXT` is something to tell the user, `error TEXT` ends it, and `ready`
//! comes from the supervisor itself, which inherits the pipe.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, geteuid, setgid, setsid, setuid};

use crate::directory::LabDirectory;
use crate::network::host;

/// Starts the supervisor of the lab in `folder`, and returns once its process runs. Failures are
/// told to the client.
///
/// # Errors
/// When the client cannot be told, because it is gone.
pub fn run(folder: PathBuf, path: OsString) -> io::Result<()> {
    match start(folder, path) {
        Ok(()) => Ok(()),
        // A client that closed the pipe knows already: it found the reason itself.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => tell(&format!("error {}", one_line(&error.to_string()))),
    }
}

fn start(folder: PathBuf, path: OsString) -> io::Result<()> {
    // Without a session of its own the lab would end with the terminal. Fails only for a leader,
    // which has one.
    if let Err(error) = setsid() {
        tracing::debug!(%error, "already leads a session");
    }
    let obstacle = host::obstacle(&path)?;
    let host = File::open("/proc/self/ns/net")?;
    if !geteuid().is_root() {
        become_root_of_a_user_namespace()?;
    }
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )
    .map_err(|error| refused("network and mount namespaces", error))?;
    let attached = match obstacle {
        Some(reason) => {
            tell(&format!("note {}", one_line(&reason)))?;
            false
        }
        None => match host::attach(&path, &host) {
            Ok(()) => true,
            Err(error) => {
                tell(&format!(
                    "note this host gets no link into the lab, so it cannot reach node and \
                     load-balancer addresses: {}",
                    one_line(&error.to_string())
                ))?;
                false
            }
        },
    };
    // From here on this process can start no more threads, only the first process of the lab.
    unshare(CloneFlags::CLONE_NEWPID).map_err(|error| refused("process namespaces", error))?;
    // A lab's log begins with the lab.
    let log = LabDirectory::new(folder.clone()).log();
    File::create(&log)?;
    let log = File::options().append(true).open(log)?;
    let mut supervisor = Command::new("/proc/self/exe");
    supervisor
        .arg0("tombolo")
        .args(["lab", "supervisor", "--inside", "--folder"])
        .arg(&folder)
        .env("PATH", path)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::inherit())
        .stderr(log);
    if attached {
        supervisor.arg("--attached");
    }
    supervisor.spawn().map(|_| ())
}

fn become_root_of_a_user_namespace() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| match error {
        Errno::EPERM | Errno::EACCES | Errno::ENOSPC | Errno::EINVAL => {
            refused("user namespaces", error)
        }
        error => error.into(),
    })?;
    tell("map")?;
    let mut reply = String::new();
    io::stdin().lock().read_line(&mut reply)?;
    if reply.trim() != "mapped" {
        return Err(io::Error::other("the user ids of the lab could not be mapped"));
    }
    setgid(Gid::from_raw(0))?;
    setuid(Uid::from_raw(0))?;
    Ok(())
}

fn refused(what: &str, error: Errno) -> io::Error {
    let remedy = if error == Errno::ENOSPC {
        "a limit is reached or 0; raise the sysctls user.max_user_namespaces, \
         user.max_net_namespaces and their like"
    } else if geteuid().is_root() {
        "root needs the capability CAP_SYS_ADMIN for it; in a container, run it with \
         --privileged"
    } else {
        "set the sysctls kernel.unprivileged_userns_clone=1 and \
         kernel.apparmor_restrict_unprivileged_userns=0 where they exist and \
         user.max_user_namespaces above 0, or run as root"
    };
    io::Error::other(format!("this kernel does not let this user make {what} ({error}): {remedy}"))
}

fn tell(line: &str) -> io::Result<()> {
    let mut pipe = io::stdout().lock();
    writeln!(pipe, "{line}")?;
    pipe.flush()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
