//! Which node answers for the address of a Service.
//!
//! Every speaker makes the same choice from the same facts: among the nodes that are ready and
//! that an L2Advertisement of the address' pool allows, the one whose hash with the address is
//! lowest. The chosen node's speaker says so in an event.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::failure::Failure;
use crate::controllers::loadbalancer::addresses::Range;
use crate::controllers::loadbalancer::held;
use crate::controllers::loadbalancer::metallb::{
    ADVERTISEMENT_CRD, IPAddressPool, L2Advertisement, POOL_CRD, any_selects,
};
use crate::controllers::queue::{Key, Queue};
use crate::controllers::work::Controller;
use crate::events::Events;

/// The speaker of one node.
pub(super) struct Speaker {
    node: String,
    queue: Arc<Queue>,
    services: Arc<Cache<Service>>,
    nodes: Arc<Cache<Node>>,
    pools: Arc<Cache<IPAddressPool>>,
    advertisements: Arc<Cache<L2Advertisement>>,
    /// What this node announces, so that each change is told once.
    announced: Mutex<HashMap<Key, Vec<IpAddr>>>,
    events: Events,
}

impl Speaker {
    pub(super) fn new(caches: &Caches, node: String) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let (services, nodes) = (caches.all::<Service>(), caches.all::<Node>());
        let pools = caches.optional::<IPAddressPool>(POOL_CRD);
        let advertisements = caches.optional::<L2Advertisement>(ADVERTISEMENT_CRD);
        let to = queue.clone();
        services.on_change(move |change| {
            change.states().take(1).for_each(|service| to.add(Key::of(&**service)));
        });
        let again = |queue: &Arc<Queue>, services: &Arc<Cache<Service>>| {
            let (to, known) = (queue.clone(), services.clone());
            move || known.all().iter().for_each(|service| to.add(Key::of(&**service)))
        };
        let look = again(&queue, &services);
        pools.on_change(move |_| look());
        let look = again(&queue, &services);
        advertisements.on_change(move |_| look());
        let look = again(&queue, &services);
        nodes.on_change(move |change| {
            if change.old.map(|node| is_ready(node)) != change.new.map(|node| is_ready(node)) {
                look();
            }
        });
        let events = Events::new(caches.client(), "metallb-speaker", None);
        let announced = Mutex::default();
        Self { node, queue, services, nodes, pools, advertisements, announced, events }
    }

    /// The addresses of a Service that this node answers for.
    fn ours(&self, service: &Service) -> Vec<IpAddr> {
        let (pools, advertisements) = (self.pools.all(), self.advertisements.all());
        let nodes = self.nodes.all();
        let mut ours = held(service);
        ours.retain(|address| {
            let chosen = chosen(*address, &pools, &advertisements, &nodes);
            chosen.as_deref() == Some(self.node.as_str())
        });
        ours
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The node for an address, if its pool is advertised.
fn chosen(
    address: IpAddr,
    pools: &[Arc<IPAddressPool>],
    advertisements: &[Arc<L2Advertisement>],
    nodes: &[Arc<Node>],
) -> Option<String> {
    let pool = pools.iter().find(|pool| {
        let ranges = pool.spec.addresses.iter().filter_map(|text| text.parse::<Range>().ok());
        ranges.into_iter().any(|range| range.contains(address))
    })?;
    let advertised: Vec<_> = advertisements.iter().filter(|a| covers(a, pool)).collect();
    let allowed = |node: &&Arc<Node>| {
        advertised.iter().any(|advertisement| {
            let selectors = &advertisement.spec.node_selectors;
            selectors.is_empty() || any_selects(selectors, node.labels())
        })
    };
    let ready = nodes.iter().filter(|node| is_ready(node)).filter(allowed);
    ready.map(|node| node.name_any()).min_by_key(|name| {
        let mut hash = Sha256::new();
        hash.update(format!("{name}#{address}"));
        hash.finalize()
    })
}

fn covers(advertisement: &L2Advertisement, pool: &IPAddressPool) -> bool {
    let spec = &advertisement.spec;
    if spec.ip_address_pools.is_empty() && spec.ip_address_pool_selectors.is_empty() {
        return true;
    }
    let labels: &BTreeMap<String, String> = pool.labels();
    spec.ip_address_pools.contains(&pool.name_any())
        || any_selects(&spec.ip_address_pool_selectors, labels)
}

impl Controller for Speaker {
    const NAME: &'static str = "speaker";
    const WORKERS: usize = 1;

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let Some(service) = self.services.get(key) else {
            self.announced.lock().remove(key);
            return Ok(());
        };
        let ours = self.ours(&service);
        let before = self.announced.lock().insert(key.clone(), ours.clone()).unwrap_or_default();
        if !ours.is_empty() && ours != before {
            let note = format!("announcing from node {:?} with protocol \"layer2\"", self.node);
            self.events.normal(&service.object_ref(&()), "nodeAssigned", note).await;
            tracing::info!(service = %key, addresses = ?ours, "announcing");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn object<K: DeserializeOwned>(value: Value) -> Arc<K> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn node(name: &str, ready: &str) -> Arc<Node> {
        object(json!({"metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
    }

    #[test]
    fn one_ready_node_answers_for_an_address_whose_pool_is_advertised() {
        let pool = |name: &str, range: &str| -> Arc<IPAddressPool> {
            object(json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
                "metadata": {"name": name}, "spec": {"addresses": [range]}}))
        };
        let pools = [pool("a", "10.0.0.0/24"), pool("b", "10.0.1.0/24")];
        let only_a: Arc<L2Advertisement> = object(json!({"apiVersion": "metallb.io/v1beta1",
            "kind": "L2Advertisement", "metadata": {"name": "l2"},
            "spec": {"ipAddressPools": ["a"]}}));
        let nodes = [node("n1", "False"), node("n2", "True")];
        let of = |address: &str, advertisements: &[Arc<L2Advertisement>]| {
            chosen(address.parse().unwrap(), &pools, advertisements, &nodes)
        };
        let one = [only_a];
        assert_eq!(of("10.0.0.7", &one).as_deref(), Some("n2"));
        assert_eq!(of("10.0.1.7", &one), None);
        assert_eq!(of("10.9.9.9", &one), None);
        assert_eq!(of("10.0.0.7", &[]), None);
    }
}
