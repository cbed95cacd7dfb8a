//! `tombolo lab list|get|export|inspect`: what there is.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use tombolo_lab::control::ClusterState;
use tombolo_lab::directory::ClusterDirectory;
use tombolo_lab::inspect;
use tombolo_lab::lab::Endpoint;
use tombolo_lab::spec::ClusterName;

use crate::commands::lab::settings::{lab, user_kubeconfig};
use crate::output;

/// How a list is printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Get {
    /// Print the names of all clusters.
    Clusters,
    /// Print the names of a cluster's nodes.
    Nodes {
        /// The cluster.
        #[arg(short, long, default_value = "kind", env = "KIND_CLUSTER_NAME")]
        name: ClusterName,
        /// The nodes of all clusters.
        #[arg(short = 'A', long)]
        all_clusters: bool,
    },
    /// Print a kubeconfig for a cluster.
    Kubeconfig {
        /// The cluster.
        #[arg(short, long, default_value = "kind", env = "KIND_CLUSTER_NAME")]
        name: ClusterName,
        /// Use the node's address on the bridge, as other clusters reach it.
        #[arg(long)]
        internal: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum Export {
    /// Merge a cluster's context into the kubeconfig.
    Kubeconfig {
        /// The cluster.
        #[arg(short, long, default_value = "kind", env = "KIND_CLUSTER_NAME")]
        name: ClusterName,
        /// The kubeconfig [default: as kubectl finds it].
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
        /// Use the node's address on the bridge, as other clusters reach it.
        #[arg(long)]
        internal: bool,
    },
    /// Copy the logs of a cluster's processes to a folder.
    Logs {
        /// The cluster.
        #[arg(short, long, default_value = "kind", env = "KIND_CLUSTER_NAME")]
        name: ClusterName,
        /// The folder [default: a new one in the folder for temporary files].
        folder: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// Print the field at this path, such as {{.NetworkSettings.Networks.kind.IPAddress}}.
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// The only other format is `json`, which is also what no format prints.
    #[arg(short, long, value_enum)]
    output: Option<JsonOnly>,
    /// The nodes.
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum JsonOnly {
    Json,
}

fn endpoint(internal: bool) -> Endpoint {
    if internal { Endpoint::Internal } else { Endpoint::Loopback }
}

impl Get {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let lab = lab()?;
        match self {
            Self::Clusters => {
                let clusters = lab.clusters().await?;
                if clusters.is_empty() {
                    output::note("No kind clusters found.");
                }
                clusters.iter().for_each(|cluster| output::line(cluster.name()));
            }
            Self::Nodes { name, all_clusters } => {
                let clusters = lab.clusters().await?;
                let chosen = clusters.iter().filter(|c| all_clusters || *c.name() == name);
                let nodes: Vec<_> = chosen.flat_map(|c| &c.nodes).map(|n| &n.name).collect();
                if nodes.is_empty() {
                    output::note(format_args!("No kind nodes found for cluster \"{name}\"."));
                }
                nodes.iter().for_each(output::line);
            }
            Self::Kubeconfig { name, internal } => {
                output::text(lab.kubeconfig(&name, endpoint(internal)).await?);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Export {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let lab = lab()?;
        match self {
            Self::Kubeconfig { name, kubeconfig, internal } => {
                let files = user_kubeconfig(kubeconfig)?;
                let file = files.target().context("no kubeconfig to write to")?;
                lab.export_kubeconfig(&name, file, endpoint(internal)).await?;
                output::note(format_args!("Set kubectl context to \"{}\"", name.context()));
            }
            Self::Logs { name, folder } => {
                let cluster = lab.cluster(&name).await?;
                let folder = match folder {
                    Some(folder) => folder,
                    None => {
                        std::env::temp_dir().join(format!("{name}-logs-{}", std::process::id()))
                    }
                };
                copy_logs(&cluster, &folder)?;
                output::note(format_args!("Exported logs for cluster \"{name}\" to:"));
                output::line(folder.display());
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Copies the cluster's logs, and what each node keeps of its pods' logs.
fn copy_logs(cluster: &ClusterState, folder: &Path) -> anyhow::Result<()> {
    let from = ClusterDirectory::new(cluster.folder.clone());
    copy_folder(&from.logs(), folder)?;
    for node in &cluster.nodes {
        let pods = from.node(&node.name).join("logs");
        if pods.exists() {
            copy_folder(&pods, &folder.join(&node.name))?;
        }
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), &target)
                .with_context(|| format!("copy {} to {}", entry.path().display(), to.display()))?;
        }
    }
    Ok(())
}

impl Inspect {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let clusters = lab()?.clusters().await?;
        let mut documents = Vec::new();
        for name in &self.nodes {
            let Some(document) = inspect::node(&clusters, name) else {
                let known = clusters.iter().flat_map(|c| &c.nodes).map(|n| n.name.as_str());
                let known = known.collect::<Vec<_>>().join(", ");
                bail!("there is no node `{name}`; there are: {known}");
            };
            documents.push(document);
        }
        match self.format {
            Some(template) => {
                for document in &documents {
                    output::line(inspect::render(&template, document)?);
                }
            }
            None => output::line(serde_json::to_string_pretty(&documents)?),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints every cluster with its nodes and processes.
pub async fn list(format: Format) -> anyhow::Result<ExitCode> {
    let clusters = lab()?.clusters().await?;
    match format {
        Format::Json => output::line(serde_json::to_string_pretty(&clusters)?),
        Format::Table => output::text(table(&clusters)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn table(clusters: &[ClusterState]) -> anyhow::Result<String> {
    let mut table = tabwriter::TabWriter::new(Vec::new()).padding(3);
    writeln!(table, "CLUSTER\tAPI\tSERVER\tNODES\tPROCESSES")?;
    for cluster in clusters {
        let nodes: Vec<_> =
            cluster.nodes.iter().map(|n| format!("{} {}", n.name, n.address)).collect();
        let process = |p: &tombolo_lab::control::ProcessState| match (p.pid, p.restarts) {
            (None, _) => format!("{} (down)", p.name),
            (_, 0) => p.name.clone(),
            (_, restarts) => format!("{} ({restarts} restarts)", p.name),
        };
        let processes: Vec<_> = cluster.processes.iter().map(process).collect();
        writeln!(
            table,
            "{}\t{}\t{}\t{}\t{}",
            cluster.name(),
            cluster.api_server(),
            cluster.server,
            nodes.join(", "),
            processes.join(", ")
        )?;
    }
    Ok(String::from_utf8(table.into_inner()?)?)
}
