//! `tombolo install|uninstall|manifest generate|create-remote-secret|eastwest-gateway`: istioctl's
//! commands on one cluster, with its flags.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use tombolo_install::cluster::Cluster;
use tombolo_install::eastwest::EastWest;
use tombolo_install::install;
use tombolo_install::object::write_manifest;
use tombolo_install::operator::{Operator, Source};
use tombolo_install::progress::Progress;
use tombolo_install::remote_secret::{self, Request, Type};
use tombolo_install::render::{READER, render};

use crate::output;

/// Which cluster a command talks to.
#[derive(Debug, Args)]
pub struct ClusterFlags {
    /// The kubeconfig file; by default the one kubectl uses.
    #[arg(short = 'c', long)]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; by default the current one.
    #[arg(long)]
    context: Option<String>,
    /// The control plane's namespace.
    #[arg(short, long = "istioNamespace", value_name = "NAMESPACE")]
    pub istio_namespace: Option<String>,
    #[command(flatten)]
    logging: super::istioctl::LoggingFlags,
}

impl ClusterFlags {
    /// Opens the cluster; in messages it is called by its context.
    pub async fn open(&self) -> anyhow::Result<Cluster> {
        self.logging.start();
        let name = self.context.clone().unwrap_or_else(|| "of the current context".to_owned());
        Ok(Cluster::open(&name, self.kubeconfig.as_deref(), self.context.as_deref()).await?)
    }
}

/// istioctl's `-n`, which says nothing to commands about whole installations.
#[derive(Debug, Args)]
pub struct UnusedNamespace {
    /// Taken as istioctl does; the control plane's namespace is --istioNamespace.
    #[arg(short, long, hide = true)]
    namespace: Option<String>,
}

impl UnusedNamespace {
    fn say(&self) {
        if let Some(namespace) = &self.namespace {
            output::note(format_args!(
                "--namespace={namespace} has no effect here; --istioNamespace is the control plane's namespace"
            ));
        }
    }
}

/// What an installation is made from.
#[derive(Debug, Args)]
pub struct OperatorFlags {
    /// An IstioOperator document; `-` is standard input. May be given several times.
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<String>,
    /// Overrides one path of the document's spec, such as values.global.network=network1.
    #[arg(short, long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// The control plane's revision.
    #[arg(short, long)]
    revision: Option<String>,
    /// Go on although the document sets what is not supported.
    #[arg(long)]
    force: bool,
}

impl OperatorFlags {
    /// The merged document. `namespace` is that of the control plane where no `--set` says so.
    fn operator(&self, namespace: Option<&str>) -> anyhow::Result<Operator> {
        let mut sources = Vec::new();
        for name in &self.filename {
            let (name, text) = if name == "-" {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("read standard input")?;
                ("standard input".to_owned(), text)
            } else {
                (
                    name.clone(),
                    std::fs::read_to_string(name).with_context(|| format!("read {name}"))?,
                )
            };
            sources.push(Source { name, text });
        }
        let mut sets: Vec<_> = namespace
            .map(|namespace| format!("values.global.istioNamespace={namespace}"))
            .into_iter()
            .collect();
        sets.extend(self.set.iter().cloned());
        sets.extend(self.revision.iter().map(|revision| format!("revision={revision}")));
        let operator = Operator::merge(&sources, &sets)?;
        if !operator.unsupported.is_empty() {
            let list = operator.unsupported.join("\n  ");
            if !self.force {
                bail!(
                    "these settings are not supported and would have no effect:\n  {list}\nremove them, or go on without them by --force"
                );
            }
            output::note(format_args!("without effect, because not supported:\n  {list}"));
        }
        Ok(operator)
    }
}

/// Install a control plane or a gateway from an IstioOperator document.
#[derive(Debug, Args)]
pub struct InstallCommand {
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    operator: OperatorFlags,
    #[command(flatten)]
    namespace: UnusedNamespace,
    /// Do not ask.
    #[arg(short = 'y', long)]
    skip_confirmation: bool,
    /// Seconds to wait until each component is ready.
    #[arg(long, default_value = "300s", value_parser = seconds)]
    readiness_timeout: Duration,
    /// Say what would be installed, and install nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Remove what `install` installed.
#[derive(Debug, Args)]
pub struct UninstallCommand {
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    operator: OperatorFlags,
    #[command(flatten)]
    namespace: UnusedNamespace,
    /// Everything, Istio's definitions and the objects of those kinds included.
    #[arg(long)]
    purge: bool,
    /// Do not ask.
    #[arg(short = 'y', long)]
    skip_confirmation: bool,
}

/// Print what `install` would apply.
#[derive(Debug, Args)]
pub struct ManifestCommand {
    #[command(subcommand)]
    command: ManifestSubcommand,
}

#[derive(Debug, Subcommand)]
enum ManifestSubcommand {
    /// Print the objects as YAML, in the order of installation.
    Generate {
        #[command(flatten)]
        operator: OperatorFlags,
        #[command(flatten)]
        cluster: Box<ClusterFlags>,
        #[command(flatten)]
        namespace: UnusedNamespace,
    },
}

/// Print the secret by which another cluster's control plane reads this cluster.
#[derive(Debug, Args)]
pub struct RemoteSecretCommand {
    #[command(flatten)]
    cluster: ClusterFlags,
    /// The cluster's name in the mesh; by default the UID of its kube-system namespace.
    #[arg(long)]
    name: Option<String>,
    /// What the secret is for.
    #[arg(long, value_enum, default_value_t = SecretType::Remote)]
    r#type: SecretType,
    /// The API server's URL as the other cluster reaches it; by default the kubeconfig's.
    #[arg(long)]
    server: Option<String>,
    /// Where the service account lives and the secret will [default: the control plane's, which
    /// is istio-system].
    #[arg(short, long)]
    namespace: Option<String>,
    /// The account whose token is handed out.
    #[arg(long)]
    service_account: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SecretType {
    Remote,
    Config,
}

/// Print the east-west gateway's IstioOperator document.
#[derive(Debug, Args)]
pub struct EastWestCommand {
    /// The network behind the gateway.
    #[arg(long, required_unless_present = "single_cluster")]
    network: Option<String>,
    /// Accepted as the script does; the document does not depend on it.
    #[arg(long)]
    mesh: Option<String>,
    /// Accepted as the script does; the document does not depend on it.
    #[arg(long)]
    cluster: Option<String>,
    /// The control plane's revision.
    #[arg(long)]
    revision: Option<String>,
    /// A gateway without a network of its own.
    #[arg(long)]
    single_cluster: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a duration; write it like 300s or 5m"))?;
    match unit {
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err(format!("`{text}` is not a duration; write it like 300s or 5m")),
    }
}

/// Asks on standard error and reads the answer from standard input.
fn confirmed(question: &str) -> anyhow::Result<bool> {
    output::note(format_args!("{question} (y/N)"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

impl InstallCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(async {
            self.namespace.say();
            let operator = self.operator.operator(self.cluster.istio_namespace.as_deref())?;
            if self.dry_run {
                for object in render(&operator).iter().flat_map(|component| &component.objects) {
                    output::line(object.reference());
                }
                return Ok(ExitCode::SUCCESS);
            }
            let question = format!(
                "This will install Tombolo {} profile \"{}\" into the cluster. Proceed?",
                tombolo_install::operator::VERSION,
                operator.profile
            );
            if !self.skip_confirmation && !confirmed(&question)? {
                bail!("not confirmed, nothing was installed");
            }
            let cluster = self.cluster.open().await?;
            let progress = Progress::new();
            let installed =
                install::install(&cluster, &operator, self.readiness_timeout, &progress).await?;
            for object in &installed.pruned {
                output::line(format_args!("- Pruned {object}"));
            }
            for component in &installed.components {
                output::line(format_args!("✔ {component} installed"));
            }
            output::line("✔ Installation complete");
            Ok(ExitCode::SUCCESS)
        })
    }
}

impl UninstallCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(async {
            self.namespace.say();
            if !self.purge && self.operator.filename.is_empty() && self.operator.revision.is_none()
            {
                bail!(
                    "say what to remove: --purge for everything, -f FILE or --revision for one installation"
                );
            }
            if !self.skip_confirmation
                && !confirmed("This will remove the installation from the cluster. Proceed?")?
            {
                bail!("not confirmed, nothing was removed");
            }
            let cluster = self.cluster.open().await?;
            let namespace = self.cluster.istio_namespace.as_deref();
            let operator = if self.purge { None } else { Some(self.operator.operator(namespace)?) };
            for object in install::uninstall(&cluster, operator.as_ref(), self.purge).await? {
                output::line(format_args!("  Removed {object}"));
            }
            output::line("✔ Uninstall complete");
            Ok(ExitCode::SUCCESS)
        })
    }
}

impl ManifestCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let ManifestSubcommand::Generate { operator, cluster, namespace } = self.command;
        namespace.say();
        cluster.logging.start();
        if cluster.context.is_some() || cluster.kubeconfig.is_some() {
            output::note("no cluster is asked: what is printed is the same for all");
        }
        for component in render(&operator.operator(cluster.istio_namespace.as_deref())?) {
            output::text(write_manifest(&component.objects)?);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl RemoteSecretCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(async {
            let cluster = self.cluster.open().await?;
            let name = match self.name {
                Some(name) => name,
                None => remote_secret::default_name(&cluster).await?,
            };
            let (kind, account) = match self.r#type {
                SecretType::Remote => (Type::Remote, READER),
                SecretType::Config => (Type::Config, "istiod"),
            };
            let request = Request {
                name,
                namespace: self
                    .namespace
                    .or(self.cluster.istio_namespace)
                    .unwrap_or_else(|| "istio-system".to_owned()),
                service_account: self.service_account.unwrap_or_else(|| account.to_owned()),
                server: self
                    .server
                    .unwrap_or_else(|| cluster.server().trim_end_matches('/').to_owned()),
                kind,
            };
            let secret = remote_secret::create(&cluster, &request).await?;
            output::line("# This file is autogenerated, do not edit.");
            output::text(write_manifest(&[secret])?);
            Ok(ExitCode::SUCCESS)
        })
    }
}

impl EastWestCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let network = if self.single_cluster { None } else { self.network };
        output::text(EastWest { network, revision: self.revision }.document());
        Ok(ExitCode::SUCCESS)
    }
}
