//! What istioctl's reporting commands have in common: which cluster, which namespaces, which form.

use std::io::Read as _;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::Value;
use tombolo_install::cluster::Cluster;
use tombolo_install::inspect::dump::{Document, Dump};
use tombolo_install::inspect::reach::{self, PodName};
use tombolo_xds::json::{Names, renamed};

use super::install::ClusterFlags;

/// Where to ask.
#[derive(Debug, Args)]
pub struct ReportFlags {
    #[command(flatten)]
    cluster: ClusterFlags,
    /// The namespace of pods that are named without one, and of those that are listed.
    #[arg(short, long)]
    pub namespace: Option<String>,
}

impl ReportFlags {
    pub async fn open(&self) -> anyhow::Result<Cluster> {
        self.cluster.open().await
    }

    /// The namespace of the control plane.
    pub fn system(&self) -> &str {
        self.cluster.system()
    }

    /// The namespace in which names without one are looked up.
    pub fn namespace<'a>(&'a self, cluster: &'a Cluster) -> &'a str {
        match self.namespace.as_deref() {
            None | Some("") => reach::default_namespace(cluster),
            Some(namespace) => namespace,
        }
    }
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    Json,
    Yaml,
    /// A table.
    #[value(alias = "table")]
    Short,
}

impl Form {
    /// The kind of document; none for tables.
    pub fn document(self) -> Option<Document> {
        match self {
            Self::Json => Some(Document::Json),
            Self::Yaml => Some(Document::Yaml),
            Self::Short => None,
        }
    }
}

/// A document in one of two notations, where there is also another way to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Notation {
    Json,
    Yaml,
}

impl Notation {
    pub fn document(self) -> Document {
        match self {
            Self::Json => Document::Json,
            Self::Yaml => Document::Yaml,
        }
    }
}

/// A pod, or a file that holds what its proxy says.
#[derive(Debug, Args)]
pub struct Source {
    /// A pod as [TYPE/]NAME[.NAMESPACE], for example deploy/sleep.sample.
    #[arg(value_name = "POD", required_unless_present = "file", conflicts_with = "file")]
    pod: Option<String>,
    /// A file with the proxy's dump, as its admin server prints it; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
}

impl Source {
    /// The text of the file, or the answer of the pod's proxy to `GET path`.
    pub async fn text(&self, flags: &ReportFlags, port: u16, path: &str) -> anyhow::Result<String> {
        match (&self.file, &self.pod) {
            (Some(file), _) => read_file(file),
            (None, Some(pod)) => {
                let cluster = flags.open().await?;
                let pod = reach::pod(&cluster, pod, flags.namespace(&cluster)).await?;
                Ok(reach::ask_proxy(&cluster, &pod, port, "GET", path).await?)
            }
            (None, None) => anyhow::bail!("name a pod, or a file by --file"),
        }
    }

    /// The configuration dump, of which the proxy is asked only for what `query` says.
    pub async fn dump(&self, flags: &ReportFlags, port: u16, query: &str) -> anyhow::Result<Dump> {
        let text = self.text(flags, port, &format!("config_dump{query}")).await?;
        dump(&text)
    }
}

/// Reads a file; `-` is standard input.
pub fn read_file(name: &str) -> anyhow::Result<String> {
    if name == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(name).with_context(|| format!("read {name}"))
}

/// Reads a document of an admin server as the message it is, whichever way its fields are named.
pub fn message(kind: &str, text: &str) -> anyhow::Result<Value> {
    let document = serde_json::from_str(text).context("read the dump as JSON")?;
    Ok(renamed(kind, document, Names::Camel))
}

/// Reads a configuration dump.
pub fn dump(text: &str) -> anyhow::Result<Dump> {
    Ok(Dump::new(message("envoy.admin.v3.ConfigDump", text)?)?)
}

/// Asks the proxy of a pod for its configuration dump.
pub async fn dump_of(
    cluster: &Cluster,
    pod: &PodName,
    port: u16,
    query: &str,
) -> anyhow::Result<Dump> {
    let path = format!("config_dump{query}");
    dump(&reach::ask_proxy(cluster, pod, port, "GET", &path).await?)
}
