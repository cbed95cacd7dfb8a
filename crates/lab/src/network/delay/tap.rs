//! Opens a tap device: a link whose frames a program reads and writes.

#![expect(unsafe_code, reason = "the kernel attaches a file to a tap device by ioctl only")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use nix::libc;

/// Frames as they are on the wire, without a header of the driver's.
const TAP_WITHOUT_HEADER: i32 = libc::IFF_TAP | libc::IFF_NO_PI;

/// Opens the existing tap device `name` of this network namespace.
pub(super) fn open(name: &str) -> io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun").map_err(|error| {
        io::Error::other(format!(
            "delays need tap devices, and /dev/net/tun cannot be opened ({error}): load the kernel \
             module `tun`, or give the container that device"
        ))
    })?;
    // SAFETY: an all-zero `ifreq` is a valid value: an empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero and ends the name.
    let room = request.ifr_name.len() - 1;
    for (slot, byte) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *slot = libc::c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(TAP_WITHOUT_HEADER).map_err(io::Error::other)?;
    // SAFETY: the file is open and the request is a valid `ifreq` that lives through the call,
    // which is all that TUNSETIFF reads and writes.
    let attached = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if attached < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}
