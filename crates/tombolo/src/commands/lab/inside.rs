//! Commands that work inside the lab: its supervisor, process 1 of a node, a command on a node.

use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use tombolo_lab::supervisor::{self, SupervisorSettings, launch, node_init};
use tombolo_lab::wire;
use tombolo_runtime::logs;

use crate::commands::block_on;
use crate::commands::lab::settings::{lab, lab_settings};
use crate::output;

#[derive(Debug, Args)]
pub struct Supervisor {
    /// The lab's folder.
    #[arg(long)]
    folder: PathBuf,
    /// The namespaces are made: be the supervisor.
    #[arg(long)]
    inside: bool,
    /// The host has a link into the lab.
    #[arg(long, requires = "inside")]
    attached: bool,
}

impl Supervisor {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if !self.inside {
            // No runtime: namespaces can only be made while there is a single thread.
            launch::run(self.folder, lab_settings()?.path)?;
            return Ok(ExitCode::SUCCESS);
        }
        logs::init(logs::Format::Text, "info");
        let settings = SupervisorSettings { folder: self.folder, attached: self.attached };
        block_on(async { Ok(supervisor::run(settings).await?) })?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Args)]
pub struct Init {
    /// The node's name.
    #[arg(long)]
    hostname: String,
    /// The node agent.
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

impl Init {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let code = node_init::run(&self.hostname, &self.command)?;
        Ok(exit_code(code))
    }
}

#[derive(Debug, Args)]
pub struct Wire {
    /// The text to look for.
    #[arg(long)]
    needle: String,
}

impl Wire {
    /// Says `ready`, watches until standard input ends, and prints what was seen.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let seen = wire::watch(&self.needle, || {
            output::line("ready");
            Ok(())
        })?;
        output::line(serde_json::to_string(&seen)?);
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Subcommand)]
pub enum Container {
    /// Run a command in a node's network, mounts and processes.
    Exec {
        /// Keep standard input open.
        #[arg(short, long)]
        interactive: bool,
        /// For docker's sake: the command has the caller's terminal when there is one.
        #[arg(short, long)]
        tty: bool,
        /// The node.
        node: String,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

impl Container {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let Self::Exec { interactive, tty, node, command } = self;
        let terminal = std::env::var("TERM").ok().map(|value| ("TERM".to_owned(), value));
        let environment = terminal.into_iter().collect();
        let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let nothing = std::fs::File::open("/dev/null")?;
        let input = if interactive || tty { input.as_fd() } else { nothing.as_fd() };
        let streams = [input, output.as_fd(), errors.as_fd()];
        let code = lab()?.exec(&node, &command, environment, streams).await?;
        Ok(exit_code(code))
    }
}

/// A command's code as this program's, where only one byte fits.
fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
