//! kind's own grammar, when this program is called as `kind`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tombolo_lab::spec::ClusterName;

use crate::commands::block_on;
use crate::commands::lab::create::{Create, create, delete};
use crate::commands::lab::get::{Export, Get};
use crate::commands::lab::settings::lab;
use crate::output;

/// Creates and manages local Kubernetes clusters, with Tombolo's lab in place of containers.
#[derive(Debug, Parser)]
#[command(name = "kind", version)]
pub struct Kind {
    /// Print nothing but errors.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// More log lines; `RUST_LOG` chooses them in detail.
    #[arg(short, long, global = true, default_value_t = 0)]
    verbosity: u8,
    #[command(subcommand)]
    command: KindCommand,
}

#[derive(Debug, Subcommand)]
enum KindCommand {
    /// Creates one of [cluster].
    #[command(subcommand)]
    Create(Creation),
    /// Deletes one of [cluster, clusters].
    #[command(subcommand)]
    Delete(Deletion),
    /// Gets one of [clusters, nodes, kubeconfig].
    #[command(subcommand)]
    Get(Get),
    /// Exports one of [kubeconfig, logs].
    #[command(subcommand)]
    Export(Export),
    /// Prints the version.
    Version,
}

#[derive(Debug, Subcommand)]
enum Creation {
    /// Creates a cluster.
    Cluster(Create),
}

#[derive(Debug, Subcommand)]
enum Deletion {
    /// Deletes a cluster.
    Cluster {
        /// The cluster.
        #[arg(short, long, default_value = "kind", env = "KIND_CLUSTER_NAME")]
        name: ClusterName,
        /// The kubeconfig to clean [default: as kubectl finds it].
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
    },
    /// Deletes one or more clusters.
    Clusters {
        /// All of them.
        #[arg(short = 'A', long, conflicts_with = "names", required_unless_present = "names")]
        all: bool,
        /// The kubeconfig to clean [default: as kubectl finds it].
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
        /// The clusters.
        names: Vec<ClusterName>,
    },
}

impl Kind {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.verbosity > 0 {
            let filter = if self.verbosity > 1 { "debug" } else { "info" };
            tombolo_runtime::logs::init(tombolo_runtime::logs::Format::Text, filter);
        }
        match self.command {
            KindCommand::Create(Creation::Cluster(command)) => {
                block_on(create(command, self.quiet))
            }
            KindCommand::Delete(command) => block_on(command.run()),
            KindCommand::Get(command) => block_on(command.run()),
            KindCommand::Export(command) => block_on(command.run()),
            KindCommand::Version => {
                output::line(format_args!("kind (tombolo {})", env!("CARGO_PKG_VERSION")));
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

impl Deletion {
    async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Cluster { name, kubeconfig } => delete(name, kubeconfig).await,
            Self::Clusters { all, kubeconfig, names } => {
                let names = if all {
                    let clusters = lab()?.clusters().await?;
                    clusters.iter().map(|cluster| cluster.name().clone()).collect()
                } else {
                    names
                };
                for name in &names {
                    delete(name.clone(), kubeconfig.clone()).await?;
                }
                let names: Vec<_> = names.iter().map(ClusterName::as_str).collect();
                output::note(format_args!("Deleted clusters: {names:?}"));
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
