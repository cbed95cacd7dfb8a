//! `tombolo lab …`: lab clusters by hand.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use tombolo_lab::preflight;

use crate::commands::controllers;
use crate::output;

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
    /// Run the controllers of a cluster.
    #[command(hide = true)]
    Controllers(Box<controllers::Flags>),
}

impl Lab {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            LabCommand::Check => {
                preflight::check(&std::env::var_os("PATH").unwrap_or_default())?;
                output::line("this machine can run lab clusters");
                Ok(ExitCode::SUCCESS)
            }
            LabCommand::Controllers(flags) => flags.run().map(|()| ExitCode::SUCCESS),
        }
    }
}
