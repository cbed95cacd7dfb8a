//! `tombolo metallb …`: what MetalLB's images run in lab clusters. Takes MetalLB's own flags.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use tombolo_lab::metallb::{self, Part, Settings};
use tombolo_runtime::logs;

/// Give LoadBalancer Services addresses as MetalLB does.
#[derive(Debug, Args)]
pub struct MetalLb {
    #[command(subcommand)]
    command: MetalLbCommand,
}

#[derive(Debug, Subcommand)]
enum MetalLbCommand {
    /// Give addresses.
    Controller(Flags),
    /// Announce addresses from this node.
    Speaker {
        /// The node that this is on.
        #[arg(long, env = "METALLB_NODE_NAME", value_name = "NAME")]
        node_name: String,
        #[command(flatten)]
        flags: Flags,
    },
}

#[derive(Debug, Args)]
struct Flags {
    /// The port of `/metrics`.
    #[arg(long, default_value_t = 7472)]
    port: u16,
    /// Which lines are logged: debug, info, warn or error.
    #[arg(long, default_value = "info", value_parser = ["debug", "info", "warn", "error"])]
    log_level: String,
    /// How to reach the cluster [default: as a pod does].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

impl MetalLb {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (part, flags) = match self.command {
            MetalLbCommand::Controller(flags) => (Part::Controller, flags),
            MetalLbCommand::Speaker { node_name, flags } => {
                (Part::Speaker { node: node_name }, flags)
            }
        };
        logs::init(logs::Format::Text, &flags.log_level);
        let settings = Settings {
            part,
            kubeconfig: flags.kubeconfig,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), flags.port),
        };
        super::block_on(async {
            metallb::run(settings).await?;
            Ok(ExitCode::SUCCESS)
        })
    }
}
