//! The other end of an order: the process that becomes a container.
//!
//! Standard input is a socket to the node agent: the order comes in on it, and the reason goes
//! back when something fails. It closes on `exec`, which is how the agent knows that the command
//! has begun.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{
    Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, execve, setgid, setgroups, sethostname, setsid,
    setuid,
};

use crate::node::container::order::{Order, Place, Room};
use crate::node::container::{privileges, rootfs};

/// Why a process could not become a container. The text is shown in the pod's status.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub(crate) struct BecomeError {
    doing: String,
    source: io::Error,
}

/// Names what was being done when something failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl Into<String>) -> Result<T, BecomeError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T, BecomeError> {
        self.map_err(|error| BecomeError { doing: what.into(), source: error.into() })
    }
}

/// Becomes the container that the order on standard input describes; returns only on failure.
///
/// Must be called before the process has a second thread.
pub fn become_container() -> ExitCode {
    let Ok(agent) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::from(128) };
    let mut agent = UnixStream::from(agent);
    let Err(error) = run(&mut agent);
    let text = tombolo_runtime::errors::chain(&error).to_string();
    // The agent may be gone, and then nobody is left to tell.
    let _told = agent.write_all(text.as_bytes());
    ExitCode::from(128)
}

fn run(agent: &mut UnixStream) -> Result<std::convert::Infallible, BecomeError> {
    privileges::die_with_parent().doing("tie the container to the node agent")?;
    let mut text = String::new();
    agent.read_to_string(&mut text).doing("read the order")?;
    let order: Order =
        serde_json::from_str(&text).map_err(io::Error::other).doing("parse the order")?;
    // Fails when the process leads a group already, which does no harm.
    let _session = setsid();
    match &order.place {
        Place::New(room) => new_room(room)?,
        Place::Beside(pid) => beside(*pid)?,
    }
    standard_streams(&order)?;
    enter_folder(&order)?;
    drop_privileges(&order)?;
    let program = find_program(&order)?;
    let fail = |_| io::Error::other("it contains a zero byte");
    let argv =
        order.argv.iter().map(|arg| CString::new(arg.as_str())).collect::<Result<Vec<_>, _>>();
    let argv = argv.map_err(fail).doing("take the command's arguments")?;
    let env = order.env.iter().map(|(key, value)| CString::new(format!("{key}={value}")));
    let env = env.collect::<Result<Vec<_>, _>>().map_err(fail).doing("take the environment")?;
    let path =
        CString::new(program.as_os_str().as_bytes()).map_err(fail).doing("take the command")?;
    execve(&path, &argv, &env).doing(format!("execute `{}`", program.display()))
}

fn new_room(room: &Room) -> Result<(), BecomeError> {
    if let Some(netns) = room.netns {
        let netns = privileges::inherited(netns);
        setns(&netns, CloneFlags::CLONE_NEWNET).doing("enter the pod's network namespace")?;
    }
    let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    unshare(flags).doing("make namespaces for the container")?;
    sethostname(&room.hostname).doing("set the host name")?;
    rootfs::build(room)
}

fn beside(pid: i32) -> Result<(), BecomeError> {
    let open = |name: &str| File::open(format!("/proc/{pid}/ns/{name}"));
    // All are opened before the first is entered: another mount namespace has another /proc.
    let names = [
        ("net", CloneFlags::CLONE_NEWNET),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    let mut opened = Vec::new();
    for (name, flag) in names {
        opened.push((open(name).doing("find the container's namespaces")?, flag));
    }
    for (namespace, flag) in opened {
        setns(&namespace, flag).doing("enter the container's namespaces")?;
    }
    Ok(())
}

fn standard_streams(order: &Order) -> Result<(), BecomeError> {
    if order.tty {
        let terminal = io::stdout().as_fd().try_clone_to_owned().doing("take the terminal")?;
        dup2_stdin(&terminal).doing("take the terminal")?;
        dup2_stderr(&terminal).doing("take the terminal")?;
        return privileges::take_terminal().doing("take the terminal");
    }
    let stdin: OwnedFd = match order.stdin {
        Some(number) => privileges::inherited(number),
        None => File::open("/dev/null").doing("open /dev/null")?.into(),
    };
    dup2_stdin(&stdin).doing("take standard input")?;
    // Pipes belong to the agent's user; the container's own must be able to open /dev/stdout.
    for stream in [io::stdout().as_fd(), io::stderr().as_fd()] {
        let owner = (Some(Uid::from_raw(order.uid)), Some(Gid::from_raw(order.gid)));
        match nix::unistd::fchown(stream, owner.0, owner.1) {
            // A user namespace without that user, or a file system that has no owners.
            Ok(()) | Err(Errno::EINVAL | Errno::EPERM) => (),
            Err(error) => return Err(error).doing("hand over the output streams"),
        }
    }
    dup2_stdout(io::stdout()).doing("keep standard output")
}

fn enter_folder(order: &Order) -> Result<(), BecomeError> {
    let cwd = if order.cwd.is_empty() { "/" } else { &order.cwd };
    if !Path::new(cwd).exists() {
        fs::create_dir_all(cwd).doing(format!("make the working directory {cwd}"))?;
    }
    nix::unistd::chdir(cwd).doing(format!("enter the working directory {cwd}"))
}

fn drop_privileges(order: &Order) -> Result<(), BecomeError> {
    privileges::default_signals().doing("reset signals")?;
    privileges::bound_capabilities(order.capabilities).doing("limit capabilities")?;
    let groups: Vec<Gid> = order.groups.iter().copied().map(Gid::from_raw).collect();
    match setgroups(&groups) {
        // An unprivileged user namespace does not let groups be dropped; it has none to drop.
        Err(Errno::EPERM) if groups.is_empty() => (),
        other => other.doing("set the supplementary groups")?,
    }
    let what = |kind, id| {
        format!(
            "become {kind} {id} (in a user namespace this needs a range of ids in /etc/subuid and /etc/subgid)"
        )
    };
    setgid(Gid::from_raw(order.gid)).doing(what("group", order.gid))?;
    setuid(Uid::from_raw(order.uid)).doing(what("user", order.uid))?;
    if order.uid == 0 {
        // A machine that is a container itself may not have all of them to give.
        let held = privileges::held_capabilities().doing("read capabilities")?;
        privileges::set_capabilities(order.capabilities & held).doing("set capabilities")?;
    }
    if order.no_new_privileges {
        privileges::no_new_privileges().doing("give up new privileges")?;
    }
    privileges::die_with_parent().doing("tie the container to the node agent")
}

/// Finds the command as a shell would, in the container's own PATH.
fn find_program(order: &Order) -> Result<PathBuf, BecomeError> {
    let Some(name) = order.argv.first() else {
        return Err(io::Error::other("neither the container nor its image names one"))
            .doing("find the command");
    };
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let path = order.env.iter().rev().find(|(key, _)| key == "PATH").map_or("", |(_, value)| value);
    let found =
        path.split(':').map(|folder| Path::new(folder).join(name)).find(|file| file.is_file());
    found
        .ok_or_else(|| io::Error::other("executable file not found in $PATH"))
        .doing(format!("exec: \"{name}\""))
}
