//! How services are called: `DestinationRule`.
//!
//! Fields that are not here are reported by [`crate::document::read`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::networking::service_entry::WorkloadSelector;
use crate::networking::virtual_service::PortSelector;

/// How a service is called.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DestinationRule {
    /// The service.
    pub host: String,
    /// For all of it.
    pub traffic_policy: Option<TrafficPolicy>,
    /// Parts of it.
    pub subsets: Vec<Subset>,
    /// Who sees it.
    pub export_to: Vec<String>,
    /// Which clients it is for.
    pub workload_selector: Option<WorkloadSelector>,
}

/// A part of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// Its name.
    pub name: String,
    /// Labels of its endpoints.
    pub labels: BTreeMap<String, String>,
    /// How it is called.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// How endpoints are called.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// How one is chosen.
    pub load_balancer: Option<LoadBalancer>,
    /// Limits.
    pub connection_pool: Option<ConnectionPool>,
    /// When one is set aside.
    pub outlier_detection: Option<OutlierDetection>,
    /// Whether by TLS.
    pub tls: Option<ClientTls>,
    /// The same for single ports.
    pub port_level_settings: Vec<PortTrafficPolicy>,
}

/// How endpoints are called on one port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortTrafficPolicy {
    /// The port.
    pub port: Option<PortSelector>,
    /// How one is chosen.
    pub load_balancer: Option<LoadBalancer>,
    /// Limits.
    pub connection_pool: Option<ConnectionPool>,
    /// When one is set aside.
    pub outlier_detection: Option<OutlierDetection>,
    /// Whether by TLS.
    pub tls: Option<ClientTls>,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancer {
    /// By this rule.
    pub simple: Option<SimpleBalancer>,
    /// By a hash of the request.
    pub consistent_hash: Option<ConsistentHash>,
    /// Preference for near ones.
    pub locality_lb_setting: Option<LocalityLbSetting>,
    /// New ones are spared at first.
    pub warmup: Option<Warmup>,
}

/// A rule for choosing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleBalancer {
    /// The default, least request.
    #[default]
    Unspecified,
    /// The old name of least request.
    LeastConn,
    /// Any.
    Random,
    /// The address that was called.
    Passthrough,
    /// One after the other.
    RoundRobin,
    /// The less busy of two.
    LeastRequest,
}

/// Choosing by a hash of the request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsistentHash {
    /// Of this header.
    pub http_header_name: Option<String>,
    /// Of this cookie.
    pub http_cookie: Option<HashCookie>,
    /// Of the client's address.
    pub use_source_ip: Option<bool>,
    /// Of this parameter.
    pub http_query_parameter_name: Option<String>,
    /// On a ring.
    pub ring_hash: Option<RingHash>,
    /// In a table.
    pub maglev: Option<Maglev>,
    /// The old place of the ring's size.
    pub minimum_ring_size: Option<u64>,
}

/// A cookie to hash.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// Its path.
    pub path: String,
    /// How long it lives.
    pub ttl: Option<Duration>,
}

/// A ring of hashes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RingHash {
    /// Its size.
    pub minimum_ring_size: Option<u64>,
}

/// A table of hashes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Maglev {
    /// Its size.
    pub table_size: Option<u64>,
}

/// Preference for near endpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalityLbSetting {
    /// Shares by locality.
    pub distribute: Vec<Distribute>,
    /// Where to go when a region fails.
    pub failover: Vec<Failover>,
    /// Labels that make an endpoint near.
    pub failover_priority: Vec<String>,
    /// Whether at all.
    pub enabled: Option<bool>,
}

/// Shares by locality.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Distribute {
    /// Of clients here.
    pub from: String,
    /// Percent of requests there.
    pub to: BTreeMap<String, u32>,
}

/// Where to go when a region fails.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Failover {
    /// The region.
    pub from: String,
    /// Where to go.
    pub to: String,
}

/// New endpoints are spared at first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Warmup {
    /// For so long.
    pub duration: Option<Duration>,
    /// They start with this share.
    pub minimum_percent: Option<f64>,
    /// How fast it grows.
    pub aggression: Option<f64>,
}

/// Limits of connections and requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionPool {
    /// Of connections.
    pub tcp: Option<TcpPool>,
    /// Of requests.
    pub http: Option<HttpPool>,
}

/// Limits of connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpPool {
    /// How many.
    pub max_connections: Option<u32>,
    /// How long one may take to be made.
    pub connect_timeout: Option<Duration>,
    /// Probes on silent ones.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// How long one may last.
    pub max_connection_duration: Option<Duration>,
    /// How long one may be silent.
    pub idle_timeout: Option<Duration>,
}

/// Probes on silent connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpKeepalive {
    /// How many go unanswered.
    pub probes: Option<u32>,
    /// Silence before the first.
    pub time: Option<Duration>,
    /// Time between them.
    pub interval: Option<Duration>,
}

/// Limits of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPool {
    /// How many wait.
    pub http1_max_pending_requests: Option<u32>,
    /// How many run.
    pub http2_max_requests: Option<u32>,
    /// How many one connection takes.
    pub max_requests_per_connection: Option<u32>,
    /// How many retries run.
    pub max_retries: Option<u32>,
    /// How long a connection may be idle.
    pub idle_timeout: Option<Duration>,
    /// Whether HTTP/1.1 becomes HTTP/2.
    pub h2_upgrade_policy: Option<H2Upgrade>,
    /// Whether the client's protocol is kept.
    pub use_client_protocol: bool,
    /// How many requests share an HTTP/2 connection.
    pub max_concurrent_streams: Option<u32>,
}

/// Whether HTTP/1.1 becomes HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2Upgrade {
    /// As the mesh says.
    #[default]
    Default,
    /// No.
    DoNotUpgrade,
    /// Yes.
    Upgrade,
}

/// When an endpoint is set aside.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// After so many errors.
    #[serde(rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<u32>,
    /// After so many gateway errors.
    pub consecutive_gateway_errors: Option<u32>,
    /// After so many failures to connect.
    pub consecutive_local_origin_failures: Option<u32>,
    /// Whether failures to connect count apart.
    pub split_external_local_origin_errors: bool,
    /// How often to look.
    pub interval: Option<Duration>,
    /// For how long at first.
    pub base_ejection_time: Option<Duration>,
    /// How many at once.
    pub max_ejection_percent: Option<u32>,
    /// Below this many all are used.
    pub min_health_percent: Option<u32>,
}

/// TLS towards the endpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTls {
    /// Which kind.
    pub mode: ClientTlsMode,
    /// File with the client's chain.
    pub client_certificate: String,
    /// File with the client's key.
    pub private_key: String,
    /// File with the roots.
    pub ca_certificates: String,
    /// Names the server may have.
    pub subject_alt_names: Vec<String>,
    /// The name asked for.
    pub sni: String,
    /// Whether anybody is believed.
    pub insecure_skip_verify: Option<bool>,
}

/// Kinds of TLS towards endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientTlsMode {
    /// None.
    #[default]
    Disable,
    /// The server has a certificate.
    Simple,
    /// Both have, from files.
    Mutual,
    /// Both have the mesh's.
    IstioMutual,
}
