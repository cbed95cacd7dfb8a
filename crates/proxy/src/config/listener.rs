//! Listeners: where connections come in, what is looked at, and which chain takes them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tombolo_xds::proto::envoy::config::core::v3::TrafficDirection;
use tombolo_xds::proto::envoy::config::listener::v3 as lds;
use tombolo_xds::proto::envoy::config::listener::v3::listener_filter_chain_match_predicate::Rule;
use tombolo_xds::proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use tombolo_xds::proto::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use tombolo_xds::proto::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
use tombolo_xds::proto::google::protobuf::Any;

use crate::config::access_log::access_log;
use crate::config::chains::{Chains, criteria};
use crate::config::convert::{flag, number, socket_address, timeout, typed};
use crate::config::http::{HttpSettings, http};
use crate::config::problem::{At, Problem, each};
use crate::config::rbac::{Rbac, rbac};
use crate::config::strict::type_name;
use crate::config::tls::{self, DownstreamTls, Transport};
use crate::observe::access_log::AccessLog;

/// How long a client may take to show what it speaks where the configuration does not say.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a TCP connection may be silent where the configuration does not say.
const TCP_IDLE: Duration = Duration::from_secs(3600);

/// One listener.
#[derive(Debug)]
pub struct Listener {
    pub name: Arc<str>,
    pub address: SocketAddr,
    /// Whether it has a socket of its own, or only takes over captured connections.
    pub bind: bool,
    /// Whether a captured connection is given to the listener of its original destination.
    pub hand_over: bool,
    /// Whether the original destination counts as the connection's destination.
    pub recover_destination: bool,
    pub transparent: bool,
    pub direction: Direction,
    pub inspect_tls: Option<PortFilter>,
    pub inspect_http: Option<PortFilter>,
    pub inspect_timeout: Option<Duration>,
    /// Whether a client that stays silent is served nevertheless.
    pub continue_on_timeout: bool,
    pub chains: Chains<FilterChain>,
    pub access_log: Vec<AccessLog>,
}

/// Which way traffic flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Inbound,
    Outbound,
    Unspecified,
}

/// When an inspector is skipped, by destination port.
#[derive(Clone, Debug)]
pub enum PortFilter {
    Never,
    Always,
    Range(i64, i64),
    Any(Vec<PortFilter>),
    All(Vec<PortFilter>),
    Not(Box<PortFilter>),
}

/// What happens to connections that fit its criteria.
#[derive(Debug)]
pub struct FilterChain {
    pub name: Arc<str>,
    pub tls: Transport<DownstreamTls>,
    pub handshake_timeout: Option<Duration>,
    pub authorize: Vec<Rbac>,
    pub terminal: Terminal,
}

/// The last filter of a chain.
#[derive(Debug)]
pub enum Terminal {
    Http(Box<HttpSettings>),
    Tcp(TcpSettings),
}

/// Passes bytes on as they are.
#[derive(Debug)]
pub struct TcpSettings {
    /// Upstreams with their weights.
    pub targets: Vec<(Arc<str>, u32)>,
    pub idle_timeout: Option<Duration>,
    pub max_duration: Option<Duration>,
    pub connect_attempts: u32,
    pub access_log: Vec<AccessLog>,
}

impl PortFilter {
    /// Whether the inspector is skipped for this destination port.
    pub fn skips(&self, port: u16) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Range(start, end) => (*start..*end).contains(&port.into()),
            Self::Any(any) => any.iter().any(|filter| filter.skips(port)),
            Self::All(all) => all.iter().all(|filter| filter.skips(port)),
            Self::Not(filter) => !filter.skips(port),
        }
    }
}

/// Reads a listener.
#[expect(deprecated, reason = "control planes still send the older forms")]
pub fn listener(config: &lds::Listener) -> Result<Listener, Problem> {
    let chain = |config: &lds::FilterChain| {
        let criteria = criteria(config.filter_chain_match.as_ref()).at("filter_chain_match")?;
        Ok((criteria, Arc::new(filter_chain(config)?)))
    };
    let default = config.default_filter_chain.as_ref().map(filter_chain).transpose();
    let chains = each("filter_chains", &config.filter_chains, chain)?;
    let bind = match (config.bind_to_port, config.deprecated_v1) {
        (Some(bind), _) => bind.value,
        (None, Some(v1)) => flag(v1.bind_to_port, true),
        (None, None) => true,
    };
    let mut listener = Listener {
        name: config.name.as_str().into(),
        address: socket_address(config.address.as_ref()).at("address")?,
        bind,
        hand_over: flag(config.use_original_dst, false),
        recover_destination: flag(config.use_original_dst, false),
        transparent: flag(config.transparent, false),
        direction: match config.traffic_direction() {
            TrafficDirection::Inbound => Direction::Inbound,
            TrafficDirection::Outbound => Direction::Outbound,
            TrafficDirection::Unspecified => Direction::Unspecified,
        },
        inspect_tls: None,
        inspect_http: None,
        inspect_timeout: match config.listener_filters_timeout.as_ref() {
            Some(_) => {
                timeout("listener_filters_timeout", config.listener_filters_timeout.as_ref())?
            }
            None => Some(INSPECT_TIMEOUT),
        },
        continue_on_timeout: config.continue_on_listener_filters_timeout,
        chains: Chains::new(chains, default.at("default_filter_chain")?.map(Arc::new))?,
        access_log: each("access_log", &config.access_log, access_log)?,
    };
    for (index, filter) in config.listener_filters.iter().enumerate() {
        add_listener_filter(&mut listener, filter).at(format_args!("listener_filters[{index}]"))?;
    }
    Ok(listener)
}

fn add_listener_filter(
    listener: &mut Listener,
    filter: &lds::ListenerFilter,
) -> Result<(), Problem> {
    let skip =
        filter.filter_disabled.as_ref().map(port_filter).transpose().at("filter_disabled")?;
    let skip = skip.unwrap_or(PortFilter::Never);
    let by_type = match filter.config_type.as_ref() {
        Some(lds::listener_filter::ConfigType::TypedConfig(any)) => type_name(&any.type_url),
        _ => "",
    };
    match (by_type, filter.name.as_str()) {
        (name, _) if name.ends_with(".TlsInspector") => listener.inspect_tls = Some(skip),
        (name, _) if name.ends_with(".HttpInspector") => listener.inspect_http = Some(skip),
        (name, _) if name.ends_with(".OriginalDst") => listener.recover_destination = true,
        ("", "envoy.filters.listener.tls_inspector") => listener.inspect_tls = Some(skip),
        ("", "envoy.filters.listener.http_inspector") => listener.inspect_http = Some(skip),
        ("", "envoy.filters.listener.original_dst") => listener.recover_destination = true,
        (_, name) => return Err(Problem::new(format!("`{name}` is not supported")).inside("name")),
    }
    Ok(())
}

fn port_filter(config: &lds::ListenerFilterChainMatchPredicate) -> Result<PortFilter, Problem> {
    let all = |set: &lds::listener_filter_chain_match_predicate::MatchSet| {
        each("rules", &set.rules, port_filter)
    };
    Ok(match config.rule.as_ref() {
        Some(Rule::OrMatch(set)) => PortFilter::Any(all(set).at("or_match")?),
        Some(Rule::AndMatch(set)) => PortFilter::All(all(set).at("and_match")?),
        Some(Rule::NotMatch(rule)) => PortFilter::Not(Box::new(port_filter(rule).at("not_match")?)),
        Some(Rule::AnyMatch(any)) if *any => PortFilter::Always,
        Some(Rule::AnyMatch(_)) => PortFilter::Never,
        Some(Rule::DestinationPortRange(range)) => {
            PortFilter::Range(range.start.into(), range.end.into())
        }
        None => return Err(Problem::new("must have a rule")),
    })
}

fn filter_chain(config: &lds::FilterChain) -> Result<FilterChain, Problem> {
    let mut authorize = Vec::new();
    let mut terminal = None;
    for (index, filter) in config.filters.iter().enumerate() {
        let read = || match terminal {
            Some(_) => Err(Problem::new("comes after the last filter")),
            None => network_filter(filter),
        };
        match read().at(format_args!("filters[{index}]"))? {
            NetworkFilter::Nothing => {}
            NetworkFilter::Authorize(rules) => authorize.push(rules),
            NetworkFilter::Terminal(filter) => terminal = Some(filter),
        }
    }
    Ok(FilterChain {
        name: config.name.as_str().into(),
        tls: tls::downstream(config.transport_socket.as_ref()).at("transport_socket")?,
        handshake_timeout: timeout(
            "transport_socket_connect_timeout",
            config.transport_socket_connect_timeout.as_ref(),
        )?,
        authorize,
        terminal: terminal.ok_or_else(|| {
            Problem::new("must end with tcp_proxy or http_connection_manager").inside("filters")
        })?,
    })
}

enum NetworkFilter {
    Nothing,
    Authorize(Rbac),
    Terminal(Terminal),
}

fn network_filter(filter: &lds::Filter) -> Result<NetworkFilter, Problem> {
    let any: &Any = match filter.config_type.as_ref() {
        Some(lds::filter::ConfigType::TypedConfig(any)) => any,
        _ => return Err(Problem::new("must be set").inside("typed_config")),
    };
    let read = || match type_name(&any.type_url) {
        name if name.ends_with(".HttpConnectionManager") => {
            let config: HttpConnectionManager = typed(Some(any))?;
            http(&config).map(|http| NetworkFilter::Terminal(Terminal::Http(Box::new(http))))
        }
        name if name.ends_with(".TcpProxy") => {
            let config: tcp_proxy::TcpProxy = typed(Some(any))?;
            tcp(&config).map(|tcp| NetworkFilter::Terminal(Terminal::Tcp(tcp)))
        }
        "envoy.extensions.filters.network.rbac.v3.RBAC" => {
            let config: NetworkRbac = typed(Some(any))?;
            Ok(match config.rules.as_ref() {
                Some(rules) => NetworkFilter::Authorize(rbac(rules).at("rules")?),
                None => NetworkFilter::Nothing,
            })
        }
        // Metrics are always kept here; peers are known by their certificates and endpoints.
        _ if matches!(filter.name.as_str(), "istio.stats" | "istio.metadata_exchange") => {
            Ok(NetworkFilter::Nothing)
        }
        name => Err(Problem::new(format!("the filter {name} is not supported"))),
    };
    read().at("typed_config")
}

fn tcp(config: &tcp_proxy::TcpProxy) -> Result<TcpSettings, Problem> {
    use tcp_proxy::tcp_proxy::ClusterSpecifier;
    let targets = match config.cluster_specifier.as_ref() {
        Some(ClusterSpecifier::Cluster(name)) => vec![(name.as_str().into(), 1)],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted
            .clusters
            .iter()
            .map(|target| (target.name.as_str().into(), target.weight))
            .collect(),
        _ => return Err(Problem::new("must be cluster or weighted_clusters")),
    };
    Ok(TcpSettings {
        targets,
        idle_timeout: match config.idle_timeout.as_ref() {
            Some(_) => timeout("idle_timeout", config.idle_timeout.as_ref())?,
            None => Some(TCP_IDLE),
        },
        max_duration: timeout(
            "max_downstream_connection_duration",
            config.max_downstream_connection_duration.as_ref(),
        )?,
        connect_attempts: number(config.max_connect_attempts, 1).max(1),
        access_log: each("access_log", &config.access_log, access_log)?,
    })
}
