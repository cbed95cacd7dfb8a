//! The root file system of a container: a tmpfs with the machine's programs, read-only, and the
//! pod's own files and volumes.
//!
//! Everything is mounted in the container's private mount namespace, so it is gone with it.
//! User 0 of a container that is not privileged is user 0 of the machine, too, so such a container
//! gets no file that sets the machine's kernel and no device beyond the usual ones.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, pivot_root};

use crate::node::container::become_container::{BecomeError, Doing};
use crate::node::container::order::{Mount, Room};

/// Folders of the machine that every container sees, read-only, when the machine has them.
const PROGRAMS: [&str; 8] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "opt"];

/// Files below `/etc` that programs need to run at all.
const SETTINGS: [&str; 13] = [
    "alternatives",
    "ca-certificates",
    "gai.conf",
    "host.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "protocols",
    "services",
];

/// Device nodes that every container sees.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Files and folders of `/proc` that set the machine's kernel, not the container's: user 0 may
/// write most of them without any capability.
const KERNEL: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Where the machine's root is while the container's is being built.
const OLD: &str = "/.machine";

const NONE: Option<&str> = None;

/// Builds the root file system and moves this process into it.
pub(crate) fn build(room: &Room) -> Result<(), BecomeError> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .doing("leave the node's mounts")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), &room.scratch, Some("tmpfs"), flags, Some("mode=755"))
        .doing("mount the root file system")?;
    let old = room.scratch.join(OLD.trim_start_matches('/'));
    fs::create_dir(&old).doing("prepare the root file system")?;
    pivot_root(&room.scratch, &old).doing("enter the root file system")?;
    chdir("/").doing("enter the root file system")?;
    programs(room)?;
    settings(room)?;
    folders()?;
    if !room.privileged {
        kernel()?;
    }
    devices()?;
    // Mounts may lie inside each other: outer ones first, and read-only only when the mount points
    // of the inner ones have been made.
    let mut volumes: Vec<&Mount> = room.mounts.iter().collect();
    volumes.sort_by(|a, b| a.target.cmp(&b.target));
    for volume in &volumes {
        bind_volume(volume)?;
        if !room.privileged {
            restrict(inside(&volume.target)?, MsFlags::MS_NODEV)?;
        }
    }
    for volume in volumes.iter().filter(|volume| volume.read_only) {
        read_only(inside(&volume.target)?)?;
    }
    umount2(OLD, MntFlags::MNT_DETACH).doing("leave the machine's root")?;
    fs::remove_dir(OLD).doing("leave the machine's root")?;
    if room.read_only {
        read_only("/")?;
    }
    Ok(())
}

/// The machine's programs, and our own.
fn programs(room: &Room) -> Result<(), BecomeError> {
    for name in PROGRAMS {
        let (machine, here) = (Path::new(OLD).join(name), Path::new("/").join(name));
        let Ok(kind) = fs::symlink_metadata(&machine) else { continue };
        if kind.is_symlink() {
            let target = fs::read_link(&machine).doing(format!("read the link /{name}"))?;
            symlink(target, &here).doing(format!("link /{name}"))?;
        } else {
            fs::create_dir(&here).doing(format!("make /{name}"))?;
            bind(&machine, &here)?;
            read_only(&here)?;
        }
    }
    // The machine's /usr is read-only here, so our program gets a folder mounted over its own.
    let folder =
        ["/usr/local/bin", "/usr/local"].into_iter().find(|folder| Path::new(folder).is_dir());
    let folder = folder
        .ok_or_else(|| io::Error::other("the machine has no folder /usr/local"))
        .doing("place /usr/local/bin/tombolo")?;
    mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::MS_NODEV, Some("mode=755,size=1m"))
        .doing(format!("mount {folder}"))?;
    fs::create_dir_all("/usr/local/bin").doing("make /usr/local/bin")?;
    let here = "/usr/local/bin/tombolo";
    File::create(here).doing(format!("make {here}"))?;
    bind(&below(OLD, &room.tombolo), Path::new(here))?;
    // The names by which scripts call it in containers of Istio's images.
    for name in ["pilot-agent", "pilot-discovery"] {
        let link = Path::new("/usr/local/bin").join(name);
        symlink("tombolo", &link).doing(format!("link {}", link.display()))?;
    }
    read_only(here)
}

/// `/etc`: what programs need of the machine's, and the pod's own.
fn settings(room: &Room) -> Result<(), BecomeError> {
    make_folder("/etc/ssl", 0o755)?;
    for name in SETTINGS.into_iter().chain(["ssl/certs", "ssl/openssl.cnf"]) {
        let machine = Path::new(OLD).join("etc").join(name);
        let here = Path::new("/etc").join(name);
        match fs::symlink_metadata(&machine) {
            Ok(kind) if kind.is_dir() => {
                fs::create_dir(&here).doing(format!("make {}", here.display()))?;
                bind(&machine, &here)?;
                read_only(&here)?;
            }
            Ok(kind) if kind.is_symlink() => {
                let target = fs::read_link(&machine).doing(format!("read the link /etc/{name}"))?;
                symlink(target, &here).doing(format!("link {}", here.display()))?;
            }
            Ok(_) => drop(fs::copy(&machine, &here).doing(format!("copy /etc/{name}"))?),
            Err(_) => (),
        }
    }
    for (path, text) in &room.files {
        fs::write(path, text).doing(format!("write {path}"))?;
    }
    Ok(())
}

/// Folders that every program expects.
fn folders() -> Result<(), BecomeError> {
    for (path, mode) in [
        ("/tmp", 0o1777),
        ("/var/tmp", 0o1777),
        ("/run", 0o755),
        ("/run/lock", 0o1777),
        ("/root", 0o700),
        ("/home", 0o755),
        ("/var/lib", 0o755),
        ("/var/log", 0o755),
        ("/var/cache", 0o755),
        ("/mnt", 0o755),
        ("/srv", 0o755),
        ("/proc", 0o555),
        ("/sys", 0o555),
        ("/dev", 0o755),
    ] {
        make_folder(path, mode)?;
    }
    symlink("../run", "/var/run").doing("link /var/run")?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), quiet, NONE).doing("mount /proc")?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), quiet | MsFlags::MS_RDONLY, NONE)
        .doing("mount /sys")
}

/// Makes what sets the machine's kernel read-only, as container runtimes do.
fn kernel() -> Result<(), BecomeError> {
    for name in KERNEL {
        let path = Path::new("/proc").join(name);
        // Kernels are built without some of them.
        if path.exists() {
            bind(&path, &path)?;
            read_only(&path)?;
        }
    }
    Ok(())
}

fn devices() -> Result<(), BecomeError> {
    // The devices are the machine's own, mounted one by one; none can be made here.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/dev", Some("tmpfs"), flags, Some("mode=755,size=64k"))
        .doing("mount /dev")?;
    for name in DEVICES {
        let here = Path::new("/dev").join(name);
        File::create(&here).doing(format!("make {}", here.display()))?;
        bind(&Path::new(OLD).join("dev").join(name), &here)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, Path::new("/dev").join(name)).doing(format!("link /dev/{name}"))?;
    }
    make_folder("/dev/pts", 0o755)?;
    make_folder("/dev/shm", 0o1777)?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(
        Some("devpts"),
        "/dev/pts",
        Some("devpts"),
        quiet,
        Some("newinstance,ptmxmode=0666,mode=0620"),
    )
    .doing("mount /dev/pts")?;
    mount(
        Some("tmpfs"),
        "/dev/shm",
        Some("tmpfs"),
        quiet | MsFlags::MS_NODEV,
        Some("mode=1777,size=64m"),
    )
    .doing("mount /dev/shm")
}

fn bind_volume(volume: &Mount) -> Result<(), BecomeError> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let found = openat2(AT_FDCWD, &below(OLD, &volume.source), how);
    let found = File::from(found.doing(format!("find {}", volume.source.display()))?);
    let kind = found.metadata().doing(format!("find {}", volume.source.display()))?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let target = inside(&volume.target)?;
    if !target.exists() {
        stays_here(&target)?;
        let parent = if kind.is_dir() { Some(target.as_path()) } else { target.parent() };
        if let Some(parent) = parent {
            fs::create_dir_all(parent).doing(format!("make the mount point {}", volume.target))?;
        }
        if !kind.is_dir() {
            File::create(&target).doing(format!("make the mount point {}", volume.target))?;
        }
    }
    mount(Some(&source), &target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).doing(format!(
        "mount {} on {}",
        volume.source.display(),
        volume.target
    ))
}

/// Refuses a mount point that links of a volume lead to the machine's files, or to nothing: it is
/// about to be made.
fn stays_here(target: &Path) -> Result<(), BecomeError> {
    let what = || format!("make the mount point {}", target.display());
    let known = target.ancestors().find(|path| fs::symlink_metadata(path).is_ok());
    let real = fs::canonicalize(known.unwrap_or(Path::new("/"))).doing(what())?;
    if real.starts_with(OLD) {
        return Err(io::Error::other("a link of a volume leads out of the container"))
            .doing(what());
    }
    Ok(())
}

/// The container path `target`, without steps out of the root.
fn inside(target: &str) -> Result<PathBuf, BecomeError> {
    let path = Path::new("/").join(target);
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(io::Error::other("it contains `..`"))
            .doing(format!("use the mount path {target}"));
    }
    Ok(path)
}

/// `path` of the machine as seen through `root`.
fn below(root: &str, path: &Path) -> PathBuf {
    Path::new(root).join(path.strip_prefix("/").unwrap_or(path))
}

fn make_folder(path: &str, mode: u32) -> Result<(), BecomeError> {
    DirBuilder::new().recursive(true).mode(0o755).create(path).doing(format!("make {path}"))?;
    fs::set_permissions(path, Permissions::from_mode(mode)).doing(format!("make {path}"))
}

fn bind(source: &Path, target: &Path) -> Result<(), BecomeError> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).doing(format!(
        "mount {} on {}",
        source.display(),
        target.display()
    ))
}

fn read_only(target: impl AsRef<Path>) -> Result<(), BecomeError> {
    restrict(target, MsFlags::MS_RDONLY)
}

/// Gives a mount one more restriction and keeps those it has, which a user namespace may not take
/// away.
fn restrict(target: impl AsRef<Path>, restriction: MsFlags) -> Result<(), BecomeError> {
    let target = target.as_ref();
    let doing = || {
        let what = if restriction == MsFlags::MS_RDONLY { "read-only" } else { "free of devices" };
        format!("make {} {what}", target.display())
    };
    let has = statvfs(target).doing(doing())?.flags();
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | restriction;
    for (found, keep) in [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        if has.contains(found) {
            flags |= keep;
        }
    }
    mount(NONE, target, NONE, flags, NONE).doing(doing())
}
