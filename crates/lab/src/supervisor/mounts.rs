//! The lab's view of the file system: the host's, with `/proc` and `/run` of its own.
//!
//! Nothing mounted here is seen by the host, and nothing the lab mounts later is either.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::directory::LabDirectory;

/// Where programs keep sockets, locks and names of namespaces.
const RUN: &str = "/run";

/// Makes the mounts. The process must be in a new mount namespace and process 1 of its own.
pub(crate) fn set_up(directory: &LabDirectory) -> io::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let harmless = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), harmless, none).map_err(|error| {
        io::Error::other(format!(
            "this kernel or container does not let the lab mount its own /proc ({error}): run \
             outside the container, or give it an unmasked /proc"
        ))
    })?;
    let lab = File::open(directory.path())?;
    mount(
        Some("tmpfs"),
        RUN,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=0755"),
    )?;
    show_again(&lab, directory.path())
}

/// Brings the lab's folder back to its path if it lies below the `/run` that was just hidden.
fn show_again(lab: &File, path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    let none = None::<&str>;
    let source = format!("/proc/self/fd/{}", lab.as_raw_fd());
    mount(Some(source.as_str()), path, none, MsFlags::MS_BIND, none)?;
    Ok(())
}
