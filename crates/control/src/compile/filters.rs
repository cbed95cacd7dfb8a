//! Listeners' filters: HTTP connection managers and TCP proxies.

use tombolo_xds::proto::envoy::config::listener::v3::listener_filter_chain_match_predicate::{
    MatchSet, Rule as Predicate,
};
use tombolo_xds::proto::envoy::config::listener::v3::{
    Filter, ListenerFilter, ListenerFilterChainMatchPredicate, filter, listener_filter,
};
use tombolo_xds::proto::envoy::config::route::v3::RouteConfiguration;
use tombolo_xds::proto::envoy::extensions::filters::http::cors::v3::Cors;
use tombolo_xds::proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use tombolo_xds::proto::envoy::extensions::filters::http::grpc_stats::v3::FilterConfig as GrpcStats;
use tombolo_xds::proto::envoy::extensions::filters::http::grpc_stats::v3::filter_config::PerMethodStatSpecifier;
use tombolo_xds::proto::envoy::extensions::filters::http::router::v3::Router;
use tombolo_xds::proto::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use tombolo_xds::proto::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use tombolo_xds::proto::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use tombolo_xds::proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    ForwardClientCertDetails, RouteSpecifier, SetCurrentClientCertDetails, UpgradeConfig,
};
use tombolo_xds::proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use tombolo_xds::proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use tombolo_xds::proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight,
};
use tombolo_xds::proto::envoy::r#type::v3::Int32Range;

use crate::compile::access_log;
use crate::compile::parts;
use crate::compile::scope::Scope;

const HCM: &str = "envoy.filters.network.http_connection_manager";

fn http_filter<M: prost::Message + prost::Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(parts::any(config))),
        ..HttpFilter::default()
    }
}

fn network_filter<M: prost::Message + prost::Name>(name: &str, config: &M) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(parts::any(config))),
    }
}

/// Where a connection manager's routes come from.
pub(crate) enum Routes {
    /// From the stream, under this name.
    Named(String),
    /// They are these.
    Inline(Box<RouteConfiguration>),
}

/// Which side of a workload traffic is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// From the workload.
    Outbound,
    /// To the workload.
    Inbound,
    /// At a gateway, from anywhere.
    Edge,
}

/// Routes requests.
pub(crate) fn http(
    scope: &Scope<'_>,
    side: Side,
    stat_prefix: String,
    routes: Routes,
    first: Vec<HttpFilter>,
) -> Filter {
    let mut filters = first;
    filters.push(http_filter(
        "envoy.filters.http.grpc_stats",
        &GrpcStats {
            emit_filter_state: true,
            per_method_stat_specifier: Some(PerMethodStatSpecifier::StatsForAllMethods(
                tombolo_xds::proto::google::protobuf::BoolValue { value: false },
            )),
            ..GrpcStats::default()
        },
    ));
    filters.push(http_filter("envoy.filters.http.fault", &HttpFault::default()));
    filters.push(http_filter("envoy.filters.http.cors", &Cors {}));
    filters.push(http_filter("envoy.filters.http.router", &Router::default()));
    let mut manager = HttpConnectionManager {
        stat_prefix,
        http_filters: filters,
        access_log: access_log::of_filter(&scope.picture.mesh.config),
        server_name: String::from("istio-envoy"),
        stream_idle_timeout: Some(parts::seconds(0)),
        use_remote_address: if side == Side::Edge { parts::yes() } else { parts::no() },
        generate_request_id: parts::yes(),
        normalize_path: parts::yes(),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: String::from("websocket"),
            ..UpgradeConfig::default()
        }],
        route_specifier: Some(match routes {
            Routes::Named(route_config_name) => RouteSpecifier::Rds(Rds {
                config_source: Some(parts::from_ads()),
                route_config_name,
            }),
            Routes::Inline(routes) => RouteSpecifier::RouteConfig(*routes),
        }),
        ..HttpConnectionManager::default()
    };
    let details = SetCurrentClientCertDetails {
        subject: parts::yes(),
        uri: true,
        dns: true,
        ..SetCurrentClientCertDetails::default()
    };
    match side {
        Side::Outbound => (),
        Side::Inbound => {
            manager.forward_client_cert_details = ForwardClientCertDetails::AppendForward.into();
            manager.set_current_client_cert_details = Some(details);
        }
        Side::Edge => {
            manager.forward_client_cert_details = ForwardClientCertDetails::SanitizeSet.into();
            manager.set_current_client_cert_details = Some(details);
        }
    }
    network_filter(HCM, &manager)
}

/// Carries bytes to upstreams by weight; to one when there is one.
pub(crate) fn tcp(scope: &Scope<'_>, stat_prefix: String, upstreams: &[(String, u32)]) -> Filter {
    let specifier = match upstreams {
        [(only, _)] => ClusterSpecifier::Cluster(only.clone()),
        several => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: several
                .iter()
                .map(|(name, weight)| ClusterWeight {
                    name: name.clone(),
                    weight: *weight,
                    ..ClusterWeight::default()
                })
                .collect(),
        }),
    };
    let proxy = TcpProxy {
        stat_prefix,
        access_log: access_log::of_filter(&scope.picture.mesh.config),
        cluster_specifier: Some(specifier),
        ..TcpProxy::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", &proxy)
}

/// Carries bytes to one upstream of this name, which is also the name in statistics.
pub(crate) fn to(scope: &Scope<'_>, upstream: &str) -> Filter {
    tcp(scope, upstream.to_owned(), &[(upstream.to_owned(), 1)])
}

fn listener_filter<M: prost::Message + prost::Name>(name: &str, config: &M) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(parts::any(config))),
        ..ListenerFilter::default()
    }
}

/// Finds out which address the client called.
pub(crate) fn original_dst() -> ListenerFilter {
    listener_filter("envoy.filters.listener.original_dst", &OriginalDst::default())
}

/// Reads the start of TLS: whether it is, the SNI and the ALPN.
pub(crate) fn tls_inspector() -> ListenerFilter {
    listener_filter("envoy.filters.listener.tls_inspector", &TlsInspector::default())
}

/// Reads the start of plain connections: whether it is HTTP. Not on `ports`, whose protocol is
/// known; waiting there would hang protocols in which the server speaks first.
pub(crate) fn http_inspector(ports: &[u16]) -> ListenerFilter {
    let mut inspector =
        listener_filter("envoy.filters.listener.http_inspector", &HttpInspector::default());
    inspector.filter_disabled = disabled_on(ports);
    inspector
}

/// A predicate that is true on `ports`; nothing when there are none.
pub(crate) fn disabled_on(ports: &[u16]) -> Option<ListenerFilterChainMatchPredicate> {
    let on = |port: &u16| ListenerFilterChainMatchPredicate {
        rule: Some(Predicate::DestinationPortRange(Int32Range {
            start: i32::from(*port),
            end: i32::from(*port) + 1,
        })),
    };
    match ports {
        [] => None,
        [port] => Some(on(port)),
        several => Some(ListenerFilterChainMatchPredicate {
            rule: Some(Predicate::OrMatch(MatchSet { rules: several.iter().map(on).collect() })),
        }),
    }
}
