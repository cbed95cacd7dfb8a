//! The controllers of a lab cluster: loops that bring what a cluster has to what its objects ask.
//!
//! All of them talk to the API server only through its public API, as any client with a kubeconfig
//! would, so that a real kube-apiserver may take the embedded one's place. They share one watch
//! per kind ([`cache`]); each has a queue of its own with back-off ([`queue`], [`work`]). What a
//! controller decides is in pure functions; what it reads and writes is in the file that bears its
//! name.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tombolo_runtime::shutdown::Shutdown;

use crate::controllers::cache::Caches;
use crate::controllers::work::{Controller, start};

mod accounts;
mod autoscaler;
pub(crate) mod cache;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
pub(crate) mod failure;
mod garbage;
mod job;
mod kinds;
pub mod loadbalancer;
mod namespaces;
mod nodes;
mod podgc;
mod pods;
pub(crate) mod queue;
mod replicaset;
mod revisions;
mod scheduler;
mod statefulset;
mod status;
mod tokens;
pub(crate) mod work;

/// What the controllers of one cluster are told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How to reach the cluster.
    pub kubeconfig: PathBuf,
    /// The names of the controllers to run; empty for all.
    pub only: Vec<String>,
    /// The PEM of the authority that pods verify the API server by; without it, the kubeconfig's.
    pub root_ca_file: Option<PathBuf>,
    /// The RSA key that signs long-lived tokens of service accounts, in PEM; without it, nobody
    /// fills their Secrets.
    pub service_account_key: Option<PathBuf>,
    /// The cluster's own addresses for LoadBalancer Services, in the order they are handed out.
    pub load_balancer_pool: Vec<loadbalancer::addresses::Range>,
}

/// Why the controllers did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The kubeconfig is missing or malformed.
    #[error("read kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: kube::config::KubeconfigError,
    },
    /// The client cannot be made of the kubeconfig.
    #[error("make a client of kubeconfig {path}")]
    Client {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<kube::Error>,
    },
    /// A file named on the command line cannot be read.
    #[error("read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: std::io::Error,
    },
    /// The key for service accounts is none.
    #[error("read the RSA key {path}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: jsonwebtoken::errors::Error,
    },
    /// Nobody says which authority pods should trust.
    #[error("the kubeconfig holds no certificate authority: pass --root-ca-file")]
    NoRootCa,
    /// `--only` names something else.
    #[error("no controller is called `{0}`: there are {known}", known = NAMES.join(", "))]
    Unknown(String),
    /// A task ended that should not, or signals cannot be listened to.
    #[error("run controllers")]
    Ended(#[source] std::io::Error),
}

/// Every controller, by the name that `--only` takes.
pub const NAMES: &[&str] = &[
    accounts::Accounts::NAME,
    autoscaler::Autoscalers::NAME,
    daemonset::DaemonSets::NAME,
    deployment::Deployments::NAME,
    disruption::Disruptions::NAME,
    endpoints::EndpointSlices::NAME,
    garbage::Garbage::NAME,
    job::Jobs::NAME,
    loadbalancer::LoadBalancers::NAME,
    namespaces::Namespaces::NAME,
    nodes::Nodes::NAME,
    podgc::PodGarbage::NAME,
    replicaset::ReplicaSets::NAME,
    scheduler::Scheduler::NAME,
    statefulset::StatefulSets::NAME,
    tokens::Tokens::NAME,
];

/// Runs the controllers until the process is asked to stop.
///
/// # Errors
/// When they cannot start, or one of them ends early.
pub async fn run(settings: Settings) -> Result<(), RunError> {
    let shutdown = Shutdown::default();
    launch(&settings, &shutdown).await?;
    shutdown.run_until_asked(Duration::from_secs(2)).await.map_err(RunError::Ended)?;
    Ok(())
}

/// Starts the controllers as tasks of `shutdown`, and returns once their caches are filled.
///
/// # Errors
/// When the settings are wrong or name files that cannot be read.
pub async fn launch(settings: &Settings, shutdown: &Shutdown) -> Result<(), RunError> {
    if let Some(name) = settings.only.iter().find(|name| !NAMES.contains(&name.as_str())) {
        return Err(RunError::Unknown(name.clone()));
    }
    let (client, root_ca) = connect(settings).await?;
    let signer = signer(settings).await?;
    let caches = Caches::new(client);
    let mut starts = Starts { settings, starts: Vec::new() };
    starts.add(|| accounts::Accounts::new(&caches, root_ca.clone()));
    starts.add(|| daemonset::DaemonSets::new(&caches));
    starts.add(|| deployment::Deployments::new(&caches));
    starts.add(|| endpoints::EndpointSlices::new(&caches));
    starts.add(|| garbage::Garbage::new(&caches, shutdown));
    starts.add(|| namespaces::Namespaces::new(&caches));
    let giver = loadbalancer::Giver::Lab(settings.load_balancer_pool.clone());
    starts.add(|| loadbalancer::LoadBalancers::new(&caches, giver));
    starts.add(|| nodes::Nodes::new(&caches));
    starts.add(|| replicaset::ReplicaSets::new(&caches));
    starts.add(|| scheduler::Scheduler::new(&caches));
    starts.add(|| autoscaler::Autoscalers::new(&caches));
    starts.add(|| disruption::Disruptions::new(&caches));
    starts.add(|| job::Jobs::new(&caches));
    starts.add(|| podgc::PodGarbage::new(&caches));
    starts.add(|| statefulset::StatefulSets::new(&caches));
    if let Some(signer) = signer {
        starts.add(|| tokens::Tokens::new(&caches, signer, root_ca.clone()));
    }
    caches.start(shutdown).await;
    for start in starts.starts {
        start(shutdown);
    }
    tracing::info!("controllers run");
    Ok(())
}

type Start = Box<dyn FnOnce(&Shutdown) + Send>;

/// The controllers that were asked for, made before the caches are filled and started afterwards.
struct Starts<'a> {
    settings: &'a Settings,
    starts: Vec<Start>,
}

impl Starts<'_> {
    fn add<C: Controller>(&mut self, make: impl FnOnce() -> C) {
        let only = &self.settings.only;
        if only.is_empty() || only.iter().any(|name| name == C::NAME) {
            let controller = make();
            self.starts.push(Box::new(move |shutdown: &Shutdown| start(controller, shutdown)));
        }
    }
}

/// The signer of long-lived tokens, when there is a key for it.
async fn signer(settings: &Settings) -> Result<Option<tokens::Signer>, RunError> {
    let Some(path) = settings.service_account_key.clone() else { return Ok(None) };
    let pem = tokio::fs::read(&path).await;
    let pem = pem.map_err(|source| RunError::File { path: path.clone(), source })?;
    let signer = tokens::Signer::from_pem(&pem);
    Ok(Some(signer.map_err(|source| RunError::Key { path, source })?))
}

async fn connect(settings: &Settings) -> Result<(Client, Arc<str>), RunError> {
    let path = settings.kubeconfig.clone();
    let bad = |source| RunError::Kubeconfig { path: path.clone(), source };
    let kubeconfig = Kubeconfig::read_from(&settings.kubeconfig).map_err(bad)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(bad)?;
    // A watch is quiet for as long as nothing happens; its own time limit ends it.
    config.read_timeout = Some(Duration::from_secs(330));
    let root_ca = match &settings.root_ca_file {
        Some(path) => tokio::fs::read_to_string(path)
            .await
            .map_err(|source| RunError::File { path: path.clone(), source })?,
        None => pem(config.root_cert.as_deref().ok_or(RunError::NoRootCa)?),
    };
    let client = Client::try_from(config)
        .map_err(|source| RunError::Client { path, source: Box::new(source) })?;
    Ok((client, root_ca.into()))
}

/// Certificates as PEM text.
fn pem(certificates: &[Vec<u8>]) -> String {
    use base64::Engine;
    let mut text = String::new();
    for certificate in certificates {
        let encoded = base64::engine::general_purpose::STANDARD.encode(certificate);
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in encoded.as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
