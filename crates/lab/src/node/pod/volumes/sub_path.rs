//! `subPath`: a file or folder of a volume, mounted without the rest of it.
//!
//! Guarantees: nothing outside the volume is found or made, whatever links programs have left in
//! it. The kernel resolves each path and refuses the ones that lead out.

use std::fs::{File, Permissions, read_link};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{Mode, fstat, mkdirat};

/// The file or folder `below` the volume at `root`; a missing one becomes a folder.
///
/// # Errors
/// A text that says why there is no such path in the volume.
pub(crate) fn find(root: &Path, below: &str) -> Result<PathBuf, String> {
    let path = Path::new(below);
    if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!(
            "\"{below}\" is not a path below the volume; write it without a leading `/` and without `..`"
        ));
    }
    found_or_made(root, path).map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EXDEV | Errno::ELOOP) => {
            format!("a link of the volume leads out of it at \"{below}\"")
        }
        _ => format!("find or make \"{below}\": {error}"),
    })
}

fn found_or_made(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let volume = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let found = match open_below(&volume, path) {
        Err(Errno::ENOENT) => make(volume, path)?,
        found => found?,
    };
    // Where the kernel went, without links.
    read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

fn open_below(volume: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(volume, path, how)
}

/// Makes the folders of `path` that are missing. Whoever may write to the volume may write there.
fn make(volume: OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let mode = Mode::from_bits_truncate(fstat(&volume)?.st_mode);
    let mut folder = volume.try_clone()?;
    let mut so_far = PathBuf::new();
    for part in path.components() {
        so_far.push(part);
        folder = match open_below(&volume, &so_far) {
            Err(Errno::ENOENT) => {
                mkdirat(&folder, part.as_os_str(), mode)?;
                let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let made = openat(&folder, part.as_os_str(), flags, Mode::empty())?;
                // The agent's umask may have taken something away.
                let made = File::from(made);
                made.set_permissions(Permissions::from_mode(mode.bits()))?;
                made.into()
            }
            next => next?,
        };
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder with a volume and, beside it, something that is not the volume's.
    fn machine() -> (tempfile::TempDir, PathBuf) {
        let machine = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(machine.path()).unwrap().join("volume");
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, Permissions::from_mode(0o777)).unwrap();
        fs::create_dir(root.with_file_name("other")).unwrap();
        (machine, root)
    }

    #[test]
    fn a_missing_path_becomes_folders_with_the_volumes_mode() {
        let (_machine, root) = machine();
        assert_eq!(find(&root, "a/./b"), Ok(root.join("a/b")));
        assert_eq!(find(&root, "a/b"), Ok(root.join("a/b")));
        for made in ["a", "a/b"] {
            let mode = fs::metadata(root.join(made)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o777, "{made}");
        }
    }

    #[test]
    fn links_within_the_volume_lead_on() {
        let (_machine, root) = machine();
        fs::create_dir(root.join("..data")).unwrap();
        fs::write(root.join("..data/key"), "value").unwrap();
        symlink("..data/key", root.join("key")).unwrap();
        symlink("..data", root.join("folder")).unwrap();
        assert_eq!(find(&root, "key"), Ok(root.join("..data/key")));
        assert_eq!(find(&root, "folder/new"), Ok(root.join("..data/new")));
    }

    #[test]
    fn nothing_is_made_outside_the_volume() {
        let (machine, root) = machine();
        let other = root.with_file_name("other");
        symlink("../other", root.join("up")).unwrap();
        symlink(&other, root.join("absolute")).unwrap();
        symlink("../other/dangling", root.join("dangling")).unwrap();
        let absolute = other.join("made").display().to_string();
        for below in ["../other/made", "a/../../other/made", "..", &absolute] {
            let said = find(&root, below).unwrap_err();
            assert!(said.ends_with("write it without a leading `/` and without `..`"), "{said}");
        }
        for below in ["up/made", "absolute/made", "absolute", "dangling", "dangling/made"] {
            let said = find(&root, below).unwrap_err();
            assert!(said.starts_with("a link of the volume leads out of it"), "{below}: {said}");
        }
        assert_eq!(fs::read_dir(other).unwrap().count(), 0);
        assert_eq!(fs::read_dir(machine.path()).unwrap().count(), 2);
        assert_eq!(fs::read_dir(root).unwrap().count(), 3);
    }
}
