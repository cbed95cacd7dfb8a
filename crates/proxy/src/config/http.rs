//! The HTTP connection manager: how requests of a filter chain are read, checked and routed.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use prost::Message;
use tombolo_xds::proto::envoy::config::core::v3::KeepaliveSettings;
use tombolo_xds::proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use tombolo_xds::proto::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use tombolo_xds::proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use tombolo_xds::proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as parts;

use crate::config::access_log::access_log;
use crate::config::convert::{flag, number, range, timeout};
use crate::config::problem::{At, Problem, each};
use crate::config::rbac::{Rbac, rbac};
use crate::config::routes::{Routes, routes};
use crate::config::strict::type_name;
use crate::observe::access_log::AccessLog;

/// How long a client may be silent within a stream where the configuration does not say.
const STREAM_IDLE: Duration = Duration::from_secs(300);

/// How HTTP is served on a chain.
#[derive(Debug)]
pub struct HttpSettings {
    pub codec: Codec,
    pub routes: RouteSource,
    pub authorize: Vec<Rbac>,
    pub access_log: Vec<AccessLog>,
    pub server_name: String,
    pub server_header: ServerHeader,
    pub max_header_kib: u32,
    pub max_headers: usize,
    pub max_streams: Option<u32>,
    pub stream_idle: Option<Duration>,
    pub connection_idle: Option<Duration>,
    pub connection_age: Option<Duration>,
    pub connection_requests: Option<u32>,
    /// How often an HTTP/2 client is pinged, and how long it has to answer.
    pub ping: Option<(Duration, Duration)>,
    pub request_timeout: Option<Duration>,
    pub headers_timeout: Option<Duration>,
    pub edge: bool,
    pub trusted_hops: u32,
    pub internal: Vec<IpNet>,
    pub skip_forwarded_for: bool,
    pub via: String,
    pub generate_request_id: bool,
    pub preserve_request_id: bool,
    pub request_id_in_response: bool,
    pub client_certificate: ClientCertificate,
    pub upgrades: Vec<(String, bool)>,
    pub normalize_path: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
    pub strip_port: bool,
    pub strip_dot: bool,
    pub accept_http_10: bool,
    pub suppress_envoy_headers: bool,
}

/// Which HTTP version is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Auto,
    Http1,
    Http2,
}

/// Where routes come from.
#[derive(Debug)]
pub enum RouteSource {
    Named(Arc<str>),
    Inline(Arc<Routes>),
}

/// What becomes of the `server` header of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerHeader {
    Overwrite,
    IfAbsent,
    PassThrough,
}

/// What becomes of `x-forwarded-client-cert`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    pub forward: parts::ForwardClientCertDetails,
    pub subject: bool,
    pub uri: bool,
    pub dns: bool,
    pub cert: bool,
    pub chain: bool,
}

/// What becomes of `%2F` and `%5C` in paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EscapedSlashes {
    Keep,
    Reject,
    Redirect,
    Forward,
}

/// The interval of pings and the time to answer one; Envoy's requires both.
fn ping(config: Option<&KeepaliveSettings>) -> Result<Option<(Duration, Duration)>, Problem> {
    let Some(config) = config else { return Ok(None) };
    let interval = timeout("connection_keepalive.interval", config.interval.as_ref())?;
    let limit = timeout("connection_keepalive.timeout", config.timeout.as_ref())?;
    Ok(interval.zip(limit))
}

/// Reads a connection manager.
pub fn http(config: &hcm::HttpConnectionManager) -> Result<HttpSettings, Problem> {
    let common = config.common_http_protocol_options.unwrap_or_default();
    let http2 = config.http2_protocol_options.clone().unwrap_or_default();
    let mut filters = Filters::default();
    for (index, filter) in config.http_filters.iter().enumerate() {
        filters.add(filter).at(format_args!("http_filters[{index}]"))?;
    }
    if !filters.router {
        return Err(Problem::new("must end with the router").inside("http_filters"));
    }
    let strip_any =
        matches!(config.strip_port_mode, Some(parts::StripPortMode::StripAnyHostPort(true)));
    let internal = config.internal_address_config.clone().unwrap_or_default();
    let log = |log| access_log(log);
    Ok(HttpSettings {
        codec: match config.codec_type() {
            parts::CodecType::Auto => Codec::Auto,
            parts::CodecType::Http1 => Codec::Http1,
            parts::CodecType::Http2 => Codec::Http2,
            parts::CodecType::Http3 => {
                return Err(Problem::new("HTTP3 is not supported").inside("codec_type"));
            }
        },
        routes: route_source(config)?,
        authorize: filters.authorize,
        access_log: each("access_log", &config.access_log, log)?,
        server_name: match config.server_name.as_str() {
            "" => "envoy".to_owned(),
            name => name.to_owned(),
        },
        server_header: match config.server_header_transformation() {
            parts::ServerHeaderTransformation::Overwrite => ServerHeader::Overwrite,
            parts::ServerHeaderTransformation::AppendIfAbsent => ServerHeader::IfAbsent,
            parts::ServerHeaderTransformation::PassThrough => ServerHeader::PassThrough,
        },
        max_header_kib: number(config.max_request_headers_kb, 60),
        max_headers: usize::try_from(number(common.max_headers_count, 100)).unwrap_or(100),
        max_streams: http2.max_concurrent_streams.map(|most| most.value),
        stream_idle: match config.stream_idle_timeout.as_ref() {
            Some(_) => timeout("stream_idle_timeout", config.stream_idle_timeout.as_ref())?,
            None => Some(STREAM_IDLE),
        },
        connection_idle: match common.idle_timeout.as_ref() {
            Some(_) => timeout("idle_timeout", common.idle_timeout.as_ref())?,
            None => Some(Duration::from_secs(3600)),
        },
        connection_age: timeout(
            "max_connection_duration",
            common.max_connection_duration.as_ref(),
        )?,
        connection_requests: common.max_requests_per_connection.map(|most| most.value),
        ping: ping(http2.connection_keepalive.as_ref())?,
        request_timeout: timeout("request_timeout", config.request_timeout.as_ref())?,
        headers_timeout: timeout(
            "request_headers_timeout",
            config.request_headers_timeout.as_ref(),
        )?,
        edge: flag(config.use_remote_address, false),
        trusted_hops: config.xff_num_trusted_hops,
        internal: each("internal_address_config.cidr_ranges", &internal.cidr_ranges, range)?,
        skip_forwarded_for: config.skip_xff_append,
        via: config.via.clone(),
        generate_request_id: flag(config.generate_request_id, true),
        preserve_request_id: config.preserve_external_request_id,
        request_id_in_response: config.always_set_request_id_in_response,
        client_certificate: client_certificate(config)?,
        upgrades: config
            .upgrade_configs
            .iter()
            .map(|upgrade| (upgrade.upgrade_type.to_ascii_lowercase(), flag(upgrade.enabled, true)))
            .collect(),
        normalize_path: flag(config.normalize_path, false),
        merge_slashes: config.merge_slashes,
        escaped_slashes: match config.path_with_escaped_slashes_action() {
            parts::PathWithEscapedSlashesAction::RejectRequest => EscapedSlashes::Reject,
            parts::PathWithEscapedSlashesAction::UnescapeAndRedirect => EscapedSlashes::Redirect,
            parts::PathWithEscapedSlashesAction::UnescapeAndForward => EscapedSlashes::Forward,
            _ => EscapedSlashes::Keep,
        },
        strip_port: config.strip_matching_host_port || strip_any,
        strip_dot: config.strip_trailing_host_dot,
        accept_http_10: config.http_protocol_options.as_ref().is_some_and(|o| o.accept_http_10),
        suppress_envoy_headers: filters.suppress_envoy_headers,
    })
}

fn route_source(config: &hcm::HttpConnectionManager) -> Result<RouteSource, Problem> {
    match config.route_specifier.as_ref() {
        Some(parts::RouteSpecifier::Rds(rds)) if rds.route_config_name.is_empty() => {
            Err(Problem::new("must be set").inside("rds.route_config_name"))
        }
        Some(parts::RouteSpecifier::Rds(rds)) => {
            Ok(RouteSource::Named(rds.route_config_name.as_str().into()))
        }
        Some(parts::RouteSpecifier::RouteConfig(config)) => {
            Ok(RouteSource::Inline(Arc::new(routes(config).at("route_config")?)))
        }
        _ => Err(Problem::new("must be rds or route_config").inside("route_specifier")),
    }
}

fn client_certificate(config: &hcm::HttpConnectionManager) -> Result<ClientCertificate, Problem> {
    let set = config.set_current_client_cert_details.unwrap_or_default();
    if set.cert || set.chain {
        return Err(Problem::new("is not supported")
            .inside(if set.cert { "cert" } else { "chain" })
            .inside("set_current_client_cert_details"));
    }
    Ok(ClientCertificate {
        forward: config.forward_client_cert_details(),
        subject: flag(set.subject, false),
        uri: set.uri,
        dns: set.dns,
        cert: set.cert,
        chain: set.chain,
    })
}

/// What the list of HTTP filters amounts to.
#[derive(Default)]
struct Filters {
    authorize: Vec<Rbac>,
    router: bool,
    suppress_envoy_headers: bool,
}

impl Filters {
    fn add(&mut self, filter: &hcm::HttpFilter) -> Result<(), Problem> {
        if self.router {
            return Err(Problem::new("comes after the router"));
        }
        if filter.disabled {
            return Err(Problem::new("is not supported").inside("disabled"));
        }
        let Some(hcm::http_filter::ConfigType::TypedConfig(any)) = filter.config_type.as_ref()
        else {
            return Err(Problem::new("must be set").inside("typed_config"));
        };
        let bytes = any.value.as_ref();
        let unreadable = |error: prost::DecodeError| {
            Problem::new(format!("cannot be read: {error}")).inside("typed_config")
        };
        match type_name(&any.type_url) {
            "envoy.extensions.filters.http.router.v3.Router" => {
                use tombolo_xds::proto::envoy::extensions::filters::http::router::v3::Router;
                let router = Router::decode(bytes).map_err(unreadable)?;
                self.suppress_envoy_headers = router.suppress_envoy_headers;
                self.router = true;
            }
            "envoy.extensions.filters.http.rbac.v3.RBAC" => {
                let config = HttpRbac::decode(bytes).map_err(unreadable)?;
                if let Some(rules) = config.rules.as_ref() {
                    self.authorize.push(rbac(rules).at("rules").at("typed_config")?);
                }
            }
            "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
                let fault = HttpFault::decode(bytes).map_err(unreadable)?;
                // Control planes install the filter everywhere and configure it per route.
                if fault != HttpFault::default() {
                    return Err(
                        Problem::new("is not supported unless empty").inside("typed_config")
                    );
                }
            }
            // Without settings on a route these two do nothing; with such, the route is refused.
            "envoy.extensions.filters.http.cors.v3.Cors"
            | "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig" => {}
            // Istio's own filters, by what they ask for: the protocol names of upstream TLS and
            // the standard metrics are always done here.
            _ if matches!(filter.name.as_str(), "istio.alpn" | "istio.stats") => {}
            other => {
                return Err(Problem::new(format!("the filter {other} is not supported"))
                    .inside("typed_config"));
            }
        }
        Ok(())
    }
}
