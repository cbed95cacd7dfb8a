//! The kinds of `networking.istio.io`, as far as the control plane understands them.
//!
//! Fields that are not here are reported by [`crate::document::read`], never dropped silently.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// Where requests for hosts go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualService {
    /// The names that clients use.
    pub hosts: Vec<String>,
    /// The gateways it holds for; `mesh` or nothing for all sidecars.
    pub gateways: Vec<String>,
    /// Routes of requests; the first that matches wins.
    pub http: Vec<HttpRoute>,
    /// Routes of connections by their SNI.
    pub tls: Vec<TlsRoute>,
    /// Routes of connections.
    pub tcp: Vec<TcpRoute>,
    /// Who sees it.
    pub export_to: Vec<String>,
}

/// One rule for requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRoute {
    /// Its name, which appears in access logs.
    pub name: String,
    /// The requests it is for; nothing for all.
    pub r#match: Vec<HttpMatch>,
    /// Where they go.
    pub route: Vec<HttpDestination>,
    /// Answer with a redirect instead.
    pub redirect: Option<Redirect>,
    /// Answer at once instead.
    pub direct_response: Option<DirectResponse>,
    /// Changes of path and authority.
    pub rewrite: Option<Rewrite>,
    /// How long the whole request may take.
    pub timeout: Option<Duration>,
    /// When to try again.
    pub retries: Option<RetryPolicy>,
    /// Faults to inject.
    pub fault: Option<Fault>,
    /// Where a copy goes.
    pub mirror: Option<Destination>,
    /// How much is copied; all of it unless said.
    pub mirror_percentage: Option<Percent>,
    /// Where several copies go.
    pub mirrors: Vec<Mirror>,
    /// Cross-origin requests.
    pub cors_policy: Option<CorsPolicy>,
    /// Changes of headers.
    pub headers: Option<Headers>,
}

/// Which requests; all conditions hold together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatch {
    /// Its name, joined to the route's.
    pub name: String,
    /// The path.
    pub uri: Option<StringMatch>,
    /// `http` or `https`.
    pub scheme: Option<StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
    /// The host that was asked for.
    pub authority: Option<StringMatch>,
    /// Headers that must match.
    pub headers: BTreeMap<String, StringMatch>,
    /// Headers that must not match.
    pub without_headers: BTreeMap<String, StringMatch>,
    /// Parameters that must match.
    pub query_params: BTreeMap<String, StringMatch>,
    /// The port that was called.
    pub port: Option<u16>,
    /// Labels of the client.
    pub source_labels: BTreeMap<String, String>,
    /// The client's namespace.
    pub source_namespace: Option<String>,
    /// The gateways it holds for.
    pub gateways: Vec<String>,
    /// Whether `a` is `A` in the path.
    pub ignore_uri_case: bool,
}

/// A condition on a text; none of them means that it is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StringMatch {
    /// It is this.
    pub exact: Option<String>,
    /// It starts with this.
    pub prefix: Option<String>,
    /// All of it matches this expression.
    pub regex: Option<String>,
}

/// One of the places requests go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpDestination {
    /// The place.
    pub destination: Destination,
    /// Its share.
    pub weight: u32,
    /// Changes of headers for this place.
    pub headers: Option<Headers>,
}

/// A service, one of its subsets, and a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Destination {
    /// The service.
    pub host: String,
    /// The subset, or empty.
    pub subset: String,
    /// The port; may be left out when the service has one.
    pub port: Option<PortSelector>,
}

/// A port by its number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortSelector {
    /// The number.
    pub number: u16,
}

/// One of the places connections go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteDestination {
    /// The place.
    pub destination: Destination,
    /// Its share.
    pub weight: u32,
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Redirect {
    /// The new path.
    pub uri: String,
    /// The new host.
    pub authority: String,
    /// The new port.
    pub port: Option<u16>,
    /// The new scheme.
    pub scheme: String,
    /// The status; 301 unless said.
    pub redirect_code: u16,
}

/// An answer without any upstream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DirectResponse {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Option<Body>,
}

/// A body.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Body {
    /// As text.
    pub string: Option<String>,
    /// In base64.
    pub bytes: Option<String>,
}

/// Changes of path and authority.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rewrite {
    /// Replaces the path, or its matched prefix.
    pub uri: String,
    /// Replaces the host.
    pub authority: String,
    /// Replaces by an expression.
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// A replacement by an expression.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegexRewrite {
    /// The expression.
    pub r#match: String,
    /// What takes its place.
    pub rewrite: String,
}

/// When to try again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryPolicy {
    /// How often; 0 switches it off.
    pub attempts: i32,
    /// How long one attempt may take.
    pub per_try_timeout: Option<Duration>,
    /// After which failures.
    pub retry_on: String,
    /// How long to wait before the first retry.
    pub backoff: Option<Duration>,
    /// Whether a host that failed is avoided.
    pub retry_ignore_previous_hosts: Option<bool>,
}

/// Faults to inject.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fault {
    /// Makes requests late.
    pub delay: Option<Delay>,
    /// Makes requests fail.
    pub abort: Option<Abort>,
}

/// Makes requests late.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Delay {
    /// By so much.
    pub fixed_delay: Option<Duration>,
    /// How many of them.
    pub percentage: Option<Percent>,
}

/// Makes requests fail.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Abort {
    /// With this status.
    pub http_status: Option<u16>,
    /// With this gRPC status.
    pub grpc_status: String,
    /// How many of them.
    pub percentage: Option<Percent>,
}

/// A part of a hundred.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Percent {
    /// How many percent.
    pub value: f64,
}

/// Where a copy goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mirror {
    /// The place.
    pub destination: Destination,
    /// How much of it.
    pub percentage: Option<Percent>,
}

/// Cross-origin requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsPolicy {
    /// Which origins.
    pub allow_origins: Vec<StringMatch>,
    /// Which methods.
    pub allow_methods: Vec<String>,
    /// Which headers.
    pub allow_headers: Vec<String>,
    /// Which headers scripts may read.
    pub expose_headers: Vec<String>,
    /// How long the answer holds.
    pub max_age: Option<Duration>,
    /// Whether with credentials.
    pub allow_credentials: Option<bool>,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Headers {
    /// Of the request.
    pub request: HeaderChanges,
    /// Of the response.
    pub response: HeaderChanges,
}

/// Changes of headers in one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderChanges {
    /// Replaced.
    pub set: BTreeMap<String, String>,
    /// Added.
    pub add: BTreeMap<String, String>,
    /// Removed.
    pub remove: Vec<String>,
}

/// One rule for connections by SNI.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsRoute {
    /// Which connections.
    pub r#match: Vec<TlsMatch>,
    /// Where they go.
    pub route: Vec<RouteDestination>,
}

/// Which TLS connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsMatch {
    /// The names asked for.
    pub sni_hosts: Vec<String>,
    /// The addresses called.
    pub destination_subnets: Vec<String>,
    /// The port called.
    pub port: Option<u16>,
    /// Labels of the client.
    pub source_labels: BTreeMap<String, String>,
    /// The client's namespace.
    pub source_namespace: Option<String>,
    /// The gateways it holds for.
    pub gateways: Vec<String>,
}

/// One rule for connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpRoute {
    /// Which connections; nothing for all.
    pub r#match: Vec<TcpMatch>,
    /// Where they go.
    pub route: Vec<RouteDestination>,
}

/// Which connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpMatch {
    /// The addresses called.
    pub destination_subnets: Vec<String>,
    /// The port called.
    pub port: Option<u16>,
    /// Labels of the client.
    pub source_labels: BTreeMap<String, String>,
    /// The client's namespace.
    pub source_namespace: Option<String>,
    /// The gateways it holds for.
    pub gateways: Vec<String>,
}

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

/// Workloads by their labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSelector {
    /// Labels they have.
    pub labels: BTreeMap<String, String>,
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

/// Ports that gateways open.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gateway {
    /// Labels of the gateways.
    pub selector: BTreeMap<String, String>,
    /// The ports.
    pub servers: Vec<Server>,
}

/// A port that gateways open.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Server {
    /// The port.
    pub port: ServerPort,
    /// The address; all unless said.
    pub bind: String,
    /// The hosts served, with the namespaces that may.
    pub hosts: Vec<String>,
    /// How TLS is served.
    pub tls: Option<ServerTls>,
    /// Its name.
    pub name: String,
}

/// The number and protocol of a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerPort {
    /// The number.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// What is spoken.
    pub protocol: String,
}

/// How TLS is served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerTls {
    /// Whether plain requests are sent to HTTPS.
    pub https_redirect: bool,
    /// Which kind.
    pub mode: ServerTlsMode,
    /// File with the chain.
    pub server_certificate: String,
    /// File with the key.
    pub private_key: String,
    /// File with the clients' roots.
    pub ca_certificates: String,
    /// The secret with all of them.
    pub credential_name: String,
    /// Names that clients may have.
    pub subject_alt_names: Vec<String>,
    /// The lowest version.
    pub min_protocol_version: TlsVersion,
    /// The highest version.
    pub max_protocol_version: TlsVersion,
    /// The ciphers.
    pub cipher_suites: Vec<String>,
}

/// Kinds of TLS that are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerTlsMode {
    /// The backend serves it; routed by SNI.
    #[default]
    Passthrough,
    /// The gateway serves it.
    Simple,
    /// The same, and the client shows a certificate.
    Mutual,
    /// The backend serves it; the SNI is the service.
    AutoPassthrough,
    /// Mutual TLS with the mesh's certificates.
    IstioMutual,
    /// The client may show a certificate.
    OptionalMutual,
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// As the proxy does by default.
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    /// 1.0.
    #[serde(rename = "TLSV1_0")]
    V1_0,
    /// 1.1.
    #[serde(rename = "TLSV1_1")]
    V1_1,
    /// 1.2.
    #[serde(rename = "TLSV1_2")]
    V1_2,
    /// 1.3.
    #[serde(rename = "TLSV1_3")]
    V1_3,
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
    pub outbound_traffic_policy: Option<crate::mesh_config::TrafficPolicyMode>,
}

/// What sidecars may call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Egress {
    /// `NAMESPACE/HOST` patterns.
    pub hosts: Vec<String>,
}
