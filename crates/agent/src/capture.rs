//! Sends a pod's traffic through its proxy, by nftables rules with the meaning of Istio's.

pub mod apply;
pub mod options;
pub mod rules;
