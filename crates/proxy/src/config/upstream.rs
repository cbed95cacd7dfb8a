//! Clusters of Envoy's API, called upstreams here: a set of endpoints and how to talk to them.

use std::net::IpAddr;
use std::time::Duration;

use prost::Message;
use tombolo_xds::proto::envoy::config::cluster::v3 as cds;
use tombolo_xds::proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy,
};
use tombolo_xds::proto::envoy::config::core::v3 as core;
use tombolo_xds::proto::envoy::config::core::v3::RoutingPriority;
use tombolo_xds::proto::envoy::config::core::v3::address::Address;
use tombolo_xds::proto::envoy::config::endpoint::v3 as eds;
use tombolo_xds::proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use tombolo_xds::proto::envoy::extensions::upstreams::http::v3 as http_options;
use tombolo_xds::proto::google::protobuf::value::Kind as ValueKind;

use crate::config::convert::{duration, number, socket_address, timeout};
use crate::config::endpoints::{Assignment, assignment, strings};
use crate::config::problem::{At, Problem, each};
use crate::config::tls::{self, Transport, UpstreamTls};
use crate::observe::metrics::Service;

/// Where the protocol options of an upstream are.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// How long connecting may take where the configuration does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept where the configuration does not say.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// One upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamConfig {
    pub name: String,
    pub source: Source,
    pub connect_timeout: Duration,
    pub policy: Policy,
    /// Whether localities have shares of the traffic, or only the endpoints.
    pub locality_weighted: bool,
    /// Below this share of healthy endpoints (in percent) all are used.
    pub panic_threshold: u32,
    pub transport: Transport<UpstreamTls>,
    /// Transports for endpoints whose metadata fits; the first that fits counts.
    pub transports: Vec<TransportMatch>,
    pub protocol: Protocol,
    pub limits: Limits,
    /// The local address that connections are made from.
    pub bind: Option<IpAddr>,
    pub connections: Use,
    pub keepalive: Option<Keepalive>,
    pub outlier: Option<Outlier>,
    /// The service behind it, for metrics.
    pub service: Option<Service>,
}

/// Where the endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Endpoint discovery under this name.
    Discovery(String),
    /// Part of the resource.
    Static(Assignment),
    /// The connection's original destination.
    OriginalDestination,
    /// Names that are resolved again and again.
    Dns(DnsSource),
}

/// Host, port, weight, what transports are chosen by.
pub type Named = (String, u16, u32, Vec<(String, String)>);

/// Names that stand for endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSource {
    /// Host, port, weight, what transports are chosen by.
    pub names: Vec<Named>,
    pub refresh: Duration,
    /// Only one address of each name is used at a time.
    pub logical: bool,
    pub family: Family,
}

/// Which addresses of a name are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
    /// IPv6 if there is any, otherwise IPv4.
    V6First,
    V4First,
    All,
}

/// How an endpoint is picked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    RoundRobin,
    LeastRequest { choices: u32, bias: f64 },
    Random,
    RingHash { least: u64, most: u64 },
    Maglev { size: u64 },
    OriginalDestination,
}

/// A transport for endpoints whose metadata has these values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportMatch {
    pub name: String,
    pub conditions: Vec<(String, String)>,
    pub transport: Transport<UpstreamTls>,
}

/// The HTTP version spoken to the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    /// Whatever the client speaks.
    Downstream,
}

/// For how much and how long connections are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Requests that a connection carries; 0 is as many as come.
    pub requests: Option<u32>,
    /// How old a connection may be that takes another request.
    pub age: Option<Duration>,
    /// How long a connection lies idle.
    pub idle: Option<Duration>,
    /// Streams that an HTTP/2 connection has at a time.
    pub streams: Option<u32>,
}

impl Use {
    /// Whether a connection that has carried this many requests carries no more.
    pub fn is_used_up(self, uses: u32) -> bool {
        self.requests.is_some_and(|most| most != 0 && uses >= most)
    }
}

/// Circuit breakers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub connections: u32,
    pub pending: u32,
    pub requests: u32,
    pub retries: u32,
}

/// TCP keep-alive of upstream connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
    pub probes: Option<u32>,
}

/// When an endpoint that fails is left out for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// This many server errors in a row; none if they do not count.
    pub errors: Option<u32>,
    /// This many 502, 503, 504 or failed connections in a row.
    pub gateway_errors: Option<u32>,
    pub ejection: Duration,
    /// At most this share of the endpoints is left out, in percent.
    pub most: u32,
}

/// Reads a cluster.
#[expect(deprecated, reason = "control planes still send the older forms")]
pub fn upstream(config: &cds::Cluster) -> Result<UpstreamConfig, Problem> {
    let options = protocol_options(config)?;
    let common = options
        .as_ref()
        .and_then(|options| options.common_http_protocol_options)
        .or(config.common_http_protocol_options)
        .unwrap_or_default();
    let (protocol, http2) = protocol(config, options.as_ref());
    let panic = config.common_lb_config.as_ref().and_then(|lb| lb.healthy_panic_threshold);
    let bind = config.upstream_bind_config.as_ref().and_then(|bind| bind.source_address.clone());
    let bind = bind.map(|address| {
        let kind = Address::SocketAddress(address);
        socket_address(Some(&core::Address { address: Some(kind) })).map(|address| address.ip())
    });
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage")]
    let panic_threshold = panic.map_or(50, |panic| panic.value.clamp(0.0, 100.0) as u32);
    Ok(UpstreamConfig {
        name: config.name.clone(),
        source: source(config)?,
        connect_timeout: timeout("connect_timeout", config.connect_timeout.as_ref())?
            .unwrap_or(CONNECT_TIMEOUT),
        policy: policy(config)?,
        locality_weighted: locality_weighted(config),
        panic_threshold,
        transport: tls::upstream(config.transport_socket.as_ref()).at("transport_socket")?,
        transports: each("transport_socket_matches", &config.transport_socket_matches, matching)?,
        protocol,
        limits: limits(config.circuit_breakers.as_ref()),
        bind: bind.transpose().at("source_address").at("upstream_bind_config")?,
        connections: Use {
            requests: common.max_requests_per_connection.map(|most| most.value),
            age: timeout("max_connection_duration", common.max_connection_duration.as_ref())?,
            idle: match common.idle_timeout {
                Some(_) => timeout("idle_timeout", common.idle_timeout.as_ref())?,
                None => Some(IDLE_TIMEOUT),
            },
            streams: http2.and_then(|http2| http2.max_concurrent_streams).map(|most| most.value),
        },
        keepalive: keepalive(config),
        outlier: config
            .outlier_detection
            .as_ref()
            .map(outlier)
            .transpose()
            .at("outlier_detection")?,
        service: service(config.metadata.as_ref()),
    })
}

#[expect(deprecated, reason = "control planes still send the older forms")]
fn source(config: &cds::Cluster) -> Result<Source, Problem> {
    let kind = match config.cluster_discovery_type.as_ref() {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind)
            .map_err(|_| Problem::new("is not a known type").inside("type"))?,
        Some(ClusterDiscoveryType::ClusterType(_)) => {
            return Err(Problem::new("is not supported").inside("cluster_type"));
        }
        None => DiscoveryType::Static,
    };
    let load = config.load_assignment.clone().unwrap_or_default();
    Ok(match kind {
        DiscoveryType::Eds => {
            let name = config.eds_cluster_config.as_ref().map(|eds| eds.service_name.as_str());
            let name = name.filter(|name| !name.is_empty()).unwrap_or(&config.name);
            Source::Discovery(name.to_owned())
        }
        DiscoveryType::Static => Source::Static(assignment(&load).at("load_assignment")?),
        DiscoveryType::OriginalDst => Source::OriginalDestination,
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            let names = names(&load).at("load_assignment")?;
            let refresh = timeout("dns_refresh_rate", config.dns_refresh_rate.as_ref())?;
            let refresh = refresh.unwrap_or(Duration::from_secs(5));
            use cds::cluster::DnsLookupFamily;
            let family = match config.dns_lookup_family() {
                DnsLookupFamily::Auto => Family::V6First,
                DnsLookupFamily::V4Only => Family::V4,
                DnsLookupFamily::V6Only => Family::V6,
                DnsLookupFamily::V4Preferred => Family::V4First,
                DnsLookupFamily::All => Family::All,
            };
            let logical = kind == DiscoveryType::LogicalDns;
            Source::Dns(DnsSource { names, refresh, logical, family })
        }
    })
}

fn names(load: &eds::ClusterLoadAssignment) -> Result<Vec<Named>, Problem> {
    let endpoints = load.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
    each("endpoints", endpoints, |endpoint| {
        let Some(HostIdentifier::Endpoint(named)) = endpoint.host_identifier.as_ref() else {
            return Err(Problem::new("must be set").inside("endpoint"));
        };
        let address = named.address.as_ref().and_then(|address| address.address.as_ref());
        let Some(Address::SocketAddress(socket)) = address else {
            return Err(Problem::new("must be a socket_address").inside("endpoint.address"));
        };
        let port = match socket.port_specifier {
            Some(core::socket_address::PortSpecifier::PortValue(port)) => u16::try_from(port).ok(),
            _ => None,
        };
        let port = port.ok_or_else(|| Problem::new("must be set").inside("port_value"))?;
        let weight = number(endpoint.load_balancing_weight, 1).max(1);
        let matching = strings(endpoint.metadata.as_ref(), "envoy.transport_socket_match");
        Ok((socket.address.clone(), port, weight, matching))
    })
}

fn policy(config: &cds::Cluster) -> Result<Policy, Problem> {
    if config.cluster_discovery_type
        == Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()))
    {
        return Ok(Policy::OriginalDestination);
    }
    Ok(match config.lb_policy() {
        LbPolicy::RoundRobin => Policy::RoundRobin,
        LbPolicy::LeastRequest => {
            let (choices, bias) = match config.lb_config.as_ref() {
                Some(LbConfig::LeastRequestLbConfig(least)) => (
                    number(least.choice_count, 2).max(2),
                    least.active_request_bias.as_ref().map_or(1.0, |bias| bias.default_value),
                ),
                _ => (2, 1.0),
            };
            Policy::LeastRequest { choices, bias }
        }
        LbPolicy::Random => Policy::Random,
        LbPolicy::RingHash => match config.lb_config.as_ref() {
            Some(LbConfig::RingHashLbConfig(ring)) => Policy::RingHash {
                least: ring.minimum_ring_size.map_or(1024, |size| size.value),
                most: ring.maximum_ring_size.map_or(8 << 20, |size| size.value),
            },
            _ => Policy::RingHash { least: 1024, most: 8 << 20 },
        },
        LbPolicy::Maglev => match config.lb_config.as_ref() {
            Some(LbConfig::MaglevLbConfig(maglev)) => {
                Policy::Maglev { size: maglev.table_size.map_or(65537, |size| size.value) }
            }
            _ => Policy::Maglev { size: 65537 },
        },
        LbPolicy::ClusterProvided | LbPolicy::LoadBalancingPolicyConfig => {
            return Err(Problem::new("is not supported").inside("lb_policy"));
        }
    })
}

fn locality_weighted(config: &cds::Cluster) -> bool {
    use cds::cluster::common_lb_config::LocalityConfigSpecifier;
    let specifier =
        config.common_lb_config.as_ref().and_then(|lb| lb.locality_config_specifier.as_ref());
    matches!(specifier, Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)))
}

fn matching(config: &cds::cluster::TransportSocketMatch) -> Result<TransportMatch, Problem> {
    let mut conditions = Vec::new();
    for (key, value) in config.r#match.iter().flat_map(|conditions| &conditions.fields) {
        match value.kind.as_ref() {
            Some(ValueKind::StringValue(text)) => conditions.push((key.clone(), text.clone())),
            _ => return Err(Problem::new("must be a string").inside(key).inside("match")),
        }
    }
    conditions.sort();
    Ok(TransportMatch {
        name: config.name.clone(),
        conditions,
        transport: tls::upstream(config.transport_socket.as_ref()).at("transport_socket")?,
    })
}

fn protocol_options(
    config: &cds::Cluster,
) -> Result<Option<http_options::HttpProtocolOptions>, Problem> {
    let mut found = None;
    for (key, any) in &config.typed_extension_protocol_options {
        let field = format!("typed_extension_protocol_options[{key}]");
        if key != HTTP_OPTIONS {
            return Err(Problem::new("is not supported").inside(field));
        }
        let options = http_options::HttpProtocolOptions::decode(any.value.as_ref())
            .map_err(|error| Problem::new(format!("cannot be read: {error}")).inside(field))?;
        found = Some(options);
    }
    Ok(found)
}

/// The HTTP version, and what is said about HTTP/2 where it may be spoken.
#[expect(deprecated, reason = "control planes still send the older form")]
fn protocol<'a>(
    config: &'a cds::Cluster,
    options: Option<&'a http_options::HttpProtocolOptions>,
) -> (Protocol, Option<&'a core::Http2ProtocolOptions>) {
    use cds::cluster::ClusterProtocolSelection;
    use http_options::http_protocol_options::UpstreamProtocolOptions;
    use http_options::http_protocol_options::explicit_http_config::ProtocolConfig;
    let declared = options.and_then(|options| options.upstream_protocol_options.as_ref());
    match declared {
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(both)) => {
            (Protocol::Downstream, both.http2_protocol_options.as_ref())
        }
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => {
            match &explicit.protocol_config {
                Some(ProtocolConfig::Http2ProtocolOptions(http2)) => (Protocol::Http2, Some(http2)),
                _ => (Protocol::Http1, None),
            }
        }
        _ => match (&config.http2_protocol_options, config.protocol_selection()) {
            (None, _) => (Protocol::Http1, None),
            (http2, ClusterProtocolSelection::UseDownstreamProtocol) => {
                (Protocol::Downstream, http2.as_ref())
            }
            (http2, ClusterProtocolSelection::UseConfiguredProtocol) => {
                (Protocol::Http2, http2.as_ref())
            }
        },
    }
}

fn limits(config: Option<&cds::CircuitBreakers>) -> Limits {
    let normal = config.into_iter().flat_map(|config| &config.thresholds);
    let normal = normal.into_iter().find(|limits| limits.priority() == RoutingPriority::Default);
    let Some(limits) = normal else {
        return Limits { connections: 1024, pending: 1024, requests: 1024, retries: 3 };
    };
    Limits {
        connections: number(limits.max_connections, 1024),
        pending: number(limits.max_pending_requests, 1024),
        requests: number(limits.max_requests, 1024),
        retries: number(limits.max_retries, 3),
    }
}

fn keepalive(config: &cds::Cluster) -> Option<Keepalive> {
    let keepalive = config.upstream_connection_options.as_ref()?.tcp_keepalive.as_ref()?;
    let seconds = |value: u32| Duration::from_secs(value.into());
    Some(Keepalive {
        time: keepalive.keepalive_time.map(|value| seconds(value.value)),
        interval: keepalive.keepalive_interval.map(|value| seconds(value.value)),
        probes: keepalive.keepalive_probes.map(|value| value.value),
    })
}

fn outlier(config: &cds::OutlierDetection) -> Result<Outlier, Problem> {
    let ejection = config.base_ejection_time.as_ref().map(duration).transpose();
    let counted = |enforcing: u32, limit: u32| (enforcing > 0 && limit > 0).then_some(limit);
    Ok(Outlier {
        errors: counted(
            number(config.enforcing_consecutive_5xx, 100),
            number(config.consecutive_5xx, 5),
        ),
        gateway_errors: counted(
            number(config.enforcing_consecutive_gateway_failure, 0),
            number(config.consecutive_gateway_failure, 5),
        ),
        ejection: ejection.at("base_ejection_time")?.unwrap_or(Duration::from_secs(30)),
        most: number(config.max_ejection_percent, 10),
    })
}

/// The first service in `metadata.filter_metadata.istio.services`.
fn service(metadata: Option<&core::Metadata>) -> Option<Service> {
    let services = metadata?.filter_metadata.get("istio")?.fields.get("services")?;
    let Some(ValueKind::ListValue(list)) = services.kind.as_ref() else { return None };
    let Some(ValueKind::StructValue(first)) = list.values.first()?.kind.as_ref() else {
        return None;
    };
    let text = |key: &str| match first.fields.get(key).and_then(|value| value.kind.as_ref()) {
        Some(ValueKind::StringValue(text)) => text.clone(),
        _ => String::new(),
    };
    Some(Service { host: text("host"), name: text("name"), namespace: text("namespace") })
}
