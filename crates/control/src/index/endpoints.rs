//! Endpoints of all clusters, by the host they serve, and what each pod serves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tombolo_crds::networking::service_entry::{ServiceEntry, ServiceEntryPort, WorkloadEntry};
use tombolo_model::endpoint::{Address, Endpoint, Health, Locality, Workload};
use tombolo_model::id::{ClusterId, Host, NetworkId, ObjectName};
use tombolo_model::identity::Identity;
use tombolo_model::service::{Origin, Resolution, Service, ServiceKey};

use crate::index::config::{Config, Configured};
use crate::index::live::{ClusterObjects, Live};
use crate::index::locality;
use crate::index::networks::{NETWORK_LABEL, Networks};
use crate::index::objects::{PodObject, SliceEndpoint};
use crate::index::services;

type Workloads = BTreeMap<ClusterId, BTreeMap<ObjectName, Arc<Workload>>>;

/// The pods of all clusters as workloads.
pub(crate) fn workloads(live: &Live, networks: &Networks) -> Workloads {
    let of_cluster = |(cluster, objects): (&ClusterId, &ClusterObjects)| {
        let pods = objects
            .pods
            .values()
            .map(|pod| (pod.name.clone(), Arc::new(of_pod(pod, cluster, objects, live, networks))));
        (cluster.clone(), pods.collect())
    };
    live.clusters().map(of_cluster).collect()
}

fn of_pod(
    pod: &PodObject,
    cluster: &ClusterId,
    objects: &ClusterObjects,
    live: &Live,
    networks: &Networks,
) -> Workload {
    let node = objects.nodes.get(&ObjectName::new("", &pod.node));
    let own_network = pod.labels.get(NETWORK_LABEL).map(String::as_str);
    let network = networks.of(cluster, own_network, pod.ips.first().copied());
    let locality = locality::of_pod(&pod.labels, node.map(|node| &node.labels));
    let identity = (!pod.service_account.is_empty()).then(|| {
        let trust_domain = &live.mesh.config.trust_domain;
        Identity::new(trust_domain, &pod.name.namespace, &pod.service_account)
    });
    Workload {
        object: pod.name.clone(),
        cluster: cluster.clone(),
        labels: place_labels(pod.labels.clone(), cluster, &network, &locality, &pod.node),
        network,
        name: pod.workload.clone(),
        identity,
        mutual_tls: pod.labels.get("security.istio.io/tlsMode").is_some_and(|m| m == "istio"),
        locality,
        node: pod.node.clone(),
    }
}

/// Adds the labels that follow from where a workload is; subsets and failover may use them.
fn place_labels(
    mut labels: BTreeMap<String, String>,
    cluster: &ClusterId,
    network: &NetworkId,
    locality: &Locality,
    node: &str,
) -> BTreeMap<String, String> {
    let mut set = |name: &str, value: &str| {
        if !value.is_empty() {
            labels.insert(name.to_owned(), value.to_owned());
        }
    };
    set("topology.istio.io/cluster", cluster.as_str());
    set(NETWORK_LABEL, network.as_str());
    set("topology.kubernetes.io/region", &locality.region);
    set("topology.kubernetes.io/zone", &locality.zone);
    set("topology.istio.io/subzone", &locality.subzone);
    set("kubernetes.io/hostname", node);
    labels
}

/// The endpoints of all services, sorted, each once.
pub(crate) fn of(
    live: &Live,
    services: &BTreeMap<ServiceKey, Service>,
    config: &Config,
    workloads: &Workloads,
    networks: &Networks,
) -> BTreeMap<ServiceKey, Vec<Endpoint>> {
    let mut found: BTreeMap<ServiceKey, BTreeSet<Endpoint>> = BTreeMap::new();
    for (cluster, objects) in live.clusters() {
        let none = BTreeMap::new();
        let pods = workloads.get(cluster).unwrap_or(&none);
        for slice in objects.slices.values() {
            let namespace = slice_namespace(slice);
            let host = Host::of_service(&slice.service, namespace, &live.domain);
            let service =
                services::of_kubernetes(&host, &ObjectName::new(namespace, &slice.service));
            if !services.contains_key(&service) {
                continue;
            }
            let endpoints = found.entry(service).or_default();
            for endpoint in &slice.endpoints {
                let Some(workload) = workload(endpoint, cluster, namespace, pods, networks) else {
                    continue;
                };
                for address in &endpoint.addresses {
                    for (port_name, port) in &slice.ports {
                        endpoints.insert(Endpoint {
                            port_name: port_name.clone(),
                            address: Address::Ip(*address),
                            port: *port,
                            health: endpoint.health,
                            weight: 1,
                            hostname: endpoint.hostname.clone(),
                            workload: Arc::clone(&workload),
                        });
                    }
                }
            }
        }
    }
    let entries = Entries { live, config, workloads, networks };
    for entry in &config.service_entries {
        for host in entry.spec.hosts.iter().map(|name| Host::new(name)) {
            let declared = services::of_host(services, &host)
                .filter(|it| it.origin == Origin::ServiceEntry)
                .find(|it| it.object == entry.name || it.additions.contains(&entry.name));
            if let Some(service) = declared {
                let endpoints = entries.endpoints(entry, service);
                found.entry(service.key()).or_default().extend(endpoints);
            }
        }
    }
    found.into_iter().map(|(key, endpoints)| (key, endpoints.into_iter().collect())).collect()
}

fn slice_namespace(slice: &crate::index::objects::SliceObject) -> &str {
    &slice.name.namespace
}

/// What runs at an endpoint of a slice. Nothing while a pod that it names is not known yet: its
/// identity would be missing, and clients would refuse it or, worse, not ask for one.
fn workload(
    endpoint: &SliceEndpoint,
    cluster: &ClusterId,
    namespace: &str,
    pods: &BTreeMap<ObjectName, Arc<Workload>>,
    networks: &Networks,
) -> Option<Arc<Workload>> {
    if let Some(pod) = &endpoint.pod {
        return pods.get(pod).cloned();
    }
    let address = endpoint.addresses.first().copied();
    let network = networks.of(cluster, None, address);
    let name = address.map(|address| address.to_string()).unwrap_or_default();
    Some(Arc::new(Workload {
        object: ObjectName::new(namespace, &name),
        cluster: cluster.clone(),
        labels: place_labels(
            BTreeMap::new(),
            cluster,
            &network,
            &Locality::default(),
            &endpoint.node,
        ),
        network,
        name: String::new(),
        identity: None,
        mutual_tls: false,
        locality: Locality::default(),
        node: endpoint.node.clone(),
    }))
}

/// What the endpoints of service entries are made from.
struct Entries<'a> {
    live: &'a Live,
    config: &'a Config,
    workloads: &'a Workloads,
    networks: &'a Networks,
}

impl Entries<'_> {
    fn endpoints(&self, entry: &Configured<ServiceEntry>, service: &Service) -> Vec<Endpoint> {
        let spec = &entry.spec;
        let ports = ports(entry, service);
        let mut found = Vec::new();
        let place = |at: &WorkloadEntry, name: &ObjectName, found: &mut Vec<Endpoint>| {
            let workload = Arc::new(self.of_entry(at, name, service.external));
            for port in &ports {
                let number =
                    at.ports.get(&port.name).copied().or(port.target_port).unwrap_or(port.number);
                found.push(Endpoint {
                    port_name: port.name.clone(),
                    address: address(&at.address),
                    port: number,
                    health: Health::Healthy,
                    weight: at.weight.max(1),
                    hostname: String::new(),
                    workload: Arc::clone(&workload),
                });
            }
        };
        for at in &spec.endpoints {
            place(at, &entry.name, &mut found);
        }
        if let Some(selector) = &spec.workload_selector {
            for other in &self.config.workload_entries {
                let labels = &other.spec.labels;
                if other.namespace() == entry.namespace() && has_all(labels, &selector.labels) {
                    place(&other.spec, &other.name, &mut found);
                }
            }
            self.select_pods(entry, &ports, &selector.labels, &mut found);
        }
        let by_name = matches!(service.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
        if found.is_empty() && by_name && spec.workload_selector.is_none() {
            let itself =
                WorkloadEntry { address: service.host.to_string(), ..WorkloadEntry::default() };
            place(&itself, &entry.name, &mut found);
        }
        found
    }

    /// Pods that a service entry selects, in all clusters. No slice says which of them take
    /// requests, so they say so themselves.
    fn select_pods(
        &self,
        entry: &Configured<ServiceEntry>,
        ports: &[&ServiceEntryPort],
        selector: &BTreeMap<String, String>,
        found: &mut Vec<Endpoint>,
    ) {
        for (cluster, objects) in self.live.clusters() {
            for pod in objects.pods.values() {
                let health = if pod.serving { Health::Healthy } else { Health::Unhealthy };
                let in_scope = *pod.name.namespace == *entry.namespace();
                let workload = self.workloads.get(cluster).and_then(|pods| pods.get(&pod.name));
                let (true, true, Some(workload), Some(ip)) =
                    (in_scope, has_all(&pod.labels, selector), workload, pod.ips.first())
                else {
                    continue;
                };
                for port in ports {
                    found.push(Endpoint {
                        port_name: port.name.clone(),
                        address: Address::Ip(*ip),
                        port: port.target_port.unwrap_or(port.number),
                        health,
                        weight: 1,
                        hostname: String::new(),
                        workload: Arc::clone(workload),
                    });
                }
            }
        }
    }

    fn of_entry(&self, at: &WorkloadEntry, name: &ObjectName, external: bool) -> Workload {
        let cluster = &self.live.config_cluster;
        let label = Some(at.network.as_str())
            .filter(|name| !name.is_empty())
            .or_else(|| at.labels.get(NETWORK_LABEL).map(String::as_str));
        let network = match (label, external) {
            // What is outside of the mesh is reached as it is, unless it says otherwise.
            (None, true) => NetworkId::new(""),
            (label, _) => self.networks.of(cluster, label, at.address.parse().ok()),
        };
        let locality = Locality::parse(&at.locality);
        let account = (!at.service_account.is_empty()).then_some(&at.service_account);
        let mutual_tls = match at.labels.get("security.istio.io/tlsMode") {
            Some(mode) => mode == "istio",
            None => account.is_some(),
        };
        let trust_domain = &self.live.mesh.config.trust_domain;
        Workload {
            object: name.clone(),
            cluster: cluster.clone(),
            labels: place_labels(at.labels.clone(), cluster, &network, &locality, ""),
            network,
            name: name.name.to_string(),
            identity: account.map(|account| Identity::new(trust_domain, &name.namespace, account)),
            mutual_tls,
            locality,
            node: String::new(),
        }
    }
}

/// The ports of an entry, without those that an older one declares in another way.
fn ports<'a>(entry: &'a Configured<ServiceEntry>, service: &Service) -> Vec<&'a ServiceEntryPort> {
    let is_declared = |port: &&ServiceEntryPort| {
        service.ports.iter().any(|it| it.number == port.number && it.name == port.name)
    };
    entry.spec.ports.iter().filter(is_declared).collect()
}

fn address(text: &str) -> Address {
    match text.parse::<IpAddr>() {
        Ok(ip) => Address::Ip(ip),
        Err(_) if text.is_empty() => Address::BehindGateway,
        Err(_) => Address::Name(text.into()),
    }
}

/// Whether `labels` holds all of `wanted`.
pub(crate) fn has_all(
    labels: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}
