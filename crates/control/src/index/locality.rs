//! Where a workload stands: region, zone, subzone.

use std::collections::BTreeMap;

use tombolo_model::endpoint::Locality;

type Labels = BTreeMap<String, String>;

/// The locality of a pod: its own label, else the labels of its node.
pub(crate) fn of_pod(pod: &Labels, node: Option<&Labels>) -> Locality {
    let own = ["topology.istio.io/locality", "istio-locality"]
        .iter()
        .find_map(|label| pod.get(*label).filter(|text| !text.is_empty()));
    if let Some(text) = own {
        // Label values cannot hold a slash, so dots may stand for it.
        let text = if text.contains('/') { text.clone() } else { text.replace('.', "/") };
        return Locality::parse(&text);
    }
    let Some(node) = node else { return Locality::default() };
    let first = |labels: &[&str]| {
        labels.iter().find_map(|label| node.get(*label).cloned()).unwrap_or_default()
    };
    Locality {
        region: first(&[
            "topology.kubernetes.io/region",
            "failure-domain.beta.kubernetes.io/region",
        ]),
        zone: first(&["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"]),
        subzone: first(&["topology.istio.io/subzone"]),
    }
}
