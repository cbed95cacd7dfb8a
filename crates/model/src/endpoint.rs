//! Endpoints: the places where a service's requests are answered.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::id::{ClusterId, NetworkId, ObjectName};
use crate::identity::Identity;

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// At an address.
    Ip(IpAddr),
    /// At whatever address a DNS name has.
    Name(Arc<str>),
    /// Only known to be behind the gateway of its network.
    BehindGateway,
}

/// Whether an endpoint takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Yes.
    Healthy,
    /// Not now.
    Unhealthy,
    /// Only those of sessions it has already.
    Draining,
    /// It is about to end.
    Terminating,
}

/// `region/zone/subzone`, as far as known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Locality {
    /// The region, or empty.
    pub region: String,
    /// The zone within the region, or empty.
    pub zone: String,
    /// The part of the zone, or empty.
    pub subzone: String,
}

impl Locality {
    /// Reads `region/zone/subzone`, where later parts may be missing.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self { region: next(), zone: next(), subzone: next() }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.subzone.is_empty()
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, zone, subzone } = self;
        match (self.is_empty(), subzone.is_empty(), zone.is_empty()) {
            (true, ..) => Ok(()),
            (_, false, _) => write!(f, "{region}/{zone}/{subzone}"),
            (_, true, false) => write!(f, "{region}/{zone}"),
            (_, true, true) => write!(f, "{region}"),
        }
    }
}

/// What runs at an endpoint. Shared by all ports of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    /// The pod or workload entry.
    pub object: ObjectName,
    /// The cluster it is in.
    pub cluster: ClusterId,
    /// The network it is in.
    pub network: NetworkId,
    /// The owner's name, such as that of a Deployment.
    pub name: String,
    /// The pod's labels and those that follow from where it is.
    pub labels: BTreeMap<String, String>,
    /// Who it is, if it has a service account.
    pub identity: Option<Identity>,
    /// Whether a proxy of the mesh answers mutual TLS for it.
    pub mutual_tls: bool,
    /// Where it is.
    pub locality: Locality,
    /// The node it runs on, or empty.
    pub node: String,
}

impl Workload {
    /// The value of a label, or nothing.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }
}

/// One port of one workload that serves one service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The name of the service port it serves.
    pub port_name: String,
    /// Where it is.
    pub address: Address,
    /// The port the application listens on.
    pub port: u16,
    /// Whether it takes requests.
    pub health: Health,
    /// Its share of the requests; at least 1.
    pub weight: u32,
    /// The DNS name of the pod within its headless service, or empty.
    pub hostname: String,
    /// What runs there.
    pub workload: Arc<Workload>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locality_is_read_as_it_is_written() {
        for text in ["", "r", "r/z", "r/z/s", "r//s"] {
            assert_eq!(Locality::parse(text).to_string(), text);
        }
    }
}
