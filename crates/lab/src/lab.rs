//! The client of a lab: what `tombolo lab`, `kind` and `tombolo up` call.
//!
//! # Expected flow
//! [`Lab::create`] starts the lab's supervisor when none runs, makes the cluster, waits for its
//! API, adds what a cluster must hold and merges its entries into the user's kubeconfig. Clusters
//! may be created and deleted in parallel. [`Lab::delete`] takes everything away again; the
//! supervisor ends with the last cluster.
//!
//! # Guarantees
//! What cannot work is found before anything is created. A cluster that does not come up is
//! removed, unless [`CreateOptions::retain`] says otherwise. Whatever a dead lab left behind
//! (files, kubeconfig entries) is removed before a new one starts.

mod ask;
mod bootstrap;
mod readiness;
mod remains;
mod start;

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::control::{Answer, ClusterState, Request};
use crate::directory::{ClusterDirectory, LabDirectory};
use crate::kubeconfig::{self, Access, KubeconfigError, KubeconfigFiles};
use crate::preflight::{self, PreflightError};
use crate::spec::{ApiServerKind, ClusterName, ClusterSpec, SpecError};

/// What a lab client is told by its caller; nothing is read from the environment here.
#[derive(Clone, Debug)]
pub struct LabSettings {
    /// The lab's folder.
    pub directory: LabDirectory,
    /// This program, which is started again as supervisor.
    pub program: PathBuf,
    /// The search path for `ip`, `nft` and the like.
    pub path: OsString,
    /// Where to look for the real Kubernetes programs, in order.
    pub kubernetes: Vec<PathBuf>,
}

/// How a cluster is created, beside what it is.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The user's kubeconfig that gets the cluster's entries; none leaves all files alone.
    pub kubeconfig: Option<PathBuf>,
    /// How long to wait for the nodes to be ready; zero does not wait.
    pub wait: Duration,
    /// Whether a cluster that does not come up stays, for a look at its logs.
    pub retain: bool,
}

/// What a creation is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something the user should know, once.
    Note(String),
    /// A step begins.
    Begin(Step),
    /// A step is done.
    Done(Step),
}

/// The steps of a creation, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Namespaces, network, certificates.
    Nodes,
    /// The API server answers.
    ControlPlane,
    /// What a cluster must hold is there, and the kubeconfig leads to it.
    Configuration,
    /// The nodes are ready for pods.
    Ready,
}

/// Where a kubeconfig's server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// On the host's loopback.
    Loopback,
    /// On the bridge, as other clusters reach it.
    Internal,
}

/// Why a lab did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The machine lacks something.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// What is asked for does not fit together.
    #[error("cluster `{name}`")]
    Spec { name: ClusterName, source: SpecError },
    /// The supervisor refused or failed; the text is its own.
    #[error("{0}")]
    Refused(String),
    /// No supervisor could be started.
    #[error("start the lab in {}", folder.display())]
    Start { folder: PathBuf, source: io::Error },
    /// The supervisor does not answer.
    #[error("talk to the lab in {}", folder.display())]
    Connection { folder: PathBuf, source: io::Error },
    /// There is no such cluster.
    #[error("there is no lab cluster `{0}`; `tombolo lab list` shows all")]
    NoCluster(ClusterName),
    /// The loopback address for the API is taken.
    #[error(
        "listen on {address} for the API server of cluster `{name}`: choose another apiServerPort"
    )]
    Listen { name: ClusterName, address: SocketAddr, source: io::Error },
    /// A user's kubeconfig could not be changed.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// A file of the lab could not be read or written.
    #[error("use {}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// The API server did not come up in time.
    #[error(
        "the API server of cluster `{name}` did not become ready within {waited:?} ({why}); its log ends:\n{log}"
    )]
    NotReady { name: ClusterName, waited: Duration, why: String, log: String },
    /// The nodes did not become ready in time.
    #[error("the nodes of cluster `{name}` did not become ready within {waited:?}: {why}")]
    NodesNotReady { name: ClusterName, waited: Duration, why: String },
    /// An object every cluster must hold could not be made.
    #[error("make {object} in cluster `{name}`")]
    Bootstrap { name: ClusterName, object: String, source: Box<kube::Error> },
}

/// A lab, seen from outside. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lab {
    settings: LabSettings,
}

impl Lab {
    /// The lab of these settings. Nothing is started or read yet.
    pub fn new(settings: LabSettings) -> Self {
        Self { settings }
    }

    /// The lab's folder.
    pub fn directory(&self) -> &LabDirectory {
        &self.settings.directory
    }

    /// Creates a cluster and tells `progress` what it is doing.
    ///
    /// # Errors
    /// When anything does not work; unless asked to retain it, nothing of the cluster is left.
    pub async fn create(
        &self,
        spec: &ClusterSpec,
        options: &CreateOptions,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<ClusterState, LabError> {
        let kubernetes = self.check(spec)?;
        progress(Progress::Begin(Step::Nodes));
        let listener = listen(spec)?;
        let server = format!("https://{}", listener.1);
        let request = Request::Create { spec: Box::new(spec.clone()), kubernetes, server };
        let state = self.ask_for_cluster(&request, &listener.0, progress).await?;
        // The supervisor has its own hold on it now.
        drop(listener);
        progress(Progress::Done(Step::Nodes));
        match self.bring_up(&state, options, progress).await {
            Ok(()) => self.cluster(&spec.name).await,
            Err(error) => {
                if !options.retain
                    && let Err(second) = self.delete(&spec.name, &[]).await
                {
                    progress(Progress::Note(format!(
                        "cluster `{}` not removed: {second}",
                        spec.name
                    )));
                }
                Err(error)
            }
        }
    }

    /// Brings up a cluster that exists, whose creation may have been interrupted. Of a cluster that
    /// is complete nothing changes.
    ///
    /// # Errors
    /// When there is no such cluster, or it does not come up.
    pub async fn complete(
        &self,
        name: &ClusterName,
        options: &CreateOptions,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<ClusterState, LabError> {
        let state = self.cluster(name).await?;
        self.bring_up(&state, options, progress).await?;
        self.cluster(name).await
    }

    /// Asks for a cluster, of a new lab if the one that runs just ends with its last cluster.
    async fn ask_for_cluster(
        &self,
        request: &Request,
        listener: &TcpListener,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<ClusterState, LabError> {
        loop {
            self.ensure_started(progress).await?;
            match self.ask(request, &[listener.as_fd()]).await {
                Ok(Answer::Cluster(state)) => return Ok(*state),
                Ok(Answer::Ending) => self.wait_for_the_end().await?,
                Ok(answer) => return Err(unexpected(answer)),
                // Nobody listens: it ended between the two steps.
                Err(LabError::Connection { .. }) if !self.is_running()? => (),
                Err(error) => return Err(error),
            }
        }
    }

    /// Checks everything that can be checked before anything is created, and returns the folder
    /// of the real Kubernetes programs if they are asked for.
    ///
    /// # Errors
    /// When the machine lacks something, or the description does not fit together.
    pub fn check(&self, spec: &ClusterSpec) -> Result<Option<PathBuf>, LabError> {
        let name = spec.name.clone();
        spec.check().map_err(|source| LabError::Spec { name, source })?;
        preflight::check(&self.settings.path)?;
        match spec.api_server {
            ApiServerKind::Embedded => Ok(None),
            ApiServerKind::Kubernetes => {
                Ok(Some(preflight::kubernetes_programs(&self.settings.kubernetes)?))
            }
        }
    }

    async fn bring_up(
        &self,
        state: &ClusterState,
        options: &CreateOptions,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<(), LabError> {
        progress(Progress::Begin(Step::ControlPlane));
        let client = readiness::api(state).await?;
        progress(Progress::Done(Step::ControlPlane));
        progress(Progress::Begin(Step::Configuration));
        bootstrap::apply(&client, state).await?;
        if let Some(file) = &options.kubeconfig {
            let folder = ClusterDirectory::new(state.folder.clone());
            let file = std::path::absolute(file)
                .map_err(|source| LabError::File { path: file.clone(), source })?;
            // Remembered first: an entry that is remembered but missing does no harm.
            folder
                .remember_kubeconfig(&file)
                .map_err(|source| LabError::File { path: folder.path().to_owned(), source })?;
            kubeconfig::add(&file, &access(state, Endpoint::Loopback)?).await?;
        }
        progress(Progress::Done(Step::Configuration));
        if !options.wait.is_zero() {
            progress(Progress::Begin(Step::Ready));
            readiness::nodes(&client, state, options.wait).await?;
            progress(Progress::Done(Step::Ready));
        }
        Ok(())
    }

    /// Deletes a cluster, its entries in the kubeconfigs it was merged into, and those in
    /// `kubeconfigs`. The lab ends with its last cluster.
    ///
    /// # Errors
    /// When there is no such cluster, or something of it could not be removed; then the cluster is
    /// still there, and the same call removes the rest.
    pub async fn delete(
        &self,
        name: &ClusterName,
        kubeconfigs: &[PathBuf],
    ) -> Result<(), LabError> {
        let folder = self.settings.directory.cluster(name);
        let mut files = folder
            .remembered_kubeconfigs()
            .map_err(|source| LabError::File { path: folder.path().to_owned(), source })?;
        files.extend(kubeconfigs.iter().cloned());
        let known = self.cluster(name).await;
        if matches!(&known, Err(error) if !matches!(error, LabError::NoCluster(_))) {
            return known.map(|_| ());
        }
        // First, because with the cluster goes the list of its kubeconfigs; and also without a
        // cluster, because an earlier deletion may not have come to its end.
        for file in files {
            kubeconfig::remove(&file, name).await?;
        }
        if !self.is_running()? {
            self.remove_remains().await?;
        }
        known?;
        self.done(&Request::Delete(name.clone())).await?;
        self.wait_for_the_end().await
    }

    /// All clusters, sorted by name; none when the lab does not run.
    ///
    /// # Errors
    /// When the supervisor does not answer.
    pub async fn clusters(&self) -> Result<Vec<ClusterState>, LabError> {
        if !self.is_running()? {
            return Ok(Vec::new());
        }
        match self.ask(&Request::List, &[]).await? {
            Answer::Clusters(clusters) => Ok(clusters),
            answer => Err(unexpected(answer)),
        }
    }

    /// One cluster.
    ///
    /// # Errors
    /// When there is no such cluster.
    pub async fn cluster(&self, name: &ClusterName) -> Result<ClusterState, LabError> {
        let clusters = self.clusters().await?;
        let found = clusters.into_iter().find(|cluster| cluster.name() == name);
        found.ok_or_else(|| LabError::NoCluster(name.clone()))
    }

    /// A kubeconfig for the administrator of one cluster.
    ///
    /// # Errors
    /// When there is no such cluster.
    pub async fn kubeconfig(
        &self,
        name: &ClusterName,
        endpoint: Endpoint,
    ) -> Result<String, LabError> {
        Ok(access(&self.cluster(name).await?, endpoint)?.document())
    }

    /// Merges a cluster's entries into a user's kubeconfig and makes its context the current one.
    ///
    /// # Errors
    /// When there is no such cluster or the file cannot be changed.
    pub async fn export_kubeconfig(
        &self,
        name: &ClusterName,
        file: &Path,
        endpoint: Endpoint,
    ) -> Result<(), LabError> {
        let state = self.cluster(name).await?;
        let folder = ClusterDirectory::new(state.folder.clone());
        let file = std::path::absolute(file)
            .map_err(|source| LabError::File { path: file.to_owned(), source })?;
        folder
            .remember_kubeconfig(&file)
            .map_err(|source| LabError::File { path: folder.path().to_owned(), source })?;
        Ok(kubeconfig::add(&file, &access(&state, endpoint)?).await?)
    }

    /// Gives two clusters of one network routes to each other's pods and Services.
    ///
    /// # Errors
    /// When their subnets overlap, or one does not exist.
    pub async fn join(&self, a: &ClusterName, b: &ClusterName) -> Result<(), LabError> {
        self.done(&Request::Join(a.clone(), b.clone())).await
    }

    /// Takes these routes away.
    ///
    /// # Errors
    /// When one of the clusters does not exist.
    pub async fn part(&self, a: &ClusterName, b: &ClusterName) -> Result<(), LabError> {
        self.done(&Request::Part(a.clone(), b.clone())).await
    }

    /// Lets no packet pass between two clusters until [`Lab::heal`].
    ///
    /// # Errors
    /// When one of the clusters does not exist.
    pub async fn partition(&self, a: &ClusterName, b: &ClusterName) -> Result<(), LabError> {
        self.done(&Request::Partition(a.clone(), b.clone())).await
    }

    /// Delays, and loses, what a cluster's nodes send, until [`Lab::heal`].
    ///
    /// # Errors
    /// When the machine has no tap devices, or there is no such cluster.
    pub async fn delay(
        &self,
        cluster: &ClusterName,
        milliseconds: u32,
        jitter: u32,
        loss_percent: u32,
    ) -> Result<(), LabError> {
        let cluster = cluster.clone();
        self.done(&Request::Delay { cluster, milliseconds, jitter, loss_percent }).await
    }

    /// Undoes all partitions and delays.
    ///
    /// # Errors
    /// When the supervisor does not answer.
    pub async fn heal(&self) -> Result<(), LabError> {
        self.done(&Request::Heal).await
    }

    /// Kills a process of a cluster at once: `api-server`, `controllers`, `node`, `node/NAME`, and
    /// with real Kubernetes `etcd` and `controller-manager`. It starts again by itself.
    ///
    /// # Errors
    /// When there is no such cluster or process.
    pub async fn kill(&self, cluster: &ClusterName, process: &str) -> Result<(), LabError> {
        let (cluster, process) = (cluster.clone(), process.to_owned());
        self.done(&Request::Kill { cluster, process }).await
    }

    /// Runs a command on a node, with the caller's standard streams, and returns its exit code.
    ///
    /// # Errors
    /// When there is no such node, or no such program there.
    pub async fn exec(
        &self,
        node: &str,
        command: &[String],
        environment: Vec<(String, String)>,
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<i32, LabError> {
        let request = Request::Exec {
            node: node.to_owned(),
            command: command.to_vec(),
            user_environment: environment,
        };
        match self.ask(&request, &streams).await? {
            Answer::Exited(code) => Ok(code),
            answer => Err(unexpected(answer)),
        }
    }

    async fn done(&self, request: &Request) -> Result<(), LabError> {
        match self.ask(request, &[]).await? {
            Answer::Done => Ok(()),
            answer => Err(unexpected(answer)),
        }
    }
}

/// Which user's kubeconfig gets new entries, and which lose them.
///
/// # Errors
/// When there is neither a file named nor a home folder.
pub fn kubeconfig_files(
    explicit: Option<PathBuf>,
    listed: Option<OsString>,
    home: Option<OsString>,
) -> Result<KubeconfigFiles, LabError> {
    KubeconfigFiles::find(explicit, listed, home).ok_or_else(|| {
        LabError::Refused(
            "no kubeconfig to write to: set HOME or KUBECONFIG, or use --kubeconfig".to_owned(),
        )
    })
}

/// Listens for the cluster's API on the host; returns the address that users are told.
fn listen(spec: &ClusterSpec) -> Result<(TcpListener, SocketAddr), LabError> {
    let address = SocketAddr::new(spec.api_server_address, spec.api_server_port);
    let bound = TcpListener::bind(address).and_then(|listener| {
        let port = listener.local_addr()?.port();
        Ok((listener, SocketAddr::new(spec.api_server_address, port)))
    });
    bound.map_err(|source| LabError::Listen { name: spec.name.clone(), address, source })
}

/// How the administrator reaches a cluster.
fn access(state: &ClusterState, endpoint: Endpoint) -> Result<Access, LabError> {
    let folder = ClusterDirectory::new(state.folder.clone());
    let read = |file: &str| {
        let path = folder.pki().join(file);
        std::fs::read_to_string(&path).map_err(|source| LabError::File { path, source })
    };
    let server = match endpoint {
        Endpoint::Loopback => state.server.clone(),
        Endpoint::Internal => state.internal_server().unwrap_or_default(),
    };
    Ok(Access {
        context: state.name().context(),
        server,
        authority: read("ca.crt")?,
        certificate: read("admin.crt")?,
        key: read("admin.key")?,
    })
}

fn unexpected(answer: Answer) -> LabError {
    LabError::Refused(format!("the lab answered something else than asked: {answer:?}"))
}
