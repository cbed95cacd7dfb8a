//! The kinds of `security.istio.io`, as far as the control plane understands them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Workloads by their labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSelector {
    /// Labels they have.
    pub match_labels: BTreeMap<String, String>,
}

/// Whether workloads demand mutual TLS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerAuthentication {
    /// Which workloads; nothing for all of the namespace.
    pub selector: Option<WorkloadSelector>,
    /// On all ports.
    pub mtls: Option<MutualTls>,
    /// On single ports, by their number.
    pub port_level_mtls: BTreeMap<String, MutualTls>,
}

/// Whether mutual TLS is demanded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MutualTls {
    /// The answer.
    pub mode: MutualTlsMode,
}

/// Whether mutual TLS is demanded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MutualTlsMode {
    /// As the level above says.
    #[default]
    Unset,
    /// Never spoken.
    Disable,
    /// Spoken with those who can.
    Permissive,
    /// Demanded.
    Strict,
}

/// Who may call what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationPolicy {
    /// Which workloads; nothing for all of the namespace.
    pub selector: Option<WorkloadSelector>,
    /// What happens with requests that match.
    pub action: Action,
    /// Which requests; any rule may match. No rule at all matches nothing.
    pub rules: Vec<Rule>,
}

/// What happens with requests that match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// They may pass, and others may not.
    #[default]
    Allow,
    /// They may not pass.
    Deny,
    /// They are marked.
    Audit,
    /// An outside service is asked.
    Custom,
}

/// Which requests: from one of these, to one of these, when all of these hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// The callers.
    pub from: Vec<From>,
    /// What they call.
    pub to: Vec<To>,
    /// Further conditions.
    pub when: Vec<Condition>,
}

/// Wraps a source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct From {
    /// The source.
    pub source: Source,
}

/// Wraps an operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct To {
    /// The operation.
    pub operation: Operation,
}

/// Who calls; all that is set holds together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Source {
    /// SPIFFE identities without `spiffe://`.
    pub principals: Vec<String>,
    /// None of these identities.
    pub not_principals: Vec<String>,
    /// Namespaces of the caller.
    pub namespaces: Vec<String>,
    /// None of these namespaces.
    pub not_namespaces: Vec<String>,
    /// Addresses of the direct caller.
    pub ip_blocks: Vec<String>,
    /// None of these addresses.
    pub not_ip_blocks: Vec<String>,
}

/// What is called; all that is set holds together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Operation {
    /// Hosts asked for.
    pub hosts: Vec<String>,
    /// None of these hosts.
    pub not_hosts: Vec<String>,
    /// Ports called.
    pub ports: Vec<String>,
    /// None of these ports.
    pub not_ports: Vec<String>,
    /// Methods.
    pub methods: Vec<String>,
    /// None of these methods.
    pub not_methods: Vec<String>,
    /// Paths.
    pub paths: Vec<String>,
    /// None of these paths.
    pub not_paths: Vec<String>,
}

/// A further condition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What is looked at.
    pub key: String,
    /// One of these.
    pub values: Vec<String>,
    /// None of these.
    pub not_values: Vec<String>,
}
