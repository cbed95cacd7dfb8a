//! Which network something is in.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_crds::mesh_config::MeshNetworks;
use tombolo_model::id::{ClusterId, NetworkId, ObjectName};

use crate::index::live::Live;

/// The label that names the network of a pod, a namespace or a gateway.
pub const NETWORK_LABEL: &str = "topology.istio.io/network";

/// Answers for each cluster and address. Priority: the workload's own label, the label of the
/// system namespace of its cluster, the declared networks (the cluster's name before ranges,
/// longer ranges before shorter), the default network.
pub(crate) struct Networks {
    by_cluster: BTreeMap<ClusterId, NetworkId>,
    by_registry: BTreeMap<String, NetworkId>,
    by_range: Vec<(IpNet, NetworkId)>,
}

impl Networks {
    pub(crate) fn new(live: &Live) -> Self {
        let system = ObjectName::new("", &live.system_namespace);
        let by_cluster = live
            .clusters()
            .filter_map(|(cluster, objects)| {
                let network = objects.namespaces.get(&system)?.labels.get(NETWORK_LABEL)?;
                Some((cluster.clone(), NetworkId::new(network)))
            })
            .collect();
        let (by_registry, by_range) = declared(&live.mesh.networks);
        Self { by_cluster, by_registry, by_range }
    }

    /// The network of a workload, or of a cluster as a whole when no address is given.
    pub(crate) fn of(
        &self,
        cluster: &ClusterId,
        label: Option<&str>,
        address: Option<IpAddr>,
    ) -> NetworkId {
        if let Some(label) = label.filter(|label| !label.is_empty()) {
            return NetworkId::new(label);
        }
        if let Some(network) = self.by_cluster.get(cluster) {
            return network.clone();
        }
        if let Some(network) = self.by_registry.get(cluster.as_str()) {
            return network.clone();
        }
        let range = self
            .by_range
            .iter()
            .find(|(range, _)| address.is_some_and(|address| range.contains(&address)));
        range.map_or_else(|| NetworkId::new(""), |(_, network)| network.clone())
    }
}

type Declared = (BTreeMap<String, NetworkId>, Vec<(IpNet, NetworkId)>);

fn declared(networks: &MeshNetworks) -> Declared {
    let (mut by_registry, mut by_range) = (BTreeMap::new(), Vec::new());
    for (name, network) in &networks.networks {
        for endpoints in &network.endpoints {
            if let Some(registry) = &endpoints.from_registry {
                by_registry.entry(registry.clone()).or_insert_with(|| NetworkId::new(name));
            }
            // Ranges that do not parse are reported where the settings are read.
            if let Some(range) = endpoints.from_cidr.as_ref().and_then(|text| text.parse().ok()) {
                by_range.push((range, NetworkId::new(name)));
            }
        }
    }
    by_range.sort_by_key(|(range, network): &(IpNet, NetworkId)| {
        (std::cmp::Reverse(range.prefix_len()), *range, network.clone())
    });
    (by_registry, by_range)
}
