//! `tombolo control-plane`: istiod's role, with istiod's flags and environment variables.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tombolo_control::serve::settings::{Flags, Settings};
use tombolo_runtime::logs::{self, Format};

/// Run the control plane of a mesh.
#[derive(Debug, Args)]
pub struct ControlPlane {
    /// Readiness and debugging, plain HTTP.
    #[arg(long = "httpAddr", default_value = ":8080")]
    http_addr: String,
    /// Webhooks.
    #[arg(long = "httpsAddr", default_value = ":15017")]
    https_addr: String,
    /// xDS and certificates.
    #[arg(long = "secureGRPCAddr", default_value = ":15012")]
    secure_grpc_addr: String,
    /// xDS without TLS. Not served: it would hand configuration to anybody.
    #[arg(long = "grpcAddr", default_value = "")]
    grpc_addr: String,
    /// Metrics and debugging, plain HTTP.
    #[arg(long = "monitoringAddr", default_value = ":15014")]
    monitoring_addr: String,
    /// The DNS domain of services.
    #[arg(long, default_value = "cluster.local")]
    domain: String,
    /// The cluster this control plane runs in; CLUSTER_ID by default.
    #[arg(long = "clusterID")]
    cluster_id: Option<String>,
    /// Other names of clusters.
    #[arg(long = "clusterAliases", value_name = "ALIAS=CLUSTER", value_delimiter = ',')]
    cluster_aliases: Vec<String>,
    /// The kubeconfig of the config cluster, instead of the pod's own account.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the control plane; POD_NAMESPACE by default.
    #[arg(short, long)]
    namespace: Option<String>,
    /// How long open connections may take to end.
    #[arg(long = "shutdownDuration", default_value = "10s")]
    shutdown_duration: String,
    /// How old a connection of a proxy may get.
    #[arg(long = "keepaliveMaxServerConnectionAge", default_value = "30m")]
    max_connection_age: String,
    /// The least level that is logged, as `default:info` or `info`.
    #[arg(long = "log_output_level", default_value = "default:info")]
    log_level: String,
    /// Log as JSON.
    #[arg(long = "log_as_json")]
    log_as_json: bool,
}

impl ControlPlane {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        tombolo_runtime::memory::use_small_pages();
        let format = if self.log_as_json { Format::Json } else { Format::Text };
        logs::init(format, level(&self.log_level));
        anyhow::ensure!(
            self.grpc_addr.is_empty(),
            "--grpcAddr={}: xDS without TLS is not served; leave the flag out and use --secureGRPCAddr",
            self.grpc_addr
        );
        let flags = Flags {
            http_addr: self.http_addr,
            https_addr: self.https_addr,
            secure_grpc_addr: self.secure_grpc_addr,
            monitoring_addr: self.monitoring_addr,
            domain: self.domain,
            cluster_id: self.cluster_id,
            cluster_aliases: self.cluster_aliases,
            kubeconfig: self.kubeconfig,
            namespace: self.namespace,
            shutdown_duration: self.shutdown_duration,
            max_connection_age: self.max_connection_age,
        };
        let settings = Settings::read(flags, &|name| std::env::var(name).ok())?;
        tracing::info!(?settings, "starting");
        super::block_on(async move {
            let client = client(settings.kubeconfig.as_deref()).await?;
            tombolo_control::run::run(settings, client).await
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A client of the config cluster: the given kubeconfig, else the pod's own account, else what
/// kubectl would use.
async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<kube::Client> {
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("read kubeconfig {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("use kubeconfig {}", path.display()))?
        }
        None => match kube::Config::incluster() {
            Ok(config) => config,
            Err(outside) => {
                tracing::debug!(error = %outside, "not running in a pod");
                kube::Config::infer().await.context("find a cluster to work in")?
            }
        },
    };
    kube::Client::try_from(config).context("make a client of the config cluster")
}

/// Istio names levels by scope; ours is the default scope's.
fn level(text: &str) -> &'static str {
    let own = text.split(',').find_map(|pair| match pair.split_once(':') {
        Some(("default", level)) => Some(level),
        None => Some(pair),
        Some(_) => None,
    });
    match own {
        Some("debug") => "debug,hyper=info,h2=info,rustls=info,tower=info",
        Some("warn" | "warning") => "warn",
        Some("error" | "fatal") => "error",
        Some("none") => "off",
        _ => "info",
    }
}
