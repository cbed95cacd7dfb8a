//! A node's place in the network: its namespace, its `eth0` on the bridge, its routes.

use std::io;
use std::net::Ipv4Addr;

use crate::children::{Children, Place};
use crate::control::NodeState;
use crate::namespace::NetNamespace;
use crate::network::BRIDGE;
use crate::spec::LAB_NETWORK;

/// What a node's namespace must allow: its pods are routed, and answers may take another way than
/// questions (a load balancer's address is on whichever node answers for it).
const SETTINGS: [(&str, &str); 3] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
];

/// The hardware address that belongs to an address on the bridge, made as Docker makes it.
pub fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// The bridge's end of a node's link. Named by address: node names are too long for links.
pub fn port(address: Ipv4Addr) -> String {
    let [_, _, c, d] = address.octets();
    format!("node-{c}-{d}")
}

/// Makes the node's namespace and connects it to the bridge.
///
/// # Errors
/// When the kernel or `ip` refuses; what was made of it is removed.
pub async fn attach(children: &Children, node: &NodeState) -> io::Result<NetNamespace> {
    let namespace = NetNamespace::make(&node.name)?;
    match connect(children, node, &namespace).await {
        Ok(()) => Ok(namespace),
        Err(error) => {
            namespace.remove()?;
            Err(error)
        }
    }
}

async fn connect(
    children: &Children,
    node: &NodeState,
    namespace: &NetNamespace,
) -> io::Result<()> {
    let (port, address, mac) = (port(node.address), node.address, &node.mac);
    let path = namespace.path().display();
    let script = format!(
        "link add {port} type veth peer name eth0 address {mac} netns {path}\n\
         link set {port} master {BRIDGE}\n\
         link set {port} up\n"
    );
    children.run(&Place::Lab, "ip", &["-batch", "-"], &script).await?;
    namespace.run(|| {
        let write = |(name, value)| std::fs::write(format!("/proc/sys/{name}"), value);
        SETTINGS.into_iter().try_for_each(write)
    })?;
    let script = format!(
        "link set lo up\n\
         address add {address}/{} dev eth0\n\
         link set eth0 up\n",
        LAB_NETWORK.prefix_len()
    );
    run_ip(children, namespace, &script).await
}

/// Takes the node's link away; its namespace ends with its last process.
///
/// # Errors
/// When either was gone already.
pub async fn detach(
    children: &Children,
    node: &NodeState,
    namespace: &NetNamespace,
) -> io::Result<()> {
    let script = format!("link delete {}\n", port(node.address));
    let link = children.run(&Place::Lab, "ip", &["-batch", "-"], &script).await;
    namespace.remove()?;
    link.map(|_| ())
}

/// Sets or removes, in one node's namespace, the routes that lead to `to`.
///
/// # Errors
/// When `ip` refuses.
pub async fn set_routes(
    children: &Children,
    namespace: &NetNamespace,
    routes: &[(ipnet::Ipv4Net, Ipv4Addr)],
    present: bool,
) -> io::Result<()> {
    let mut script = String::new();
    for (subnet, via) in routes {
        let line = if present {
            format!("route replace {subnet} via {via} dev eth0\n")
        } else {
            // What a user removed by hand is not there to remove: flushing does not mind.
            format!("route flush exact {subnet} via {via} dev eth0\n")
        };
        script.push_str(&line);
    }
    run_ip(children, namespace, &script).await
}

async fn run_ip(children: &Children, namespace: &NetNamespace, script: &str) -> io::Result<()> {
    let place = Place::Network(namespace.clone());
    children.run(&place, "ip", &["-batch", "-"], script).await.map(|_| ())
}
