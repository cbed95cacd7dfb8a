//! What Kubernetes does not know: `ServiceEntry`, `WorkloadEntry`; and what sidecars see of it all: `Sidecar`.
//!
//! Fields that are not here are reported by [`crate::document::read`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Workloads by their labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSelector {
    /// Labels they have.
    pub labels: BTreeMap<String, String>,
}

/// A service that Kubernetes does not know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntry {
    /// Its names.
    pub hosts: Vec<String>,
    /// Its addresses or ranges.
    pub addresses: Vec<String>,
    /// Its ports.
    pub ports: Vec<ServiceEntryPort>,
    /// Inside or outside of the mesh.
    pub location: Location,
    /// How its endpoints are found.
    pub resolution: EntryResolution,
    /// Its endpoints.
    pub endpoints: Vec<WorkloadEntry>,
    /// Labels of its endpoints.
    pub workload_selector: Option<WorkloadSelector>,
    /// Who sees it.
    pub export_to: Vec<String>,
    /// Names its servers may have.
    pub subject_alt_names: Vec<String>,
}

/// A port of a service entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntryPort {
    /// The number.
    pub number: u16,
    /// What is spoken.
    pub protocol: String,
    /// Its name.
    pub name: String,
    /// Where the endpoints listen.
    pub target_port: Option<u16>,
}

/// Inside or outside of the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    /// Outside.
    #[default]
    MeshExternal,
    /// Inside.
    MeshInternal,
}

/// How endpoints are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EntryResolution {
    /// The client knows the address.
    #[default]
    None,
    /// They are listed.
    Static,
    /// By DNS, all addresses.
    Dns,
    /// By DNS, one address.
    DnsRoundRobin,
}

/// An endpoint that is not a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEntry {
    /// Where it is.
    pub address: String,
    /// Where it listens, by port name.
    pub ports: BTreeMap<String, u16>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its network.
    pub network: String,
    /// Where it stands.
    pub locality: String,
    /// Its share.
    pub weight: u32,
    /// Who it is.
    pub service_account: String,
}

/// What sidecars see.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sidecar {
    /// Which sidecars.
    pub workload_selector: Option<WorkloadSelector>,
    /// What they may call.
    pub egress: Vec<Egress>,
    /// What happens with unknown destinations.
    pub outbound_traffic_policy: Option<TrafficPolicyMode>,
}

/// What happens with outbound traffic to unknown destinations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicyMode {
    /// The answer.
    pub mode: OutboundMode,
}

/// Whether unknown destinations may be called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundMode {
    /// They may.
    #[default]
    AllowAny,
    /// Only what the mesh knows.
    RegistryOnly,
}

/// What sidecars may call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Egress {
    /// `NAMESPACE/HOST` patterns.
    pub hosts: Vec<String>,
}
