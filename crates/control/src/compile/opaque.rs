//! Filter chains for connections that are carried as bytes: by SNI, by address, or all alike.
//!
//! VirtualService `tls` and `tcp` routes say where they go; without any, to the service itself.

use ipnet::IpNet;
use tombolo_crds::networking::virtual_service::{
    RouteDestination, TcpMatch, TlsMatch, VirtualService,
};
use tombolo_model::id::Host;
use tombolo_model::port::ServicePort;
use tombolo_model::service::Service;
use tombolo_xds::proto::envoy::config::core::v3::CidrRange;
use tombolo_xds::proto::envoy::config::listener::v3::{FilterChain, FilterChainMatch};

use crate::compile::filters;
use crate::compile::names::Upstream;
use crate::compile::outbound;
use crate::compile::parts;
use crate::compile::routing;
use crate::compile::scope::{Scope, has_all};
use crate::diagnostic::Diagnostic;
use crate::index::config::Configured;

/// The chains of one port of a service, on a listener of its address, or of `range`.
pub(crate) fn chains(
    scope: &Scope<'_>,
    service: &Service,
    port: &ServicePort,
    range: Option<&IpNet>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<FilterChain> {
    let mut chains = Vec::new();
    let mut catch_all = false;
    if let Some(rule) = routing::for_host(scope, &service.host) {
        if port.protocol.is_tls() {
            by_sni(scope, rule, port.number, range, &mut chains, diagnostics);
        }
        if by_address(scope, rule, port.number, range, &mut chains, diagnostics) {
            catch_all = true;
        }
    }
    if !catch_all {
        let upstream = outbound::whole(service, port);
        chains.push(chain(range, filters::to(scope, &upstream)));
    }
    chains
}

fn chain(
    range: Option<&IpNet>,
    filter: tombolo_xds::proto::envoy::config::listener::v3::Filter,
) -> FilterChain {
    let criteria = range.map(|range| FilterChainMatch {
        prefix_ranges: vec![parts::range(range)],
        ..FilterChainMatch::default()
    });
    FilterChain { filter_chain_match: criteria, filters: vec![filter], ..FilterChain::default() }
}

/// Adds the chains of a rule's `tls` routes for sidecars.
fn by_sni(
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    port: u16,
    range: Option<&IpNet>,
    chains: &mut Vec<FilterChain>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for route in &rule.spec.tls {
        for on in route.r#match.iter().filter(|on| is_for_tls(scope, on, port)) {
            let mut ranges = ranges(&on.destination_subnets, scope, rule, diagnostics);
            ranges.extend(range.map(parts::range));
            let criteria = FilterChainMatch {
                server_names: on.sni_hosts.iter().filter(|name| *name != "*").cloned().collect(),
                prefix_ranges: ranges,
                transport_protocol: String::from("tls"),
                ..FilterChainMatch::default()
            };
            if chains.iter().any(|chain| chain.filter_chain_match.as_ref() == Some(&criteria)) {
                continue;
            }
            let upstreams = destinations(scope, rule, &route.route, port, diagnostics);
            chains.push(FilterChain {
                filter_chain_match: Some(criteria),
                filters: vec![filters::tcp(scope, prefix(&upstreams), &upstreams)],
                ..FilterChain::default()
            });
        }
    }
}

/// Adds the chains of a rule's `tcp` routes for sidecars; says whether one takes everything.
fn by_address(
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    port: u16,
    range: Option<&IpNet>,
    chains: &mut Vec<FilterChain>,
    diagnostics: &mut Vec<Diagnostic>,
) -> bool {
    for route in &rule.spec.tcp {
        let mut on = route.r#match.iter().filter(|on| is_for_tcp(scope, on, port)).peekable();
        if on.peek().is_none() && !route.r#match.is_empty() {
            continue;
        }
        let upstreams = destinations(scope, rule, &route.route, port, diagnostics);
        let filter = filters::tcp(scope, prefix(&upstreams), &upstreams);
        if route.r#match.is_empty() {
            chains.push(chain(range, filter));
            return true;
        }
        for on in on {
            if on.destination_subnets.is_empty() {
                chains.push(chain(range, filter));
                return true;
            }
            let criteria = FilterChainMatch {
                prefix_ranges: ranges(&on.destination_subnets, scope, rule, diagnostics),
                ..FilterChainMatch::default()
            };
            if chains.iter().any(|chain| chain.filter_chain_match.as_ref() == Some(&criteria)) {
                continue;
            }
            chains.push(FilterChain {
                filter_chain_match: Some(criteria),
                filters: vec![filter.clone()],
                ..FilterChain::default()
            });
        }
    }
    false
}

fn is_for_mesh(gateways: &[String]) -> bool {
    gateways.is_empty() || gateways.iter().any(|name| name == "mesh")
}

fn is_for_tls(scope: &Scope<'_>, on: &TlsMatch, port: u16) -> bool {
    is_for_mesh(&on.gateways)
        && on.port.is_none_or(|wanted| wanted == port)
        && on.source_namespace.as_deref().is_none_or(|name| name == scope.proxy.namespace())
        && has_all(&scope.proxy.labels, &on.source_labels)
}

fn is_for_tcp(scope: &Scope<'_>, on: &TcpMatch, port: u16) -> bool {
    is_for_mesh(&on.gateways)
        && on.port.is_none_or(|wanted| wanted == port)
        && on.source_namespace.as_deref().is_none_or(|name| name == scope.proxy.namespace())
        && has_all(&scope.proxy.labels, &on.source_labels)
}

fn ranges(
    texts: &[String],
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<CidrRange> {
    let mut found = Vec::new();
    for text in texts {
        let range =
            text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
        match range {
            Ok(range) => found.push(parts::range(&range)),
            Err(_) => diagnostics.push(routing::remark(
                scope,
                rule,
                format!("destinationSubnets: `{text}` is not a range of addresses"),
            )),
        }
    }
    found
}

/// The name in statistics.
pub(crate) fn prefix(upstreams: &[(String, u32)]) -> String {
    upstreams.first().map(|(name, _)| name.clone()).unwrap_or_default()
}

/// The upstreams of a route with their weights. Never empty: a route to nowhere is the black hole.
pub(crate) fn destinations(
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    routes: &[RouteDestination],
    listener: u16,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<(String, u32)> {
    let several = routes.len() > 1;
    let mut found = Vec::new();
    for route in routes.iter().filter(|route| !several || route.weight > 0) {
        let host: Host = rule.host(&route.destination.host, &scope.picture.domain);
        let upstream: Upstream =
            routing::upstream(scope, rule, &route.destination, &host, listener, diagnostics);
        found.push((upstream.name(), route.weight.max(1)));
    }
    if found.is_empty() {
        found.push((crate::compile::names::BLACK_HOLE.to_owned(), 1));
    }
    found
}
