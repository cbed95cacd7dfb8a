//! Services of the mesh, merged over clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::id::{ClusterId, Host, ObjectName};
use crate::port::{Protocol, ServicePort};

/// How a client gets from a service to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The client chooses among the endpoints.
    Endpoints,
    /// The client has chosen an address already (headless services, `NONE`).
    Passthrough,
    /// The endpoints are DNS names, all of whose addresses are used.
    Dns,
    /// The endpoint is one DNS name, one of whose addresses is used.
    DnsRoundRobin,
    /// Another name of that host.
    Alias(Host),
}

/// Who may use a service or a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Visibility {
    /// Everybody.
    Public,
    /// Workloads of these namespaces.
    Namespaces(BTreeSet<String>),
}

impl Visibility {
    /// Reads an `exportTo` list, where `.` is the object's own namespace and `~` is nobody.
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a str>, own_namespace: &str) -> Self {
        let mut namespaces = BTreeSet::new();
        for value in values {
            match value.trim() {
                "*" => return Self::Public,
                "." => {
                    namespaces.insert(own_namespace.to_owned());
                }
                "~" | "" => (),
                name => {
                    namespaces.insert(name.to_owned());
                }
            }
        }
        Self::Namespaces(namespaces)
    }

    /// Whether workloads of `namespace` may use it.
    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            Self::Public => true,
            Self::Namespaces(names) => names.contains(namespace),
        }
    }
}

/// Where a service was declared. What Kubernetes declares comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A Kubernetes `Service`.
    Kubernetes,
    /// An Istio `ServiceEntry`.
    ServiceEntry,
}

/// Which service. Several objects may declare the same host, for different callers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The name that clients use.
    pub host: Host,
    /// Where it was declared.
    pub origin: Origin,
    /// The object that declares it, or the oldest of them.
    pub object: ObjectName,
}

impl ServiceKey {
    /// The key that all services of a host start from.
    pub fn first(host: &Host) -> Self {
        let object = ObjectName::new("", "");
        Self { host: host.clone(), origin: Origin::Kubernetes, object }
    }
}

/// A service as the whole mesh sees it: one host, merged over the clusters that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The name that clients use.
    pub host: Host,
    /// The object that declares it, in the first cluster that has it.
    pub object: ObjectName,
    /// Younger objects that declare more of it.
    pub additions: BTreeSet<ObjectName>,
    /// Where it was declared.
    pub origin: Origin,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Whether it is outside of the mesh, so that it never speaks mutual TLS.
    pub external: bool,
    /// The ports, as the first cluster that has the service declares them.
    pub ports: Vec<ServicePort>,
    /// The virtual addresses per cluster.
    pub vips: BTreeMap<ClusterId, Vec<IpAddr>>,
    /// The addresses for clusters that have none of their own, and the ranges of service entries.
    pub default_addresses: Vec<IpNet>,
    /// Who may use it.
    pub visibility: Visibility,
    /// Identities declared for it, besides those of its endpoints.
    pub declared_identities: BTreeSet<String>,
    /// Whether only endpoints on the client's node serve it.
    pub node_local: bool,
    /// Whether only endpoints in the client's cluster serve it.
    pub cluster_local: bool,
    /// Whether a draining endpoint keeps its sessions.
    pub persistent_sessions: bool,
    /// When the object was made, for "the oldest wins"; seconds since 1970.
    pub created: i64,
}

impl Service {
    /// Which service it is.
    pub fn key(&self) -> ServiceKey {
        let (host, object) = (self.host.clone(), self.object.clone());
        ServiceKey { host, origin: self.origin, object }
    }

    /// The ports that the mesh carries: those of streams, not of datagrams.
    pub fn stream_ports(&self) -> impl Iterator<Item = &ServicePort> {
        self.ports.iter().filter(|port| port.protocol != Protocol::Udp)
    }

    /// The port numbered `number` that the mesh carries. One of datagrams may have that number too.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.stream_ports().find(|port| port.number == number)
    }

    /// Whether the clients pick the address themselves.
    pub fn is_headless(&self) -> bool {
        self.origin == Origin::Kubernetes && self.resolution == Resolution::Passthrough
    }

    /// The addresses under which clients of `cluster` call the service.
    pub fn addresses_for(&self, cluster: &ClusterId) -> Vec<IpNet> {
        match self.vips.get(cluster) {
            Some(vips) if !vips.is_empty() => vips.iter().copied().map(IpNet::from).collect(),
            _ => self.default_addresses.clone(),
        }
    }
}
