//! Cluster load assignments: where an upstream's endpoints are, and how they are weighted.

use std::net::SocketAddr;

use tombolo_xds::proto::envoy::config::core::v3::{HealthStatus, Metadata};
use tombolo_xds::proto::envoy::config::endpoint::v3 as eds;
use tombolo_xds::proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use tombolo_xds::proto::google::protobuf::value::Kind;

use crate::config::convert::{number, socket_address};
use crate::config::problem::{At, Problem, each, required};

/// The metadata namespace that chooses a transport socket.
const TRANSPORT_SOCKET_MATCH: &str = "envoy.transport_socket_match";
/// The metadata namespace with the workload's name.
const ISTIO: &str = "istio";

/// All endpoints of one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    pub localities: Vec<Locality>,
    /// How far healthy endpoints may stretch, in percent.
    pub overprovisioning: u32,
}

/// Endpoints of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locality {
    pub priority: u32,
    /// Share among the localities of a priority, where locality weights are used.
    pub weight: u32,
    pub endpoints: Vec<EndpointConfig>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointConfig {
    pub address: SocketAddr,
    pub weight: u32,
    pub healthy: bool,
    /// What transport sockets are chosen by, sorted.
    pub transport_match: Vec<(String, String)>,
    /// `workload;namespace;canonical name;canonical revision;cluster`, where known.
    pub workload: Option<String>,
}

/// Reads an assignment.
pub fn assignment(config: &eds::ClusterLoadAssignment) -> Result<Assignment, Problem> {
    let mut localities = each("endpoints", &config.endpoints, locality)?;
    localities.sort_by_key(|locality| locality.priority);
    let policy = config.policy.as_ref();
    let overprovisioning = policy.and_then(|policy| policy.overprovisioning_factor);
    Ok(Assignment { localities, overprovisioning: number(overprovisioning, 140) })
}

fn locality(config: &eds::LocalityLbEndpoints) -> Result<Locality, Problem> {
    Ok(Locality {
        priority: config.priority,
        weight: number(config.load_balancing_weight, 0),
        endpoints: each("lb_endpoints", &config.lb_endpoints, endpoint)?,
    })
}

fn endpoint(config: &eds::LbEndpoint) -> Result<EndpointConfig, Problem> {
    let Some(HostIdentifier::Endpoint(endpoint)) = config.host_identifier.as_ref() else {
        return Err(Problem::new("must be set").inside("endpoint"));
    };
    let address = required("address", endpoint.address.as_ref()).at("endpoint")?;
    let healthy = matches!(config.health_status(), HealthStatus::Unknown | HealthStatus::Healthy);
    let metadata = config.metadata.as_ref();
    Ok(EndpointConfig {
        address: socket_address(Some(address)).at("address").at("endpoint")?,
        weight: number(config.load_balancing_weight, 1).max(1),
        healthy,
        transport_match: strings(metadata, TRANSPORT_SOCKET_MATCH),
        workload: strings(metadata, ISTIO)
            .into_iter()
            .find_map(|(key, value)| (key == "workload").then_some(value)),
    })
}

/// The strings in one namespace of the metadata, sorted by key.
pub fn strings(metadata: Option<&Metadata>, namespace: &str) -> Vec<(String, String)> {
    let fields = metadata.and_then(|metadata| metadata.filter_metadata.get(namespace));
    let fields = fields.into_iter().flat_map(|fields| &fields.fields);
    let mut strings: Vec<_> = fields
        .filter_map(|(key, value)| match value.kind.as_ref()? {
            Kind::StringValue(text) => Some((key.clone(), text.clone())),
            _ => None,
        })
        .collect();
    strings.sort();
    strings
}
