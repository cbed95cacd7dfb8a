//! `tombolo install|uninstall|manifest`: istioctl's commands on one cluster, with its flags.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use tombolo_install::cluster::Cluster;
use tombolo_install::install::{self, Extent};
use tombolo_install::installed;
use tombolo_install::object::write_manifest;
use tombolo_install::operator::{Operator, Source};
use tombolo_install::progress::Progress;
use tombolo_install::render::{Component, overlay_problems, render};

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

    /// The control plane's namespace.
    pub fn system(&self) -> &str {
        self.istio_namespace.as_deref().unwrap_or("istio-system")
    }

    /// Opens the cluster of another context of the same kubeconfig.
    pub async fn open_context(&self, context: &str) -> anyhow::Result<Cluster> {
        Ok(Cluster::open(context, self.kubeconfig.as_deref(), Some(context)).await?)
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
    /// Accepted as istioctl does; what is installed is built in.
    #[arg(short = 'd', long, visible_alias = "charts", value_name = "FOLDER", hide = true)]
    manifests: Option<PathBuf>,
    #[command(flatten)]
    namespace: UnusedNamespace,
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
    /// The installation that files and flags describe, once what has no effect was said.
    pub fn operator(&self, namespace: Option<&str>) -> anyhow::Result<Operator> {
        self.namespace.say();
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
        if let Some(folder) = &self.manifests {
            bail!(
                "--manifests {}: what is installed is built in and not read from charts; leave the flag out",
                folder.display()
            );
        }
        // Where nothing is said, the flag decides; documents and --set say more.
        if let Some(namespace) = namespace {
            let text = format!(
                "kind: IstioOperator\nspec: {{values: {{global: {{istioNamespace: {namespace:?}}}}}}}\n"
            );
            sources.insert(0, Source { name: "--istioNamespace".to_owned(), text });
        }
        let mut sets = self.set.clone();
        sets.extend(self.revision.iter().map(|revision| format!("revision={revision}")));
        let operator = Operator::merge(&sources, &sets)?;
        self.complain(&operator)?;
        Ok(operator)
    }

    /// Says what has no effect; fails where that matters.
    fn complain(&self, operator: &Operator) -> anyhow::Result<()> {
        if !operator.harmless.is_empty() {
            let list = operator.harmless.join("\n  ");
            output::note(format_args!("without effect, which is harmless:\n  {list}"));
        }
        let problems: Vec<String> =
            overlay_problems(operator).iter().map(ToString::to_string).collect();
        if !problems.is_empty() {
            bail!("these k8s.overlays cannot be applied:\n  {}", problems.join("\n  "));
        }
        if operator.unsupported.is_empty() {
            return Ok(());
        }
        let list = operator.unsupported.join("\n  ");
        if !self.force {
            bail!(
                "these settings are not supported and would have no effect:\n  {list}\nremove them, or go on without them by --force"
            );
        }
        output::note(format_args!("without effect, because not supported:\n  {list}"));
        Ok(())
    }

    /// Whether anything says what the installation is.
    pub fn says_something(&self) -> bool {
        !self.filename.is_empty() || !self.set.is_empty()
    }

    /// The revision that the flag names.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }
}

/// Install a control plane or a gateway from an IstioOperator document.
#[derive(Debug, Args)]
pub struct InstallCommand {
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    operator: OperatorFlags,
    /// Do not ask.
    #[arg(short = 'y', long)]
    skip_confirmation: bool,
    /// Seconds to wait until each component is ready.
    #[arg(long, default_value = "300s", value_parser = seconds)]
    readiness_timeout: Duration,
    /// Say what would be installed, and install nothing.
    #[arg(long)]
    dry_run: bool,
    /// Check afterwards that everything is there and ready, as verify-install does.
    #[arg(long)]
    verify: bool,
}

/// Remove what `install` installed.
#[derive(Debug, Args)]
pub struct UninstallCommand {
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    operator: OperatorFlags,
    /// Everything, Istio's definitions and the objects of those kinds included.
    #[arg(long)]
    purge: bool,
    /// Do not ask.
    #[arg(short = 'y', long)]
    skip_confirmation: bool,
    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
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
    Generate(Box<GenerateCommand>),
    /// The same as `install`.
    Install(Box<InstallCommand>),
}

#[derive(Debug, Args)]
struct GenerateCommand {
    #[command(flatten)]
    operator: OperatorFlags,
    #[command(flatten)]
    cluster: ClusterFlags,
    /// Write a folder of files, one per component, instead of standard output.
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Only these components: Base, Pilot, IngressGateways, EgressGateways.
    #[arg(long, value_delimiter = ',')]
    component: Vec<String>,
    /// Accepted as istioctl does; nothing is written to a cluster anyway.
    #[arg(long, hide = true)]
    dry_run: bool,
}

/// Reads a duration: `300s`, `5m`, `1h`, or seconds.
///
/// # Errors
/// When it is none.
pub fn seconds(text: &str) -> Result<Duration, String> {
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
            if self.verify {
                let report = installed::of_document(&cluster, &operator).await?;
                return Ok(super::verify_install::print(&report));
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

impl UninstallCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(async {
            let by_document = self.operator.says_something();
            if !by_document {
                self.operator.namespace.say();
            }
            let revision = self.operator.revision().map(str::to_owned);
            if !self.purge && !by_document && revision.is_none() {
                bail!(
                    "say what to remove: --purge for everything, -f FILE or --revision for one installation"
                );
            }
            // A bad document is refused before anything is asked or removed.
            let namespace = self.cluster.istio_namespace.as_deref();
            let operator = by_document.then(|| self.operator.operator(namespace)).transpose()?;
            let extent = match (&operator, &revision) {
                _ if self.purge => Extent::Everything,
                (Some(operator), _) => Extent::Installation(operator),
                (None, revision) => Extent::Revision(revision.as_deref().unwrap_or_default()),
            };
            let cluster = self.cluster.open().await?;
            let objects = install::removable(&cluster, extent).await?;
            if objects.is_empty() {
                output::line("nothing is installed that this would remove");
                return Ok(ExitCode::SUCCESS);
            }
            if self.dry_run {
                for object in &objects {
                    output::line(format_args!("  Would remove {}", object.reference()));
                }
                return Ok(ExitCode::SUCCESS);
            }
            let question = format!("This will remove {} objects. Proceed?", objects.len());
            if !self.skip_confirmation && !confirmed(&question)? {
                bail!("not confirmed, nothing was removed");
            }
            for object in install::uninstall(&cluster, extent).await? {
                output::line(format_args!("  Removed {object}"));
            }
            output::line("✔ Uninstall complete");
            Ok(ExitCode::SUCCESS)
        })
    }
}

impl ManifestCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            ManifestSubcommand::Install(command) => command.run(),
            ManifestSubcommand::Generate(command) => command.run(),
        }
    }
}

impl GenerateCommand {
    fn run(self) -> anyhow::Result<ExitCode> {
        self.cluster.logging.start();
        if self.cluster.context.is_some() || self.cluster.kubeconfig.is_some() {
            output::note("no cluster is asked: what is printed is the same for all");
        }
        let mut components =
            render(&self.operator.operator(self.cluster.istio_namespace.as_deref())?);
        for name in &self.component {
            if !["Base", "Pilot", "IngressGateways", "EgressGateways"].contains(&name.as_str()) {
                bail!(
                    "component {name} is not known; the components are Base, Pilot, IngressGateways and EgressGateways"
                );
            }
        }
        if !self.component.is_empty() {
            components.retain(|it| self.component.iter().any(|name| name == it.name));
        }
        match &self.output {
            Some(folder) => write_folder(folder, &components)?,
            None => {
                for component in &components {
                    output::text(write_manifest(&component.objects)?);
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// One file per component, each in the folder of what must be installed before it.
fn write_folder(folder: &Path, components: &[Component]) -> anyhow::Result<()> {
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    for component in components {
        let place = match component.name {
            "Base" => folder.join("Base"),
            "Pilot" => folder.join("Base/Pilot"),
            name => folder.join("Base/Pilot").join(name),
        };
        let file = place.join(format!("{}.yaml", component.name));
        let text = write_manifest(&component.objects)?;
        match files.iter_mut().find(|(known, _)| *known == file) {
            Some((_, known)) => known.push_str(&text),
            None => files.push((file, text)),
        }
    }
    for (file, text) in files {
        let place = file.parent().unwrap_or(folder);
        std::fs::create_dir_all(place).with_context(|| format!("make {}", place.display()))?;
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}
