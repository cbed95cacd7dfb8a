//! Addresses for Services of type LoadBalancer, from the cluster's own pool or from MetalLB's
//! objects.
//!
//! In a lab cluster this runs beside the other controllers; with MetalLB's manifest applied, the
//! same code runs in MetalLB's controller pod instead and the lab's own stands aside, so that
//! there is only ever one giver. [`addresses`] decides; this file reads and writes.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    LoadBalancerIngress, LoadBalancerStatus, Namespace, Pod, Service, ServiceStatus,
};
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt};

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::failure::{Doing, Failure};
use crate::controllers::loadbalancer::addresses::{Given, Pool, Range, Request, Sharing, Taken};
use crate::controllers::loadbalancer::metallb::IPAddressPool;
use crate::controllers::pods;
use crate::controllers::queue::{Key, Queue};
use crate::controllers::work::Controller;
use crate::events::Events;

pub mod addresses;
pub(crate) mod metallb;

/// Annotation prefixes: the present one and the one before it.
const PREFIXES: [&str; 2] = ["metallb.io", "metallb.universe.tf"];

/// Who gives addresses.
#[derive(Clone, Debug)]
pub(crate) enum Giver {
    /// The lab's own controller, with the pool of the cluster.
    Lab(Vec<Range>),
    /// MetalLB's controller, in its pod.
    MetalLb,
}

/// The controller.
pub(crate) struct LoadBalancers {
    client: Client,
    queue: Arc<Queue>,
    services: Arc<Cache<Service>>,
    namespaces: Arc<Cache<Namespace>>,
    pools: Arc<Cache<IPAddressPool>>,
    /// MetalLB's own controller pods, for whom the lab stands aside.
    pods: Option<Arc<Cache<Pod>>>,
    giver: Giver,
    events: Events,
}

fn is_load_balancer(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
    })
}

/// The addresses in a Service's status.
pub(crate) fn held(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.iter().flat_map(|status| status.ingress.iter().flatten());
    ingress.filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()).collect()
}

/// An annotation of MetalLB's, under either prefix.
fn annotation<'a>(service: &'a Service, name: &str) -> Option<&'a String> {
    PREFIXES.iter().find_map(|prefix| service.annotations().get(&format!("{prefix}/{name}")))
}

fn sharing(service: &Service) -> Sharing {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    Sharing {
        key: annotation(service, "allow-shared-ip").cloned().unwrap_or_default(),
        ports: ports
            .iter()
            .map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".into()), port.port))
            .collect(),
        backend: if local { format!("{:?}", spec.selector) } else { "Cluster".into() },
    }
}

fn request(service: &Service) -> Result<Request, String> {
    let spec = service.spec.clone().unwrap_or_default();
    let listed = annotation(service, "loadBalancerIPs");
    let field = spec.load_balancer_ip.filter(|address| !address.is_empty());
    let wanted = match (listed, field) {
        (Some(_), Some(_)) => {
            return Err("service can not have both metallb.io/loadBalancerIPs and \
                        svc.Spec.LoadBalancerIP"
                .into());
        }
        (Some(list), None) => list.split(',').map(|text| text.trim().to_owned()).collect(),
        (None, field) => field.into_iter().collect(),
    };
    let families = spec.ip_families.unwrap_or_else(|| vec!["IPv4".into()]);
    Ok(Request {
        namespace: service.namespace().unwrap_or_default(),
        name: service.name_any(),
        wanted,
        pool: annotation(service, "address-pool").cloned(),
        families: families.iter().map(|family| family == "IPv6").collect(),
        sharing: sharing(service),
        held: held(service),
    })
}

fn is_metallb_controller(pod: &Pod) -> bool {
    let label = |name: &str| pod.labels().get(name).map(String::as_str);
    label("app") == Some("metallb")
        && label("component") == Some("controller")
        && !pods::is_finished(pod)
}

impl LoadBalancers {
    /// Follows Services and pools.
    pub(crate) fn new(caches: &Caches, giver: Giver) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let services = caches.all::<Service>();
        let pools = caches.optional::<IPAddressPool>(metallb::POOL_CRD);
        let namespaces = caches.all::<Namespace>();
        let (to, known) = (queue.clone(), services.clone());
        services.on_change(move |change| {
            change.new.into_iter().for_each(|service| to.add(Key::of(&**service)));
            // An address may have become free for those that wait.
            let before = change.old.map(|service| held(service)).unwrap_or_default();
            let after = change.new.map(|service| held(service)).unwrap_or_default();
            if before.iter().any(|address| !after.contains(address)) {
                add_all(&to, &known);
            }
        });
        let (to, known) = (queue.clone(), services.clone());
        pools.on_change(move |_| add_all(&to, &known));
        let pods = matches!(giver, Giver::Lab(_)).then(|| caches.all::<Pod>());
        if let Some(pods) = &pods {
            let (to, known) = (queue.clone(), services.clone());
            pods.on_change(move |change| {
                let there = |pod: Option<&Arc<Pod>>| pod.is_some_and(|p| is_metallb_controller(p));
                if there(change.old) != there(change.new) {
                    add_all(&to, &known);
                }
            });
        }
        let component = match giver {
            Giver::Lab(_) => "tombolo-load-balancer",
            Giver::MetalLb => "metallb-controller",
        };
        let events = Events::new(caches.client(), component, None);
        let client = caches.client();
        Self { client, queue, services, namespaces, pools, pods, giver, events }
    }

    /// Whether addresses are given by somebody else, or by nobody as in a cluster without a pool.
    fn stands_aside(&self) -> bool {
        let configured = match &self.giver {
            Giver::Lab(ranges) => !ranges.is_empty(),
            // Without any pool MetalLB leaves Services as they are.
            Giver::MetalLb => false,
        };
        if !configured && self.pools.all().is_empty() {
            return true;
        }
        let pods = self.pods.as_ref().map(|pods| pods.all()).unwrap_or_default();
        pods.iter().any(|pod| is_metallb_controller(pod))
    }

    /// The pools as this Service sees them, and what is wrong with those that cannot be used.
    fn pools_for(&self, service: &Service) -> (Vec<Pool>, Vec<String>) {
        let objects = self.pools.all();
        let mut wrong = Vec::new();
        if let (true, Giver::Lab(ranges)) = (objects.is_empty(), &self.giver) {
            let pool = Pool {
                name: "cluster".into(),
                ranges: ranges.clone(),
                auto_assign: true,
                avoid_buggy: true,
                priority: None,
                reserved: None,
            };
            return (vec![pool], wrong);
        }
        let namespace = Key::new("", &service.namespace().unwrap_or_default());
        let namespace = self.namespaces.get(&namespace).map(|n| (*n).clone()).unwrap_or_default();
        let mut pools = Vec::new();
        for object in objects {
            match metallb::pool(&object, &namespace, service.labels()) {
                Ok(pool) => pools.push(pool),
                Err(error) => wrong.push(format!("pool {:?}: {error}", object.name_any())),
            }
        }
        (pools, wrong)
    }

    fn taken(&self, except: &Key) -> Vec<Taken> {
        let mut taken = Vec::new();
        for service in self.services.all() {
            let key = Key::of(&*service);
            if key == *except || !is_load_balancer(&service) {
                continue;
            }
            taken.extend(held(&service).into_iter().map(|address| Taken {
                address,
                service: key.to_string(),
                sharing: sharing(&service),
            }));
        }
        taken
    }

    async fn give(&self, service: &Service, given: &Given) -> Result<(), Failure> {
        if held(service) == given.addresses {
            return Ok(());
        }
        self.write(service, &given.addresses).await?;
        let texts: Vec<_> = given.addresses.iter().map(ToString::to_string).collect();
        let note = format!("Assigned IP {texts:?}");
        self.events.normal(&service.object_ref(&()), "IPAllocated", note).await;
        tracing::info!(service = %Key::of(service), addresses = ?texts, pool = given.pool, "address given");
        Ok(())
    }

    async fn refuse(&self, service: &Service, why: &str) -> Result<(), Failure> {
        if !held(service).is_empty() {
            self.write(service, &[]).await?;
        }
        let key = Key::of(service);
        let note = format!("Failed to allocate IP for {:?}: {why}", key.to_string());
        self.events.warning(&service.object_ref(&()), "AllocationFailed", note).await;
        Ok(())
    }

    async fn write(&self, service: &Service, addresses: &[IpAddr]) -> Result<(), Failure> {
        let ingress: Vec<_> = addresses
            .iter()
            .map(|address| LoadBalancerIngress {
                ip: Some(address.to_string()),
                ip_mode: Some("VIP".into()),
                ..LoadBalancerIngress::default()
            })
            .collect();
        let mut changed = service.clone();
        let status = changed.status.get_or_insert_with(ServiceStatus::default);
        let ingress = Some(ingress).filter(|ingress| !ingress.is_empty());
        status.load_balancer = Some(LoadBalancerStatus { ingress });
        let key = Key::of(service);
        let api: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
        let written = api
            .replace_status(&key.name, &PostParams::default(), &changed)
            .await
            .doing(|| format!("write the addresses of Service {key}"))?;
        self.services.wrote(&written);
        Ok(())
    }
}

fn add_all(queue: &Queue, services: &Cache<Service>) {
    let all = services.all();
    all.iter().filter(|s| is_load_balancer(s)).for_each(|service| queue.add(Key::of(&**service)));
}

impl Controller for LoadBalancers {
    const NAME: &'static str = "load-balancer";
    /// One, so that two Services never get the same address.
    const WORKERS: usize = 1;

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let Some(service) = self.services.get(key) else { return Ok(()) };
        if self.stands_aside() {
            return Ok(());
        }
        if !is_load_balancer(&service) {
            let foreign = service.spec.as_ref().is_some_and(|s| s.load_balancer_class.is_some());
            if !held(&service).is_empty() && !foreign {
                self.write(&service, &[]).await?;
            }
            return Ok(());
        }
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let (pools, wrong) = self.pools_for(&service);
        let outcome = request(&service).and_then(|request| {
            addresses::allocate(&pools, &self.taken(key), &request).map_err(|r| r.to_string())
        });
        match outcome {
            Ok(given) => self.give(&service, &given).await,
            Err(why) => {
                let mut all = vec![why];
                all.extend(wrong);
                self.refuse(&service, &all.join("; ")).await
            }
        }
    }
}
