//! Watches the wire between clusters: counts the packets on a node's bridge interface, and those
//! that hold a given text.
//!
//! Run inside a node's network namespace. What crosses between clusters passes the `eth0` of a node
//! on both sides, so a text that is never seen there never crossed in plaintext.

use std::io::{self, stdin};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use serde::{Deserialize, Serialize};

/// The interface of a node on the bridge.
const INTERFACE: &str = "eth0";
/// Large enough for packets that the kernel has not yet cut into segments.
const LARGEST_PACKET: usize = 1 << 16;
/// Room in the socket, so that a burst between two reads is not lost.
const BUFFER: usize = 8 << 20;

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub packets: u64,
    /// Packets that held the text.
    pub hits: u64,
}

/// Watches until standard input ends. `ready` is called once packets are being seen.
///
/// # Errors
/// When the kernel does not let this process see packets.
pub fn watch(needle: &str, ready: impl FnOnce() -> io::Result<()>) -> io::Result<Seen> {
    let index = if_nametoindex(INTERFACE)?;
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::EthAll,
    )?;
    setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
    ready()?;
    let (mut seen, mut buffer) = (Seen::default(), vec![0; LARGEST_PACKET]);
    loop {
        let stdin = stdin();
        let mut ends = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut ends, PollTimeout::NONE)?;
        let [packets, end] = ends;
        let (packets, ended) = (packets.any() == Some(true), end.any() == Some(true));
        // At the end too: what is still in the socket was on the wire before.
        if packets || ended {
            drain(&socket, index, needle.as_bytes(), &mut buffer, &mut seen)?;
        }
        if ended {
            return Ok(seen);
        }
    }
}

/// Counts every packet that is there now.
fn drain(
    socket: &OwnedFd,
    interface: u32,
    needle: &[u8],
    buffer: &mut [u8],
    seen: &mut Seen,
) -> io::Result<()> {
    loop {
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), buffer) {
            Ok((length, from)) => {
                if from.is_none_or(|from| {
                    u32::try_from(from.ifindex()).is_ok_and(|from| from != interface)
                }) {
                    continue;
                }
                seen.packets += 1;
                let packet = buffer.get(..length).unwrap_or(buffer);
                if packet.windows(needle.len()).any(|window| window == needle) {
                    seen.hits += 1;
                }
            }
            Err(nix::errno::Errno::EAGAIN) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => (),
            Err(error) => return Err(error.into()),
        }
    }
}
