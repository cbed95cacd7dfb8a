//! What a workload receives: one listener, `virtualInbound`, with filter chains for every port
//! that serves something and for all others.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_crds::security::MutualTlsMode;
use tombolo_model::port::Protocol;
use tombolo_xds::proto::envoy::config::cluster::v3::Cluster;
use tombolo_xds::proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, LbPolicy,
};
use tombolo_xds::proto::envoy::config::core::v3::{BindConfig, TrafficDirection, address};
use tombolo_xds::proto::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener,
};
use tombolo_xds::proto::envoy::config::route::v3::{
    Decorator, Route, RouteAction, RouteConfiguration, VirtualHost, route, route_action,
};
use tombolo_xds::proto::google::protobuf::Value;

use crate::compile::access_log;
use crate::compile::authentication::{self, Demand};
use crate::compile::authorization;
use crate::compile::filters::{self, Routes, Side};
use crate::compile::names;
use crate::compile::parts;
use crate::compile::retries;
use crate::compile::routes::everything;
use crate::compile::scope::Scope;
use crate::compile::tls;
use crate::compile::upstreams;

/// Where captured inbound traffic arrives.
const INBOUND_PORT: u16 = 15006;
/// The address from which traffic to the application comes, so that it is not captured again.
const FROM_PROXY: &str = "127.0.0.6";

/// A port of the workload that serves something.
struct Served {
    protocol: Protocol,
    /// `host:port` of the first service, for statistics and traces.
    name: String,
    /// That service, for metrics.
    services: Value,
}

/// The ports of the proxy's pod that serve something. Of several services on one port the first
/// by name decides the protocol.
fn served(scope: &Scope<'_>) -> BTreeMap<u16, Served> {
    let mut ports: BTreeMap<u16, Served> = BTreeMap::new();
    let pods = scope.picture.targets.get(&scope.proxy.cluster);
    for target in pods.and_then(|pods| pods.get(&scope.proxy.pod)).into_iter().flatten() {
        let Some(service) = scope.picture.services.get(&target.service) else { continue };
        let port = service.ports.iter().find(|port| port.name == target.port_name);
        let Some(port) = port.filter(|port| port.protocol != Protocol::Udp) else { continue };
        ports.entry(target.port).or_insert_with(|| Served {
            protocol: port.protocol,
            name: format!("{}:{}", target.service.host, port.number),
            services: upstreams::services(service),
        });
    }
    ports
}

/// The upstreams of the workload's own ports.
pub(crate) fn clusters(scope: &Scope<'_>) -> Vec<Cluster> {
    let of_port = |(port, it): (u16, Served)| {
        let mut cluster = to_application(scope, names::inbound(port));
        cluster.metadata =
            Some(parts::metadata("istio", parts::fields([("services", it.services)])));
        cluster
    };
    let mut found: Vec<Cluster> = served(scope).into_iter().map(of_port).collect();
    found.push(to_application(scope, names::INBOUND_PASSTHROUGH.to_owned()));
    found
}

fn to_application(scope: &Scope<'_>, name: String) -> Cluster {
    let mut cluster = upstreams::passthrough(scope);
    let source = parts::socket(FROM_PROXY, 0);
    let Some(address::Address::SocketAddress(source)) = source.address else { return cluster };
    cluster.upstream_bind_config =
        Some(BindConfig { source_address: Some(source), ..BindConfig::default() });
    cluster.alt_stat_name = format!("{name};");
    cluster.name = name;
    cluster.cluster_discovery_type =
        Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()));
    cluster.lb_policy = LbPolicy::ClusterProvided.into();
    cluster
}

/// What is inside a connection, as far as filters are concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Requests,
    Bytes,
}

/// How connections of one kind are told apart, and what happens with them.
struct Kind {
    transport: &'static str,
    alpn: Vec<String>,
    inside: Inside,
    /// Whether the proxy ends the TLS.
    terminates: bool,
}

/// The kinds of connections on a port, by what is demanded and what is spoken.
fn kinds(mode: MutualTlsMode, protocol: Protocol) -> Vec<Kind> {
    use Inside::{Bytes, Requests};
    let kind = |transport, alpn: &[&str], inside, terminates| Kind {
        transport,
        alpn: tls::names(alpn),
        inside,
        terminates,
    };
    let auto = protocol == Protocol::Auto;
    let inside = if protocol.is_http() { Requests } else { Bytes };
    match mode {
        MutualTlsMode::Strict if auto => {
            vec![kind("tls", &tls::MESH_HTTP_ALPN, Requests, true), kind("tls", &[], Bytes, true)]
        }
        MutualTlsMode::Strict => vec![kind("tls", &[], inside, true)],
        MutualTlsMode::Disable if auto => {
            vec![kind("raw_buffer", &tls::PLAIN_HTTP, Requests, false), kind("", &[], Bytes, false)]
        }
        MutualTlsMode::Disable => vec![kind("", &[], inside, false)],
        MutualTlsMode::Permissive | MutualTlsMode::Unset if auto => vec![
            kind("tls", &tls::MESH_HTTP_ALPN, Requests, true),
            kind("raw_buffer", &tls::PLAIN_HTTP, Requests, false),
            kind("tls", &tls::MESH_TCP_ALPN, Bytes, true),
            kind("raw_buffer", &[], Bytes, false),
            kind("tls", &[], Bytes, false),
        ],
        MutualTlsMode::Permissive | MutualTlsMode::Unset => {
            let mut kinds = vec![
                kind("tls", &tls::MESH_ALPN, inside, true),
                kind("raw_buffer", &[], inside, false),
            ];
            if inside == Bytes {
                // The application's own TLS.
                kinds.insert(1, kind("tls", &[], Bytes, false));
            }
            kinds
        }
    }
}

/// The listener.
pub(crate) fn listener(scope: &Scope<'_>) -> Listener {
    let proxy = scope.proxy;
    let pods = scope.picture.workloads.get(&proxy.cluster);
    let labels = pods
        .and_then(|pods| pods.get(&proxy.pod))
        .map_or(&proxy.labels, |workload| &workload.labels);
    let demand = authentication::of_workload(scope.picture, proxy.namespace(), labels);
    let guard = authorization::Guard::of(scope, labels);
    let served = served(scope);
    let mut chains = vec![FilterChain {
        name: String::from("virtualInbound-blackhole"),
        filter_chain_match: Some(FilterChainMatch {
            destination_port: parts::number(u32::from(INBOUND_PORT)),
            ..FilterChainMatch::default()
        }),
        filters: vec![filters::to(scope, names::BLACK_HOLE)],
        ..FilterChain::default()
    }];
    chains.extend(elsewhere(scope, &demand, &guard, &served));
    for (port, it) in &served {
        for kind in kinds(demand.on(*port), it.protocol) {
            chains.push(of_port(scope, *port, it, &kind, &guard));
        }
    }
    let look = served.iter().filter(|(_, it)| it.protocol != Protocol::Auto);
    let known: Vec<u16> = look.map(|(port, _)| *port).collect();
    let plain = served.keys().filter(|port| demand.on(**port) == MutualTlsMode::Disable);
    let plain: Vec<u16> = plain.filter(|port| known.contains(port)).copied().collect();
    let mut tls_inspector = filters::tls_inspector();
    tls_inspector.filter_disabled = filters::disabled_on(&plain);
    Listener {
        name: String::from("virtualInbound"),
        address: Some(parts::any_address(INBOUND_PORT)),
        traffic_direction: TrafficDirection::Inbound.into(),
        listener_filters: vec![
            filters::original_dst(),
            tls_inspector,
            filters::http_inspector(&known),
        ],
        listener_filters_timeout: Some(parts::duration(
            scope.picture.mesh.config.protocol_detection_timeout.0,
        )),
        continue_on_listener_filters_timeout: true,
        filter_chains: chains,
        max_connections_to_accept_per_socket_event: parts::number(1),
        access_log: access_log::of_listener(&scope.picture.mesh.config),
        ..Listener::default()
    }
}

/// The chains for ports that no service declares: what is spoken there is found out. Ports that
/// demand something else than the rest have chains of their own.
fn elsewhere(
    scope: &Scope<'_>,
    demand: &Demand,
    guard: &authorization::Guard,
    served: &BTreeMap<u16, Served>,
) -> Vec<FilterChain> {
    let special: BTreeSet<u16> = demand.ports().filter(|port| !served.contains_key(port)).collect();
    let special = special.into_iter().map(|port| (Some(port), demand.on(port)));
    let all = std::iter::once((None, demand.elsewhere())).chain(special);
    let mut chains = Vec::new();
    for (port, mode) in all {
        for kind in kinds(mode, Protocol::Auto) {
            let name = match kind.inside {
                Inside::Requests => "virtualInbound-catchall-http",
                Inside::Bytes => "virtualInbound",
            };
            let filters = inside(scope, &kind, names::INBOUND_PASSTHROUGH, port, None, guard);
            chains.push(chain(scope, name.to_owned(), port, &kind, filters));
        }
    }
    chains
}

fn of_port(
    scope: &Scope<'_>,
    port: u16,
    it: &Served,
    kind: &Kind,
    guard: &authorization::Guard,
) -> FilterChain {
    let upstream = names::inbound(port);
    let filters = inside(scope, kind, &upstream, Some(port), Some(it), guard);
    chain(scope, format!("0.0.0.0_{port}"), Some(port), kind, filters)
}

fn chain(
    scope: &Scope<'_>,
    name: String,
    port: Option<u16>,
    kind: &Kind,
    filters: Vec<Filter>,
) -> FilterChain {
    let mesh = &scope.picture.mesh.config;
    let http = kind.inside == Inside::Requests;
    FilterChain {
        name,
        filter_chain_match: Some(FilterChainMatch {
            destination_port: port.and_then(|port| parts::number(u32::from(port))),
            transport_protocol: kind.transport.to_owned(),
            application_protocols: kind.alpn.clone(),
            ..FilterChainMatch::default()
        }),
        filters,
        transport_socket: kind.terminates.then(|| tls::from_mesh(mesh, http)),
        ..FilterChain::default()
    }
}

fn inside(
    scope: &Scope<'_>,
    kind: &Kind,
    upstream: &str,
    port: Option<u16>,
    it: Option<&Served>,
    guard: &authorization::Guard,
) -> Vec<Filter> {
    match kind.inside {
        Inside::Bytes => guard.before(filters::to(scope, upstream)),
        Inside::Requests => {
            let prefix = format!("inbound_0.0.0.0_{};", port.unwrap_or(INBOUND_PORT));
            let routes = routes(upstream, port, it);
            vec![filters::http(
                scope,
                Side::Inbound,
                prefix,
                Routes::Inline(Box::new(routes)),
                guard.on_requests(),
            )]
        }
    }
}

fn routes(upstream: &str, port: Option<u16>, it: Option<&Served>) -> RouteConfiguration {
    let grpc = it.is_some_and(|it| it.protocol == Protocol::Grpc);
    let operation = it.map_or_else(|| String::from(":0/*"), |it| format!("{}/*", it.name));
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(upstream.to_owned())),
        timeout: Some(parts::seconds(0)),
        max_stream_duration: parts::grpc_timeout(parts::seconds(0)),
        retry_policy: (it.is_some() && !grpc).then(retries::inbound),
        ..RouteAction::default()
    };
    RouteConfiguration {
        name: upstream.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: format!("inbound|http|{}", port.unwrap_or(0)),
            domains: vec![String::from("*")],
            routes: vec![Route {
                name: String::from("default"),
                r#match: Some(everything()),
                decorator: Some(Decorator { operation, ..Decorator::default() }),
                action: Some(route::Action::Route(action)),
                ..Route::default()
            }],
            ..VirtualHost::default()
        }],
        validate_clusters: parts::no(),
        ..RouteConfiguration::default()
    }
}
