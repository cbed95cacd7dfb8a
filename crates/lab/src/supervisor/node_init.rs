//! Process 1 of a node: starts the node agent, adopts and reaps what it leaves behind.
//!
//! A node is its node agent: when that ends, this process ends, and the kernel ends every pod of
//! the node with it, as on a machine that loses power. The supervisor then starts the node again.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname};

/// Sets up the node's view and runs `command` in it; returns its exit code.
///
/// # Errors
/// When the view cannot be set up or the command cannot be started.
pub fn run(host_name: &str, command: &[OsString]) -> io::Result<i32> {
    if std::process::id() != 1 {
        return Err(io::Error::other("a node is started by the lab, in namespaces of its own"));
    }
    let Some((program, arguments)) = command.split_first() else {
        return Err(io::Error::other("a node needs a command to run"));
    };
    sethostname(host_name)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let harmless = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), harmless, none)?;
    let child = Command::new(program).args(arguments).arg0("tombolo").spawn()?;
    let child = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => return Ok(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                return Ok(128 + signal as i32);
            }
            Ok(_) | Err(Errno::EINTR) => (),
            Err(error) => return Err(error.into()),
        }
    }
}
