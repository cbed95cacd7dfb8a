//! `tombolo sample …`: the programs behind the sample images of lab clusters.

use std::process::ExitCode;

use clap::{Args, Subcommand};

mod helloworld;

/// Run a sample application.
#[derive(Debug, Args)]
pub struct Sample {
    #[command(subcommand)]
    command: SampleCommand,
}

#[derive(Debug, Subcommand)]
enum SampleCommand {
    /// Serve `GET /hello`, which says which version and which pod answers.
    Helloworld(helloworld::Flags),
}

impl Sample {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            SampleCommand::Helloworld(flags) => super::block_on(flags.run()),
        }
    }
}
