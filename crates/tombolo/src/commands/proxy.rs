//! `tombolo proxy`: what runs in a pod, in the role of pilot-agent and Envoy.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::capture::InitCommand;

/// Be the data plane of a pod.
#[derive(Debug, Args)]
pub struct Proxy {
    #[command(subcommand)]
    command: ProxyCommand,
}

#[derive(Debug, Subcommand)]
enum ProxyCommand {
    Init(InitCommand),
}

impl Proxy {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            ProxyCommand::Init(command) => command.run(),
        }
    }
}
