//! The lab's network: one bridge that plays the Docker network, one namespace per node on it.
//!
//! Everything is made inside the lab's own network namespace, so the kernel removes it with the
//! lab. The one thing outside is the host's end of a link into the bridge ([`host`]), and that
//! goes with its other end.

pub mod delay;
pub mod faults;
pub mod host;
pub mod node;

use std::io;

use crate::children::{Children, Place};
use crate::spec::{LAB_GATEWAY, LAB_NETWORK};

/// The bridge, in the lab's network namespace.
pub const BRIDGE: &str = "tombolo0";

/// The lab's end of the link to the host.
pub const HOST_PORT: &str = "host0";

/// Makes the bridge. The gateway's address is the host's when it is attached, else the bridge's.
///
/// # Errors
/// When `ip` fails, with what it said.
pub async fn make_bridge(children: &Children, attached: bool) -> io::Result<()> {
    let last = if attached {
        format!("link set {HOST_PORT} master {BRIDGE}\nlink set {HOST_PORT} up\n")
    } else {
        format!("address add {LAB_GATEWAY}/{} dev {BRIDGE}\n", LAB_NETWORK.prefix_len())
    };
    let script = format!(
        "link set lo up\n\
         link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0\n\
         link set {BRIDGE} up\n\
         {last}"
    );
    children.run(&Place::Lab, "ip", &["-batch", "-"], &script).await.map(|_| ())
}

/// Removes the bridge, and with it the host's way in.
///
/// # Errors
/// When `ip` fails, with what it said.
pub async fn remove_bridge(children: &Children, attached: bool) -> io::Result<()> {
    let host = if attached { format!("link delete {HOST_PORT}\n") } else { String::new() };
    let script = format!("{host}link delete {BRIDGE}\n");
    children.run(&Place::Lab, "ip", &["-batch", "-"], &script).await.map(|_| ())
}
