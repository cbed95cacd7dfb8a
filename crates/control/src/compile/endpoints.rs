//! Endpoints of upstreams, as one proxy reaches them.
//!
//! Endpoints in networks that the proxy does not reach are replaced by the gateways of those
//! networks, which get the weight of what is behind them (*split horizon*).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tombolo_crds::networking::destination_rule::ClientTlsMode;
use tombolo_crds::security::MutualTlsMode;
use tombolo_model::endpoint::{Address, Endpoint, Health, Locality};
use tombolo_model::id::{ClusterId, NetworkId};
use tombolo_model::service::Service;
use tombolo_xds::proto::envoy::config::core::v3::{Locality as ProtoLocality, Metadata};
use tombolo_xds::proto::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as ProtoEndpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};

use crate::compile::authentication;
use crate::compile::names::Upstream;
use crate::compile::nearness;
use crate::compile::parts;
use crate::compile::policy::{Policy, Rule};
use crate::compile::scope::{Scope, has_all};
use crate::index::picture::NetworkGateway;

/// How an upstream's endpoints are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) service: &'a Service,
    pub(crate) upstream: &'a Upstream,
    pub(crate) rule: Option<&'a Rule<'a>>,
    /// Only those that answer mutual TLS: at a gateway that passes it through.
    pub(crate) only_mutual_tls: bool,
}

/// An endpoint as the proxy reaches it.
struct Reached<'a> {
    address: String,
    port: u16,
    weight: u64,
    mutual_tls: bool,
    /// Workload, namespace, canonical name and revision, cluster; for telemetry.
    workload: String,
    labels: BTreeMap<&'a str, &'a str>,
}

/// The endpoints of an upstream for a proxy.
pub(crate) fn assignment<'a>(
    scope: &Scope<'a>,
    wanted: Wanted<'_>,
    name: String,
    policy: &Policy<'_>,
) -> ClusterLoadAssignment {
    let horizon = Horizon::new(scope);
    let reach = |endpoints: &[&'a Endpoint]| horizon.reach(scope, wanted, policy, endpoints);
    by_locality(scope, wanted, name, policy, reach)
}

/// The endpoints of an upstream that DNS resolves. They are called as they are: their names may
/// lead anywhere, so no gateway stands for them.
pub(crate) fn named<'a>(
    scope: &Scope<'a>,
    wanted: Wanted<'_>,
    name: String,
    policy: &Policy<'_>,
) -> ClusterLoadAssignment {
    let reach = |endpoint: &&'a Endpoint| {
        let address = match &endpoint.address {
            Address::Ip(ip) => ip.to_string(),
            Address::Name(name) => name.to_string(),
            Address::BehindGateway => return None,
        };
        let mutual_tls = is_mutual_tls(scope, wanted, policy, endpoint);
        let weight = u64::from(endpoint.weight.max(1));
        (mutual_tls || !wanted.only_mutual_tls)
            .then(|| Reached::direct(endpoint, address, weight, mutual_tls))
    };
    by_locality(scope, wanted, name, policy, |endpoints| {
        endpoints.iter().filter_map(reach).collect()
    })
}

/// The endpoints of an upstream, each locality's as `reach` says, the nearest first.
fn by_locality<'a>(
    scope: &Scope<'a>,
    wanted: Wanted<'_>,
    name: String,
    policy: &Policy<'_>,
    reach: impl Fn(&[&'a Endpoint]) -> Vec<Reached<'a>>,
) -> ClusterLoadAssignment {
    let mut groups: BTreeMap<&Locality, Vec<&Endpoint>> = BTreeMap::new();
    let subset = wanted.rule.and_then(|rule| rule.subset(&wanted.upstream.subset));
    // A subset that no rule declares has no endpoints.
    let declared = wanted.upstream.subset.is_empty() || subset.is_some();
    let port = wanted.service.port(wanted.upstream.port);
    if let (true, Some(port)) = (declared, port) {
        for endpoint in scope.picture.endpoints_of(&wanted.service.key()) {
            let chosen =
                subset.is_none_or(|subset| has_all(&endpoint.workload.labels, &subset.labels));
            if chosen && endpoint.port_name == port.name && is_seen(scope, wanted, endpoint) {
                groups.entry(&endpoint.workload.locality).or_default().push(endpoint);
            }
        }
    }
    let mut assignment = ClusterLoadAssignment {
        cluster_name: name,
        endpoints: Vec::new(),
        ..ClusterLoadAssignment::default()
    };
    let near = nearness::Nearness::new(scope, policy);
    for (locality, endpoints) in groups {
        // Endpoints of one locality may differ in the labels that make them near.
        let mut by_priority: BTreeMap<u32, Vec<Reached<'_>>> = BTreeMap::new();
        for endpoint in reach(&endpoints) {
            let priority = near.priority(locality, &endpoint.labels);
            by_priority.entry(priority).or_default().push(endpoint);
        }
        for (priority, endpoints) in by_priority {
            assignment.endpoints.push(group(locality, priority, endpoints));
        }
    }
    near.finish(&mut assignment.endpoints);
    assignment
}

fn group(locality: &Locality, priority: u32, endpoints: Vec<Reached<'_>>) -> LocalityLbEndpoints {
    let total: u64 = endpoints.iter().map(|endpoint| endpoint.weight).sum();
    LocalityLbEndpoints {
        locality: Some(ProtoLocality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            sub_zone: locality.subzone.clone(),
        }),
        load_balancing_weight: match total {
            0 => None,
            total => parts::number(u32::try_from(total).unwrap_or(u32::MAX)),
        },
        lb_endpoints: endpoints.into_iter().map(lb_endpoint).collect(),
        priority,
        ..LocalityLbEndpoints::default()
    }
}

fn lb_endpoint(of: Reached<'_>) -> LbEndpoint {
    let mut metadata = Metadata::default();
    if of.mutual_tls {
        metadata = parts::metadata(
            "envoy.transport_socket_match",
            parts::fields([("tlsMode", parts::text("istio"))]),
        );
    }
    let workload = parts::fields([("workload", parts::text(of.workload))]);
    metadata.filter_metadata.insert(String::from("istio"), workload);
    let endpoint = ProtoEndpoint {
        address: Some(parts::socket(&of.address, of.port)),
        ..ProtoEndpoint::default()
    };
    LbEndpoint {
        load_balancing_weight: parts::number(u32::try_from(of.weight.max(1)).unwrap_or(u32::MAX)),
        metadata: Some(metadata),
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..LbEndpoint::default()
    }
}

/// Whether a proxy may use an endpoint at all.
fn is_seen(scope: &Scope<'_>, wanted: Wanted<'_>, endpoint: &Endpoint) -> bool {
    let (proxy, service, workload) = (scope.proxy, wanted.service, &endpoint.workload);
    let cluster_local = service.cluster_local || service.node_local;
    if cluster_local && workload.cluster != proxy.cluster {
        return false;
    }
    if service.node_local && workload.node != proxy.node_name {
        return false;
    }
    let view = &proxy.requested_network_view;
    if !view.is_empty() && !workload.network.is_default() && !view.contains(&workload.network) {
        return false;
    }
    match endpoint.health {
        Health::Healthy => true,
        Health::Draining => service.persistent_sessions,
        Health::Unhealthy | Health::Terminating => false,
    }
}

/// Whether an endpoint answers mutual TLS.
fn is_mutual_tls(
    scope: &Scope<'_>,
    wanted: Wanted<'_>,
    policy: &Policy<'_>,
    endpoint: &Endpoint,
) -> bool {
    if let Some(tls) = policy.tls.filter(|_| !wanted.only_mutual_tls) {
        return tls.mode == ClientTlsMode::IstioMutual;
    }
    let workload = &endpoint.workload;
    let demand =
        authentication::of_workload(scope.picture, &workload.object.namespace, &workload.labels);
    workload.mutual_tls
        && !wanted.service.external
        && demand.on(endpoint.port) != MutualTlsMode::Disable
}

/// The gateways of other networks, and how weights are scaled so that they can be shared evenly.
struct Horizon<'a> {
    by_cluster: BTreeMap<(NetworkId, ClusterId), Vec<&'a NetworkGateway>>,
    by_network: BTreeMap<NetworkId, Vec<&'a NetworkGateway>>,
    scale: u64,
}

impl<'a> Horizon<'a> {
    fn new(scope: &Scope<'a>) -> Self {
        let mut by_cluster: BTreeMap<_, Vec<&NetworkGateway>> = BTreeMap::new();
        let mut by_network: BTreeMap<_, Vec<&NetworkGateway>> = BTreeMap::new();
        for gateway in scope.picture.gateways.iter() {
            by_network.entry(gateway.network.clone()).or_default().push(gateway);
            if let Some(cluster) = &gateway.cluster {
                let key = (gateway.network.clone(), cluster.clone());
                by_cluster.entry(key).or_default().push(gateway);
            }
        }
        let counts = by_cluster.values().chain(by_network.values());
        let scale = counts.fold(1, |scale, gateways| least_common(scale, gateways.len() as u64));
        Self { by_cluster, by_network, scale }
    }

    fn gateways(&self, network: &NetworkId, cluster: &ClusterId) -> &[&'a NetworkGateway] {
        let own = self.by_cluster.get(&(network.clone(), cluster.clone()));
        own.or_else(|| self.by_network.get(network)).map_or(&[], Vec::as_slice)
    }

    fn reach<'e>(
        &self,
        scope: &Scope<'_>,
        wanted: Wanted<'_>,
        policy: &Policy<'_>,
        endpoints: &[&'e Endpoint],
    ) -> Vec<Reached<'e>>
    where
        'a: 'e,
    {
        let proxy = scope.proxy;
        let mut reached = Vec::new();
        let mut behind: BTreeMap<&'a NetworkGateway, u64> = BTreeMap::new();
        for endpoint in endpoints {
            let workload = &endpoint.workload;
            let gateways = self.gateways(&workload.network, &workload.cluster);
            let mutual_tls = is_mutual_tls(scope, wanted, policy, endpoint);
            let weight = u64::from(endpoint.weight.max(1)) * self.scale;
            // A proxy that does not know its network can only be sure of gateways.
            let lost = proxy.network.is_default()
                && !workload.network.is_default()
                && !gateways.is_empty();
            if !lost && (gateways.is_empty() || proxy.network.reaches(&workload.network)) {
                let Address::Ip(ip) = &endpoint.address else { continue };
                if mutual_tls || !wanted.only_mutual_tls {
                    let address = ip.to_string();
                    reached.push(Reached::direct(endpoint, address, weight, mutual_tls));
                }
                continue;
            }
            let usable: Vec<_> =
                gateways.iter().filter(|it| is_usable(&proxy.ips, it.address)).collect();
            // The gateway routes by the name inside mutual TLS.
            if usable.is_empty() || !mutual_tls {
                continue;
            }
            for gateway in &usable {
                *behind.entry(gateway).or_default() += weight / usable.len() as u64;
            }
        }
        let mut gateways: Vec<_> = behind.into_iter().collect();
        gateways.sort_by_key(|(gateway, _)| (gateway.address, gateway.port));
        reached.extend(gateways.into_iter().map(|(it, weight)| Reached::gateway(it, weight)));
        reached
    }
}

impl<'a> Reached<'a> {
    fn direct(of: &'a Endpoint, address: String, weight: u64, mutual_tls: bool) -> Self {
        let workload = &of.workload;
        let label = |name: &str| workload.label(name).unwrap_or_default();
        let canonical = label("service.istio.io/canonical-name");
        let revision = match label("service.istio.io/canonical-revision") {
            "latest" => "",
            revision => revision,
        };
        Self {
            address,
            port: of.port,
            weight,
            mutual_tls,
            workload: format!(
                "{};{};{canonical};{revision};{}",
                workload.name, workload.object.namespace, workload.cluster
            ),
            labels: workload.labels.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect(),
        }
    }

    fn gateway(of: &'a NetworkGateway, weight: u64) -> Self {
        let cluster = of.cluster.as_ref().map_or("", ClusterId::as_str);
        let mut labels = BTreeMap::from([("topology.istio.io/network", of.network.as_str())]);
        if !cluster.is_empty() {
            labels.insert("topology.istio.io/cluster", cluster);
        }
        Self {
            address: of.address.to_string(),
            port: of.port,
            weight,
            mutual_tls: true,
            workload: format!(";;;;{cluster}"),
            labels,
        }
    }
}

/// Whether a proxy with these addresses can call `address`.
fn is_usable(own: &[IpAddr], address: IpAddr) -> bool {
    let families: BTreeSet<bool> = own.iter().map(|ip| ip.to_canonical().is_ipv4()).collect();
    families.is_empty() || families.contains(&address.to_canonical().is_ipv4())
}

fn least_common(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_common_multiple_holds_both() {
        assert_eq!(least_common(4, 6), 12);
        assert_eq!(least_common(1, 7), 7);
    }
}
