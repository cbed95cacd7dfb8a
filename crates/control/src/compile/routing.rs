//! Which VirtualService holds for a host, and which upstream a destination means.

use tombolo_crds::networking::virtual_service::{Destination, VirtualService};
use tombolo_model::id::Host;
use tombolo_model::service::Visibility;

use crate::compile::names::Upstream;
use crate::compile::policy;
use crate::compile::scope::Scope;
use crate::diagnostic::Diagnostic;
use crate::index::config::Configured;

/// A remark about a VirtualService.
pub(crate) fn remark(
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    message: String,
) -> Diagnostic {
    Diagnostic {
        cluster: scope.picture.config_cluster.clone(),
        kind: String::from("VirtualService"),
        object: rule.name.clone(),
        message,
    }
}

/// Whether a proxy's namespace may use a rule.
pub(crate) fn is_visible(scope: &Scope<'_>, rule: &Configured<VirtualService>) -> bool {
    let values = match rule.spec.export_to.as_slice() {
        [] => &scope.picture.mesh.config.default_virtual_service_export_to,
        values => values,
    };
    let values = values.iter().map(String::as_str);
    Visibility::parse(values, rule.namespace()).includes(scope.proxy.namespace())
}

/// The rules for sidecars, oldest first, those of the proxy's own namespace before others.
pub(crate) fn for_mesh<'a>(scope: &Scope<'a>) -> Vec<&'a Configured<VirtualService>> {
    let rules = scope.picture.config.virtual_services.iter().filter(|rule| {
        let gateways = &rule.spec.gateways;
        (gateways.is_empty() || gateways.iter().any(|name| name == "mesh"))
            && is_visible(scope, rule)
            && scope.imports(rule)
    });
    let mut rules: Vec<_> = rules.collect();
    // Stable, so that age decides within each part.
    rules.sort_by_key(|rule| rule.namespace() != scope.proxy.namespace());
    rules
}

/// The rule for a host on sidecars: the one that names it most exactly; of equals the first.
pub(crate) fn for_host<'a>(
    scope: &Scope<'a>,
    host: &Host,
) -> Option<&'a Configured<VirtualService>> {
    let mut best: Option<((bool, usize), &Configured<VirtualService>)> = None;
    for rule in for_mesh(scope) {
        let hosts = rule.spec.hosts.iter().map(|name| rule.host(name, &scope.picture.domain));
        let exact = hosts
            .filter(|pattern| host.is_within(pattern))
            .map(|pattern| (!pattern.is_wildcard(), pattern.as_str().len()))
            .max();
        if let Some(exact) = exact
            && best.is_none_or(|(best, _)| exact > best)
        {
            best = Some((exact, rule));
        }
    }
    best.map(|(_, rule)| rule)
}

/// The upstream that a destination means, on a listener of this port.
pub(crate) fn upstream(
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    destination: &Destination,
    host: &Host,
    listener: u16,
    diagnostics: &mut Vec<Diagnostic>,
) -> Upstream {
    let service = scope.service(host);
    let asked = destination.port.as_ref().map(|port| port.number).filter(|number| *number != 0);
    let mut ports = service.into_iter().flat_map(|service| service.stream_ports());
    let port = asked.unwrap_or_else(|| match (ports.next(), ports.next()) {
        (Some(only), None) => only.number,
        _ => listener,
    });
    match service {
        None => diagnostics.push(remark(
            scope,
            rule,
            format!(
                "destination host `{host}` is not a service that proxies in namespace `{}` \
                     may call: its requests fail",
                scope.proxy.namespace()
            ),
        )),
        Some(service) => {
            if service.port(port).is_none() {
                diagnostics.push(remark(
                    scope,
                    rule,
                    format!("destination `{host}` has no port {port}: its requests fail"),
                ));
            }
            let subset = &destination.subset;
            let known =
                || policy::rule_of(scope, service).is_some_and(|it| it.subset(subset).is_some());
            if !subset.is_empty() && !known() {
                diagnostics.push(remark(
                    scope,
                    rule,
                    format!(
                        "no DestinationRule declares subset `{subset}` of `{host}`: its \
                             requests fail"
                    ),
                ));
            }
        }
    }
    let host = service.map_or(host, |service| &service.host);
    Upstream { subset: destination.subset.clone(), ..Upstream::new(host, port) }
}
