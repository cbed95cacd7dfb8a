//! The grammars of `pilot-agent` and `pilot-discovery`, the programs of Istio's containers: scripts
//! and istioctl's own habits of `kubectl exec` find them under these names.

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tombolo_agent::wait;

use super::control_plane::ControlPlane;
use super::proxy::{Init, Run, Wait};
use super::version::OwnVersion;
use crate::output;

/// The ports of a proxy that may be asked: admin, health, status and discovery's.
const AGENT_PORTS: [u16; 4] = [15000, 15021, 15020, 15004];
/// Where a control plane serves what it knows.
const DISCOVERY_PORT: u16 = 15014;

/// The program beside a proxy.
#[derive(Debug, Parser)]
#[command(name = "pilot-agent", version)]
pub struct PilotAgent {
    #[command(subcommand)]
    command: AgentCommand,
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Run the data plane of a pod. Settings come from the environment.
    Proxy {
        /// What the proxy is for.
        #[arg(value_enum, default_value_t = Role::Sidecar)]
        role: Role,
        #[command(flatten)]
        run: Run,
    },
    /// Capture the pod's traffic.
    IstioIptables(Box<Init>),
    /// Take the capture of the pod's traffic away.
    IstioCleanIptables(Box<Init>),
    /// Wait until the proxy is ready.
    Wait(Wait),
    /// Send a request to the proxy's admin server and print the answer.
    Request {
        /// GET or POST.
        method: String,
        /// For example config_dump or clusters?format=json.
        path: String,
        /// What to send along.
        #[arg(default_value = "", hide_default_value = true)]
        body: String,
        /// The port to ask.
        #[arg(long, default_value_t = 15000, value_parser = agent_port)]
        debug_port: u16,
    },
    /// Print the version.
    Version(OwnVersion),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Sidecar,
    Router,
}

fn agent_port(text: &str) -> Result<u16, String> {
    let port = text.parse().map_err(|_| format!("`{text}` is not a port"))?;
    if AGENT_PORTS.contains(&port) {
        return Ok(port);
    }
    Err(format!("debug port {port} is not in allowed list {AGENT_PORTS:?}"))
}

/// The control plane's program.
#[derive(Debug, Parser)]
#[command(name = "pilot-discovery", version)]
pub struct PilotDiscovery {
    #[command(subcommand)]
    command: DiscoveryCommand,
}

#[derive(Debug, Subcommand)]
enum DiscoveryCommand {
    /// Run the control plane of a mesh.
    Discovery(Box<ControlPlane>),
    /// Send a request to the control plane and print the answer.
    Request {
        /// GET or POST.
        method: String,
        /// For example /debug/syncz.
        path: String,
        /// What to send along.
        #[arg(default_value = "", hide_default_value = true)]
        body: String,
    },
    /// Print the version.
    Version(OwnVersion),
}

/// Nothing but the answer may be printed: whoever asks reads it as a document.
fn request(port: u16, method: &str, path: &str, body: String) -> anyhow::Result<ExitCode> {
    let url = format!("http://127.0.0.1:{port}/{}", path.trim_start_matches('/'));
    let answer = super::block_on(async { Ok(wait::request_with(method, &url, body).await?) })?;
    output::text(&answer);
    Ok(ExitCode::SUCCESS)
}

impl PilotAgent {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            AgentCommand::Proxy { role: Role::Sidecar, run } => run.sidecar()?,
            AgentCommand::Proxy { role: Role::Router, run } => run.router()?,
            AgentCommand::IstioIptables(init) => init.run()?,
            AgentCommand::IstioCleanIptables(init) => init.cleaning().run()?,
            AgentCommand::Wait(wait) => wait.run()?,
            AgentCommand::Request { method, path, body, debug_port } => {
                return request(debug_port, &method, &path, body);
            }
            AgentCommand::Version(version) => return version.run(),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl PilotDiscovery {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            DiscoveryCommand::Discovery(control_plane) => control_plane.run(),
            DiscoveryCommand::Request { method, path, body } => {
                request(DISCOVERY_PORT, &method, &path, body)
            }
            DiscoveryCommand::Version(version) => version.run(),
        }
    }
}
