//! Services, merged over clusters by their host.
//!
//! The first cluster that has a host supplies ports and settings: the config cluster, then the
//! others by name. Later clusters add only their own virtual addresses and identities.
//!
//! Service entries of one namespace that declare the same host in the same way add up to one
//! service. Others are services of their own, among which each proxy has its choice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_crds::mesh_config::MeshConfig;
use tombolo_crds::networking::service_entry::{EntryResolution, Location, ServiceEntry};
use tombolo_model::id::{Host, ObjectName};
use tombolo_model::port::{Protocol, ServicePort};
use tombolo_model::service::{Origin, Resolution, Service, ServiceKey, Visibility};

use crate::diagnostic::Diagnostic;
use crate::index::config::{Config, Configured};
use crate::index::live::Live;
use crate::index::objects::ServiceObject;

/// Merges the services of all clusters and the service entries.
pub(crate) fn of(
    live: &Live,
    config: &Config,
    diagnostics: &mut Vec<Diagnostic>,
) -> BTreeMap<ServiceKey, Service> {
    let mesh = &live.mesh.config;
    let mut services: BTreeMap<ServiceKey, Service> = BTreeMap::new();
    for (cluster, objects) in live.clusters() {
        for object in objects.services.values() {
            let host = Host::of_service(&object.name.name, &object.name.namespace, &live.domain);
            let service = services
                .entry(of_kubernetes(&host, &object.name))
                .or_insert_with(|| from_kubernetes(host, object, live, mesh));
            service.declared_identities.extend(declared_identities(object, mesh));
            if !object.cluster_ips.is_empty() {
                service.vips.entry(cluster.clone()).or_insert_with(|| object.cluster_ips.clone());
            }
        }
    }
    for entry in &config.service_entries {
        add_entry(entry, live, &mut services, diagnostics);
    }
    services
}

/// The key of a service that Kubernetes declares.
pub(crate) fn of_kubernetes(host: &Host, object: &ObjectName) -> ServiceKey {
    ServiceKey { host: host.clone(), origin: Origin::Kubernetes, object: object.clone() }
}

/// The services of a host, what Kubernetes declares first.
pub(crate) fn of_host<'a, T>(
    services: &'a BTreeMap<ServiceKey, T>,
    host: &Host,
) -> impl Iterator<Item = &'a T> {
    let of = services.range(ServiceKey::first(host)..);
    of.take_while(move |(key, _)| key.host == *host).map(|(_, service)| service)
}

fn from_kubernetes(host: Host, object: &ServiceObject, live: &Live, mesh: &MeshConfig) -> Service {
    let resolution = match &object.external_name {
        Some(target) => Resolution::Alias(Host::new(target.trim_end_matches('.'))),
        None if object.headless => Resolution::Passthrough,
        None => Resolution::Endpoints,
    };
    let export_to = object.annotations.get("networking.istio.io/exportTo");
    let visibility = match export_to {
        Some(list) => Visibility::parse(list.split(','), &object.name.namespace),
        None => Visibility::parse(
            mesh.default_service_export_to.iter().map(String::as_str),
            &object.name.namespace,
        ),
    };
    Service {
        cluster_local: is_cluster_local(&host, live),
        host,
        object: object.name.clone(),
        additions: BTreeSet::new(),
        origin: Origin::Kubernetes,
        resolution,
        external: object.external_name.is_some(),
        ports: object.ports.clone(),
        vips: BTreeMap::new(),
        default_addresses: object.cluster_ips.iter().copied().map(IpNet::from).collect(),
        visibility,
        declared_identities: BTreeSet::new(),
        node_local: object.node_local,
        persistent_sessions: object.labels.contains_key("istio.io/persistent-session"),
        created: object.created,
    }
}

fn declared_identities(object: &ServiceObject, mesh: &MeshConfig) -> Vec<String> {
    let list = |name: &str| {
        let text = object.annotations.get(name).map(String::as_str).unwrap_or_default();
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned)
    };
    let namespace = &object.name.namespace;
    let kubernetes = list("alpha.istio.io/kubernetes-serviceaccounts")
        .map(|account| format!("spiffe://{}/ns/{namespace}/sa/{account}", mesh.trust_domain));
    list("alpha.istio.io/canonical-serviceaccounts").chain(kubernetes).collect()
}

/// Whether only endpoints of the client's own cluster serve `host`: the most specific of the
/// mesh's settings decides, and some hosts are so from the start.
fn is_cluster_local(host: &Host, live: &Live) -> bool {
    let domain = &live.domain;
    let built_in = [
        format!("*.kube-system.svc.{domain}"),
        format!("kubernetes.default.svc.{domain}"),
        format!("istiod.{}.svc.{domain}", live.system_namespace),
    ];
    let built_in = built_in.iter().map(|pattern| (Host::new(pattern), true));
    let declared = live.mesh.config.service_settings.iter().flat_map(|settings| {
        settings.hosts.iter().map(|host| (Host::new(host), settings.settings.cluster_local))
    });
    // Of equally specific patterns the later wins, so that settings can take a built-in back.
    built_in
        .chain(declared)
        .filter(|(pattern, _)| host.is_within(pattern))
        .max_by_key(|(pattern, _)| (!pattern.is_wildcard(), pattern.as_str().len()))
        .is_some_and(|(_, local)| local)
}

fn add_entry(
    entry: &Configured<ServiceEntry>,
    live: &Live,
    services: &mut BTreeMap<ServiceKey, Service>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let mut report = |message: String| {
        diagnostics.push(Diagnostic {
            cluster: live.config_cluster.clone(),
            kind: String::from("ServiceEntry"),
            object: entry.name.clone(),
            message,
        });
    };
    let mut addresses = Vec::new();
    for text in &entry.spec.addresses {
        match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(address) => addresses.push(address),
            Err(_) => report(format!("address `{text}` is neither an IP address nor a range")),
        }
    }
    for name in &entry.spec.hosts {
        let host = Host::new(name);
        let service = from_entry(host.clone(), entry, live, addresses.clone());
        if host.is_wildcard() && service.resolution == Resolution::Dns {
            report(format!("host `{host}` is a wildcard, which DNS cannot resolve: left out"));
            continue;
        }
        let older = services.range_mut(ServiceKey::first(&host)..);
        let older = older.take_while(|(key, _)| key.host == host).map(|(_, service)| service);
        let mut older: Vec<&mut Service> =
            older.filter(|it| it.object.namespace == service.object.namespace).collect();
        if let Some(whole) = older.iter_mut().find(|it| adds_to(&service, it)) {
            for port in add(whole, service) {
                report(format!(
                    "port {} ({}) of host `{host}` is already declared by {}, which wins",
                    port.number, port.name, whole.object
                ));
            }
            continue;
        }
        if let Some(first) = older.first() {
            report(format!(
                "host `{host}` is already declared by {:?} {}, which wins where both can be seen",
                first.origin, first.object
            ));
        }
        services.insert(service.key(), service);
    }
}

/// Whether a service is more of an older one of the same namespace: found, placed and seen alike.
fn adds_to(service: &Service, older: &Service) -> bool {
    older.origin == service.origin
        && older.resolution == service.resolution
        && older.external == service.external
        && older.visibility == service.visibility
}

/// Adds a service to an older one, and returns the ports whose number or name is taken.
fn add(older: &mut Service, service: Service) -> Vec<ServicePort> {
    let mut left = Vec::new();
    for port in service.ports {
        let mut ports = older.ports.iter();
        match ports.find(|it| it.number == port.number || it.name == port.name) {
            None => older.ports.push(port),
            Some(taken) if *taken == port => (),
            Some(_) => left.push(port),
        }
    }
    for address in service.default_addresses {
        if !older.default_addresses.contains(&address) {
            older.default_addresses.push(address);
        }
    }
    older.declared_identities.extend(service.declared_identities);
    older.additions.insert(service.object);
    left
}

fn from_entry(
    host: Host,
    entry: &Configured<ServiceEntry>,
    live: &Live,
    addresses: Vec<IpNet>,
) -> Service {
    let spec = &entry.spec;
    let mesh = &live.mesh.config;
    let export_to = match spec.export_to.as_slice() {
        [] => &mesh.default_service_export_to,
        list => list,
    };
    let ports = spec.ports.iter().map(|port| ServicePort {
        name: port.name.clone(),
        number: port.number,
        protocol: match port.protocol.as_str() {
            "" => Protocol::of_service_port(None, &port.name, false),
            name => Protocol::parse(name).unwrap_or(Protocol::Auto),
        },
    });
    Service {
        cluster_local: is_cluster_local(&host, live),
        host,
        object: entry.name.clone(),
        additions: BTreeSet::new(),
        origin: Origin::ServiceEntry,
        resolution: match spec.resolution {
            EntryResolution::None => Resolution::Passthrough,
            EntryResolution::Static => Resolution::Endpoints,
            EntryResolution::Dns => Resolution::Dns,
            EntryResolution::DnsRoundRobin => Resolution::DnsRoundRobin,
        },
        external: spec.location == Location::MeshExternal,
        ports: ports.collect(),
        vips: BTreeMap::new(),
        default_addresses: addresses,
        visibility: Visibility::parse(export_to.iter().map(String::as_str), entry.namespace()),
        declared_identities: spec.subject_alt_names.iter().cloned().collect(),
        node_local: false,
        persistent_sessions: false,
        created: entry.created,
    }
}
