//! EndpointSlices and legacy Endpoints: which pods stand behind a Service, and which may serve.
//!
//! What a Service's slices should hold is decided by [`slices`] and [`legacy`], which are pure.
//! Slices and Endpoints that somebody else made are left alone.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, ResourceExt};

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::failure::{Doing, Failure, already_exists, unless_gone};
use crate::controllers::queue::{Key, Queue};
use crate::controllers::work::Controller;

mod legacy;
mod slices;

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const OUR_SLICES: &str = "endpointslice-controller.k8s.io";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// The controller.
pub struct EndpointSlices {
    client: Client,
    queue: Arc<Queue>,
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    slices: Arc<Cache<EndpointSlice>>,
    endpoints: Arc<Cache<Endpoints>>,
}

/// The selector of a Service whose endpoints are ours to find.
fn selector(service: &Service) -> Option<&std::collections::BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    let external = spec.type_.as_deref() == Some("ExternalName");
    spec.selector.as_ref().filter(|selector| !selector.is_empty() && !external)
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let labels = pod.labels();
    selector(service).is_some_and(|s| s.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

fn is_headless(service: &Service) -> bool {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    address == Some("None")
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.labels().get(MANAGED_BY).is_some_and(|manager| manager == OUR_SLICES)
}

impl EndpointSlices {
    /// Follows Services, pods and what was made of them.
    pub fn new(caches: &Caches) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let (services, pods) = (caches.all::<Service>(), caches.all::<Pod>());
        let (slices, endpoints) = (caches.all::<EndpointSlice>(), caches.all::<Endpoints>());
        let to = queue.clone();
        services.on_change(move |change| {
            change.states().take(1).for_each(|service| to.add(Key::of(&**service)));
        });
        let (to, known) = (queue.clone(), services.clone());
        pods.on_change(move |change| {
            for pod in change.states() {
                for service in known.in_namespace(&pod.namespace().unwrap_or_default()) {
                    if selects(&service, pod) {
                        to.add(Key::of(&*service));
                    }
                }
            }
        });
        let to = queue.clone();
        slices.on_change(move |change| {
            for slice in change.states().filter(|slice| is_ours(slice)) {
                if let Some(name) = slice.labels().get(SERVICE_NAME) {
                    to.add(Key::new(&slice.namespace().unwrap_or_default(), name));
                }
            }
        });
        let (to, known) = (queue.clone(), services.clone());
        endpoints.on_change(move |change| {
            let keys = change.states().map(|found| Key::of(&**found));
            keys.filter(|key| known.get(key).is_some()).for_each(|key| to.add(key));
        });
        let nodes = caches.all::<Node>();
        Self { client: caches.client(), queue, services, pods, nodes, slices, endpoints }
    }

    async fn write_slices(&self, service: &Service, pods: &[Arc<Pod>]) -> Result<(), Failure> {
        let namespace = service.namespace().unwrap_or_default();
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &namespace);
        let name = service.name_any();
        let held: Vec<_> = self
            .slices
            .in_namespace(&namespace)
            .into_iter()
            .filter(|slice| {
                is_ours(slice)
                    && slice.labels().get(SERVICE_NAME) == Some(&name)
                    && slice.metadata.deletion_timestamp.is_none()
            })
            .collect();
        let zone = |node: &str| {
            let node = self.nodes.get(&Key::new("", node))?;
            node.labels().get("topology.kubernetes.io/zone").cloned()
        };
        let changes = slices::changes(service, pods, &held, &zone)?;
        for slice in changes.update {
            let name = slice.name_any();
            let written = api
                .replace(&name, &PostParams::default(), &slice)
                .await
                .doing(|| format!("update EndpointSlice {namespace}/{name}"))?;
            self.slices.wrote(&written);
        }
        for slice in changes.create {
            let written = api
                .create(&PostParams::default(), &slice)
                .await
                .doing(|| format!("create an EndpointSlice of Service {namespace}/{name}"))?;
            self.slices.wrote(&written);
        }
        for slice in changes.delete {
            let name = slice.name_any();
            unless_gone(api.delete(&name, &DeleteParams::default()).await)
                .doing(|| format!("delete EndpointSlice {namespace}/{name}"))?;
            self.slices.deleted(&slice);
        }
        Ok(())
    }

    async fn write_legacy(&self, service: &Service, pods: &[Arc<Pod>]) -> Result<(), Failure> {
        let key = Key::of(service);
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        let held = self.endpoints.get(&key);
        let Some(wanted) = legacy::wanted(service, pods, held.as_deref()) else { return Ok(()) };
        let doing = || format!("write Endpoints {key}");
        let written = if held.is_some() {
            api.replace(&key.name, &PostParams::default(), &wanted).await.doing(doing)?
        } else {
            match api.create(&PostParams::default(), &wanted).await {
                // The watch will show it, and the next pass compares.
                Err(error) if already_exists(&error) => return Ok(()),
                result => result.doing(doing)?,
            }
        };
        self.endpoints.wrote(&written);
        Ok(())
    }

    /// Slices are removed by garbage collection; Endpoints have no owner.
    async fn forget(&self, key: &Key) -> Result<(), Failure> {
        let Some(held) = self.endpoints.get(key) else { return Ok(()) };
        if !legacy::is_ours(&held) {
            return Ok(());
        }
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        unless_gone(api.delete(&key.name, &DeleteParams::default()).await)
            .doing(|| format!("delete Endpoints {key}"))?;
        self.endpoints.deleted(&held);
        Ok(())
    }
}

impl Controller for EndpointSlices {
    const NAME: &'static str = "endpointslice";

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let Some(service) = self.services.get(key) else { return self.forget(key).await };
        if selector(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| selects(&service, pod) && slices::counts(pod));
        self.write_slices(&service, &pods).await?;
        self.write_legacy(&service, &pods).await
    }
}
