//! Listeners for what a workload sends: `virtualOutbound` takes everything that is captured and
//! hands it to the listener of the address that was called.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tombolo_model::endpoint::Address;
use tombolo_model::port::{Protocol, ServicePort};
use tombolo_model::service::{Origin, Service};
use tombolo_xds::proto::envoy::config::core::v3::TrafficDirection;
use tombolo_xds::proto::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};

use crate::compile::access_log;
use crate::compile::filters::{self, Routes, Side};
use crate::compile::names::{self, Upstream};
use crate::compile::opaque;
use crate::compile::parts;
use crate::compile::scope::Scope;
use crate::compile::tls;
use crate::diagnostic::Diagnostic;

/// Where captured outbound traffic arrives.
pub(crate) const OUTBOUND_PORT: u16 = 15001;
/// Ports of the proxy itself, which no service's listener may take.
pub(crate) const OWN_PORTS: [u16; 7] = [15001, 15004, 15006, 15008, 15020, 15021, 15090];

/// Where traffic to unknown destinations goes.
pub(crate) fn fallback(scope: &Scope<'_>) -> &'static str {
    match scope.allows_any() {
        true => names::PASSTHROUGH,
        false => names::BLACK_HOLE,
    }
}

/// All of them.
pub(crate) fn listeners(scope: &Scope<'_>, diagnostics: &mut Vec<Diagnostic>) -> Vec<Listener> {
    let mut http = BTreeSet::new();
    let mut own: BTreeMap<(IpAddr, u16), Vec<Opaque<'_>>> = BTreeMap::new();
    let mut shared: BTreeMap<u16, Vec<Opaque<'_>>> = BTreeMap::new();
    for (service, port) in scope.ports() {
        if OWN_PORTS.contains(&port.number) {
            continue;
        }
        if port.protocol.is_http() {
            http.insert(port.number);
            continue;
        }
        for place in places(scope, service) {
            match place {
                Place::Address(ip) => {
                    let of = own.entry((ip, port.number)).or_default();
                    of.push(Opaque { service, port, range: None });
                }
                Place::Any(range) => {
                    let of = shared.entry(port.number).or_default();
                    of.push(Opaque { service, port, range });
                }
            }
        }
    }
    let mut all = vec![virtual_outbound(scope)];
    for ((ip, number), services) in own {
        let mut of = listener(scope, format!("{ip}_{number}"), Some(ip), number);
        fill(scope, &mut of, &ip.to_string(), &services, diagnostics);
        all.push(of);
    }
    // Bytes to any address cannot have a listener beside that of requests on the same port: they
    // are one listener that looks.
    for number in &http {
        let tcp = shared.remove(number).unwrap_or_default();
        all.push(of_requests(scope, *number, &tcp, diagnostics));
    }
    for (number, services) in shared {
        let mut of = listener(scope, format!("0.0.0.0_{number}"), None, number);
        fill(scope, &mut of, "0.0.0.0", &services, diagnostics);
        if of.filter_chains.iter().all(|chain| chain.filter_chain_match.is_some()) {
            // Only ranges: other addresses on this port are none of ours.
            of.default_filter_chain = Some(passed_on(scope));
        }
        all.push(of);
    }
    all
}

/// For connections that no service is for.
fn passed_on(scope: &Scope<'_>) -> FilterChain {
    FilterChain {
        name: String::from("PassthroughFilterChain"),
        filters: vec![filters::to(scope, fallback(scope))],
        ..FilterChain::default()
    }
}

/// A port of a service whose connections are told apart by their address.
#[derive(Clone, Copy)]
struct Opaque<'a> {
    service: &'a Arc<Service>,
    port: &'a ServicePort,
    range: Option<IpNet>,
}

/// Where a service's connections come to.
enum Place {
    /// An address of its own.
    Address(IpAddr),
    /// Any address, or any of a range.
    Any(Option<IpNet>),
}

fn places(scope: &Scope<'_>, service: &Service) -> Vec<Place> {
    if service.is_headless() {
        let endpoints = scope.picture.endpoints_of(&service.key());
        let ips = endpoints.iter().filter_map(|endpoint| match &endpoint.address {
            // Clients can only have chosen an address that they reach.
            Address::Ip(ip) if scope.proxy.network.reaches(&endpoint.workload.network) => Some(*ip),
            _ => None,
        });
        let ips: BTreeSet<IpAddr> = ips.collect();
        return ips.into_iter().map(Place::Address).collect();
    }
    let addresses = service.addresses_for(&scope.proxy.cluster);
    if addresses.is_empty() {
        return vec![Place::Any(None)];
    }
    let place = |range: IpNet| match range.prefix_len() == range.max_prefix_len() {
        true => Place::Address(range.addr()),
        false => Place::Any(Some(range)),
    };
    addresses.into_iter().map(place).collect()
}

fn listener(scope: &Scope<'_>, name: String, ip: Option<IpAddr>, port: u16) -> Listener {
    Listener {
        name,
        address: Some(match ip {
            Some(ip) => parts::socket(&ip.to_string(), port),
            None => parts::any_address(port),
        }),
        traffic_direction: TrafficDirection::Outbound.into(),
        bind_to_port: parts::no(),
        listener_filters_timeout: Some(parts::duration(
            scope.picture.mesh.config.protocol_detection_timeout.0,
        )),
        continue_on_listener_filters_timeout: true,
        access_log: access_log::of_listener(&scope.picture.mesh.config),
        ..Listener::default()
    }
}

/// Takes everything, and what no other listener is for.
fn virtual_outbound(scope: &Scope<'_>) -> Listener {
    let black_hole = FilterChain {
        name: String::from("virtualOutbound-blackhole"),
        filter_chain_match: Some(FilterChainMatch {
            destination_port: parts::number(u32::from(OUTBOUND_PORT)),
            ..FilterChainMatch::default()
        }),
        filters: vec![filters::to(scope, names::BLACK_HOLE)],
        ..FilterChain::default()
    };
    let rest = FilterChain {
        name: String::from("virtualOutbound-catchall-tcp"),
        filters: vec![filters::to(scope, fallback(scope))],
        ..FilterChain::default()
    };
    Listener {
        name: String::from("virtualOutbound"),
        address: Some(parts::any_address(OUTBOUND_PORT)),
        traffic_direction: TrafficDirection::Outbound.into(),
        use_original_dst: parts::yes(),
        filter_chains: vec![black_hole, rest],
        max_connections_to_accept_per_socket_event: parts::number(1),
        access_log: access_log::of_listener(&scope.picture.mesh.config),
        ..Listener::default()
    }
}

/// The chain that takes requests on a listener that looks.
fn request_chain(scope: &Scope<'_>, bind: &str, number: u16, routes: String) -> FilterChain {
    let prefix = format!("outbound_{bind}_{number};");
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            transport_protocol: String::from("raw_buffer"),
            application_protocols: tls::names(&tls::PLAIN_HTTP),
            ..FilterChainMatch::default()
        }),
        filters: vec![filters::http(
            scope,
            Side::Outbound,
            prefix,
            Routes::Named(routes),
            Vec::new(),
        )],
        ..FilterChain::default()
    }
}

/// `0.0.0.0_PORT`: requests to all services on a port, told apart by host.
fn of_requests(
    scope: &Scope<'_>,
    number: u16,
    tcp: &[Opaque<'_>],
    diagnostics: &mut Vec<Diagnostic>,
) -> Listener {
    let mut of = listener(scope, format!("0.0.0.0_{number}"), None, number);
    of.filter_chains = vec![request_chain(scope, "0.0.0.0", number, number.to_string())];
    of.listener_filters = vec![filters::tls_inspector(), filters::http_inspector(&[])];
    of.default_filter_chain = Some(passed_on(scope));
    let mut chains = opaque_chains(scope, "0.0.0.0", tcp, diagnostics);
    let catch_all = chains.iter().position(|chain| chain.filter_chain_match.is_none());
    if let Some(at) = catch_all {
        of.default_filter_chain = Some(chains.remove(at));
    }
    of.filter_chains.extend(chains);
    of
}

/// Gives a listener the chains of services, and the filters that look for what they match on.
fn fill(
    scope: &Scope<'_>,
    of: &mut Listener,
    bind: &str,
    services: &[Opaque<'_>],
    diagnostics: &mut Vec<Diagnostic>,
) {
    of.filter_chains = opaque_chains(scope, bind, services, diagnostics);
    let mut criteria =
        of.filter_chains.iter().filter_map(|chain| chain.filter_chain_match.as_ref());
    if criteria.clone().any(|it| !it.application_protocols.is_empty()) {
        of.listener_filters = vec![filters::tls_inspector(), filters::http_inspector(&[])];
    } else if criteria.any(|it| !it.server_names.is_empty() || !it.transport_protocol.is_empty()) {
        of.listener_filters = vec![filters::tls_inspector()];
    }
}

/// The chains of services on one listener. Of services that cannot be told apart, the first
/// takes all connections.
fn opaque_chains(
    scope: &Scope<'_>,
    bind: &str,
    services: &[Opaque<'_>],
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<FilterChain> {
    let mut taken: BTreeMap<Option<IpNet>, &Service> = BTreeMap::new();
    let mut chains = Vec::new();
    for it in services {
        if let Some(first) = taken.get(&it.range) {
            if first.host != it.service.host {
                diagnostics.push(shadowed(scope, first, it));
            }
            continue;
        }
        taken.insert(it.range, it.service);
        if it.port.protocol == Protocol::Auto {
            let routes = format!("{}:{}", it.service.host, it.port.number);
            let mut chain = request_chain(scope, bind, it.port.number, routes);
            if let (Some(range), Some(criteria)) = (&it.range, &mut chain.filter_chain_match) {
                criteria.prefix_ranges = vec![parts::range(range)];
            }
            chains.push(chain);
        }
        let range = it.range.as_ref();
        chains.extend(opaque::chains(scope, it.service, it.port, range, diagnostics));
    }
    chains
}

fn shadowed(scope: &Scope<'_>, first: &Service, it: &Opaque<'_>) -> Diagnostic {
    Diagnostic {
        cluster: scope.picture.config_cluster.clone(),
        kind: match it.service.origin {
            Origin::Kubernetes => String::from("Service"),
            Origin::ServiceEntry => String::from("ServiceEntry"),
        },
        object: it.service.object.clone(),
        message: format!(
            "connections to port {} cannot be told from those of {}, which gets them all; give \
             it an address of its own or name an HTTP protocol",
            it.port.number, first.host
        ),
    }
}

/// The upstream of all endpoints of a port.
pub(crate) fn whole(service: &Service, port: &ServicePort) -> String {
    Upstream::new(&service.host, port.number).name()
}
