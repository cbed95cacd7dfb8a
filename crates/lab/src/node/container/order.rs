//! The order that turns a fresh process into a container: what the node agent writes and the
//! process reads. Plain data, so that everything that can be wrong in it is decided before.

use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything a process must know to become a container, or a command in one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// The most this process may ever hold, as a bit mask.
    pub capabilities: u64,
    pub no_new_privileges: bool,
    /// The descriptor that becomes standard input; none means `/dev/null`.
    pub stdin: Option<RawFd>,
    /// Standard output is a terminal, to become all three standard streams.
    pub tty: bool,
    pub place: Place,
}

/// Where the process runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Place {
    /// In a root file system of its own.
    New(Box<Room>),
    /// In the namespaces of the process with this id, as the node agent sees it.
    Beside(i32),
}

/// A container's own view of the machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Room {
    /// The descriptor of the pod's network namespace; none means the node's.
    pub netns: Option<RawFd>,
    pub hostname: String,
    /// An empty folder to build the root file system on.
    pub scratch: PathBuf,
    /// The program that is `/usr/local/bin/tombolo` inside.
    pub tombolo: PathBuf,
    /// Files made in the root file system, by absolute path.
    pub files: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub read_only: bool,
    /// The container may do to the machine what its user may.
    pub privileged: bool,
}

/// A file or folder of the node at a path of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    /// With all links followed: one that a program has put there since is refused.
    pub source: PathBuf,
    pub target: String,
    pub read_only: bool,
}
