//! Delay and loss of what a node sends, without help from the kernel's traffic control: many
//! kernels have no `netem`.
//!
//! The node's port is taken off the bridge and put on one of its own, and a relay carries frames
//! between the two through a pair of tap devices: at once towards the node, later (or never) from
//! it. Frames keep their order. When more wait than the queue holds, the newest is lost, as in any
//! router.

mod tap;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use rand::RngExt as _;
use tokio::time::Instant;

use crate::children::{Children, Place};
use crate::network::BRIDGE;
use crate::network::node::port;

/// How many frames wait at most: about 100 Mbit/s for half a second.
const QUEUE: usize = 4096;

/// Room for the longest frame of a link with the usual length of 1500 bytes.
const LONGEST_FRAME: usize = 2048;

/// How what a node sends is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disturbance {
    /// Every frame waits at least this long.
    pub latency: Duration,
    /// And up to this much longer.
    pub jitter: Duration,
    /// How many frames of a hundred are lost.
    pub loss_percent: u32,
}

/// The links of a node's relay.
struct Names {
    port: String,
    bridge: String,
    outer: String,
    inner: String,
}

impl Names {
    fn of(address: Ipv4Addr) -> Self {
        let [_, _, c, d] = address.octets();
        let name = |kind: &str| format!("{kind}-{c}-{d}");
        Self { port: port(address), bridge: name("slow"), outer: name("out"), inner: name("in") }
    }
}

/// Puts a relay between the node at `address` and the bridge.
///
/// # Errors
/// When the devices cannot be made; the node is on the bridge then.
pub async fn start(
    children: &Children,
    address: Ipv4Addr,
    disturbance: Disturbance,
) -> io::Result<()> {
    let names = Names::of(address);
    let made = build(children, &names, disturbance).await;
    if made.is_err() {
        stop(children, address).await?;
    }
    made
}

async fn build(children: &Children, names: &Names, disturbance: Disturbance) -> io::Result<()> {
    let Names { port, bridge, outer, inner } = names;
    let script = format!(
        "link add {bridge} type bridge forward_delay 0 mcast_snooping 0\n\
         tuntap add dev {outer} mode tap\n\
         tuntap add dev {inner} mode tap\n\
         link set {outer} master {BRIDGE}\n\
         link set {inner} master {bridge}\n\
         link set {bridge} up\n"
    );
    ip(children, &script).await?;
    let (outside, inside) = (tap::open(outer)?, tap::open(inner)?);
    relay("to node", outside.try_clone()?, inside.try_clone()?, None)?;
    relay("from node", inside, outside, Some(disturbance))?;
    let script =
        format!("link set {outer} up\nlink set {inner} up\nlink set {port} master {bridge}\n");
    ip(children, &script).await
}

/// Takes the relay away and puts the node back on the bridge. Does no harm without a relay.
///
/// # Errors
/// When `ip` refuses.
pub async fn stop(children: &Children, address: Ipv4Addr) -> io::Result<()> {
    let Names { port, bridge, outer, inner } = Names::of(address);
    ip(children, &format!("link set {port} master {BRIDGE}\n")).await?;
    remove(children, &[bridge, outer, inner]).await
}

/// Removes what a relay of a node that is gone left.
///
/// # Errors
/// When `ip` refuses.
pub async fn clear(children: &Children, address: Ipv4Addr) -> io::Result<()> {
    let Names { bridge, outer, inner, .. } = Names::of(address);
    remove(children, &[bridge, outer, inner]).await
}

async fn remove(children: &Children, links: &[String]) -> io::Result<()> {
    let shown = children.run(&Place::Lab, "ip", &["-brief", "link"], "").await?;
    let there = |link: &&String| {
        shown.lines().any(|line| line.split(['@', ' ']).next() == Some(link.as_str()))
    };
    let script: String =
        links.iter().filter(there).map(|link| format!("link delete {link}\n")).collect();
    ip(children, &script).await
}

async fn ip(children: &Children, script: &str) -> io::Result<()> {
    children.run(&Place::Lab, "ip", &["-batch", "-"], script).await.map(|_| ())
}

/// Starts the threads of one direction; they end when a device is removed.
fn relay(name: &str, from: File, to: File, disturbance: Option<Disturbance>) -> io::Result<()> {
    let (sender, receiver) = sync_channel(QUEUE);
    thread::Builder::new().name(name.into()).spawn(move || take(from, &sender, disturbance))?;
    thread::Builder::new().name(name.into()).spawn(move || give(to, &receiver))?;
    Ok(())
}

/// A frame and when it leaves.
type Waiting = (Instant, Vec<u8>);

fn take(mut from: File, queue: &SyncSender<Waiting>, disturbance: Option<Disturbance>) {
    let mut frame = vec![0; LONGEST_FRAME];
    let mut last = Instant::now();
    // Reading fails when the device is removed, which is how a relay ends.
    while let Ok(length) = from.read(&mut frame) {
        let Some(read) = frame.get(..length) else { return };
        if let Some(leaves) = leaves_at(disturbance, last) {
            last = leaves;
            match queue.try_send((leaves, read.to_vec())) {
                Ok(()) | Err(TrySendError::Full(_)) => (),
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }
}

/// When a frame that came now leaves, not before the one ahead of it; never when it is lost.
fn leaves_at(disturbance: Option<Disturbance>, ahead: Instant) -> Option<Instant> {
    let now = Instant::now();
    let Some(disturbance) = disturbance else { return Some(now) };
    let mut random = rand::rng();
    if random.random_range(0..100) < disturbance.loss_percent {
        return None;
    }
    let jitter = disturbance.jitter.mul_f64(random.random_range(0.0..=1.0));
    Some((now + disturbance.latency + jitter).max(ahead))
}

fn give(mut to: File, queue: &Receiver<Waiting>) {
    while let Ok((leaves, frame)) = queue.recv() {
        let wait = leaves.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        if let Err(error) = to.write_all(&frame) {
            tracing::debug!(%error, "relay ended");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_wait_in_order_and_some_are_lost() {
        let slow = |loss_percent| {
            let latency = Duration::from_secs(5);
            Some(Disturbance { latency, jitter: Duration::from_secs(1), loss_percent })
        };
        let now = Instant::now();
        let wait = leaves_at(slow(0), now).unwrap() - now;
        assert!(wait >= Duration::from_secs(5) && wait < Duration::from_secs(7), "{wait:?}");
        let ahead = now + Duration::from_secs(60);
        assert_eq!(leaves_at(slow(0), ahead), Some(ahead));
        assert_eq!(leaves_at(slow(100), now), None);
        assert!(leaves_at(None, ahead).unwrap() < ahead);
    }
}
