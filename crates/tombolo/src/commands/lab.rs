//! `tombolo lab …`: lab clusters by hand.

pub mod create;
mod faults;
pub mod get;
mod inside;
pub mod settings;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use tombolo_lab::node::container::become_container::become_container;
use tombolo_lab::preflight;
use tombolo_lab::spec::ClusterName;

use crate::commands::{block_on, controllers, node};
use crate::output;
use create::{Create, create, delete};
use get::{Export, Get};
use settings::{lab, lab_settings};

/// Make and break lab clusters on this machine.
#[derive(Debug, Args)]
pub struct Lab {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Say whether this machine can run lab clusters, and what is missing.
    Check,
    /// Create a cluster and write its context into the kubeconfig.
    Create(Create),
    /// Delete a cluster and everything that was made for it.
    Delete {
        /// The cluster.
        #[arg(short, long, default_value = "kind", env = "KIND_CLUSTER_NAME")]
        name: ClusterName,
        /// The kubeconfig to clean, beside those it is known to be in.
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
    },
    /// List the clusters with their nodes and processes.
    List {
        /// `table` or `json`.
        #[arg(short, long, default_value = "table")]
        output: get::Format,
    },
    /// Print clusters, nodes or a kubeconfig.
    #[command(subcommand)]
    Get(Get),
    /// Export a kubeconfig or logs.
    #[command(subcommand)]
    Export(Export),
    /// Describe a node as `docker inspect` describes a container.
    Inspect(get::Inspect),
    /// Work inside nodes.
    #[command(subcommand)]
    Container(inside::Container),
    /// Give two clusters of one network routes to each other's pods and Services, or take them.
    #[command(subcommand)]
    Route(faults::Route),
    /// Let no packet pass between two clusters.
    Partition {
        /// One cluster.
        a: ClusterName,
        /// The other.
        b: ClusterName,
    },
    /// Delay, and lose, what a cluster's nodes send.
    Delay(faults::Delay),
    /// Undo all partitions and delays.
    Heal,
    /// Kill a process of a cluster; it starts again by itself.
    Kill(faults::Kill),
    /// Run the controllers of a cluster.
    #[command(hide = true)]
    Controllers(Box<controllers::Flags>),
    /// Start the supervisor of a lab, or be it.
    #[command(hide = true)]
    Supervisor(inside::Supervisor),
    /// Be process 1 of a node.
    #[command(hide = true)]
    Init(inside::Init),
    /// Run a node of a cluster: its pods, service addresses and DNS.
    #[command(hide = true)]
    Node(Box<node::Flags>),
    /// Become a container; the node agent starts this.
    #[command(hide = true)]
    BecomeContainer,
    /// Count the packets on a node's bridge interface, and those that hold a text.
    #[command(hide = true)]
    Wire(inside::Wire),
}

impl Lab {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            LabCommand::Check => {
                preflight::check(&lab_settings()?.path)?;
                output::line("this machine can run lab clusters");
                Ok(ExitCode::SUCCESS)
            }
            LabCommand::Create(command) => block_on(create(command, false)),
            LabCommand::Delete { name, kubeconfig } => block_on(delete(name, kubeconfig)),
            LabCommand::List { output } => block_on(get::list(output)),
            LabCommand::Get(command) => block_on(command.run()),
            LabCommand::Export(command) => block_on(command.run()),
            LabCommand::Inspect(command) => block_on(command.run()),
            LabCommand::Container(command) => block_on(command.run()),
            LabCommand::Route(command) => block_on(command.run()),
            LabCommand::Partition { a, b } => block_on(async {
                lab()?.partition(&a, &b).await?;
                output::note(format_args!("no packet passes between {a} and {b}"));
                Ok(ExitCode::SUCCESS)
            }),
            LabCommand::Delay(command) => block_on(command.run()),
            LabCommand::Heal => block_on(async {
                lab()?.heal().await?;
                output::note("all partitions and delays are undone");
                Ok(ExitCode::SUCCESS)
            }),
            LabCommand::Kill(command) => block_on(command.run()),
            LabCommand::Controllers(flags) => flags.run().map(|()| ExitCode::SUCCESS),
            LabCommand::Supervisor(command) => command.run(),
            LabCommand::Init(command) => command.run(),
            LabCommand::Node(flags) => flags.run().map(|()| ExitCode::SUCCESS),
            LabCommand::BecomeContainer => Ok(become_container()),
            LabCommand::Wire(command) => command.run(),
        }
    }
}
