//! How much memory a process holds: small pages, and of its program only what it uses.
#![expect(unsafe_code, reason = "madvise has no safe wrapper")]

use std::ffi::c_void;
use std::fs;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::time::Duration;

use nix::sys::mman::{MmapAdvise, madvise};

use crate::shutdown::Shutdown;

/// How often the program's pages are given back.
const EVERY: Duration = Duration::from_secs(10);

/// Keeps the memory of this process in small pages, also where the kernel gives huge ones to whoever
/// does not refuse them: a process that needs a few MiB would hold twice that.
pub fn use_small_pages() {
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages stay in use");
    }
}

/// Gives back the program's pages every few seconds until the process drains.
///
/// Much of a program runs only when it starts, and with each page of a file that is touched Linux
/// maps those around it, 64 KiB in all (`fault_around_bytes` in the kernel's debugfs). What is used
/// after giving back is mapped again from the page cache, in about a microsecond for each 64 KiB.
/// The rest no longer counts as resident, and the kernel may reclaim it when memory is short.
pub async fn give_back_program(shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => (),
            () = shutdown.draining() => return,
        }
        if let Err(error) = give_back() {
            tracing::debug!(%error, "the program's pages stay mapped");
            return;
        }
    }
}

/// Unmaps the unchanged pages of the program; returns how many bytes of address space they span.
fn give_back() -> io::Result<usize> {
    let program = fs::read_link("/proc/self/exe")?;
    let mappings = fs::read_to_string("/proc/self/smaps")?;
    let mut bytes = 0;
    for range in unchanged(&mappings, &program.to_string_lossy()) {
        let Some(start) = NonNull::new(range.start as *mut c_void) else { continue };
        // SAFETY: the range is a private mapping of the program's file that can only be read or
        // executed, and none of its pages differs from the file. A page that is dropped is read
        // again from the file when it is next touched, as after the kernel has reclaimed it.
        unsafe { madvise(start, range.len(), MmapAdvise::MADV_DONTNEED) }?;
        bytes += range.len();
    }
    Ok(bytes)
}

/// The mappings of a file that cannot be written and hold nothing but the file (proc(5):
/// `/proc/pid/smaps`). What the dynamic linker has relocated is read-only too, but no longer what
/// is in the file: such pages are `Anonymous`.
fn unchanged(smaps: &str, file: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        if let Some(range) = mapping(line) {
            candidate = range.filter(|_| line.ends_with(file));
        } else if let Some(size) = line.strip_prefix("Anonymous:")
            && size.trim() == "0 kB"
        {
            found.extend(candidate.take());
        }
    }
    found
}

/// The range of a line that begins a mapping; an empty answer if the mapping may be written.
fn mapping(line: &str) -> Option<Option<Range<usize>>> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let range = address(start)?..address(end)?;
    let permissions = rest.split(' ').next()?;
    Some(matches!(permissions, "r--p" | "r-xp").then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_equals_the_file_is_given_back() {
        let smaps = "\
1000-3000 r--p 00000000 fe:00 7 /usr/local/bin/tombolo
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
3000-9000 r-xp 00002000 fe:00 7 /usr/local/bin/tombolo
Anonymous:             0 kB
9000-a000 r--p 00008000 fe:00 7 /usr/local/bin/tombolo
Anonymous:             4 kB
a000-b000 rw-p 00009000 fe:00 7 /usr/local/bin/tombolo
Anonymous:             0 kB
b000-c000 r--p 00000000 00:00 0
Anonymous:             0 kB
c000-d000 r-xp 00000000 fe:00 8 /usr/lib/libc.so.6
Anonymous:             0 kB
";
        assert_eq!(unchanged(smaps, "/usr/local/bin/tombolo"), [0x1000..0x3000, 0x3000..0x9000]);
    }

    #[test]
    fn a_program_goes_on_after_its_pages_were_given_back() {
        let resident = || -> u64 {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        let before = resident();
        assert!(give_back().unwrap() > 0);
        let after = resident();
        assert!(after < before, "{before} KiB before, {after} KiB after");
    }
}
