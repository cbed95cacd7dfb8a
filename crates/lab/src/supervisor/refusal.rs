//! Why the supervisor refuses a request, as the user reads it.

use std::io;

use ipnet::Ipv4Net;

use crate::pki;
use crate::spec::{AddressRange, ClusterName, LAB_NETWORK};

/// Why a request about clusters was refused or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("the lab just ended with its last cluster")]
    Ending,
    #[error("there is no lab cluster `{name}`; there are: {known}")]
    NoCluster { name: ClusterName, known: String },
    #[error("there is no node `{name}`; there are: {known}")]
    NoNode { name: String, known: String },
    #[error("node `{0}` is not running just now; it starts again by itself, try again")]
    NodeDown(String),
    #[error("a lab cluster `{0}` exists already: delete it first, or choose another name")]
    Exists(ClusterName),
    #[error("{0}")]
    Spec(#[from] crate::spec::SpecError),
    #[error(
        "loadBalancerPool {range} of cluster `{name}` has addresses in common with {taken} of cluster `{other}`: choose another range"
    )]
    PoolTaken { name: ClusterName, range: AddressRange, other: ClusterName, taken: String },
    #[error("the lab's network {LAB_NETWORK} has no free address for node `{0}`")]
    NoAddress(String),
    #[error("a cluster cannot be joined with, or parted from, itself: `{0}`")]
    Itself(ClusterName),
    #[error(
        "clusters `{a}` and `{b}` cannot share a network: {subnet_a} and {subnet_b} overlap. Give them other subnets, or keep them on separate networks"
    )]
    Overlap { a: ClusterName, b: ClusterName, subnet_a: Ipv4Net, subnet_b: Ipv4Net },
    #[error("{what} of cluster `{cluster}`")]
    Make { what: String, cluster: ClusterName, source: io::Error },
    #[error("the certificates of cluster `{cluster}`")]
    Pki { cluster: ClusterName, source: pki::PkiError },
    #[error("cluster `{cluster}` has no process `{wanted}`; it has: {known}")]
    NoProcess { cluster: ClusterName, wanted: String, known: String },
}
