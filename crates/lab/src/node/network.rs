//! The network of pods: addresses, and a namespace with an `eth0` per pod.
//!
//! A pod's namespace lives as long as the node agent holds its descriptor or a process is in it,
//! so it can never be left behind.

pub(crate) mod addresses;
pub(crate) mod links;
pub(crate) mod sandbox;
