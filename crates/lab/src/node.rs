//! The node agent of a lab cluster: kubelet, kube-proxy and cluster DNS in one small process.
//!
//! It talks to its API server only as any client would. Everything it starts ends with it: the
//! kernel kills its containers, their namespaces vanish, and the next agent starts the pods again.
//!
//! Reading order: [`cluster`] follows the API server, [`pod`] runs pods, [`container`] makes their
//! processes, [`network`] their links; [`service`] translates Service addresses and [`dns`] names;
//! [`kubelet`] serves logs and commands; [`register`] reports the node.
//!
//! **Invariant:** the agent runs on one thread, which is the one that starts containers.

mod cluster;
pub mod container;
mod dns;
mod events;
mod images;
mod kubelet;
mod network;
mod pod;
mod register;
mod service;
mod tls;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use kube::config::{KubeConfigOptions, Kubeconfig};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use parking_lot::Mutex;
use tokio::sync::watch;
use tombolo_runtime::shutdown::Shutdown;

use crate::node::cluster::Cluster;
use crate::node::dns::Listening;
use crate::node::events::Events;
use crate::node::images::{Images, ImagesError};
use crate::node::network::addresses::Addresses;
use crate::node::network::links::{LinkError, Links};
use crate::node::pod::work::{Live, Wanted};
use crate::node::service::table::Place;

/// Where the kubelet's API listens.
const KUBELET_PORT: u16 = 10250;

/// How long everything may take to end.
const GRACE: Duration = Duration::from_secs(3);

/// What a node agent is told.
#[derive(Clone, Debug)]
pub struct Settings {
    pub kubeconfig: PathBuf,
    pub node_name: String,
    pub node_ip: Ipv4Addr,
    pub pod_cidr: Ipv4Net,
    pub service_cidr: Ipv4Net,
    pub cluster_dns: Ipv4Addr,
    pub cluster_domain: String,
    pub client_ca_file: PathBuf,
    pub tls_cert_file: PathBuf,
    pub tls_private_key_file: PathBuf,
    pub state_dir: PathBuf,
    pub images: Option<PathBuf>,
}

/// Why a node agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("{doing}")]
    Io { doing: String, source: std::io::Error },
    #[error(transparent)]
    Images(#[from] ImagesError),
    #[error("read the kubeconfig {path}")]
    Kubeconfig { path: PathBuf, source: Box<kube::config::KubeconfigError> },
    #[error("make a client for the API server")]
    Client(#[source] Box<kube::Error>),
    #[error("set up the kubelet API")]
    Kubelet(#[source] Box<tls::TlsError>),
    #[error("set up the node's network")]
    Network(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<LinkError> for NodeError {
    fn from(error: LinkError) -> Self {
        Self::Network(Box::new(error))
    }
}

/// What the machine has.
#[derive(Clone, Copy, Debug)]
struct Capacity {
    cpus: u64,
    memory: u64,
}

/// A pod as the rest of the agent finds it.
type Known = (watch::Receiver<Wanted>, Arc<Live>);

/// What every part of the agent shares.
struct Node {
    settings: Settings,
    client: kube::Client,
    /// Our own program, as it was when the agent began.
    program: PathBuf,
    images: Images,
    capacity: Capacity,
    links: Links,
    addresses: Mutex<Addresses>,
    cluster: Cluster,
    events: Events,
    /// Pods by namespace and name.
    pods: Mutex<BTreeMap<(String, String), Known>>,
    shutdown: Shutdown,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("name", &self.settings.node_name).finish_non_exhaustive()
    }
}

impl Node {
    fn pods_folder(&self) -> PathBuf {
        self.settings.state_dir.join("pods")
    }
}

/// Runs a node agent until it is asked to stop. Must be called on the process's only thread.
///
/// # Errors
/// When something that the agent needs at its start is missing, or it ended by itself.
pub fn run(mut settings: Settings) -> Result<(), NodeError> {
    let io = |doing: &str| {
        let doing = doing.to_owned();
        move |source: std::io::Error| NodeError::Io { doing, source }
    };
    std::fs::create_dir_all(settings.state_dir.join("pods"))
        .map_err(io("make the node's folder"))?;
    settings.state_dir =
        std::fs::canonicalize(&settings.state_dir).map_err(io("find the node's folder"))?;
    // Mounts of pods' volumes are the agent's own, and gone with it.
    let namespace = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| {
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
    });
    namespace.map_err(|error| io("make a mount namespace for the node agent")(error.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(io("start the async runtime"))?.block_on(Box::pin(serve(settings)))
}

async fn serve(settings: Settings) -> Result<(), NodeError> {
    let shutdown = Shutdown::default();
    let node = build(settings, &shutdown).await?;
    let (link, place) = service::keep::place(&node).await?;
    let listening = dns::bind(&node).await?;
    let kubelet = kubelet::server::bind(&node).await?;
    shutdown.spawn_essential("kubelet", kubelet::server::run(Arc::clone(&node), kubelet));
    start(&node, link, place, listening);
    let stopped = shutdown.run_until_asked(GRACE).await;
    stopped.map(drop).map_err(|source| NodeError::Io { doing: "run the node agent".into(), source })
}

async fn build(settings: Settings, shutdown: &Shutdown) -> Result<Arc<Node>, NodeError> {
    let io = |doing: &str| {
        let doing = doing.to_owned();
        move |source: std::io::Error| NodeError::Io { doing, source }
    };
    let images = Images::with_file(settings.images.as_deref())?;
    let program = std::env::current_exe().map_err(io("find our own program"))?;
    let client = client(&settings).await?;
    let links = Links::open()?;
    links.up(links.index("lo").await?).await?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(io("turn on forwarding"))?;
    let node = Node {
        capacity: capacity(),
        addresses: Mutex::new(Addresses::new(settings.pod_cidr)),
        cluster: Cluster::follow(&client, shutdown),
        events: Events::start(client.clone(), settings.node_name.clone(), shutdown),
        pods: Mutex::default(),
        shutdown: shutdown.clone(),
        program,
        images,
        links,
        client,
        settings,
    };
    Ok(Arc::new(node))
}

fn start(node: &Arc<Node>, link: u32, place: Place, names: Listening) {
    let (shutdown, client) = (&node.shutdown, node.client.clone());
    shutdown.spawn_essential(
        "registration",
        register::keep(client, node.settings.clone(), node.capacity, shutdown.clone()),
    );
    shutdown.spawn_essential("services", service::keep::run(Arc::clone(node), link, place));
    shutdown.spawn_essential("names", dns::run(Arc::clone(node), names));
    let pods = Arc::clone(node);
    shutdown.spawn_essential("pods", async move {
        // Containers are told about services, so these come first.
        tokio::select! {
            () = pods.cluster.complete() => cluster::run_pods(Arc::clone(&pods)).await,
            () = pods.shutdown.draining() => (),
        }
    });
}

async fn client(settings: &Settings) -> Result<kube::Client, NodeError> {
    let read = |source| NodeError::Kubeconfig {
        path: settings.kubeconfig.clone(),
        source: Box::new(source),
    };
    let file = Kubeconfig::read_from(&settings.kubeconfig).map_err(read)?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(read)?;
    config.connect_timeout = Some(Duration::from_secs(5));
    kube::Client::try_from(config).map_err(|error| NodeError::Client(Box::new(error)))
}

fn capacity() -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    Capacity { cpus, memory: total.unwrap_or(1 << 20) << 10 }
}
