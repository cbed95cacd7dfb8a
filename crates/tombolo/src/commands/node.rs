//! `tombolo lab node`: the node agent of one lab cluster.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::Args;
use tombolo_lab::node::{self, Settings};
use tombolo_runtime::logs;

/// Run a node of a lab cluster: its pods, service addresses and DNS.
#[derive(Debug, Args)]
pub struct Flags {
    /// How to reach the cluster.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// The name of the Node object.
    #[arg(long)]
    node_name: String,
    /// The node's address on the bridge.
    #[arg(long)]
    node_ip: Ipv4Addr,
    /// The addresses of this node's pods.
    #[arg(long, value_name = "CIDR")]
    pod_cidr: ipnet::Ipv4Net,
    /// The addresses of the cluster's Services.
    #[arg(long, value_name = "CIDR")]
    service_cidr: ipnet::Ipv4Net,
    /// The address at which cluster DNS answers.
    #[arg(long, value_name = "IP")]
    cluster_dns: Ipv4Addr,
    /// The domain of the cluster's names.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Who signs the certificates of those who may use the kubelet API.
    #[arg(long, value_name = "FILE")]
    client_ca_file: PathBuf,
    /// The certificate of the kubelet API.
    #[arg(long, value_name = "FILE")]
    tls_cert_file: PathBuf,
    /// The key of that certificate.
    #[arg(long, value_name = "FILE")]
    tls_private_key_file: PathBuf,
    /// A folder for pods' volumes and logs.
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// Further images: a YAML file with `images: {NAME: {entrypoint, command, env, user}}`.
    #[arg(long, value_name = "FILE")]
    images: Option<PathBuf>,
}

impl Flags {
    pub fn run(self) -> anyhow::Result<()> {
        logs::init(logs::Format::Text, "info,hickory_server=warn");
        super::choose_tls_provider();
        let settings = Settings {
            kubeconfig: self.kubeconfig,
            node_name: self.node_name,
            node_ip: self.node_ip,
            pod_cidr: self.pod_cidr,
            service_cidr: self.service_cidr,
            cluster_dns: self.cluster_dns,
            cluster_domain: self.cluster_domain,
            client_ca_file: self.client_ca_file,
            tls_cert_file: self.tls_cert_file,
            tls_private_key_file: self.tls_private_key_file,
            state_dir: self.state_dir,
            images: self.images,
        };
        Ok(node::run(settings)?)
    }
}
