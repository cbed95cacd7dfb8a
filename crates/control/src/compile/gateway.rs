//! Configuration of gateways: the ports that Gateway objects open, and what is behind them.
//!
//! A gateway that passes mutual TLS through (`AUTO_PASSTHROUGH`) routes by exact SNI only: one
//! filter chain for every port and subset of every service it exposes. It never ends TLS, and
//! nothing falls through.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_crds::networking::gateway::{Gateway, Server, ServerTlsMode};
use tombolo_crds::networking::virtual_service::VirtualService;
use tombolo_model::id::Host;
use tombolo_model::port::Protocol;
use tombolo_xds::proto::envoy::config::core::v3::TrafficDirection;
use tombolo_xds::proto::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};
use tombolo_xds::proto::envoy::config::route::v3::{RouteConfiguration, VirtualHost, virtual_host};

use crate::compile::access_log;
use crate::compile::authorization::Guard;
use crate::compile::filters::{self, Routes, Side};
use crate::compile::http_routes::{self, Context};
use crate::compile::opaque;
use crate::compile::parts;
use crate::compile::routes;
use crate::compile::routing;
use crate::compile::scope::{Scope, has_all};
use crate::compile::tls;
use crate::compile::upstreams::Called;
use crate::diagnostic::Diagnostic;
use crate::index::config::Configured;

/// A server of a Gateway object that holds for the proxy.
struct Opened<'a> {
    gateway: &'a Configured<Gateway>,
    server: &'a Server,
    /// The port that the proxy listens on.
    listens: u16,
}

impl Opened<'_> {
    fn mode(&self) -> Option<ServerTlsMode> {
        self.server.tls.as_ref().map(|tls| tls.mode)
    }

    fn is_auto_passthrough(&self) -> bool {
        self.mode() == Some(ServerTlsMode::AutoPassthrough)
    }

    fn protocol(&self) -> Protocol {
        Protocol::parse(&self.server.port.protocol).unwrap_or(Protocol::Tcp)
    }

    /// Whether the proxy sees requests: plain HTTP, or HTTP in TLS that it ends.
    fn is_http(&self) -> bool {
        let ended = matches!(
            self.mode(),
            Some(mode) if mode != ServerTlsMode::Passthrough && mode != ServerTlsMode::AutoPassthrough
        );
        self.protocol().is_http() || (self.protocol() == Protocol::Https && ended)
    }

    fn name(&self) -> String {
        format!("{}/{}", self.gateway.name.namespace, self.gateway.name.name)
    }

    /// The hosts it serves, with the namespaces whose rules may use them.
    fn hosts(&self) -> impl Iterator<Item = (&str, Host)> {
        self.server.hosts.iter().map(|item| match item.split_once('/') {
            Some((".", host)) => (self.gateway.namespace(), Host::new(host)),
            Some((namespace, host)) => (namespace, Host::new(host)),
            None => ("*", Host::new(item)),
        })
    }

    fn serves(&self, namespace: &str, host: &Host) -> bool {
        self.hosts().any(|(of, pattern)| (of == "*" || of == namespace) && host.overlaps(&pattern))
    }
}

/// The servers that hold for the proxy, oldest Gateway first.
fn opened<'a>(scope: &Scope<'a>) -> Vec<Opened<'a>> {
    let proxy = scope.proxy;
    let gateways = scope.picture.config.gateways.iter();
    let chosen = gateways.filter(|gateway| has_all(&proxy.labels, &gateway.spec.selector));
    let targets = scope.picture.targets.get(&proxy.cluster);
    let targets = targets.and_then(|pods| pods.get(&proxy.pod));
    let listens = |number: u16| {
        let target = targets.into_iter().flatten().find(|target| {
            let service = scope.picture.services.get(&target.service);
            service.and_then(|it| it.port(number)).is_some_and(|port| port.name == target.port_name)
        });
        target.map_or(number, |target| target.port)
    };
    chosen
        .flat_map(|gateway| gateway.spec.servers.iter().map(move |server| (gateway, server)))
        .map(|(gateway, server)| Opened { gateway, server, listens: listens(server.port.number) })
        .collect()
}

/// Whether the proxy passes mutual TLS through, and so needs upstreams that are named by SNI.
pub(crate) fn passes_through(scope: &Scope<'_>) -> bool {
    opened(scope).iter().any(Opened::is_auto_passthrough)
}

/// Whether a service may be reached through a gateway that passes mutual TLS through.
pub(crate) fn exposes(scope: &Scope<'_>, called: &Called<'_>) -> bool {
    let service = called.service;
    !service.external
        && !service.cluster_local
        && opened(scope).iter().any(|it| {
            it.is_auto_passthrough()
                && it.hosts().any(|(_, pattern)| service.host.is_within(&pattern))
        })
}

/// The listeners.
pub(crate) fn listeners(
    scope: &Scope<'_>,
    called: &[Called<'_>],
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Listener> {
    let mut by_port: BTreeMap<(u16, &str), Vec<Opened<'_>>> = BTreeMap::new();
    for it in opened(scope) {
        by_port.entry((it.listens, it.server.bind.as_str())).or_default().push(it);
    }
    let guard = Guard::of(scope, &scope.proxy.labels);
    let mut found = Vec::new();
    for ((port, bind), servers) in by_port {
        let mut chains: Vec<FilterChain> = Vec::new();
        let mut plain_http = false;
        for it in &servers {
            let new = chains_of(scope, it, called, &guard, &mut plain_http, diagnostics);
            for chain in new {
                let same =
                    |other: &FilterChain| other.filter_chain_match == chain.filter_chain_match;
                if chains.iter().any(same) {
                    let message = format!(
                        "server on port {} serves what another server serves already: left out",
                        it.server.port.number
                    );
                    diagnostics.push(remark(scope, it, message));
                    continue;
                }
                chains.push(chain);
            }
        }
        if chains.is_empty() {
            // Nothing is exposed: a listener without chains would be rejected.
            continue;
        }
        let looks = chains.iter().any(|chain| {
            chain.transport_socket.is_some()
                || chain.filter_chain_match.as_ref().is_some_and(|it| {
                    !it.server_names.is_empty() || !it.transport_protocol.is_empty()
                })
        });
        let ip = if bind.is_empty() { "0.0.0.0" } else { bind };
        found.push(Listener {
            name: format!("{ip}_{port}"),
            address: Some(parts::socket(ip, port)),
            traffic_direction: TrafficDirection::Outbound.into(),
            listener_filters: if looks { vec![filters::tls_inspector()] } else { Vec::new() },
            listener_filters_timeout: Some(parts::seconds(15)),
            filter_chains: chains,
            access_log: access_log::of_listener(&scope.picture.mesh.config),
            max_connections_to_accept_per_socket_event: parts::number(1),
            ..Listener::default()
        });
    }
    found
}

fn remark(scope: &Scope<'_>, of: &Opened<'_>, message: String) -> Diagnostic {
    Diagnostic {
        cluster: scope.picture.config_cluster.clone(),
        kind: String::from("Gateway"),
        object: of.gateway.name.clone(),
        message,
    }
}

fn chains_of(
    scope: &Scope<'_>,
    it: &Opened<'_>,
    called: &[Called<'_>],
    guard: &Guard,
    plain_http: &mut bool,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<FilterChain> {
    match it.mode() {
        Some(ServerTlsMode::AutoPassthrough) => {
            let exposed = called.iter().filter(|called| {
                !called.service.external
                    && !called.service.cluster_local
                    && it.hosts().any(|(_, pattern)| called.service.host.is_within(&pattern))
            });
            exposed.map(|called| by_exact_sni(scope, &called.upstream.sni())).collect()
        }
        Some(ServerTlsMode::Passthrough) if it.protocol().is_tls() => {
            passed_through(scope, it, guard, diagnostics)
        }
        Some(ServerTlsMode::IstioMutual) if it.is_http() => {
            let mut chain = requests(scope, it, guard);
            chain.transport_socket = Some(tls::from_mesh(&scope.picture.mesh.config, true));
            let names: Vec<String> =
                it.hosts().map(|(_, host)| host.to_string()).filter(|host| host != "*").collect();
            if !names.is_empty() {
                chain.filter_chain_match =
                    Some(FilterChainMatch { server_names: names, ..FilterChainMatch::default() });
            }
            vec![chain]
        }
        // A plain server; with `tls` it only asks for a redirect.
        None | Some(ServerTlsMode::Passthrough) if it.is_http() => {
            // All plain servers of a port share one chain; their routes are told apart by host.
            if std::mem::replace(plain_http, true) {
                Vec::new()
            } else {
                vec![requests(scope, it, guard)]
            }
        }
        None if !it.protocol().is_tls() => bytes(scope, it, guard, diagnostics),
        _ => {
            let message = format!(
                "server on port {}: protocol {} with TLS mode {:?} is not implemented: left out",
                it.server.port.number,
                it.server.port.protocol,
                it.mode().unwrap_or_default()
            );
            diagnostics.push(remark(scope, it, message));
            Vec::new()
        }
    }
}

/// Mutual TLS of the mesh for one service, by its name inside TLS.
fn by_exact_sni(scope: &Scope<'_>, name: &str) -> FilterChain {
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            server_names: vec![name.to_owned()],
            application_protocols: tls::names(&tls::MESH_ALPN),
            ..FilterChainMatch::default()
        }),
        filters: vec![filters::to(scope, name)],
        ..FilterChain::default()
    }
}

/// The rules that are bound to a server's gateway and whose hosts it serves.
fn rules<'a>(scope: &Scope<'a>, it: &Opened<'_>) -> Vec<&'a Configured<VirtualService>> {
    let name = it.name();
    let all = scope.picture.config.virtual_services.iter().filter(|rule| {
        let bound = |gateway: &String| http_routes::gateway_name(rule, gateway) == name;
        let served =
            |host: &String| it.serves(rule.namespace(), &rule.host(host, &scope.picture.domain));
        routing::is_visible(scope, rule)
            && rule.spec.gateways.iter().any(bound)
            && rule.spec.hosts.iter().any(served)
    });
    all.collect()
}

/// TLS that the backend ends, routed by the rules' `tls` routes.
fn passed_through(
    scope: &Scope<'_>,
    it: &Opened<'_>,
    guard: &Guard,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<FilterChain> {
    let (number, name) = (it.server.port.number, it.name());
    let mut chains = Vec::new();
    let mut seen = BTreeSet::new();
    for rule in rules(scope, it) {
        for route in &rule.spec.tls {
            for on in &route.r#match {
                let bound = on.gateways.is_empty()
                    || on.gateways.iter().any(|it| http_routes::gateway_name(rule, it) == name);
                if !bound || on.port.is_some_and(|port| port != number) {
                    continue;
                }
                let any = on.sni_hosts.iter().any(|host| host == "*");
                let names = if any { Vec::new() } else { on.sni_hosts.clone() };
                if !seen.insert(names.clone()) {
                    continue;
                }
                let to = opaque::destinations(scope, rule, &route.route, number, diagnostics);
                chains.push(FilterChain {
                    filter_chain_match: Some(FilterChainMatch {
                        server_names: names,
                        transport_protocol: String::from("tls"),
                        ..FilterChainMatch::default()
                    }),
                    filters: guard.before(filters::tcp(scope, opaque::prefix(&to), &to)),
                    ..FilterChain::default()
                });
            }
        }
    }
    chains
}

/// Bytes, all to where the first rule says.
fn bytes(
    scope: &Scope<'_>,
    it: &Opened<'_>,
    guard: &Guard,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<FilterChain> {
    let number = it.server.port.number;
    for rule in rules(scope, it) {
        for route in &rule.spec.tcp {
            let fits = |on: &tombolo_crds::networking::virtual_service::TcpMatch| {
                on.port.is_none_or(|port| port == number) && on.destination_subnets.is_empty()
            };
            if route.r#match.is_empty() || route.r#match.iter().any(fits) {
                let to = opaque::destinations(scope, rule, &route.route, number, diagnostics);
                return vec![FilterChain {
                    filters: guard.before(filters::tcp(scope, opaque::prefix(&to), &to)),
                    ..FilterChain::default()
                }];
            }
        }
    }
    Vec::new()
}

/// The name of a server's route configuration.
fn routes_name(it: &Opened<'_>) -> String {
    let bind = match it.server.bind.as_str() {
        "" => String::new(),
        bind => format!(".{bind}"),
    };
    let ended = it.mode() == Some(ServerTlsMode::IstioMutual);
    match ended {
        false => format!("http.{}{bind}", it.listens),
        true => format!(
            "https.{}.{}.{}.{}{bind}",
            it.server.port.number,
            it.server.port.name,
            it.gateway.name.name,
            it.gateway.name.namespace
        ),
    }
}

fn requests(scope: &Scope<'_>, it: &Opened<'_>, guard: &Guard) -> FilterChain {
    let prefix = format!("outbound_0.0.0.0_{};", it.listens);
    FilterChain {
        filters: vec![filters::http(
            scope,
            Side::Edge,
            prefix,
            Routes::Named(routes_name(it)),
            guard.on_requests(),
        )],
        ..FilterChain::default()
    }
}

/// The route configurations.
pub(crate) fn configurations(
    scope: &Scope<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<RouteConfiguration> {
    let mut found: BTreeMap<String, BTreeMap<Host, VirtualHost>> = BTreeMap::new();
    for it in opened(scope).iter().filter(|it| it.is_http()) {
        let number = it.server.port.number;
        let hosts = found.entry(routes_name(it)).or_default();
        let redirects = it.server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
        let name = it.name();
        for rule in rules(scope, it) {
            let context = Context { port: number, gateway: Some(&name) };
            let routes = http_routes::of_rule(scope, rule, &context, diagnostics);
            for host in &rule.spec.hosts {
                let host = rule.host(host, &scope.picture.domain);
                if !it.serves(rule.namespace(), &host) {
                    continue;
                }
                let of = hosts.entry(host.clone()).or_insert_with(|| VirtualHost {
                    name: format!("{host}:{number}"),
                    domains: vec![host.to_string()],
                    include_request_attempt_count: true,
                    ..VirtualHost::default()
                });
                if redirects {
                    of.require_tls = virtual_host::TlsRequirementType::All.into();
                }
                of.routes.extend(routes.iter().cloned());
            }
        }
    }
    let found = found.into_iter().map(|(name, hosts)| {
        let mut hosts: Vec<VirtualHost> = hosts.into_values().collect();
        for host in &mut hosts {
            // Stable: of several rules, routes that take everything come last.
            host.routes.sort_by_key(|route| route.r#match == Some(routes::everything()));
        }
        routes::configuration(name, hosts)
    });
    found.collect()
}
