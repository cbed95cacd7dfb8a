//! Compiled resources: encoded once, shared by every proxy that sees the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::{Message, Name};
use sha2::{Digest, Sha256};
use tombolo_xds::proto::envoy::config::cluster::v3::Cluster;
use tombolo_xds::proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use tombolo_xds::proto::envoy::config::listener::v3::Listener;
use tombolo_xds::proto::envoy::config::route::v3::RouteConfiguration;
use tombolo_xds::proto::google::protobuf::Any;

/// The types of resources that are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// Envoy's clusters (upstreams).
    Cluster,
    /// The endpoints of upstreams.
    Endpoint,
    /// Listeners.
    Listener,
    /// Route configurations.
    Route,
}

impl ResourceType {
    /// In the order in which a proxy must get them.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    /// The type's URL in xDS.
    pub fn url(self) -> String {
        match self {
            Self::Cluster => Cluster::type_url(),
            Self::Endpoint => ClusterLoadAssignment::type_url(),
            Self::Listener => Listener::type_url(),
            Self::Route => RouteConfiguration::type_url(),
        }
    }

    /// The type with this URL, if it is one of these.
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

/// One resource, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// A hash of the body: equal for equal bodies, in every process.
    pub version: Arc<str>,
    /// The resource with its type.
    pub body: Any,
}

/// Resources of one type by name.
pub type Resources = BTreeMap<String, Resource>;

impl Resource {
    /// Encodes a resource.
    pub fn of<M: Message + Name>(message: &M) -> Self {
        let value = message.encode_to_vec();
        let digest = Sha256::digest(&value);
        let version = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
        Self { version: version.into(), body: Any { type_url: M::type_url(), value: value.into() } }
    }
}
