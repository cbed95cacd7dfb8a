//! Service addresses: what a packet to one becomes, and which of them this node answers for.
//!
//! [`table`] turns Services and EndpointSlices into one nftables script, [`ports`] into the ports
//! behind it, and [`host_ports`] adds those of pods on the node (all pure); [`keep`] applies them
//! as the cluster changes.

pub(crate) mod flows;
pub(crate) mod host_ports;
pub(crate) mod keep;
pub(crate) mod ports;
pub(crate) mod table;
