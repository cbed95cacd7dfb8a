//! `tombolo analyze`: mistakes in the configuration of a mesh and of files, as istioctl's.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgAction, Args, ValueEnum};
use tombolo_control::watch::kubeconfig::{self, Loopback};
use tombolo_install::analyze::message::{Level, Message};
use tombolo_install::analyze::report::{self, Filter, Suppression};
use tombolo_install::analyze::world::World;
use tombolo_install::analyze::{ANALYZERS, analyze_by, collect};
use tombolo_install::cluster::Cluster;
use tombolo_runtime::errors::chain;

use crate::commands::install::ClusterFlags;
use crate::output;

/// istioctl's exit code when messages reach the threshold.
pub const FOUND: u8 = 79;

/// Find mistakes in the configuration of a mesh, of all its clusters, and of files.
#[derive(Debug, Args)]
pub struct AnalyzeCommand {
    /// Files to analyze as if they were applied; `-` is standard input.
    files: Vec<PathBuf>,
    #[command(flatten)]
    cluster: ClusterFlags,
    /// Analyze all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// The namespace to analyze; by default the kubeconfig's.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Analyze the live cluster too; false for files only.
    #[arg(short = 'k', long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set)]
    use_kube: bool,
    /// Contexts of the other clusters, instead of those that remote secrets link.
    #[arg(long, value_delimiter = ',')]
    remote_contexts: Vec<String>,
    /// Run only these analyzers.
    #[arg(long)]
    analyzer: Vec<String>,
    /// List the analyzers, and do nothing else.
    #[arg(short = 'L', long)]
    list_analyzers: bool,
    /// Leave messages out: CODE=KIND NAME.NAMESPACE, with `*` for anything.
    #[arg(short = 'S', long)]
    suppress: Vec<String>,
    /// Read what is below directories too.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Fail when there are messages of this level or above.
    #[arg(long, value_parser = level, default_value = "Error")]
    failure_threshold: Level,
    /// Print messages of this level or above.
    #[arg(long, value_parser = level, default_value = "Info")]
    output_threshold: Level,
    #[arg(short, long, value_enum, default_value_t = Form::Log)]
    output: Form,
    /// Analyze the configuration of this revision.
    #[arg(long, default_value = "")]
    revision: String,
    /// The mesh's configuration, instead of the cluster's.
    #[arg(long = "meshConfigFile")]
    mesh_config_file: Option<PathBuf>,
    /// Colour the levels; by default on a terminal.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    color: Option<bool>,
    /// How long reading the clusters may take.
    #[arg(long, default_value = "30s", value_parser = crate::commands::install::seconds)]
    timeout: Duration,
    /// Say what is read.
    #[arg(short, long)]
    verbose: bool,
    /// Accepted as istioctl does: files without Istio's kinds are no error anyway.
    #[arg(long, hide = true)]
    ignore_unknown: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Log,
    Json,
    Yaml,
}

/// Reads the name of a level.
pub fn level(text: &str) -> Result<Level, String> {
    match text.to_ascii_lowercase().as_str() {
        "info" => Ok(Level::Info),
        "warning" | "warn" => Ok(Level::Warning),
        "error" => Ok(Level::Error),
        _ => Err("the levels are Info, Warning and Error".to_owned()),
    }
}

impl AnalyzeCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.list_analyzers {
            for analyzer in ANALYZERS {
                let codes = analyzer.codes.join(", ");
                output::line(format_args!(
                    "* {}:\n    {} ({codes})",
                    analyzer.name, analyzer.about
                ));
            }
            return Ok(ExitCode::SUCCESS);
        }
        for name in &self.analyzer {
            if !ANALYZERS.iter().any(|analyzer| analyzer.name == name) {
                bail!("analyzer {name} is not known; -L lists all of them");
            }
        }
        if !self.use_kube && self.files.is_empty() {
            bail!("nothing to analyze: name files, or leave --use-kube=false out");
        }
        let suppressed = self
            .suppress
            .iter()
            .map(|text| Suppression::parse(text))
            .collect::<Result<Vec<_>, _>>()?;
        let files = collect::files(&self.files, self.recursive)?;
        super::block_on(async {
            let read = tokio::time::timeout(self.timeout, self.world());
            let (mut world, namespace) = read.await.with_context(|| {
                format!(
                    "the clusters were not read within {} s (--timeout)",
                    self.timeout.as_secs()
                )
            })??;
            let places = collect::lay_over(&mut world, files, &namespace);
            let filter = Filter {
                namespace: (!self.all_namespaces).then(|| namespace.clone()),
                suppressed,
                threshold: Level::Info,
            };
            let mut messages = filter.apply(analyze_by(&world, &self.analyzer));
            for message in &mut messages {
                let key = match &message.namespace {
                    Some(namespace) => format!("{}/{namespace}/{}", message.kind, message.name),
                    None => format!("{}/{}", message.kind, message.name),
                };
                message.reference = places.get(&key).cloned().unwrap_or_default();
            }
            self.print(&messages, &namespace)
        })
    }

    /// What is analyzed, and the namespace that is meant.
    async fn world(&self) -> anyhow::Result<(World, String)> {
        let system = self.cluster.system().to_owned();
        let mut world =
            World { system: system.clone(), revision: self.revision.clone(), ..World::default() };
        let mut namespace = self.namespace.clone();
        if self.use_kube {
            let own = self.cluster.open().await?;
            namespace.get_or_insert_with(|| own.client().default_namespace().to_owned());
            (world.mesh, world.networks) = collect::mesh(&own, &system, &self.revision).await?;
            let mut clusters = vec![own.clone()];
            let links = collect::links(&own, &system).await?;
            world.linked = links.iter().map(|link| link.cluster.clone()).collect();
            if self.remote_contexts.is_empty() {
                for link in links {
                    // What the secret holds is data: the same reader as the control plane's.
                    match kubeconfig::client(&link.kubeconfig, Loopback::Allowed).await {
                        Ok(client) => clusters.push(Cluster::from_client(&link.cluster, client)),
                        Err(error) => output::note(format_args!(
                            "cluster {} of secret {} is left out: {}",
                            link.cluster,
                            link.secret,
                            chain(&error)
                        )),
                    }
                }
            }
            for context in &self.remote_contexts {
                clusters.push(self.cluster.open_context(context).await?);
            }
            for (i, cluster) in clusters.iter().enumerate() {
                match collect::objects(cluster, cluster.name()).await {
                    Ok(objects) => {
                        if self.verbose {
                            let count = objects.objects.len();
                            output::note(format_args!(
                                "cluster {}: {count} objects",
                                cluster.name()
                            ));
                        }
                        if !objects.unread.is_empty() {
                            output::note(format_args!(
                                "cluster {}: not allowed to list {}, so they are left out",
                                cluster.name(),
                                objects.unread.join(", ")
                            ));
                        }
                        world.clusters.push(objects);
                    }
                    Err(error) if i == 0 => return Err(error.into()),
                    Err(error) => output::note(format_args!(
                        "cluster {} is left out: {}",
                        cluster.name(),
                        chain(&error)
                    )),
                }
            }
        }
        if let Some(file) = &self.mesh_config_file {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("read {}", file.display()))?;
            world.mesh = serde_saphyr::from_str(&text)
                .with_context(|| format!("{} is not YAML", file.display()))?;
        }
        Ok((world, namespace.unwrap_or_else(|| "default".to_owned())))
    }

    fn print(&self, messages: &[Message], namespace: &str) -> anyhow::Result<ExitCode> {
        let shown: Vec<Message> =
            messages.iter().filter(|it| it.level >= self.output_threshold).cloned().collect();
        let what = if self.all_namespaces {
            "all namespaces".to_owned()
        } else {
            format!("namespace: {namespace}")
        };
        match self.output {
            Form::Json => {
                output::line(serde_json::to_string_pretty(&report::document(&shown))?);
            }
            Form::Yaml => output::text(serde_saphyr::to_string(&report::document(&shown))?),
            Form::Log => {
                let colour = self.color.unwrap_or_else(|| std::io::stdout().is_terminal());
                for message in &shown {
                    output::line(report::line(message, colour));
                }
                if shown.is_empty() {
                    output::note(format_args!(
                        "✔ No validation issues found when analyzing {what}."
                    ));
                }
            }
        }
        if messages.iter().any(|it| it.level >= self.failure_threshold) {
            output::note(format_args!(
                "Error: Analyzers found issues when analyzing {what}.\nSee https://istio.io/latest/docs/reference/config/analysis for what the codes mean."
            ));
            return Ok(ExitCode::from(FOUND));
        }
        Ok(ExitCode::SUCCESS)
    }
}
