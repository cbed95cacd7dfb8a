//! What a container's process may do: the raw system calls that set it.
//!
//! Runs only in the single-threaded process that becomes the container, between its start and
//! its `exec`. Everything here is a plain call with integers; no memory is shared.
#![expect(
    unsafe_code,
    reason = "prctl, capset and file descriptors by number have no safe wrapper"
)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::libc;
use tokio::io::unix::AsyncFd;

/// Names of the capabilities, by their number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container gets without asking: what container runtimes give, without MKNOD, because no
/// cgroup guards the machine's devices here.
const DEFAULT: [&str; 13] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability, for privileged containers.
pub(crate) fn all() -> u64 {
    (1 << NAMES.len()) - 1
}

/// The default set with `add` and without `drop`, as a bit mask.
///
/// # Errors
/// The first name that is no capability.
pub(crate) fn capabilities(add: &[String], drop: &[String]) -> Result<u64, String> {
    let mask = |names: &[String]| -> Result<u64, String> {
        names.iter().try_fold(0, |mask, name| {
            let plain = name.strip_prefix("CAP_").unwrap_or(name).to_ascii_uppercase();
            if plain == "ALL" {
                return Ok(all());
            }
            let bit = NAMES.iter().position(|known| *known == plain).ok_or_else(|| name.clone())?;
            Ok(mask | 1 << bit)
        })
    };
    let default = mask(&DEFAULT.map(str::to_owned))?;
    let add = mask(add)?;
    let drop_all = drop.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let drop = mask(drop)?;
    // "drop ALL, add X" means X alone, so what is added wins over ALL.
    Ok(if drop_all { add } else { (default | add) & !drop })
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps only `mask` for this process and everything it ever starts.
pub(crate) fn bound_capabilities(mask: u64) -> io::Result<()> {
    for bit in (0..NAMES.len() as libc::c_ulong).filter(|bit| mask & (1 << bit) == 0) {
        // SAFETY: prctl with integer arguments touches no memory.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, bit, 0, 0, 0) };
        match checked(result) {
            // A capability that this kernel does not know cannot be held either.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (),
            other => other?,
        }
    }
    Ok(())
}

/// Sets the effective and permitted sets of this process; inheritable becomes empty.
pub(crate) fn set_capabilities(mask: u64) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let (low, high) = (mask as u32, (mask >> 32) as u32);
    let data: [u32; 6] = [low, low, 0, high, high, 0];
    // SAFETY: the kernel reads eight bytes of header and, in version 3, two data records of
    // twelve bytes each; both arrays live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    checked(result as libc::c_int)
}

/// The capabilities that this process has.
pub(crate) fn held_capabilities() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.ok_or_else(|| io::Error::other("/proc/self/status does not name them"))
}

/// From now on nothing that this process executes may gain privileges.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    // SAFETY: prctl with integer arguments touches no memory.
    checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

/// The kernel kills this process when the thread that started it ends.
///
/// A change of user clears this, so it is called again after it.
pub(crate) fn die_with_parent() -> io::Result<()> {
    // SAFETY: prctl with integer arguments touches no memory.
    checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })
}

/// Signals as a fresh process has them: Rust ignores SIGPIPE, and `exec` would hand that on.
pub(crate) fn default_signals() -> io::Result<()> {
    // SAFETY: no handler of ours is involved; the process is single-threaded.
    let old = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    if old == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    let mut set = nix::sys::signal::SigSet::empty();
    set.clear();
    Ok(set.thread_set_mask()?)
}

/// Makes the terminal on standard input this session's own.
pub(crate) fn take_terminal() -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    checked(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })
}

/// Sets the size of the terminal behind `terminal`.
pub(crate) fn resize_terminal(terminal: RawFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one winsize, which lives until the call returns.
    checked(unsafe { libc::ioctl(terminal, libc::TIOCSWINSZ, &raw const size) })
}

/// Registers a descriptor with the async runtime.
pub(crate) fn registered(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same open descriptor for as long as it lives, and nobody can
    // take it out of the `AsyncFd` other than by deregistering it.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

/// Owns a file descriptor that the parent left open for this process under `number`.
pub(crate) fn inherited(number: RawFd) -> OwnedFd {
    // SAFETY: the parent names each descriptor once, in the order that came with this process,
    // and nothing else in this process knows the number.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn bits(names: &[&str]) -> u64 {
        names.iter().map(|name| 1 << NAMES.iter().position(|known| known == name).unwrap()).sum()
    }

    #[test]
    fn added_capabilities_survive_dropping_all() {
        assert_eq!(
            capabilities(&words(&["NET_ADMIN", "NET_RAW"]), &words(&["ALL"])),
            Ok(bits(&["NET_ADMIN", "NET_RAW"]))
        );
    }

    #[test]
    fn nothing_asked_means_the_default_set() {
        assert_eq!(capabilities(&[], &[]), Ok(bits(&DEFAULT)));
    }

    #[test]
    fn a_device_can_be_made_only_by_who_asks_for_it() {
        let makes = |mask: u64| mask & bits(&["MKNOD"]) != 0;
        assert!(!makes(capabilities(&[], &[]).unwrap()));
        assert!(makes(capabilities(&words(&["MKNOD"]), &[]).unwrap()));
    }

    #[test]
    fn a_name_that_is_no_capability_is_named() {
        assert_eq!(capabilities(&words(&["CAP_FLY"]), &[]), Err("CAP_FLY".to_owned()));
    }
}
