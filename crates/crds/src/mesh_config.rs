//! `MeshConfig` and `MeshNetworks`: the data of the ConfigMap `istio`.
//!
//! Only the fields that change what Tombolo does are here; the others are reported by
//! [`crate::document::read`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::duration::Duration;
use crate::networking::destination_rule::{ConnectionPool, LocalityLbSetting, OutlierDetection};
use crate::networking::service_entry::TrafficPolicyMode;
use crate::networking::virtual_service::RetryPolicy;

/// Settings of the whole mesh.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfig {
    /// Where access logs go; empty switches them off.
    pub access_log_file: String,
    /// The format of a line; empty for the default.
    pub access_log_format: String,
    /// Text or JSON lines.
    pub access_log_encoding: AccessLogEncoding,
    /// The trust domain of the mesh.
    pub trust_domain: String,
    /// Other names of the trust domain.
    pub trust_domain_aliases: Vec<String>,
    /// The namespace whose policies hold for the whole mesh.
    pub root_namespace: String,
    /// Whether proxies speak mutual TLS with each other on their own.
    pub enable_auto_mtls: bool,
    /// What happens with traffic to unknown destinations.
    pub outbound_traffic_policy: TrafficPolicyMode,
    /// What happens with traffic to ports that no service declares.
    pub inbound_traffic_policy: InboundTrafficPolicy,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long to wait for the first bytes when a protocol is not declared; 0 for ever.
    pub protocol_detection_timeout: Duration,
    /// Who sees services that do not say so.
    pub default_service_export_to: Vec<String>,
    /// Who sees virtual services that do not say so.
    pub default_virtual_service_export_to: Vec<String>,
    /// Who sees destination rules that do not say so.
    pub default_destination_rule_export_to: Vec<String>,
    /// Preference for near endpoints.
    pub locality_lb_setting: Option<LocalityLbSetting>,
    /// Which hosts stay within their cluster.
    pub service_settings: Vec<ServiceSettings>,
    /// The default retries of HTTP routes.
    pub default_http_retry_policy: Option<RetryPolicy>,
    /// Blocks of a traffic policy that destination rules leave unset.
    pub default_traffic_policy: Option<DefaultTrafficPolicy>,
    /// Lowest TLS version inside the mesh.
    #[serde(rename = "meshMTLS")]
    pub mesh_mtls: Option<MeshTls>,
    /// The default settings of proxies; passed on to them by injection.
    pub default_config: Value,
    /// How often DNS names are looked up again.
    pub dns_refresh_rate: Duration,
    /// Whether requests are traced. Tracing needs a provider, and none is supported.
    pub enable_tracing: bool,
    /// Whether the application's metrics are merged into the proxy's; used by injection.
    pub enable_prometheus_merge: bool,
    /// The providers used where no Telemetry object says otherwise.
    pub default_providers: Value,
    /// Certificates trusted beside the root; used by the trust room.
    pub ca_certificates: Value,
}

impl Default for MeshConfig {
    fn default() -> Self {
        let everybody = || vec![String::from("*")];
        Self {
            access_log_file: String::new(),
            access_log_format: String::new(),
            access_log_encoding: AccessLogEncoding::Text,
            trust_domain: String::from("cluster.local"),
            trust_domain_aliases: Vec::new(),
            root_namespace: String::from("istio-system"),
            enable_auto_mtls: true,
            outbound_traffic_policy: TrafficPolicyMode::default(),
            inbound_traffic_policy: InboundTrafficPolicy::default(),
            connect_timeout: Duration(std::time::Duration::from_secs(10)),
            protocol_detection_timeout: Duration::default(),
            default_service_export_to: everybody(),
            default_virtual_service_export_to: everybody(),
            default_destination_rule_export_to: everybody(),
            locality_lb_setting: None,
            service_settings: Vec::new(),
            default_http_retry_policy: None,
            default_traffic_policy: None,
            mesh_mtls: None,
            default_config: Value::Null,
            dns_refresh_rate: Duration(std::time::Duration::from_secs(60)),
            enable_tracing: true,
            enable_prometheus_merge: true,
            default_providers: Value::Null,
            ca_certificates: Value::Null,
        }
    }
}

/// Form of an access log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AccessLogEncoding {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// What happens with inbound traffic to undeclared ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InboundTrafficPolicy {
    /// The answer.
    pub mode: InboundMode,
}

/// To which address inbound traffic is passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InboundMode {
    /// To the address it was sent to.
    #[default]
    Passthrough,
    /// To loopback.
    Localhost,
}

/// Settings of a set of hosts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSettings {
    /// The settings.
    pub settings: ServiceSetting,
    /// The hosts, exact or with a leading `*`.
    pub hosts: Vec<String>,
}

/// Settings of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSetting {
    /// Whether clients only use endpoints of their own cluster.
    pub cluster_local: bool,
}

/// Defaults of destination rules.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefaultTrafficPolicy {
    /// Limits of connections and requests.
    pub connection_pool: Option<ConnectionPool>,
    /// When endpoints are set aside.
    pub outlier_detection: Option<OutlierDetection>,
}

/// TLS inside the mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshTls {
    /// The lowest version: `TLS_AUTO`, `TLSV1_2` or `TLSV1_3`.
    pub min_protocol_version: String,
}

/// Networks that are declared instead of discovered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshNetworks {
    /// The networks by name.
    pub networks: BTreeMap<String, Network>,
}

/// One declared network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Network {
    /// What is in it.
    pub endpoints: Vec<NetworkEndpoints>,
    /// How it is entered.
    pub gateways: Vec<NetworkGateway>,
}

/// What is in a network: a cluster, or a range of addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkEndpoints {
    /// Everything in this range.
    pub from_cidr: Option<String>,
    /// Everything of this cluster.
    pub from_registry: Option<String>,
}

/// How a network is entered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkGateway {
    /// The service of the network's cluster that is the gateway.
    pub registry_service_name: Option<String>,
    /// The gateway's address.
    pub address: Option<String>,
    /// The gateway's port.
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_tutorials_settings_are_understood() {
        let read = crate::document::read::<MeshConfig>(&json!({
            "accessLogFile": "/dev/stdout",
            "accessLogEncoding": "JSON",
            "accessLogFormat": "{\"path\":\"%REQ(:PATH)%\"}",
            "defaultConfig": {"discoveryAddress": "istiod.istio-system.svc:15012", "meshId": "mesh1"},
            "defaultProviders": {"metrics": ["prometheus"]},
            "enablePrometheusMerge": true,
            "rootNamespace": "istio-system",
            "trustDomain": "cluster.local",
        }))
        .unwrap();
        assert_eq!(read.unknown, Vec::<String>::new());
        assert_eq!(read.value.access_log_encoding, AccessLogEncoding::Json);
        assert_eq!(read.value.connect_timeout.0.as_secs(), 10);
    }
}
