//! The clusters of a lab: made, described, joined, broken, removed.
//!
//! Addresses and names are taken under one lock before anything is made, so clusters can be made
//! in parallel. A cluster that cannot be made completely is removed completely.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::Ipv4Net;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tombolo_runtime::errors::chain;
use tombolo_runtime::shutdown::Shutdown;

use crate::children::{Children, Place};
use crate::control::{ClusterState, NodeState};
use crate::directory::{LabDirectory, private_folder};
use crate::namespace::NetNamespace;
use crate::network::delay::{self, Disturbance};
use crate::network::{faults, node};
use crate::pki;
use crate::spec::{API_SERVER_PORT, ClusterName, ClusterSpec, LAB_GATEWAY, LAB_NETWORK};
use crate::supervisor::forward;
use crate::supervisor::processes::{self, Process};
use crate::supervisor::ready;
use crate::supervisor::refusal::ClusterError;
use crate::supervisor::service::{Service, Services};

/// How often to look whether a process that is starting is there.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a command waits for its node to start.
const NODE_PATIENCE: Duration = Duration::from_secs(10);

/// One cluster and what was made for it.
#[derive(Clone, Debug)]
struct Cluster {
    spec: ClusterSpec,
    server: String,
    nodes: Vec<NodeState>,
    namespaces: Vec<NetNamespace>,
    services: Services,
}

/// All clusters of the lab. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Clusters {
    directory: LabDirectory,
    children: Children,
    shutdown: Shutdown,
    by_name: Arc<Mutex<BTreeMap<ClusterName, Cluster>>>,
    /// Set, under the lock of `by_name`, when the lab ends with its last cluster.
    ending: Arc<AtomicBool>,
}

impl Clusters {
    pub(crate) fn new(directory: LabDirectory, children: Children, shutdown: Shutdown) -> Self {
        Self { directory, children, shutdown, by_name: Arc::default(), ending: Arc::default() }
    }

    /// The processes of the lab.
    pub(crate) fn children(&self) -> &Children {
        &self.children
    }

    /// Whether the last cluster is gone; if so, no new one is taken any more.
    pub(crate) fn end_if_empty(&self) -> bool {
        let by_name = self.by_name.lock();
        if by_name.is_empty() {
            self.ending.store(true, Ordering::Relaxed);
        }
        by_name.is_empty()
    }

    /// All clusters, sorted by name.
    pub(crate) fn list(&self) -> Vec<ClusterState> {
        self.by_name.lock().values().map(|cluster| self.state(cluster)).collect()
    }

    /// Makes a cluster and starts its processes; returns before its API answers.
    pub(crate) async fn create(
        &self,
        spec: ClusterSpec,
        kubernetes: Option<PathBuf>,
        server: String,
        listener: TcpListener,
    ) -> Result<ClusterState, ClusterError> {
        spec.check()?;
        let name = spec.name.clone();
        let cluster = self.reserve(spec, server)?;
        match self.make(cluster, kubernetes, listener).await {
            Ok(state) => Ok(state),
            Err(error) => {
                tracing::error!(cluster = %name, error = %chain(&error), "cluster not made");
                // The first error is the one to tell.
                if let Err(error) = self.delete(&name).await {
                    tracing::error!(cluster = %name, error = %chain(&error), "remains not removed");
                }
                Err(error)
            }
        }
    }

    /// Takes a name and addresses, so that no other cluster gets them.
    fn reserve(&self, spec: ClusterSpec, server: String) -> Result<Cluster, ClusterError> {
        let mut by_name = self.by_name.lock();
        if self.ending.load(Ordering::Relaxed) {
            return Err(ClusterError::Ending);
        }
        if by_name.contains_key(&spec.name) {
            return Err(ClusterError::Exists(spec.name));
        }
        for other in by_name.values() {
            check_pool(&spec, other)?;
        }
        let pools: Vec<_> = by_name
            .values()
            .filter_map(|cluster| cluster.spec.load_balancer_pool)
            .chain(spec.load_balancer_pool)
            .collect();
        let mut taken: Vec<_> =
            by_name.values().flat_map(|cluster| &cluster.nodes).map(|node| node.address).collect();
        let mut nodes = Vec::new();
        for (index, (name, role)) in spec.node_names().into_iter().zip(&spec.nodes).enumerate() {
            let free = LAB_NETWORK.hosts().find(|address| {
                let pooled = pools.iter().any(|pool| (pool.first..=pool.last).contains(address));
                *address != LAB_GATEWAY && !pooled && !taken.contains(address)
            });
            let (Some(address), Some(pod_subnet)) = (free, spec.node_pod_subnet(index)) else {
                return Err(ClusterError::NoAddress(name));
            };
            taken.push(address);
            nodes.push(NodeState {
                name,
                role: *role,
                address,
                mac: node::mac(address),
                pod_subnet,
            });
        }
        let services = Services::default();
        let cluster = Cluster { spec, server, nodes, namespaces: Vec::new(), services };
        by_name.insert(cluster.spec.name.clone(), cluster.clone());
        Ok(cluster)
    }

    async fn make(
        &self,
        cluster: Cluster,
        kubernetes: Option<PathBuf>,
        listener: TcpListener,
    ) -> Result<ClusterState, ClusterError> {
        let name = &cluster.spec.name.clone();
        let failed = |what: &str| {
            let (what, cluster) = (what.to_owned(), name.clone());
            move |source| ClusterError::Make { what, cluster, source }
        };
        let folder = self.directory.cluster(name);
        for path in [folder.logs(), folder.data()] {
            private_folder(&path).map_err(failed("a folder"))?;
        }
        for node in &cluster.nodes {
            private_folder(&folder.node(&node.name)).map_err(failed("a folder"))?;
        }
        self.make_certificates(&cluster).await?;
        let mut namespaces = Vec::new();
        for node in &cluster.nodes {
            let what = format!("the network of node `{}`", node.name);
            let made = node::attach(&self.children, node).await.map_err(failed(&what))?;
            namespaces.push(made);
            // Listed at once, so that a failure of the next one removes it.
            if let Some(known) = self.by_name.lock().get_mut(name) {
                known.namespaces.clone_from(&namespaces);
            }
        }
        let cluster = Cluster { namespaces, ..cluster };
        self.join_nodes(&cluster).await.map_err(failed("the routes between nodes"))?;
        self.start(&cluster, kubernetes, listener);
        Ok(self.state(&cluster))
    }

    async fn make_certificates(&self, cluster: &Cluster) -> Result<(), ClusterError> {
        let (folder, spec) = (self.directory.cluster(&cluster.spec.name), cluster.spec.clone());
        let nodes: Vec<_> =
            cluster.nodes.iter().map(|node| (node.name.clone(), node.address)).collect();
        let made = tokio::task::spawn_blocking(move || pki::make(&folder, &spec, &nodes)).await;
        let cluster = cluster.spec.name.clone();
        match made {
            Ok(made) => made.map_err(|source| ClusterError::Pki { cluster, source }),
            Err(error) => Err(ClusterError::Make {
                what: "the certificates".to_owned(),
                cluster,
                source: io::Error::other(error),
            }),
        }
    }

    /// Every node gets routes to the pods of the others.
    async fn join_nodes(&self, cluster: &Cluster) -> io::Result<()> {
        for (node, namespace) in cluster.nodes.iter().zip(&cluster.namespaces) {
            let routes: Vec<_> = cluster
                .nodes
                .iter()
                .filter(|other| other.address != node.address)
                .map(|other| (other.pod_subnet, other.address))
                .collect();
            if !routes.is_empty() {
                node::set_routes(&self.children, namespace, &routes, true).await?;
            }
        }
        Ok(())
    }

    /// Starts the API server and the forwarder, and the rest once the API accepts connections.
    fn start(&self, cluster: &Cluster, kubernetes: Option<PathBuf>, listener: TcpListener) {
        let (Some(node), Some(namespace)) = (cluster.nodes.first(), cluster.namespaces.first())
        else {
            return;
        };
        let target = SocketAddr::from((node.address, API_SERVER_PORT));
        let processes = processes::Cluster {
            spec: cluster.spec.clone(),
            folder: self.directory.cluster(&cluster.spec.name),
            kubernetes,
            address: node.address,
        };
        let place = Place::Network(namespace.clone());
        for process in processes.api_server() {
            self.keep_running(cluster, process, place.clone());
        }
        let forwarder = forward::run(listener, namespace.clone(), target, self.shutdown.clone());
        cluster.services.track(&self.shutdown, "API forwarder", forwarder);
        let (this, cluster, namespace) = (self.clone(), cluster.clone(), namespace.clone());
        let services = cluster.services.clone();
        services.track(&self.shutdown, "cluster start", async move {
            let folder = this.directory.cluster(&cluster.spec.name);
            while let Err(error) = ready::ask(&namespace, target, &folder).await {
                tracing::debug!(cluster = %cluster.spec.name, %error, "API server not ready yet");
                tokio::time::sleep(PAUSE).await;
            }
            for process in processes.controllers() {
                this.keep_running(&cluster, process, Place::Network(namespace.clone()));
            }
            for (node, namespace) in cluster.nodes.iter().zip(&cluster.namespaces) {
                let place = Place::NewNode(namespace.clone());
                this.keep_running(&cluster, processes.node(node), place);
            }
        });
    }

    fn keep_running(&self, cluster: &Cluster, process: Process, place: Place) {
        let service = Service::new(process.name.clone(), self.children.clone());
        cluster.services.start(&self.shutdown, service, place, move || process.command());
    }

    /// Removes a cluster and everything that was made for it.
    pub(crate) async fn delete(&self, name: &ClusterName) -> Result<(), ClusterError> {
        let cluster = self.find(name)?;
        cluster.services.stop().await;
        let failed = |what: &str| {
            let what = format!("removing {what}");
            move |source| ClusterError::Make { what, cluster: name.clone(), source }
        };
        let mut removed = Ok(());
        for (node, namespace) in cluster.nodes.iter().zip(&cluster.namespaces) {
            // One link that is gone already must not keep the others.
            let detached = node::detach(&self.children, node, namespace).await;
            let cleared = delay::clear(&self.children, node.address).await;
            let detached = detached.and(cleared);
            removed = removed.and(detached.map_err(failed(&format!("node `{}`", node.name))));
        }
        let folder = self.directory.cluster(name);
        let cleared = match tokio::fs::remove_dir_all(folder.path()).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            cleared => cleared.map_err(failed("the folder")),
        };
        self.by_name.lock().remove(name);
        tracing::info!(cluster = %name, "deleted");
        removed.and(cleared)
    }

    /// Gives the nodes of each cluster routes to the other's pods and Services, or takes them.
    pub(crate) async fn set_joined(
        &self,
        a: &ClusterName,
        b: &ClusterName,
        joined: bool,
    ) -> Result<(), ClusterError> {
        let (first, second) = self.pair(a, b)?;
        for subnet_a in [first.spec.pod_subnet, first.spec.service_subnet] {
            for subnet_b in [second.spec.pod_subnet, second.spec.service_subnet] {
                if joined && crate::spec::overlap(subnet_a, subnet_b) {
                    let (a, b) = (a.clone(), b.clone());
                    return Err(ClusterError::Overlap { a, b, subnet_a, subnet_b });
                }
            }
        }
        for (from, to) in [(&first, &second), (&second, &first)] {
            let routes = routes_to(to);
            for namespace in &from.namespaces {
                node::set_routes(&self.children, namespace, &routes, joined)
                    .await
                    .map_err(failed_on("the routes", &from.spec.name))?;
            }
        }
        Ok(())
    }

    /// Lets no packet pass between two clusters.
    pub(crate) async fn partition(
        &self,
        a: &ClusterName,
        b: &ClusterName,
    ) -> Result<(), ClusterError> {
        let (first, second) = self.pair(a, b)?;
        for (on, from) in [(&first, &second), (&second, &first)] {
            for namespace in &on.namespaces {
                faults::partition(&self.children, namespace, &from.nodes)
                    .await
                    .map_err(failed_on("the partition", &on.spec.name))?;
            }
        }
        Ok(())
    }

    /// Delays and loses what the nodes of a cluster send, in place of what was asked before.
    pub(crate) async fn delay(
        &self,
        name: &ClusterName,
        disturbance: Disturbance,
    ) -> Result<(), ClusterError> {
        let cluster = self.find(name)?;
        for node in &cluster.nodes {
            delay::stop(&self.children, node.address)
                .await
                .map_err(failed_on("the delay", name))?;
            delay::start(&self.children, node.address, disturbance)
                .await
                .map_err(failed_on("the delay", name))?;
        }
        Ok(())
    }

    /// Undoes all partitions and delays.
    pub(crate) async fn heal(&self) -> Result<(), ClusterError> {
        let all: Vec<_> = self.by_name.lock().values().cloned().collect();
        for cluster in all {
            for (node, namespace) in cluster.nodes.iter().zip(&cluster.namespaces) {
                let failed = || failed_on("the faults", &cluster.spec.name);
                faults::heal(&self.children, namespace).await.map_err(failed())?;
                delay::stop(&self.children, node.address).await.map_err(failed())?;
            }
        }
        Ok(())
    }

    /// Kills processes of a cluster: by name, or the node agents for `node`.
    pub(crate) fn kill(&self, name: &ClusterName, wanted: &str) -> Result<(), ClusterError> {
        let cluster = self.find(name)?;
        let matches = |process: &str| {
            process == wanted || process.split_once('/').is_some_and(|(kind, _)| kind == wanted)
        };
        let found = cluster.services.find(matches);
        if found.is_empty() {
            let known = cluster.services.states().into_iter().map(|state| state.name);
            let known = known.collect::<Vec<_>>().join(", ");
            let (cluster, wanted) = (name.clone(), wanted.to_owned());
            return Err(ClusterError::NoProcess { cluster, wanted, known });
        }
        for service in found {
            let killed = service.kill();
            tracing::info!(cluster = %name, process = service.state().name, killed, "asked to kill");
        }
        Ok(())
    }

    /// The namespaces in which a command on a node runs. Waits for a node that is just starting.
    pub(crate) async fn node_place(&self, node: &str) -> Result<Place, ClusterError> {
        let give_up = Instant::now() + NODE_PATIENCE;
        loop {
            match self.node_place_now(node) {
                Err(ClusterError::NodeDown(_)) if Instant::now() < give_up => {
                    tokio::time::sleep(PAUSE).await;
                }
                place => return place,
            }
        }
    }

    fn node_place_now(&self, node: &str) -> Result<Place, ClusterError> {
        let by_name = self.by_name.lock();
        let wanted = format!("node/{node}");
        let mut known = Vec::new();
        for cluster in by_name.values() {
            if cluster.nodes.iter().any(|known| known.name == node) {
                let found = cluster.services.find(|process| process == wanted);
                let pid = found.iter().find_map(|service| service.state().pid);
                return pid.map(Place::Node).ok_or_else(|| ClusterError::NodeDown(node.to_owned()));
            }
            known.extend(cluster.nodes.iter().map(|node| node.name.clone()));
        }
        Err(ClusterError::NoNode { name: node.to_owned(), known: listed(&known) })
    }

    fn pair(&self, a: &ClusterName, b: &ClusterName) -> Result<(Cluster, Cluster), ClusterError> {
        if a == b {
            return Err(ClusterError::Itself(a.clone()));
        }
        Ok((self.find(a)?, self.find(b)?))
    }

    fn find(&self, name: &ClusterName) -> Result<Cluster, ClusterError> {
        let by_name = self.by_name.lock();
        by_name.get(name).cloned().ok_or_else(|| {
            let known: Vec<_> = by_name.keys().map(ToString::to_string).collect();
            ClusterError::NoCluster { name: name.clone(), known: listed(&known) }
        })
    }

    fn state(&self, cluster: &Cluster) -> ClusterState {
        ClusterState {
            spec: cluster.spec.clone(),
            server: cluster.server.clone(),
            folder: self.directory.cluster(&cluster.spec.name).path().to_owned(),
            nodes: cluster.nodes.clone(),
            processes: cluster.services.states(),
        }
    }
}

/// The ways into a cluster from the bridge: each node's pods, and Services by the control plane.
fn routes_to(cluster: &Cluster) -> Vec<(Ipv4Net, Ipv4Addr)> {
    let single = cluster.nodes.len() == 1;
    let pods = cluster.nodes.iter().map(|node| {
        let subnet = if single { cluster.spec.pod_subnet } else { node.pod_subnet };
        (subnet, node.address)
    });
    let services = cluster.nodes.first().map(|node| (cluster.spec.service_subnet, node.address));
    pods.chain(services).collect()
}

fn check_pool(spec: &ClusterSpec, other: &Cluster) -> Result<(), ClusterError> {
    let Some(range) = spec.load_balancer_pool else { return Ok(()) };
    let clash = |taken: String| ClusterError::PoolTaken {
        name: spec.name.clone(),
        range,
        other: other.spec.name.clone(),
        taken,
    };
    if let Some(pool) = other.spec.load_balancer_pool
        && pool.first <= range.last
        && range.first <= pool.last
    {
        return Err(clash(pool.to_string()));
    }
    let node = other.nodes.iter().find(|node| (range.first..=range.last).contains(&node.address));
    node.map_or(Ok(()), |node| Err(clash(format!("node address {}", node.address))))
}

fn failed_on(what: &str, cluster: &ClusterName) -> impl FnOnce(io::Error) -> ClusterError {
    let (what, cluster) = (what.to_owned(), cluster.clone());
    move |source| ClusterError::Make { what, cluster, source }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
