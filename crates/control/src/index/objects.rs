//! The parts of Kubernetes objects that the mesh is made from.
//!
//! Watches turn whole objects into these at once, so that nothing else stays in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use tombolo_model::endpoint::Health;
use tombolo_model::id::ObjectName;
use tombolo_model::port::ServicePort;

/// What is watched in every cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `Service`.
    Service,
    /// `EndpointSlice`.
    Slice,
    /// `Pod`.
    Pod,
    /// `Node`.
    Node,
    /// `Namespace`.
    Namespace,
    /// An Istio kind, by its name.
    Istio(&'static str),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::Slice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::Istio(kind) => kind,
        })
    }
}

/// One object, reduced.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A `Service`.
    Service(ServiceObject),
    /// An `EndpointSlice`.
    Slice(SliceObject),
    /// A `Pod`.
    Pod(PodObject),
    /// A `Node`.
    Node(NodeObject),
    /// A `Namespace`.
    Namespace(NamespaceObject),
    /// An Istio object.
    Istio(IstioObject),
}

impl Object {
    /// What kind of object it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::Slice(_) => Kind::Slice,
            Self::Pod(_) => Kind::Pod,
            Self::Node(_) => Kind::Node,
            Self::Namespace(_) => Kind::Namespace,
            Self::Istio(object) => Kind::Istio(object.kind),
        }
    }

    /// Its name within its kind and cluster.
    pub fn name(&self) -> &ObjectName {
        match self {
            Self::Service(object) => &object.name,
            Self::Slice(object) => &object.name,
            Self::Pod(object) => &object.name,
            Self::Node(object) => &object.name,
            Self::Namespace(object) => &object.name,
            Self::Istio(object) => &object.name,
        }
    }
}

/// How a service is reached from outside of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum External {
    /// Not at all.
    No,
    /// At these addresses, IP or DNS, on the service's own ports.
    Addresses(Vec<String>),
    /// On the nodes that have these labels, on node ports.
    NodePorts {
        /// Labels of the nodes.
        selector: BTreeMap<String, String>,
        /// Service port to node port.
        ports: BTreeMap<u16, u16>,
    },
}

/// A `Service`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceObject {
    /// Its name.
    pub name: ObjectName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations that start with a name of Istio.
    pub annotations: BTreeMap<String, String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its virtual addresses; empty when it is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// Whether it is headless.
    pub headless: bool,
    /// The name it stands for, when it is of type `ExternalName`.
    pub external_name: Option<String>,
    /// How it is reached from outside.
    pub external: External,
    /// Whether only endpoints on the client's node serve it.
    pub node_local: bool,
    /// When it was made, in seconds since 1970.
    pub created: i64,
}

/// An `EndpointSlice`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceObject {
    /// Its name.
    pub name: ObjectName,
    /// The service it belongs to, in the same namespace.
    pub service: Arc<str>,
    /// Name and number of its ports.
    pub ports: Vec<(String, u16)>,
    /// Its endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it takes requests.
    pub health: Health,
    /// The pod, when it is one.
    pub pod: Option<ObjectName>,
    /// Its DNS name within a headless service.
    pub hostname: String,
    /// The node, when known.
    pub node: String,
}

/// A `Pod`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodObject {
    /// Its name.
    pub name: ObjectName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its service account.
    pub service_account: String,
    /// The node it runs on.
    pub node: String,
    /// The name of its owner, such as its Deployment's.
    pub workload: String,
    /// Whether it runs, is ready and is to stay.
    pub serving: bool,
}

/// A `Node`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeObject {
    /// Its name.
    pub name: ObjectName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses of type `ExternalIP`.
    pub external_ips: Vec<String>,
}

/// A `Namespace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceObject {
    /// Its name.
    pub name: ObjectName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// An Istio object, as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct IstioObject {
    /// Its kind, such as `VirtualService`.
    pub kind: &'static str,
    /// Its name.
    pub name: ObjectName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// Its specification.
    pub spec: Arc<Value>,
}
