//! `tombolo version`: of this program, of the control planes and of their proxies.

use std::process::ExitCode;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use tombolo_install::cluster::Cluster;
use tombolo_install::inspect::reach::{self, ReachError};
use tombolo_install::inspect::version::{BuildInfo, ProxyInfo, ServerInfo, Versions};
use tombolo_runtime::errors::chain;

use super::proxy_status::synced;
use super::reporting::{Notation, ReportFlags};
use crate::output;

/// Print the versions of this program, the control plane and the proxies.
#[derive(Debug, Args)]
pub struct VersionCommand {
    #[command(flatten)]
    flags: ReportFlags,
    #[command(flatten)]
    own: OwnVersion,
    /// The revision of the control plane.
    #[arg(short, long)]
    revision: Option<String>,
    /// Ask the control plane; `--remote=false` does not.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    remote: bool,
}

/// How versions are printed.
#[derive(Debug, Args)]
pub struct OwnVersion {
    /// One line for each kind of program; `--short=false` prints all that is known.
    #[arg(short, long, default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    short: bool,
    /// Print a document instead.
    #[arg(short, long, value_enum)]
    output: Option<Notation>,
}

impl OwnVersion {
    fn print(&self, versions: &Versions) -> anyhow::Result<()> {
        output::text(match self.output {
            Some(notation) => notation.document().write(versions)?,
            None if self.short => versions.short(),
            None => versions.long(),
        });
        Ok(())
    }

    /// Prints the version of this program alone.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let client_version = BuildInfo::own();
        self.print(&Versions { client_version, mesh_version: None, data_plane_version: None })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl VersionCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if !self.remote {
            return self.own.run();
        }
        super::block_on(async {
            let client_version = BuildInfo::own();
            let mut versions =
                Versions { client_version, mesh_version: None, data_plane_version: None };
            // That there is no mesh, or no cluster, is an answer too.
            match self.flags.open().await {
                Ok(cluster) => {
                    if let Err(error) = self.ask(&cluster, &mut versions).await {
                        output::note(format_args!(
                            "Istio is not present in the cluster: {}",
                            chain(&error)
                        ));
                    }
                }
                Err(error) => {
                    output::note(format_args!(
                        "Istio is not present in the cluster: {}",
                        chain(error.as_ref())
                    ));
                }
            }
            self.own.print(&versions)?;
            Ok(ExitCode::SUCCESS)
        })
    }

    async fn ask(&self, cluster: &Cluster, versions: &mut Versions) -> Result<(), ReachError> {
        let namespace = self.flags.system();
        let istiods = reach::istiods(cluster, namespace, self.revision.as_deref()).await?;
        let mut servers = Vec::new();
        for istiod in istiods.iter().filter(|istiod| istiod.ready) {
            let version = reach::ask_istiod(cluster, istiod, "/version").await?;
            servers.push(ServerInfo {
                component: istiod.component.clone(),
                revision: istiod.revision.clone(),
                info: BuildInfo::parse(&version),
            });
        }
        versions.mesh_version = Some(servers);
        let synced = synced(cluster, &istiods).await?;
        let proxies = synced.iter().flat_map(|it| &it.proxies).map(ProxyInfo::from);
        versions.data_plane_version = Some(proxies.collect());
        Ok(())
    }
}
