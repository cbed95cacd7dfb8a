//! MetalLB's two programs, as they run in the pods of `samples/metallb/metallb-native.yaml`.
//!
//! The controller gives addresses to Services, by the same code as the lab's own. The speaker says
//! which node answers for an address; that the address is answered is the node's doing, which
//! follows the Services' status. Only layer 2 exists here: there are no BGP kinds to configure.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::net::TcpListener;
use tombolo_runtime::admin::{self, Admin};
use tombolo_runtime::ready::Ready;
use tombolo_runtime::shutdown::Shutdown;

use crate::controllers::cache::Caches;
use crate::controllers::loadbalancer::{Giver, LoadBalancers};
use crate::controllers::work::start;

mod speaker;

/// Which of the two programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Gives addresses.
    Controller,
    /// Announces them from the named node.
    Speaker {
        /// The node that the pod is on.
        node: String,
    },
}

/// What the program is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which program.
    pub part: Part,
    /// How to reach the cluster; without it, as a pod does.
    pub kubeconfig: Option<PathBuf>,
    /// Where `/metrics` is served, which the pod's probes ask for.
    pub listen: SocketAddr,
}

/// Why the program did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The kubeconfig is missing or malformed.
    #[error("read the kubeconfig")]
    Kubeconfig(#[from] KubeconfigError),
    /// This is no pod, or one without a token.
    #[error("read the pod's service account (outside a pod, pass --kubeconfig)")]
    Pod(#[from] InClusterError),
    /// The client cannot be made.
    #[error("make a client")]
    Client(#[from] Box<kube::Error>),
    /// The port is taken.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What is wrong.
        source: std::io::Error,
    },
    /// A task ended that should not, or signals cannot be listened to.
    #[error("run metallb")]
    Ended(#[source] std::io::Error),
}

/// Runs until asked to stop.
///
/// # Errors
/// When it cannot start, or a task ends early.
pub async fn run(settings: Settings) -> Result<(), RunError> {
    let mut config = match &settings.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
        None => Config::incluster()?,
    };
    // A watch is quiet for as long as nothing happens; its own time limit ends it.
    config.read_timeout = Some(Duration::from_secs(330));
    let client = Client::try_from(config).map_err(Box::new)?;
    let address = settings.listen;
    let listener =
        TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, source })?;

    let shutdown = Shutdown::default();
    let ready = Ready::default();
    let syncing = ready.block("the first list of Services and pools");
    let admin = Admin { ready, metrics: Arc::default(), shutdown: shutdown.clone() };
    let serve = admin::serve(listener, admin::router(admin), shutdown.clone());
    shutdown.spawn_essential("admin", serve);
    let caches = Caches::new(client);
    match settings.part {
        Part::Controller => {
            let controller = LoadBalancers::new(&caches, Giver::MetalLb);
            caches.start(&shutdown).await;
            start(controller, &shutdown);
        }
        Part::Speaker { node } => {
            let speaker = speaker::Speaker::new(&caches, node);
            caches.start(&shutdown).await;
            start(speaker, &shutdown);
        }
    }
    drop(syncing);
    tracing::info!("metallb runs");
    shutdown.run_until_asked(Duration::from_secs(2)).await.map_err(RunError::Ended)?;
    Ok(())
}
