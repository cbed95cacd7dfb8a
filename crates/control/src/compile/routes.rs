//! Route configurations of sidecars: for every port, which host goes where.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_model::id::Host;
use tombolo_model::port::ServicePort;
use tombolo_model::service::{Origin, Service};
use tombolo_xds::proto::envoy::config::route::v3::{
    Decorator, DirectResponseAction, Route, RouteAction, RouteConfiguration, RouteMatch,
    VirtualHost, route, route_action, route_match,
};

use crate::compile::http_routes::{self, Context};
use crate::compile::names;
use crate::compile::outbound;
use crate::compile::parts;
use crate::compile::retries;
use crate::compile::routing;
use crate::compile::scope::Scope;
use crate::diagnostic::Diagnostic;
use tombolo_model::port::Protocol;

/// All route configurations of a sidecar.
pub(crate) fn configurations(
    scope: &Scope<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<RouteConfiguration> {
    let mut shared: BTreeMap<u16, Vec<(&Service, &ServicePort)>> = BTreeMap::new();
    let mut found = Vec::new();
    for (service, port) in scope.ports() {
        if outbound::OWN_PORTS.contains(&port.number) {
            continue;
        }
        if port.protocol.is_http() {
            shared.entry(port.number).or_default().push((service, port));
        } else if port.protocol == Protocol::Auto {
            let mut host = virtual_host(scope, service, port, diagnostics);
            host.domains = vec![String::from("*")];
            let name = format!("{}:{}", service.host, port.number);
            found.push(configuration(name, vec![host]));
        }
    }
    for (number, services) in shared {
        let mut hosts: BTreeMap<String, VirtualHost> = BTreeMap::new();
        for (service, port) in services {
            let host = virtual_host(scope, service, port, diagnostics);
            hosts.insert(host.name.clone(), host);
        }
        if number == 80 {
            unknown_hosts(scope, number, &mut hosts, diagnostics);
        }
        let mut hosts: Vec<VirtualHost> = hosts.into_values().collect();
        each_domain_once(&mut hosts);
        hosts.push(fallback(scope));
        found.push(configuration(number.to_string(), hosts));
    }
    found
}

/// A route configuration with the mesh's settings.
pub(crate) fn configuration(name: String, virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration {
        name,
        virtual_hosts,
        validate_clusters: parts::no(),
        ignore_port_in_host_matching: true,
        max_direct_response_body_size_bytes: parts::number(1 << 20),
        ..RouteConfiguration::default()
    }
}

fn virtual_host(
    scope: &Scope<'_>,
    service: &Service,
    port: &ServicePort,
    diagnostics: &mut Vec<Diagnostic>,
) -> VirtualHost {
    let context = Context { port: port.number, gateway: None };
    let rule = routing::for_host(scope, &service.host);
    let mut routes =
        rule.map_or_else(Vec::new, |rule| http_routes::of_rule(scope, rule, &context, diagnostics));
    if routes.is_empty() {
        // No rule, or one that is for other ports, callers or gateways.
        routes.push(default_route(scope, service, port));
    }
    VirtualHost {
        name: format!("{}:{}", service.host, port.number),
        domains: domains(scope, service),
        routes,
        include_request_attempt_count: true,
        ..VirtualHost::default()
    }
}

/// To the service itself.
fn default_route(scope: &Scope<'_>, service: &Service, port: &ServicePort) -> Route {
    Route {
        name: String::from("default"),
        r#match: Some(everything()),
        decorator: Some(Decorator {
            operation: format!("{}:{}/*", service.host, port.number),
            ..Decorator::default()
        }),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(outbound::whole(
                service, port,
            ))),
            timeout: Some(parts::seconds(0)),
            max_stream_duration: parts::grpc_timeout(parts::seconds(0)),
            retry_policy: retries::default(&scope.picture.mesh.config),
            hash_policy: http_routes::hash_policy(scope, service, port.number, ""),
            ..RouteAction::default()
        })),
        ..Route::default()
    }
}

/// Matches every request.
pub(crate) fn everything() -> RouteMatch {
    RouteMatch {
        path_specifier: Some(route_match::PathSpecifier::Prefix(String::from("/"))),
        ..RouteMatch::default()
    }
}

/// What a service is called from the proxy's namespace: its names and addresses, and the names of
/// others that stand for it.
fn domains(scope: &Scope<'_>, service: &Service) -> Vec<String> {
    let mut domains = names_of(scope, service);
    if service.is_headless() {
        let pods: Vec<String> = domains.iter().map(|domain| format!("*.{domain}")).collect();
        domains.extend(pods);
    }
    let addresses = service.addresses_for(&scope.proxy.cluster);
    domains.extend(addresses.iter().filter(|it| it.prefix_len() == it.max_prefix_len()).map(
        |address| match address.addr() {
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            std::net::IpAddr::V4(ip) => ip.to_string(),
        },
    ));
    domains.extend(scope.aliases_of(&service.host).iter().flat_map(|it| names_of(scope, it)));
    domains
}

/// The names of a service itself, short ones as far as they lead to it.
fn names_of(scope: &Scope<'_>, service: &Service) -> Vec<String> {
    let host = service.host.as_str();
    let mut domains = vec![host.to_owned(), format!("{host}.")];
    if service.host.is_wildcard() {
        domains.truncate(1);
    }
    if service.origin == Origin::Kubernetes {
        let (name, namespace) = (&service.object.name, &service.object.namespace);
        if **namespace == *scope.proxy.namespace() {
            domains.push(name.to_string());
        }
        domains.push(format!("{name}.{namespace}.svc"));
        domains.push(format!("{name}.{namespace}"));
    }
    domains
}

/// Hosts that only VirtualServices know.
fn unknown_hosts(
    scope: &Scope<'_>,
    number: u16,
    hosts: &mut BTreeMap<String, VirtualHost>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for rule in routing::for_mesh(scope) {
        for name in &rule.spec.hosts {
            let host: Host = rule.host(name, &scope.picture.domain);
            let known = scope.services.keys().any(|known| known.is_within(&host));
            let name = format!("{host}:{number}");
            if known || hosts.contains_key(&name) {
                continue;
            }
            let context = Context { port: number, gateway: None };
            let routes = http_routes::of_rule(scope, rule, &context, diagnostics);
            if routes.is_empty() {
                continue;
            }
            hosts.insert(
                name.clone(),
                VirtualHost {
                    name,
                    domains: vec![host.to_string()],
                    routes,
                    include_request_attempt_count: true,
                    ..VirtualHost::default()
                },
            );
        }
    }
}

/// A domain may be in one virtual host only; full names win over short ones and addresses.
pub(crate) fn each_domain_once(hosts: &mut Vec<VirtualHost>) {
    let mut taken: BTreeSet<String> =
        hosts.iter().filter_map(|host| host.domains.first().cloned()).collect();
    for host in hosts.iter_mut() {
        let mut first = true;
        host.domains.retain(|domain| std::mem::take(&mut first) || taken.insert(domain.clone()));
    }
    hosts.retain(|host| !host.domains.is_empty());
}

/// What happens with requests to hosts that nobody knows.
fn fallback(scope: &Scope<'_>) -> VirtualHost {
    let any = scope.allows_any();
    let action = match any {
        true => route::Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(
                names::PASSTHROUGH.to_owned(),
            )),
            timeout: Some(parts::seconds(0)),
            max_stream_duration: parts::grpc_timeout(parts::seconds(0)),
            ..RouteAction::default()
        }),
        false => route::Action::DirectResponse(DirectResponseAction {
            status: 502,
            ..DirectResponseAction::default()
        }),
    };
    let name = if any { "allow_any" } else { "block_all" };
    VirtualHost {
        name: name.to_owned(),
        domains: vec![String::from("*")],
        routes: vec![Route {
            name: name.to_owned(),
            r#match: Some(everything()),
            action: Some(action),
            ..Route::default()
        }],
        include_request_attempt_count: true,
        ..VirtualHost::default()
    }
}
