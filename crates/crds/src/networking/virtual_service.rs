//! Where requests go: `VirtualService`.
//!
//! Fields that are not here are reported by [`crate::document::read`].

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
