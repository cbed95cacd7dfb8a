//! `tombolo lab route|delay|kill`: change and break what lies between clusters.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use tombolo_lab::spec::ClusterName;

use crate::commands::lab::settings::lab;
use crate::output;

#[derive(Debug, Subcommand)]
pub enum Route {
    /// Add routes in both directions.
    Add { a: ClusterName, b: ClusterName },
    /// Remove them.
    Delete { a: ClusterName, b: ClusterName },
}

impl Route {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Add { a, b } => lab()?.join(&a, &b).await?,
            Self::Delete { a, b } => lab()?.part(&a, &b).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Args)]
pub struct Delay {
    /// The cluster.
    cluster: ClusterName,
    /// How long, in milliseconds.
    #[arg(long, default_value_t = 0, value_name = "MILLISECONDS")]
    latency: u32,
    /// How much the latency varies, in milliseconds.
    #[arg(long, default_value_t = 0, value_name = "MILLISECONDS")]
    jitter: u32,
    /// How many packets of a hundred are lost.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    loss: u32,
}

impl Delay {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        lab()?.delay(&self.cluster, self.latency, self.jitter, self.loss).await?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Args)]
pub struct Kill {
    /// `api-server`, `controllers`, `node` or `node/NAME`; with real Kubernetes also `etcd` and
    /// `controller-manager`.
    process: String,
    /// The cluster.
    #[arg(value_name = "CLUSTER")]
    cluster: ClusterName,
}

impl Kill {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        lab()?.kill(&self.cluster, &self.process).await?;
        output::note(format_args!("killed {} of {}; it starts again", self.process, self.cluster));
        Ok(ExitCode::SUCCESS)
    }
}
