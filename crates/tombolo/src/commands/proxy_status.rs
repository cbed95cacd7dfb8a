//! `tombolo proxy-status` and `tombolo remote-clusters`: what control planes know of proxies and
//! clusters.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use tombolo_install::cluster::Cluster;
use tombolo_install::exec::ExecError;
use tombolo_install::inspect::reach::{self, Istiod, ReachError};
use tombolo_install::inspect::remote_clusters::{self, Followed};
use tombolo_install::inspect::status::{self, Synced};
use tombolo_install::inspect::{compare, version};

use super::reporting::{Form, Notation, ReportFlags, dump, dump_of, read_file};
use crate::output;

/// Show how far each proxy is, or what a proxy lacks of what it should have.
#[derive(Debug, Args)]
#[command(visible_alias = "ps")]
pub struct ProxyStatus {
    /// A pod as [TYPE/]NAME[.NAMESPACE], whose configuration is compared with what its control
    /// plane would send.
    #[arg(value_name = "POD")]
    pod: Option<String>,
    #[command(flatten)]
    flags: ReportFlags,
    /// The revision of the control plane.
    #[arg(short, long)]
    revision: Option<String>,
    /// 1 shows the state of every type.
    #[arg(short, long, default_value_t = 0, num_args = 0..=1, default_missing_value = "1",
        value_parser = clap::value_parser!(u8).range(0..=1))]
    verbosity: u8,
    /// A file with the proxy's dump, instead of asking the proxy; `-` is standard input.
    #[arg(long, value_name = "FILE", requires = "pod")]
    file: Option<String>,
    /// The port of the proxy's admin server.
    #[arg(long, default_value_t = reach::ADMIN_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    proxy_admin_port: u16,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Form::Short, conflicts_with = "pod")]
    output: Form,
}

/// List the clusters that each control plane follows.
#[derive(Debug, Args)]
pub struct RemoteClusters {
    #[command(flatten)]
    flags: ReportFlags,
    /// The revision of the control plane.
    #[arg(short, long)]
    revision: Option<String>,
    /// Print a document instead of the table.
    #[arg(short, long, value_enum)]
    output: Option<Notation>,
}

/// What each control plane knows of its proxies.
pub async fn synced(cluster: &Cluster, istiods: &[Istiod]) -> Result<Vec<Synced>, ReachError> {
    let mut all = Vec::new();
    for istiod in istiods {
        let version = reach::ask_istiod(cluster, istiod, "/version").await?;
        all.push(Synced {
            istiod: istiod.pod.clone(),
            version: version::BuildInfo::parse(&version).version,
            proxies: reach::read_istiod(cluster, istiod, "/debug/syncz").await?,
        });
    }
    Ok(all)
}

impl ProxyStatus {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(async {
            let cluster = self.flags.open().await?;
            let namespace = self.flags.system();
            let istiods = reach::istiods(&cluster, namespace, self.revision.as_deref()).await?;
            if let Some(pod) = &self.pod {
                self.compare(&cluster, &istiods, pod).await?;
                return Ok(ExitCode::SUCCESS);
            }
            let all = synced(&cluster, &istiods).await?;
            let namespace = self.flags.namespace.as_deref().unwrap_or_default();
            match (self.output.document(), self.verbosity) {
                (Some(document), _) => {
                    for one in status::documents(&all, namespace) {
                        output::text(document.write(&one)?);
                    }
                }
                (None, 0) => output::text(status::table(&all, namespace)),
                (None, _) => {
                    let now = jiff::Timestamp::now();
                    output::text(status::verbose_table(&all, namespace, now));
                }
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    async fn compare(
        &self,
        cluster: &Cluster,
        istiods: &[Istiod],
        pod: &str,
    ) -> anyhow::Result<()> {
        let pod = reach::pod(cluster, pod, self.flags.namespace(cluster)).await?;
        let proxy = match &self.file {
            Some(file) => dump(&read_file(file)?)?,
            None => dump_of(cluster, &pod, self.proxy_admin_port, "").await?,
        };
        let path = format!("/debug/config_dump?proxyID={pod}");
        let mut refusals = Vec::new();
        for istiod in istiods {
            match reach::ask_istiod(cluster, istiod, &path).await {
                Ok(text) => {
                    output::text(compare::report(&dump(&text)?, &proxy)?);
                    return Ok(());
                }
                // Each proxy is connected to one of them.
                Err(ReachError::Exec(ExecError::Failed { message, .. })) => {
                    refusals.push(format!("{}: {message}", istiod.pod));
                }
                Err(error) => return Err(error.into()),
            }
        }
        bail!("no control plane has the configuration of {pod}:\n  {}", refusals.join("\n  "))
    }
}

impl RemoteClusters {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(async {
            let cluster = self.flags.open().await?;
            let namespace = self.flags.system();
            let istiods = reach::istiods(&cluster, namespace, self.revision.as_deref()).await?;
            let mut all = Vec::new();
            for istiod in istiods {
                let clusters = reach::read_istiod(&cluster, &istiod, "/debug/clusterz").await?;
                all.push(Followed { istiod: istiod.pod, revision: istiod.revision, clusters });
            }
            output::text(match self.output {
                Some(notation) => notation.document().write(&all)?,
                None => remote_clusters::table(all),
            });
            Ok(ExitCode::SUCCESS)
        })
    }
}
