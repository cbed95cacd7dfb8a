//! The picture: everything that configuration is compiled from, at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tombolo_model::endpoint::{Endpoint, Workload};
use tombolo_model::id::{ClusterId, Host, ObjectName};
use tombolo_model::service::{Service, ServiceKey};

use crate::diagnostic::Diagnostic;
use crate::index::config::{self, Config};
use crate::index::gateways;
use crate::index::live::{Live, MeshSettings};
use crate::index::networks::Networks;
use crate::index::{endpoints, services};

pub use crate::index::gateways::NetworkGateway;

/// A port of a pod that serves a port of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The port that the application listens on.
    pub port: u16,
    /// The service.
    pub service: ServiceKey,
    /// The name of the service's port.
    pub port_name: String,
}

/// The mesh at one moment. Cheap to clone; unchanged parts are shared between pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// The cluster whose Istio objects hold.
    pub config_cluster: ClusterId,
    /// The DNS domain of services.
    pub domain: String,
    /// The mesh's settings.
    pub mesh: Arc<MeshSettings>,
    /// The services.
    pub services: BTreeMap<ServiceKey, Arc<Service>>,
    /// Their endpoints, sorted. Services without any are missing.
    pub endpoints: BTreeMap<ServiceKey, Arc<Vec<Endpoint>>>,
    /// How networks are entered.
    pub gateways: Arc<BTreeSet<NetworkGateway>>,
    /// The pods by cluster.
    pub workloads: BTreeMap<ClusterId, BTreeMap<ObjectName, Arc<Workload>>>,
    /// What each pod serves, by cluster.
    pub targets: BTreeMap<ClusterId, BTreeMap<ObjectName, BTreeSet<Target>>>,
    /// The Istio objects.
    pub config: Arc<Config>,
    /// What users should know.
    pub diagnostics: Arc<Vec<Diagnostic>>,
}

impl Picture {
    /// The picture of what is live.
    pub fn of(live: &Live) -> Self {
        let mut diagnostics = live.mesh.diagnostics.clone();
        let config = config::of(live, &mut diagnostics);
        let services = services::of(live, &config, &mut diagnostics);
        let gateways = gateways::of(live, &mut diagnostics);
        let networks = Networks::new(live);
        let workloads = endpoints::workloads(live, &networks);
        let endpoints = endpoints::of(live, &services, &config, &workloads, &networks);
        diagnostics.sort();
        diagnostics.dedup();
        Self {
            config_cluster: live.config_cluster.clone(),
            domain: live.domain.clone(),
            mesh: Arc::clone(&live.mesh),
            targets: targets(&endpoints),
            services: share(services),
            endpoints: share(endpoints),
            gateways: Arc::new(gateways),
            workloads,
            config: Arc::new(config),
            diagnostics: Arc::new(diagnostics),
        }
    }

    /// Takes over from `old` what is equal, so that it is held once and compared by address.
    pub fn share_with(mut self, old: &Self) -> Self {
        for (key, service) in &mut self.services {
            keep(service, old.services.get(key));
        }
        for (key, endpoints) in &mut self.endpoints {
            keep(endpoints, old.endpoints.get(key));
        }
        keep(&mut self.gateways, Some(&old.gateways));
        keep(&mut self.config, Some(&old.config));
        keep(&mut self.mesh, Some(&old.mesh));
        self
    }

    /// The services of a host, what Kubernetes declares first.
    pub fn services_of(&self, host: &Host) -> impl Iterator<Item = &Arc<Service>> {
        services::of_host(&self.services, host)
    }

    /// The endpoints of a service.
    pub fn endpoints_of(&self, service: &ServiceKey) -> &[Endpoint] {
        self.endpoints.get(service).map_or(&[], |endpoints| endpoints.as_slice())
    }
}

fn keep<T: PartialEq>(new: &mut Arc<T>, old: Option<&Arc<T>>) {
    if let Some(old) = old.filter(|old| ***old == **new) {
        *new = Arc::clone(old);
    }
}

fn share<T>(map: BTreeMap<ServiceKey, T>) -> BTreeMap<ServiceKey, Arc<T>> {
    map.into_iter().map(|(key, value)| (key, Arc::new(value))).collect()
}

fn targets(
    endpoints: &BTreeMap<ServiceKey, Vec<Endpoint>>,
) -> BTreeMap<ClusterId, BTreeMap<ObjectName, BTreeSet<Target>>> {
    let mut targets: BTreeMap<ClusterId, BTreeMap<ObjectName, BTreeSet<Target>>> = BTreeMap::new();
    for (service, endpoints) in endpoints {
        for endpoint in endpoints {
            let workload = &endpoint.workload;
            let pods = targets.entry(workload.cluster.clone()).or_default();
            pods.entry(workload.object.clone()).or_default().insert(Target {
                port: endpoint.port,
                service: service.clone(),
                port_name: endpoint.port_name.clone(),
            });
        }
    }
    targets
}
