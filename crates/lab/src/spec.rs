//! What a lab cluster is asked to be.
//!
//! Plain values that are valid once they exist: names, subnets and ranges are checked where they
//! are parsed, and [`ClusterSpec::check`] finds what does not fit together.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The network that the lab's bridge carries: nodes and load-balancer addresses live in it.
pub const LAB_NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 18, 0, 0), 16);

/// The first address of [`LAB_NETWORK`]: the host's when it is attached, else the bridge's own.
pub const LAB_GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);

/// The port of every cluster's API server on its node's address.
pub const API_SERVER_PORT: u16 = 6443;

/// The length of a node's share of the pod subnet, as in kind.
const NODE_PREFIX: u8 = 24;

/// The longest name for which every node name is still a host name.
const LONGEST_NAME: usize = 45;

/// The name of a lab cluster, under kind's rule: lower-case letters, digits, dots and dashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(String);

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its context, cluster and user in a kubeconfig.
    pub fn context(&self) -> String {
        format!("kind-{}", self.0)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0
    }
}

impl TryFrom<String> for ClusterName {
    type Error = SpecError;

    fn try_from(name: String) -> Result<Self, SpecError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let fits = name.len() <= LONGEST_NAME && name.chars().all(plain);
        if fits && edge(name.chars().next()) && edge(name.chars().next_back()) {
            return Ok(Self(name));
        }
        Err(SpecError::Name { name })
    }
}

impl FromStr for ClusterName {
    type Err = SpecError;

    fn from_str(name: &str) -> Result<Self, SpecError> {
        Self::try_from(name.to_owned())
    }
}

/// The addresses that a cluster gives to Services of type `LoadBalancer`: `FIRST-LAST` or a CIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    /// The first address.
    pub first: Ipv4Addr,
    /// The last address, not before the first.
    pub last: Ipv4Addr,
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.to_string()
    }
}

impl TryFrom<String> for AddressRange {
    type Error = SpecError;

    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl FromStr for AddressRange {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let bad = || SpecError::Range { text: text.to_owned() };
        if let Some((first, last)) = text.split_once('-') {
            let first: Ipv4Addr = first.trim().parse().map_err(|_| bad())?;
            let last: Ipv4Addr = last.trim().parse().map_err(|_| bad())?;
            return if first <= last { Ok(Self { first, last }) } else { Err(bad()) };
        }
        let network: Ipv4Net = text.trim().parse().map_err(|_| bad())?;
        Ok(Self { first: network.network(), last: network.broadcast() })
    }
}

/// Which program serves the Kubernetes API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiServerKind {
    /// Tombolo's own, over an embedded store.
    #[default]
    Embedded,
    /// Real etcd, kube-apiserver and kube-controller-manager.
    Kubernetes,
}

impl fmt::Display for ApiServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded",
            Self::Kubernetes => "kubernetes",
        })
    }
}

impl FromStr for ApiServerKind {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text.to_ascii_lowercase().as_str() {
            "embedded" => Ok(Self::Embedded),
            "kubernetes" => Ok(Self::Kubernetes),
            _ => Err(SpecError::ApiServer { text: text.to_owned() }),
        }
    }
}

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeRole {
    /// Carries the API server, and pods.
    ControlPlane,
    /// Carries pods.
    Worker,
}

impl fmt::Display for NodeRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ControlPlane => "control-plane",
            Self::Worker => "worker",
        })
    }
}

/// What a cluster is asked to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Its name, unique in the lab.
    pub name: ClusterName,
    /// Where pods get their addresses; each node has a /24 of it.
    pub pod_subnet: Ipv4Net,
    /// Where Services get their addresses.
    pub service_subnet: Ipv4Net,
    /// Where load balancers get their addresses, until the user applies MetalLB's own objects.
    pub load_balancer_pool: Option<AddressRange>,
    /// The nodes beside each other on the bridge; the first is the control plane.
    pub nodes: Vec<NodeRole>,
    /// Which program serves the API.
    pub api_server: ApiServerKind,
    /// The address on the host where the kubeconfig's server listens.
    pub api_server_address: IpAddr,
    /// Its port; 0 picks a free one.
    pub api_server_port: u16,
}

impl ClusterSpec {
    /// A cluster of one node with kind's subnets.
    pub fn new(name: ClusterName) -> Self {
        Self {
            name,
            pod_subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16),
            service_subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16),
            load_balancer_pool: None,
            nodes: vec![NodeRole::ControlPlane],
            api_server: ApiServerKind::default(),
            api_server_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            api_server_port: 0,
        }
    }

    /// Finds what does not fit together.
    ///
    /// # Errors
    /// Names the fields and how to mend them.
    pub fn check(&self) -> Result<(), SpecError> {
        let (pods, services) = (self.pod_subnet, self.service_subnet);
        for (field, subnet) in [("podSubnet", pods), ("serviceSubnet", services)] {
            if overlap(subnet, LAB_NETWORK) {
                return Err(SpecError::LabNetwork { field, subnet });
            }
        }
        if overlap(pods, services) {
            return Err(SpecError::Overlap { pods, services });
        }
        // The tenth address is the DNS server's, so a smaller subnet has no room for it.
        if services.prefix_len() > 28 {
            return Err(SpecError::ServiceSubnet { services });
        }
        let room = 1_usize << NODE_PREFIX.saturating_sub(pods.prefix_len()).min(16);
        if pods.prefix_len() > NODE_PREFIX || self.nodes.len() > room {
            return Err(SpecError::PodSubnet { pods, nodes: self.nodes.len() });
        }
        if let Some(range) = self.load_balancer_pool {
            let inside = LAB_NETWORK.contains(&range.first) && LAB_NETWORK.contains(&range.last);
            if !inside || range.first <= LAB_GATEWAY {
                return Err(SpecError::Pool { range });
            }
        }
        match self.nodes.iter().filter(|role| **role == NodeRole::ControlPlane).count() {
            1 => Ok(()),
            count => Err(SpecError::ControlPlanes { count }),
        }
    }

    /// The names of the nodes in the order of `nodes`, numbered as kind numbers them.
    pub fn node_names(&self) -> Vec<String> {
        let mut workers = 0;
        let name = |role: &NodeRole| match role {
            NodeRole::ControlPlane => format!("{}-control-plane", self.name),
            NodeRole::Worker => {
                workers += 1;
                let number = if workers == 1 { String::new() } else { workers.to_string() };
                format!("{}-worker{number}", self.name)
            }
        };
        self.nodes.iter().map(name).collect()
    }

    /// The share of the pod subnet that belongs to the node at `index`.
    pub fn node_pod_subnet(&self, index: usize) -> Option<Ipv4Net> {
        self.pod_subnet.subnets(NODE_PREFIX).ok()?.nth(index)
    }

    /// The address at `offset` in the service subnet: 1 is `kubernetes.default`, 10 cluster DNS.
    pub fn service_address(&self, offset: u8) -> Ipv4Addr {
        let first = u32::from(self.service_subnet.network());
        Ipv4Addr::from(first.saturating_add(u32::from(offset)))
    }
}

/// Whether two subnets have an address in common.
pub fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// Why a cluster cannot be what it is asked to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The name is not one.
    #[error(
        "`{name}` is not a cluster name: use at most {LONGEST_NAME} lower-case letters, digits, dots and dashes, with a letter or digit at both ends"
    )]
    Name { name: String },
    /// A pool does not parse.
    #[error(
        "`{text}` is not a range of addresses: write FIRST-LAST, such as 172.18.11.0-172.18.11.255, or a CIDR"
    )]
    Range { text: String },
    /// No such kind of API server.
    #[error("`{text}` is not a kind of API server: use `embedded` or `kubernetes`")]
    ApiServer { text: String },
    /// The pods' and the Services' addresses are not apart.
    #[error(
        "podSubnet {pods} and serviceSubnet {services} overlap: choose subnets with no address in common"
    )]
    Overlap { pods: Ipv4Net, services: Ipv4Net },
    /// A subnet of the cluster is part of the lab's own network.
    #[error(
        "{field} {subnet} overlaps the lab's network {LAB_NETWORK}, where nodes and load balancers live: choose another subnet"
    )]
    LabNetwork { field: &'static str, subnet: Ipv4Net },
    /// Too few Service addresses.
    #[error("serviceSubnet {services} is too small: use a prefix of at most /28")]
    ServiceSubnet { services: Ipv4Net },
    /// Too few pod addresses.
    #[error("podSubnet {pods} is too small for {nodes} node(s): each takes a /{NODE_PREFIX}")]
    PodSubnet { pods: Ipv4Net, nodes: usize },
    /// The pool is not on the bridge.
    #[error(
        "loadBalancerPool {range} is not inside the lab's network {LAB_NETWORK} (after {LAB_GATEWAY}): choose a range there"
    )]
    Pool { range: AddressRange },
    /// Not exactly one control plane.
    #[error("{count} nodes have the role `control-plane`: a lab cluster has exactly one")]
    ControlPlanes { count: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ClusterSpec {
        ClusterSpec::new("c1".parse().unwrap())
    }

    #[test]
    fn what_does_not_fit_together_is_named_with_its_remedy() {
        type Change = fn(&mut ClusterSpec);
        let cases: [(Change, &str); 7] = [
            (|_| (), "fits"),
            (
                |s| s.service_subnet = "10.244.8.0/24".parse().unwrap(),
                "podSubnet 10.244.0.0/16 and serviceSubnet 10.244.8.0/24 overlap: choose subnets with no address in common",
            ),
            (
                |s| s.pod_subnet = "172.16.0.0/12".parse().unwrap(),
                "podSubnet 172.16.0.0/12 overlaps the lab's network 172.18.0.0/16, where nodes and load balancers live: choose another subnet",
            ),
            (
                |s| s.service_subnet = "10.96.0.0/30".parse().unwrap(),
                "serviceSubnet 10.96.0.0/30 is too small: use a prefix of at most /28",
            ),
            (
                |s| s.pod_subnet = "10.1.0.0/25".parse().unwrap(),
                "podSubnet 10.1.0.0/25 is too small for 1 node(s): each takes a /24",
            ),
            (
                |s| s.load_balancer_pool = Some("192.168.1.0/24".parse().unwrap()),
                "loadBalancerPool 192.168.1.0-192.168.1.255 is not inside the lab's network 172.18.0.0/16 (after 172.18.0.1): choose a range there",
            ),
            (
                |s| s.nodes = vec![NodeRole::Worker],
                "0 nodes have the role `control-plane`: a lab cluster has exactly one",
            ),
        ];
        for (change, want) in cases {
            let mut spec = spec();
            change(&mut spec);
            let got = spec.check().map_or_else(|e| e.to_string(), |()| "fits".to_owned());
            assert_eq!(got, want);
        }
    }

    #[test]
    fn nodes_are_named_and_numbered_as_kind_does() {
        let mut spec = spec();
        spec.nodes = vec![NodeRole::ControlPlane, NodeRole::Worker, NodeRole::Worker];
        assert_eq!(spec.node_names(), ["c1-control-plane", "c1-worker", "c1-worker2"]);
        assert_eq!(spec.node_pod_subnet(2), Some("10.244.2.0/24".parse().unwrap()));
        assert_eq!(spec.service_address(10), Ipv4Addr::new(10, 96, 0, 10));
    }

    #[test]
    fn names_and_ranges_that_are_none_are_refused() {
        for bad in ["", "A", "a/b", "-a", "a-", "a..", &"a".repeat(46)] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
        for bad in ["", "1.2.3.4", "172.18.2.9-172.18.2.1", "x-y", "172.18.0.0/33"] {
            assert!(bad.parse::<AddressRange>().is_err(), "{bad}");
        }
        let range: AddressRange = "172.18.12.0/24".parse().unwrap();
        assert_eq!(range.to_string(), "172.18.12.0-172.18.12.255");
    }
}
