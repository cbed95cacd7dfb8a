//! Partitions between clusters.
//!
//! A partition drops, where it enters a node, every frame from the other cluster's nodes. That
//! stops everything that crosses the bridge, address resolution and load-balancer addresses
//! included, and nothing else.

use std::fmt::Write as _;
use std::io;

use crate::children::{Children, Place};
use crate::control::NodeState;
use crate::namespace::NetNamespace;

/// The table that holds a node's partitions.
const TABLE: &str = "netdev tombolo_faults";

/// The script that drops, on a node, all frames from `others`. Added to what is dropped already.
pub fn partition_script(others: &[NodeState]) -> String {
    let mut script = format!(
        "add table {TABLE}\n\
         add chain {TABLE} from_the_bridge {{ type filter hook ingress device \"eth0\" priority -500; }}\n"
    );
    for node in others {
        // Writing to a string cannot fail.
        let _ = writeln!(script, "add rule {TABLE} from_the_bridge ether saddr {} drop", node.mac);
    }
    script
}

/// Drops, on the node in `namespace`, all frames from `others`.
///
/// # Errors
/// When `nft` refuses.
pub async fn partition(
    children: &Children,
    namespace: &NetNamespace,
    others: &[NodeState],
) -> io::Result<()> {
    let place = Place::Network(namespace.clone());
    children.run(&place, "nft", &["-f", "-"], &partition_script(others)).await.map(|_| ())
}

/// Undoes all partitions of the node in `namespace`.
///
/// # Errors
/// When `nft` refuses.
pub async fn heal(children: &Children, namespace: &NetNamespace) -> io::Result<()> {
    let place = Place::Network(namespace.clone());
    // Adding first makes the removal work whether or not the table was there.
    let script = format!("add table {TABLE}\ndelete table {TABLE}\n");
    children.run(&place, "nft", &["-f", "-"], &script).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::node::mac;
    use crate::spec::NodeRole;

    #[test]
    fn a_partition_drops_frames_of_every_node_of_the_other_cluster() {
        let address = std::net::Ipv4Addr::new(172, 18, 0, 3);
        let node = NodeState {
            name: "b-control-plane".into(),
            role: NodeRole::ControlPlane,
            address,
            mac: mac(address),
            pod_subnet: "10.1.0.0/24".parse().unwrap(),
        };
        assert_eq!(
            partition_script(&[node]),
            "add table netdev tombolo_faults\n\
             add chain netdev tombolo_faults from_the_bridge { type filter hook ingress device \"eth0\" priority -500; }\n\
             add rule netdev tombolo_faults from_the_bridge ether saddr 02:42:ac:12:00:03 drop\n"
        );
    }
}
