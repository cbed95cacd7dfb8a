//! `tombolo verify-install` and `tombolo x precheck`: before and after an installation.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use tombolo_install::analyze::message::Level;
use tombolo_install::installed::{self, Report};
use tombolo_install::precheck;

use crate::commands::analyze::FOUND;
use crate::commands::install::{ClusterFlags, OperatorFlags};
use crate::output;

/// Check that an installation is complete and ready.
///
/// With -f, everything that the document installs; without, everything that the cluster has of
/// the revision.
#[derive(Debug, Args)]
pub struct VerifyInstallCommand {
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    operator: OperatorFlags,
}

/// Commands that may change.
#[derive(Debug, Args)]
pub struct ExperimentalCommand {
    #[command(subcommand)]
    command: ExperimentalSubcommand,
}

#[derive(Debug, Subcommand)]
enum ExperimentalSubcommand {
    Precheck(PrecheckCommand),
}

/// Check whether a cluster can be installed into.
#[derive(Debug, Args)]
struct PrecheckCommand {
    #[command(flatten)]
    cluster: ClusterFlags,
    /// The revision that shall be installed.
    #[arg(short, long, default_value = "")]
    revision: String,
    /// Print messages of this level and above.
    #[arg(long, value_parser = crate::commands::analyze::level, default_value = "Warning")]
    output_threshold: Level,
}

impl VerifyInstallCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(async {
            let report = if self.operator.says_something() {
                let operator = self.operator.operator(self.cluster.istio_namespace.as_deref())?;
                let cluster = self.cluster.open().await?;
                installed::of_document(&cluster, &operator).await?
            } else {
                let cluster = self.cluster.open().await?;
                installed::of_revision(&cluster, self.operator.revision().unwrap_or_default())
                    .await?
            };
            Ok(print(&report))
        })
    }
}

/// Prints every object and the verdict, which is also the exit code.
pub fn print(report: &Report) -> ExitCode {
    for checked in &report.objects {
        match &checked.problem {
            None => output::line(format_args!("✔ {} checked successfully", checked.object)),
            Some(problem) => output::line(format_args!("✘ {}: {problem}", checked.object)),
        }
    }
    output::line(format_args!("Checked {} custom resource definitions", report.definitions));
    output::line(format_args!("Checked {} Deployments", report.deployments));
    if report.is_good() {
        output::line("✔ The installation is complete and ready");
        return ExitCode::SUCCESS;
    }
    output::line(if report.objects.is_empty() {
        "✘ Nothing of this revision is installed"
    } else {
        "✘ The installation is incomplete or not ready"
    });
    ExitCode::FAILURE
}

impl ExperimentalCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let ExperimentalSubcommand::Precheck(command) = self.command;
        command.run()
    }
}

impl PrecheckCommand {
    fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(async {
            let cluster = self.cluster.open().await?;
            let found = precheck::check(&cluster, self.cluster.system(), &self.revision).await?;
            for note in &found.notes {
                output::note(note);
            }
            let shown: Vec<_> =
                found.messages.iter().filter(|it| it.level >= self.output_threshold).collect();
            for message in &shown {
                output::line(message);
            }
            if found.messages.iter().any(|it| it.level == Level::Error) {
                output::note("Error: the cluster cannot be installed into as it is");
                return Ok(ExitCode::from(FOUND));
            }
            if shown.is_empty() {
                output::line(
                    "✔ No issues found when checking the cluster. It is safe to install or upgrade!",
                );
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}
