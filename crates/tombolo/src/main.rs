//! The one binary: picks the command and turns its outcome into an exit code.
//!
//! Each command lives in `commands/<name>.rs`, parses its settings and calls `run` of its crate.
//! Commands are plain functions: some must change namespaces before any thread exists, so each
//! starts its own async runtime (`commands::block_on`) when it needs one.

mod commands;
mod output;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Joins Kubernetes clusters into one service mesh.
#[derive(Debug, Parser)]
#[command(name = "tombolo", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the Kubernetes API of a lab cluster.
    #[command(hide = true)]
    ApiServer(Box<commands::api_server::Flags>),
    Up(commands::up::UpCommand),
    Down(commands::up::DownCommand),
    Plan(commands::mesh::PlanCommand),
    Apply(commands::mesh::ApplyCommand),
    Destroy(commands::mesh::DestroyCommand),
    Verify(commands::mesh::VerifyCommand),
    /// Make and break lab clusters on this machine.
    Lab(commands::lab::Lab),
    Proxy(commands::proxy::Proxy),
    ProxyConfig(commands::proxy_config::ProxyConfig),
    ProxyStatus(commands::proxy_status::ProxyStatus),
    RemoteClusters(commands::proxy_status::RemoteClusters),
    Version(commands::version::VersionCommand),
    Install(commands::install::InstallCommand),
    Uninstall(commands::install::UninstallCommand),
    Manifest(commands::install::ManifestCommand),
    CreateRemoteSecret(commands::remote_secret::RemoteSecretCommand),
    EastwestGateway(commands::remote_secret::EastWestCommand),
    VerifyInstall(commands::verify_install::VerifyInstallCommand),
    #[command(visible_alias = "x")]
    Experimental(commands::verify_install::ExperimentalCommand),
    KubeInject(Box<commands::kube_inject::KubeInjectCommand>),
    Analyze(Box<commands::analyze::AnalyzeCommand>),
    Certs(commands::certs::Certs),
    /// Give LoadBalancer Services addresses as MetalLB does.
    #[command(name = "metallb", hide = true)]
    MetalLb(commands::metallb::MetalLb),
    /// Run the control plane of a mesh.
    ControlPlane(Box<commands::control_plane::ControlPlane>),
    /// Run a sample application.
    Sample(commands::sample::Sample),
}

impl Command {
    fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::ApiServer(flags) => flags.run(),
            Self::Up(command) => command.run(),
            Self::Down(command) => command.run(),
            Self::Plan(command) => command.run(),
            Self::Apply(command) => command.run(),
            Self::Destroy(command) => command.run(),
            Self::Verify(command) => command.run(),
            Self::Lab(lab) => lab.run(),
            Self::Proxy(proxy) => proxy.run(),
            Self::ProxyConfig(command) => command.run(),
            Self::ProxyStatus(command) => command.run(),
            Self::RemoteClusters(command) => command.run(),
            Self::Version(command) => command.run(),
            Self::Install(command) => command.run(),
            Self::Uninstall(command) => command.run(),
            Self::Manifest(command) => command.run(),
            Self::CreateRemoteSecret(command) => command.run(),
            Self::EastwestGateway(command) => command.run(),
            Self::Certs(certs) => certs.run(),
            Self::VerifyInstall(command) => command.run(),
            Self::Experimental(command) => command.run(),
            Self::KubeInject(command) => command.run(),
            Self::Analyze(command) => command.run(),
            Self::MetalLb(metallb) => metallb.run(),
            Self::ControlPlane(command) => command.run(),
            Self::Sample(sample) => sample.run(),
        }
    }
}

fn main() -> ExitCode {
    let outcome = match called_as().as_deref() {
        Some("kind") => commands::kind::Kind::parse().run(),
        Some("pilot-agent") => commands::pilot::PilotAgent::parse().run(),
        Some("pilot-discovery") => commands::pilot::PilotDiscovery::parse().run(),
        _ => Cli::parse_from(commands::istioctl::arguments(std::env::args_os())).command.run(),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            output::error(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

/// The name this program was called by, which selects the grammar.
fn called_as() -> Option<String> {
    let name = std::env::args_os().next()?;
    std::path::Path::new(&name).file_name()?.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn no_command_has_two_flags_of_one_name() {
        Cli::command().debug_assert();
    }
}
