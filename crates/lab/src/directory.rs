//! The lab's folder: where everything of a lab lies, and who may touch it.
//!
//! Invariants: the folder is its owner's alone (0700). The supervisor holds a lock on
//! `supervisor.lock` for as long as it lives, and the kernel releases it when it dies, however
//! that happens; so clusters in the folder without that lock are the remains of a dead lab.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::spec::ClusterName;

/// A lab's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabDirectory(PathBuf);

impl LabDirectory {
    /// The lab in `path`, which need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where the lab is unless the user says otherwise: beside other programs' state.
    pub fn by_default(state_home: Option<OsString>, home: Option<OsString>) -> Option<Self> {
        let state = state_home.filter(|path| Path::new(path).is_absolute()).map(PathBuf::from);
        let state = state.or_else(|| Some(PathBuf::from(home?).join(".local/state")))?;
        Some(Self(state.join("tombolo/lab")))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder if it does not exist.
    pub(crate) fn make(&self) -> io::Result<()> {
        private_folder(&self.0)
    }

    /// Where the supervisor writes its log.
    pub fn log(&self) -> PathBuf {
        self.0.join("supervisor.log")
    }

    /// The folder of all clusters.
    pub fn clusters(&self) -> PathBuf {
        self.0.join("clusters")
    }

    /// The folder of one cluster.
    pub fn cluster(&self, name: &ClusterName) -> ClusterDirectory {
        ClusterDirectory(self.clusters().join(name.as_str()))
    }

    /// The names of the clusters that have a folder, sorted.
    pub(crate) fn cluster_names(&self) -> io::Result<Vec<ClusterName>> {
        let entries = match fs::read_dir(self.clusters()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            // Files that are not ours have no name that parses, and are left alone.
            if let Ok(name) = entry?.file_name().to_string_lossy().parse() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Takes the supervisor's lock, or returns nothing when a supervisor lives.
    pub(crate) fn lock_supervisor(&self) -> io::Result<Option<Flock<File>>> {
        let file = lock_file(&self.0.join("supervisor.lock"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    }

    /// Waits for the right to start or clean the lab, so that only one client does at a time.
    pub(crate) fn lock_start(&self) -> io::Result<Flock<File>> {
        let file = lock_file(&self.0.join("start.lock"))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
    }

    /// Listens on the control socket, in place of a dead supervisor's.
    pub(crate) fn listen(&self) -> io::Result<UnixListener> {
        match fs::remove_file(self.0.join(SOCKET)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => (),
        }
        self.with_short_path(|path| UnixListener::bind(path))
    }

    /// Connects to the control socket.
    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        self.with_short_path(|path| UnixStream::connect(path))
    }

    /// Socket addresses hold 107 bytes, and folders may be deeper: so the folder is named by a
    /// descriptor.
    fn with_short_path<T>(&self, use_path: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let folder = File::open(&self.0)?;
        use_path(&PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd())))
    }
}

const SOCKET: &str = "control.sock";

/// The folder of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDirectory(PathBuf);

impl ClusterDirectory {
    /// The cluster's folder at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }

    /// The kubeconfig of `user`: `admin`, `controllers`, a node's name…
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.0.join(format!("{user}.kubeconfig"))
    }

    /// Logs of the cluster's processes.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// What the API server stores.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// What a node agent keeps.
    pub fn node(&self, node: &str) -> PathBuf {
        self.0.join("nodes").join(node)
    }

    /// Remembers that `file`, a user's kubeconfig, is about to get this cluster's entries.
    pub(crate) fn remember_kubeconfig(&self, file: &Path) -> io::Result<()> {
        let mut files = self.remembered_kubeconfigs()?;
        if !files.iter().any(|known| known == file) {
            files.push(file.to_owned());
        }
        let file = File::create(self.0.join(REMEMBERED))?;
        serde_json::to_writer(file, &files).map_err(io::Error::other)
    }

    /// The users' kubeconfigs that have this cluster's entries.
    pub(crate) fn remembered_kubeconfigs(&self) -> io::Result<Vec<PathBuf>> {
        match fs::read(self.0.join(REMEMBERED)) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// The users' kubeconfigs with this cluster's entries, as a JSON list.
const REMEMBERED: &str = "kubeconfigs.json";

/// Makes a folder, and those above it, that only its owner may enter.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file that only its owner may read.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_lies_beside_other_state_unless_told_otherwise() {
        let at = |state: Option<&str>, home: Option<&str>| {
            let found = LabDirectory::by_default(state.map(Into::into), home.map(Into::into));
            found.map(|lab| lab.path().display().to_string())
        };
        assert_eq!(at(Some("/s"), Some("/h")).unwrap(), "/s/tombolo/lab");
        assert_eq!(at(None, Some("/h")).unwrap(), "/h/.local/state/tombolo/lab");
        assert_eq!(at(Some("relative"), None), None);
    }

    #[test]
    fn the_lock_shows_whether_a_supervisor_lives() {
        let folder = tempfile::tempdir().unwrap();
        let lab = LabDirectory::new(folder.path().join("lab"));
        lab.make().unwrap();
        let lock = lab.lock_supervisor().unwrap();
        assert!(lock.is_some());
        assert!(lab.lock_supervisor().unwrap().is_none());
        drop(lock);
        assert!(lab.lock_supervisor().unwrap().is_some());
    }

    #[test]
    fn a_deep_folder_still_has_a_control_socket() {
        let folder = tempfile::tempdir().unwrap();
        let lab = LabDirectory::new(folder.path().join("d".repeat(120)));
        lab.make().unwrap();
        assert!(lab.connect().is_err());
        let listener = lab.listen().unwrap();
        lab.connect().unwrap();
        drop(listener);
        lab.listen().unwrap();
    }
}
