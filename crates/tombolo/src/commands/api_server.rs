//! `tombolo api-server`: the Kubernetes API of a lab cluster. Flags are kube-apiserver's.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use ipnet::IpNet;
use tombolo_apiserver::server::Server;
use tombolo_apiserver::settings::Settings;
use tombolo_apiserver::store::Flush;
use tombolo_runtime::logs;
use tombolo_runtime::shutdown::Shutdown;

use crate::commands::block_on;

/// How long requests may take to end once the server stops.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Flags {
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// Port to listen on; 0 picks one.
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// Address that the `kubernetes` Service leads to; by default the one listened on.
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Serving certificate chain, PEM.
    #[arg(long)]
    tls_cert_file: PathBuf,
    /// Key of the serving certificate, PEM.
    #[arg(long)]
    tls_private_key_file: PathBuf,
    /// Authorities of client certificates, PEM.
    #[arg(long)]
    client_ca_file: PathBuf,
    /// Range of Service addresses.
    #[arg(long, default_value = "10.96.0.0/16")]
    service_cluster_ip_range: IpNet,
    /// Issuer of service-account tokens.
    #[arg(long, default_value = "https://kubernetes.default.svc.cluster.local")]
    service_account_issuer: String,
    /// Public key that service-account tokens are verified with, PEM.
    #[arg(long)]
    service_account_key_file: PathBuf,
    /// Private key that service-account tokens are signed with, PEM.
    #[arg(long)]
    service_account_signing_key_file: PathBuf,
    /// Client certificate for kubelets, PEM.
    #[arg(long, requires = "kubelet_client_key")]
    kubelet_client_certificate: Option<PathBuf>,
    /// Key of the client certificate for kubelets, PEM.
    #[arg(long, requires = "kubelet_client_certificate")]
    kubelet_client_key: Option<PathBuf>,
    /// Authorities of kubelets' serving certificates, PEM.
    #[arg(long)]
    kubelet_certificate_authority: Option<PathBuf>,
    /// Folder of the store.
    #[arg(long)]
    data_dir: PathBuf,
    /// Do not force writes to the disk: they survive the process, not the machine.
    #[arg(long)]
    unsafe_no_fsync: bool,
}

impl Flags {
    /// Serves until asked to stop.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        logs::init(logs::Format::Text, "info");
        block_on(serve(self.settings()))?;
        Ok(ExitCode::SUCCESS)
    }

    fn settings(self) -> Settings {
        Settings {
            bind_address: self.bind_address,
            secure_port: self.secure_port,
            advertise_address: self.advertise_address.unwrap_or(self.bind_address),
            tls_cert_file: self.tls_cert_file,
            tls_private_key_file: self.tls_private_key_file,
            client_ca_file: self.client_ca_file,
            service_cluster_ip_range: self.service_cluster_ip_range,
            service_account_issuer: self.service_account_issuer,
            service_account_key_file: self.service_account_key_file,
            service_account_signing_key_file: self.service_account_signing_key_file,
            kubelet_client_certificate: self.kubelet_client_certificate,
            kubelet_client_key: self.kubelet_client_key,
            kubelet_certificate_authority: self.kubelet_certificate_authority,
            data_dir: self.data_dir,
            flush: if self.unsafe_no_fsync { Flush::Never } else { Flush::Always },
        }
    }
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let shutdown = Shutdown::default();
    let server = Server::build(settings, shutdown.clone()).await.context("start the API server")?;
    shutdown.spawn_essential("api server", server.run());
    let outcome = shutdown.run_until_asked(GRACE).await.context("run the API server")?;
    tracing::info!(?outcome, "stopped");
    Ok(())
}
