//! `tombolo plan|apply|destroy|verify -f FILE`: a mesh of clusters, by its file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;
use tombolo_install::cluster::{self, Access, Cluster};
use tombolo_install::install;
use tombolo_install::mesh::Mesh;
use tombolo_install::mesh_file::{Location, MeshFile};
use tombolo_install::plan::{self, Action, Plan};
use tombolo_install::progress::Progress;
use tombolo_install::removal::{self, Removed};
use tombolo_install::topology::{ClusterPlan, plans};
use tombolo_install::trust::{self, Authority};
use tombolo_install::verify::{self, Member, Report, Target};

use crate::output;

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Json,
    Yaml,
}

/// The mesh file, and how results are printed.
#[derive(Debug, Args)]
pub struct FileFlags {
    /// The mesh file.
    #[arg(short, long, value_name = "FILE")]
    pub filename: PathBuf,
    /// Print the result as a document.
    #[arg(short, long, value_enum)]
    pub output: Option<Format>,
}

/// Show what `apply` would create, change and remove.
#[derive(Debug, Args)]
pub struct PlanCommand {
    #[command(flatten)]
    file: FileFlags,
}

/// Make the mesh what its file says.
#[derive(Debug, Args)]
pub struct ApplyCommand {
    #[command(flatten)]
    file: FileFlags,
}

/// Remove what `apply` installed; clusters and namespaces of users stay.
#[derive(Debug, Args)]
pub struct DestroyCommand {
    #[command(flatten)]
    file: FileFlags,
    /// Do not ask.
    #[arg(short = 'y', long)]
    yes: bool,
}

/// Prove that requests reach every cluster over mutual TLS.
#[derive(Debug, Args)]
pub struct VerifyCommand {
    #[command(flatten)]
    file: FileFlags,
    /// Requests per client cluster and service.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(20..=10_000))]
    requests: u32,
    /// The sample's namespace.
    #[arg(short, long, default_value = tombolo_install::sample::NAMESPACE)]
    namespace: String,
}

/// Reads a mesh file, and the root that it may name.
pub fn read(path: &Path) -> anyhow::Result<MeshFile> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read mesh file {}", path.display()))?;
    let file = MeshFile::parse(&path.display().to_string(), &text)?;
    trust::check(&file.root_ca)?;
    Ok(file)
}

/// Prints a document in the format asked for.
pub fn print(format: Format, document: &impl Serialize) -> anyhow::Result<()> {
    match format {
        Format::Json => output::line(serde_json::to_string(document)?),
        Format::Yaml => output::text(serde_saphyr::to_string(document)?),
    }
    Ok(())
}

/// The clusters of a mesh file that can be called now: real ones by kubeconfig, lab clusters that
/// run.
pub async fn access(file: &MeshFile) -> anyhow::Result<BTreeMap<String, Access>> {
    let mut found = BTreeMap::new();
    for cluster in &file.clusters {
        let access = match &cluster.location {
            Location::Kubeconfig(kubeconfig) => {
                let opened = Cluster::open(
                    &cluster.name,
                    kubeconfig.file.as_deref(),
                    Some(&kubeconfig.context),
                )
                .await?;
                let server = opened.server().to_owned();
                Some(Access { cluster: opened, server })
            }
            Location::Lab(_) => super::lab_mesh::running(&cluster.name).await?,
        };
        if let Some(access) = access {
            found.insert(cluster.name.clone(), access);
        }
    }
    cluster::distinct(&found).await?;
    Ok(found)
}

/// The folder in which the root of a mesh is kept.
pub fn trust_folder(file: &MeshFile) -> anyhow::Result<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")));
    let Some(state) = state else {
        bail!(
            "neither XDG_STATE_HOME nor HOME is set; set one, so that the mesh's root key has a place"
        )
    };
    Ok(state.join("tombolo/mesh").join(&file.name))
}

impl PlanCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(async {
            let file = read(&self.file.filename)?;
            let plan = plan::plan(&file, &access(&file).await?).await?;
            match self.file.output {
                Some(format) => print(format, &plan)?,
                None => print_plan(&plan),
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn print_plan(plan: &Plan) {
    if plan.is_empty() {
        output::line(format_args!("mesh {}: nothing to do", plan.mesh));
        return;
    }
    for cluster in &plan.clusters {
        let made = if cluster.create { " (to be made)" } else { "" };
        output::line(format_args!("cluster {}{made}", cluster.name));
        let mut kept = 0;
        for change in &cluster.changes {
            let mark = match change.action {
                Action::Create => '+',
                Action::Change => '~',
                Action::Remove => '-',
                Action::Keep => {
                    kept += 1;
                    continue;
                }
            };
            output::line(format_args!("  {mark} {}", change.object));
            for line in change.diff.lines() {
                output::line(format_args!("      {line}"));
            }
        }
        if kept > 0 {
            output::line(format_args!("    {kept} objects stay as they are"));
        }
    }
}

impl ApplyCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(async {
            let file = read(&self.file.filename)?;
            let progress = Progress::new();
            let access = access(&file).await?;
            let missing: Vec<_> = file
                .clusters
                .iter()
                .filter(|cluster| !access.contains_key(&cluster.name))
                .map(|c| c.name.as_str())
                .collect();
            if !missing.is_empty() {
                bail!(
                    "lab cluster {} does not run; `tombolo up {}` makes it",
                    missing.join(", "),
                    self.file.filename.display()
                );
            }
            let removed = make(&file, &access, &progress).await?;
            match self.file.output {
                Some(format) => {
                    let result = json!({"mesh": file.name, "ok": true, "removed": removed});
                    print(format, &result)?;
                }
                None => output::line(format_args!("mesh {}: applied", file.name)),
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// Installs the mesh on clusters that can be called; returns what was removed, by cluster.
pub async fn make(
    file: &MeshFile,
    access: &BTreeMap<String, Access>,
    progress: &Progress,
) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let authority =
        Authority::prepare(file, &plans(file), access, &trust_folder(file)?, progress).await?;
    Ok(Mesh::new(file, access, &authority, progress)?.apply().await?)
}

impl DestroyCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(async {
            let file = read(&self.file.filename)?;
            let access = access(&file).await?;
            if !self.yes {
                let names: Vec<_> = access.keys().map(String::as_str).collect();
                bail!("this removes mesh {} from {}; say -y to do it", file.name, names.join(", "));
            }
            let removed = unmake(&file, &access, &Progress::new()).await?;
            match self.file.output {
                Some(format) => {
                    print(format, &json!({"mesh": file.name, "ok": true, "clusters": removed}))?;
                }
                None => output::line(format_args!("mesh {}: removed", file.name)),
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// Removes a mesh from clusters that can be called: primaries first, because their control planes
/// write into the clusters of their remotes.
async fn unmake(
    file: &MeshFile,
    access: &BTreeMap<String, Access>,
    progress: &Progress,
) -> anyhow::Result<BTreeMap<String, Removed>> {
    let (primaries, remotes): (Vec<_>, Vec<_>) =
        plans(file).into_iter().partition(ClusterPlan::is_primary);
    let mut all = BTreeMap::new();
    for group in [primaries, remotes] {
        let reachable = group.iter().filter_map(|plan| Some((plan, access.get(&plan.name)?)));
        let removing = reachable.map(|(plan, access)| async move {
            let name = &plan.name;
            let step = progress.step(name, "remove the mesh");
            let limit = install::READINESS_LIMIT;
            let removed = removal::destroy(&access.cluster, file, plan, limit).await?;
            step.done(&format!("{} objects", removed.removed.len()));
            if !removed.in_use.is_empty() {
                progress.say(&format!(
                    "note: cluster {name}: Istio's definitions stay, because these use them: {}",
                    removed.in_use.join(", ")
                ));
            }
            anyhow::Ok((name.clone(), removed))
        });
        all.extend(futures::future::try_join_all(removing).await?);
    }
    Ok(all)
}

impl VerifyCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(async {
            let file = read(&self.file.filename)?;
            let access = access(&file).await?;
            let progress = Progress::new();
            let report =
                verify_mesh(&file, &access, self.requests, &self.namespace, &progress).await?;
            match self.file.output {
                Some(format) => print(format, &report)?,
                None => print_report(&report),
            }
            Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        })
    }
}

/// Verifies a mesh, with a look at the wire where the lab has one.
pub async fn verify_mesh(
    file: &MeshFile,
    access: &BTreeMap<String, Access>,
    requests: u32,
    namespace: &str,
    progress: &Progress,
) -> anyhow::Result<Report> {
    let members = file
        .clusters
        .iter()
        .filter_map(|cluster| {
            let access = access.get(&cluster.name)?;
            Some(Member { cluster: access.cluster.clone(), network: cluster.network.clone() })
        })
        .collect();
    let target =
        Target { mesh: file.name.clone(), members, namespace: namespace.to_owned(), requests };
    let step = progress.step("", "wait until every cluster answers every client");
    verify::settled(&target, install::READINESS_LIMIT, &step).await?;
    step.done("");
    let step = progress.step("", &format!("send {requests} requests from each cluster"));
    let canary = format!("canary{:032x}", rand::random::<u128>());
    let capture = super::lab_mesh::capture(file, &canary).await?;
    let mut report = verify::verify(&target, &canary).await?;
    if let Some(capture) = capture {
        report = report.with_capture(capture.finish().await?);
    }
    if report.ok {
        step.done("verified");
    } else {
        step.failed("not verified");
    }
    Ok(report)
}

/// Prints a report for people.
pub fn print_report(report: &Report) {
    for check in &report.checks {
        let verdict = if check.ok { "ok  " } else { "FAIL" };
        output::line(format_args!("{verdict} {} -> {}", check.from, check.service));
        output::line(format_args!("       {} requests, {} failed", check.sent, check.failed));
        for answer in &check.answers {
            output::line(format_args!(
                "       {:5} from {} {} (pod {})",
                answer.count, answer.cluster, answer.version, answer.pod
            ));
        }
        let balance = &check.balance;
        output::line(format_args!(
            "       balance: {} = {:.2}, {} degrees of freedom, p = {:.3}",
            balance.test, balance.statistic, balance.freedom, balance.p
        ));
        let way = if check.gateways.is_empty() {
            check.path.to_owned()
        } else {
            format!("{} {}", check.path, check.gateways.join(", "))
        };
        output::line(format_args!("       way: {way}"));
        output::line(format_args!(
            "       mutual TLS: {}, server {}, client {}",
            if check.mtls { "yes" } else { "NO" },
            check.peer,
            check.client
        ));
        for problem in &check.problems {
            output::line(format_args!("       problem: {problem}"));
        }
    }
    if let Some(capture) = &report.plaintext {
        output::line(format_args!(
            "{} {}: {} packets crossed, {} with plaintext",
            if capture.canaries == 0 { "ok  " } else { "FAIL" },
            capture.on,
            capture.packets,
            capture.canaries
        ));
    }
    output::line(format_args!(
        "mesh {}: {}",
        report.mesh,
        if report.ok { "verified" } else { "NOT verified" }
    ));
}
