//! `tombolo sample …`: the programs behind the sample images of lab clusters, and a client that
//! measures them.

use std::process::ExitCode;

use clap::{Args, Subcommand};

mod helloworld;
mod probe;

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
    /// Send requests and print, as one JSON document, who answered.
    Probe(probe::Flags),
}

impl Sample {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            SampleCommand::Helloworld(flags) => super::block_on(flags.run()),
            SampleCommand::Probe(flags) => super::block_on(flags.run()),
        }
    }
}
