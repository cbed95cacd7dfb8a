//! `tombolo lab controllers`: the controllers of one lab cluster.

use std::path::PathBuf;

use clap::Args;
use tombolo_lab::controllers::loadbalancer::addresses::Range;
use tombolo_lab::controllers::{self, Settings};
use tombolo_runtime::logs;

/// Run the controllers of a lab cluster.
#[derive(Debug, Args)]
pub struct Flags {
    /// How to reach the cluster.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Run these controllers only.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// The certificate authority that pods verify the API server by [default: the kubeconfig's].
    #[arg(long, value_name = "FILE")]
    root_ca_file: Option<PathBuf>,
    /// The RSA key that signs long-lived tokens of service accounts.
    #[arg(long, value_name = "FILE")]
    service_account_private_key_file: Option<PathBuf>,
    /// Addresses for LoadBalancer Services, as CIDR or FIRST-LAST.
    #[arg(long, value_delimiter = ',', value_name = "RANGE")]
    load_balancer_pool: Vec<Range>,
}

impl Flags {
    pub fn run(self) -> anyhow::Result<()> {
        logs::init(logs::Format::Text, "info");
        let settings = Settings {
            kubeconfig: self.kubeconfig,
            only: self.only,
            root_ca_file: self.root_ca_file,
            service_account_key: self.service_account_private_key_file,
            load_balancer_pool: self.load_balancer_pool,
        };
        super::block_on(async { Ok(controllers::run(settings).await?) })
    }
}
