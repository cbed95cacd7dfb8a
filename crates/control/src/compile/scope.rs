//! What one proxy may see: its services, in the picture of the mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tombolo_crds::networking::service_entry::Sidecar;
use tombolo_crds::networking::virtual_service::VirtualService;
use tombolo_model::id::{Host, ObjectName};
use tombolo_model::port::ServicePort;
use tombolo_model::service::{Origin, Resolution, Service};

use crate::compile::nearness;
use crate::index::config::Configured;
use crate::index::picture::Picture;
use crate::proxy::{Proxy, ProxyKind};

/// A proxy's view of a picture.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) picture: &'a Picture,
    pub(crate) proxy: &'a Proxy,
    /// The services it may call, without those that are only other names.
    pub(crate) services: BTreeMap<&'a Host, &'a Arc<Service>>,
    /// Their other names, by their own.
    aliases: BTreeMap<&'a Host, Vec<&'a Arc<Service>>>,
    /// The Sidecar object that holds for it.
    pub(crate) sidecar: Option<&'a Configured<Sidecar>>,
    imports: Option<Imports>,
}

impl<'a> Scope<'a> {
    pub(crate) fn new(picture: &'a Picture, proxy: &'a Proxy) -> Self {
        let sidecar = match proxy.kind {
            ProxyKind::Sidecar => sidecar_of(picture, proxy),
            ProxyKind::Router => None,
        };
        let imports = sidecar.map(|sidecar| Imports::new(sidecar, proxy));
        let visible = |service: &Service| {
            service.visibility.includes(proxy.namespace())
                && imports.as_ref().is_none_or(|imports| imports.include(service))
        };
        let mut chosen: BTreeMap<&Host, &Arc<Service>> = BTreeMap::new();
        for service in picture.services.values().filter(|service| visible(service)) {
            let first = chosen.entry(&service.host).or_insert(service);
            if rank(service, proxy) < rank(first, proxy) {
                *first = service;
            }
        }
        let (names, services): (BTreeMap<_, _>, _) = chosen
            .into_iter()
            .partition(|(_, service)| matches!(service.resolution, Resolution::Alias(_)));
        let aliases = BTreeMap::new();
        let mut scope = Self { picture, proxy, services, aliases, sidecar, imports };
        for (host, name) in names {
            if let Some(service) = scope.service(host) {
                scope.aliases.entry(&service.host).or_default().push(name);
            }
        }
        scope
    }

    /// The names that stand for a service, as far as the proxy may use them.
    pub(crate) fn aliases_of(&self, host: &Host) -> &[&'a Arc<Service>] {
        self.aliases.get(host).map_or(&[], Vec::as_slice)
    }

    /// Whether its Sidecar object, if there is one, lets a rule in: one for any of the hosts.
    pub(crate) fn imports(&self, rule: &Configured<VirtualService>) -> bool {
        let domain = &self.picture.domain;
        self.imports.as_ref().is_none_or(|imports| {
            let mut hosts = rule.spec.hosts.iter().map(|name| rule.host(name, domain));
            hosts.any(|host| imports.include_rule_for(rule.namespace(), &host))
        })
    }

    /// The service a name stands for, through other names, if the proxy may call it.
    pub(crate) fn service(&self, host: &Host) -> Option<&'a Arc<Service>> {
        let mut host = host;
        // Names may point in a circle.
        for _ in 0..8 {
            if let Some(service) = self.services.get(host) {
                return Some(service);
            }
            host =
                self.picture.services_of(host).find_map(|service| match &service.resolution {
                    Resolution::Alias(target) => Some(target),
                    _ => None,
                })?;
        }
        None
    }

    /// Every TCP port of every service.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (&'a Arc<Service>, &'a ServicePort)> {
        let services = self.services.values().copied();
        services.flat_map(|service| service.stream_ports().map(move |port| (service, port)))
    }

    /// Whether traffic to unknown destinations may pass.
    pub(crate) fn allows_any(&self) -> bool {
        use tombolo_crds::networking::service_entry::OutboundMode;
        let own = self.sidecar.and_then(|it| it.spec.outbound_traffic_policy.as_ref());
        let policy = own.unwrap_or(&self.picture.mesh.config.outbound_traffic_policy);
        policy.mode == OutboundMode::AllowAny
    }
}

/// Which of the services with the same host a proxy calls: the first by this, which is that of its
/// own namespace before that of Kubernetes before others; the oldest of each.
fn rank<'a>(service: &'a Service, proxy: &Proxy) -> (bool, Origin, i64, &'a ObjectName) {
    let foreign = *service.object.namespace != *proxy.namespace();
    (foreign, service.origin, service.created, &service.object)
}

/// The Sidecar object for a proxy: one that selects it before one of its namespace before one of
/// the root namespace; the oldest of each.
fn sidecar_of<'a>(picture: &'a Picture, proxy: &Proxy) -> Option<&'a Configured<Sidecar>> {
    let root = &picture.mesh.config.root_namespace;
    let rank = |sidecar: &Configured<Sidecar>| {
        let own = sidecar.namespace() == proxy.namespace();
        match &sidecar.spec.workload_selector {
            Some(selector) if own => has_all(&proxy.labels, &selector.labels).then_some(0),
            None if own => Some(1),
            None if sidecar.namespace() == root => Some(2),
            _ => None,
        }
    };
    let ranked = picture.config.sidecars.iter().filter_map(|it| Some((rank(it)?, it)));
    // The first of equal rank is the oldest.
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, sidecar)| sidecar)
}

/// The services and rules that a Sidecar object lets in.
#[derive(Debug)]
struct Imports {
    /// Namespace (nothing for any) and host pattern.
    patterns: Vec<(Option<String>, Host)>,
    excluded: Vec<(Option<String>, Host)>,
}

impl Imports {
    fn new(sidecar: &Configured<Sidecar>, proxy: &Proxy) -> Self {
        let (mut patterns, mut excluded) = (Vec::new(), Vec::new());
        let items = sidecar.spec.egress.iter().flat_map(|egress| &egress.hosts);
        let mut any = false;
        for item in items {
            any = true;
            let (list, item) = match item.strip_prefix('~') {
                Some(rest) => (&mut excluded, rest),
                None => (&mut patterns, item.as_str()),
            };
            let (namespace, host) = item.split_once('/').unwrap_or(("*", item));
            let namespace = match namespace {
                "*" | "" => None,
                "." => Some(proxy.namespace().to_owned()),
                name => Some(name.to_owned()),
            };
            list.push((namespace, Host::new(host)));
        }
        if !any {
            // No egress at all means everything.
            patterns.push((None, Host::new("*")));
        }
        Self { patterns, excluded }
    }

    fn include(&self, service: &Service) -> bool {
        let (namespace, host) = (&service.object.namespace, &service.host);
        let matches = |of: &(Option<String>, Host)| is_of(of, namespace) && host.is_within(&of.1);
        self.patterns.iter().any(matches) && !self.excluded.iter().any(matches)
    }

    /// A rule for a wildcard is let in with any host that it is for.
    fn include_rule_for(&self, namespace: &str, host: &Host) -> bool {
        let matches = |of: &(Option<String>, Host)| is_of(of, namespace) && host.overlaps(&of.1);
        let excluded = |of: &(Option<String>, Host)| is_of(of, namespace) && host.is_within(&of.1);
        self.patterns.iter().any(matches) && !self.excluded.iter().any(excluded)
    }
}

/// Whether an import is from a namespace.
fn is_of((wanted, _): &(Option<String>, Host), namespace: &str) -> bool {
    wanted.as_deref().is_none_or(|wanted| wanted == namespace)
}

/// Whether `labels` holds all of `wanted`.
pub(crate) fn has_all(
    labels: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// The labels of proxies that the picture's objects ask about. Proxies that agree on them, and
/// on where they are, see the same.
pub(crate) fn labels_that_matter(picture: &Picture) -> BTreeSet<&str> {
    let config = &picture.config;
    let mut found: BTreeSet<&str> = BTreeSet::new();
    for sidecar in &config.sidecars {
        if let Some(selector) = &sidecar.spec.workload_selector {
            found.extend(selector.labels.keys().map(String::as_str));
        }
    }
    for rule in &config.destination_rules {
        if let Some(selector) = &rule.spec.workload_selector {
            found.extend(selector.labels.keys().map(String::as_str));
        }
        let policies = rule.spec.subsets.iter().filter_map(|it| it.traffic_policy.as_ref());
        for policy in policies.chain(&rule.spec.traffic_policy) {
            let ports = policy.port_level_settings.iter().map(|it| it.load_balancer.as_ref());
            let balancers = ports.chain([policy.load_balancer.as_ref()]).flatten();
            let settings = balancers.filter_map(|it| it.locality_lb_setting.as_ref());
            found.extend(settings.flat_map(nearness::labels));
        }
    }
    found.extend(picture.mesh.config.locality_lb_setting.iter().flat_map(nearness::labels));
    for gateway in &config.gateways {
        found.extend(gateway.spec.selector.keys().map(String::as_str));
    }
    for service in &config.virtual_services {
        let http = service.spec.http.iter().flat_map(|route| &route.r#match);
        let tls = service.spec.tls.iter().flat_map(|route| &route.r#match);
        let tcp = service.spec.tcp.iter().flat_map(|route| &route.r#match);
        let labels = http.map(|it| &it.source_labels);
        let labels = labels.chain(tls.map(|it| &it.source_labels));
        let labels = labels.chain(tcp.map(|it| &it.source_labels));
        found.extend(labels.flat_map(|labels| labels.keys()).map(String::as_str));
    }
    found
}
