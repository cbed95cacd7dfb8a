//! `tombolo lab create|delete`, and the same as `kind` prints it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tombolo_lab::kind_config;
use tombolo_lab::lab::{CreateOptions, LabError, Progress, Step};
use tombolo_lab::spec::{AddressRange, ApiServerKind, ClusterName, ClusterSpec};

use crate::commands::lab::settings::{lab, user_kubeconfig};
use crate::output;

/// The name of a cluster that nobody named, as in kind.
const DEFAULT_NAME: &str = "kind";

#[derive(Debug, Args)]
pub struct Create {
    /// kind's own Cluster document; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The cluster's name, in place of the file's.
    #[arg(short, long, env = "KIND_CLUSTER_NAME")]
    name: Option<ClusterName>,
    /// The kubeconfig that gets the cluster's context [default: as kubectl finds it].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Wait this long for the nodes to be ready, such as 60s or 5m.
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "DURATION")]
    wait: Duration,
    /// Keep a cluster that does not come up, for a look at its logs.
    #[arg(long)]
    retain: bool,
    /// Which program serves the API: `embedded`, or `kubernetes` for the real one.
    #[arg(long, env = "TOMBOLO_LAB_API_SERVER", default_value = "embedded")]
    api_server: ApiServerKind,
    /// Addresses for load balancers, FIRST-LAST or a CIDR in 172.18.0.0/16.
    #[arg(long, value_name = "RANGE")]
    load_balancer_pool: Option<AddressRange>,
    /// A node image, which lab clusters do not have.
    #[arg(long, hide = true)]
    image: Option<String>,
}

impl Create {
    fn spec(&self) -> anyhow::Result<ClusterSpec> {
        let mut spec = match &self.config {
            Some(file) if file.as_os_str() == "-" => {
                let text =
                    std::io::read_to_string(std::io::stdin()).context("read standard input")?;
                kind_config::parse("-", &text)?
            }
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("read {}", file.display()))?;
                kind_config::parse(&file.display().to_string(), &text)?
            }
            None => ClusterSpec::new(DEFAULT_NAME.parse()?),
        };
        if let Some(name) = &self.name {
            spec.name = name.clone();
        }
        spec.api_server = self.api_server;
        spec.load_balancer_pool = self.load_balancer_pool;
        Ok(spec)
    }
}

/// Creates a cluster and reports as kind does, or, when `quiet`, not at all.
pub async fn create(command: Create, quiet: bool) -> anyhow::Result<ExitCode> {
    let spec = command.spec()?;
    let files = user_kubeconfig(command.kubeconfig.clone())?;
    let options = CreateOptions {
        kubeconfig: files.target().map(PathBuf::from),
        wait: command.wait,
        retain: command.retain,
    };
    let tell = |text: String| {
        if !quiet {
            output::note(text);
        }
    };
    tell(format!("Creating cluster \"{}\" ...", spec.name));
    if command.image.is_some() {
        tell("note: lab clusters have no node image; --image changes nothing".to_owned());
    }
    lab()?
        .create(&spec, &options, &|progress| match progress {
            Progress::Note(text) => tell(format!("note: {text}")),
            Progress::Begin(step) => tell(format!(" • {}  ...", title(step, &command))),
            Progress::Done(step) => tell(format!(" ✓ {}", title(step, &command))),
        })
        .await?;
    let context = spec.name.context();
    tell(format!("Set kubectl context to \"{context}\""));
    tell(format!("You can now use your cluster with:\n\nkubectl cluster-info --context {context}"));
    Ok(ExitCode::SUCCESS)
}

fn title(step: Step, command: &Create) -> String {
    match step {
        Step::Nodes => "Preparing nodes 📦".to_owned(),
        Step::ControlPlane => "Starting control-plane 🕹️".to_owned(),
        Step::Configuration => "Writing configuration 📜".to_owned(),
        Step::Ready => format!("Waiting ≤ {:?} for control-plane = Ready ⏳", command.wait),
    }
}

/// Deletes a cluster; one that does not exist is no error, as in kind.
pub async fn delete(name: ClusterName, kubeconfig: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    output::note(format_args!("Deleting cluster \"{name}\" ..."));
    let nodes: Vec<_> = match lab()?.cluster(&name).await {
        Ok(cluster) => cluster.nodes.into_iter().map(|node| node.name).collect(),
        Err(_) => Vec::new(),
    };
    let files = user_kubeconfig(kubeconfig)?;
    match lab()?.delete(&name, files.all()).await {
        Ok(()) => output::note(format_args!("Deleted nodes: {nodes:?}")),
        Err(LabError::NoCluster(_)) => {
            output::note(format_args!("There was no cluster \"{name}\""));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// A duration as Go writes it: numbers with units, such as `1m30s`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration: write it as 30s, 5m or 1h30m");
    let (mut rest, mut sum) = (text, Duration::ZERO);
    if text == "0" {
        return Ok(sum);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let number: f64 = number.parse().map_err(|_| bad())?;
        sum += Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        rest = tail;
    }
    if text.is_empty() { Err(bad()) } else { Ok(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        let seconds = |text: &str| duration(text).map(|d| d.as_secs_f64());
        assert_eq!(seconds("1h2m3s"), Ok(3723.0));
        assert_eq!(seconds("1.5s"), Ok(1.5));
        assert_eq!(seconds("0"), Ok(0.0));
        for bad in ["", "5", "s", "5x", "1m5"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
