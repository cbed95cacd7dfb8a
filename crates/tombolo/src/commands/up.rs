//! `tombolo up` and `tombolo down`: a mesh of lab clusters from nothing to verified, and back.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;

use clap::Args;
use parking_lot::Mutex;
use tombolo_install::install::READINESS_LIMIT;
use tombolo_install::mesh_file::{Location, MeshFile};
use tombolo_install::progress::Progress;
use tombolo_install::sample;
use tombolo_install::verify::Report;
use tombolo_lab::spec::{ApiServerKind, ClusterName};
use tombolo_runtime::shutdown::asked_to_stop;

use super::lab_mesh;
use super::mesh::{Format, access, make, print, print_report, read, verify_mesh};
use crate::output;

/// The mesh that comes up where no file is named.
const DEFAULT: &str = include_str!("../../../../examples/multi-primary-multi-network.yaml");
const DEFAULT_NAME: &str = "examples/multi-primary-multi-network.yaml";

/// Make lab clusters, join them into a mesh, deploy the sample, verify, and keep running.
#[derive(Debug, Args)]
pub struct UpCommand {
    /// The mesh file; by default the example of several primaries on separate networks.
    file: Option<PathBuf>,
    /// Tear everything down after the verdict; the exit code is 0 only if everything held.
    #[arg(long)]
    exit: bool,
    /// Leave what was made when a step fails, for a look; `tombolo down` removes it.
    #[arg(long)]
    keep: bool,
    /// Which program serves the API of lab clusters whose entry in the file does not say:
    /// `embedded`, or `kubernetes` for the real one.
    #[arg(long, env = "TOMBOLO_LAB_API_SERVER", default_value = "embedded")]
    api_server: ApiServerKind,
    /// Requests per client cluster and service.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(20..=10_000))]
    requests: u32,
    /// Print the report as a document.
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// Remove the lab clusters of a mesh file.
#[derive(Debug, Args)]
pub struct DownCommand {
    /// The mesh file; by default the one `tombolo up` takes.
    file: Option<PathBuf>,
}

fn mesh_file(path: Option<&PathBuf>) -> anyhow::Result<MeshFile> {
    match path {
        Some(path) => read(path),
        None => Ok(MeshFile::parse(DEFAULT_NAME, DEFAULT)?),
    }
}

/// What `up` makes it takes away again, which nobody wants of a cluster of their own.
fn only_labs(file: &MeshFile) -> anyhow::Result<()> {
    let own = file.clusters.iter().find(|it| !matches!(it.location, Location::Lab(_)));
    let Some(own) = own else { return Ok(()) };
    anyhow::bail!(
        "cluster {} of mesh {} is no lab cluster: `tombolo up` makes lab clusters and takes them away again; use `tombolo apply -f FILE` and `tombolo verify -f FILE`",
        own.name,
        file.name
    );
}

impl UpCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(self.up())
    }

    async fn up(self) -> anyhow::Result<ExitCode> {
        let file = mesh_file(self.file.as_ref())?;
        only_labs(&file)?;
        let (progress, made) = (Progress::new(), Mutex::default());
        let mut asked = std::pin::pin!(asked_to_stop());
        let outcome = self.bring_up(&file, &made, asked.as_mut(), &progress).await;
        let report = match outcome {
            Ok(report) => report,
            Err(error) if self.keep => {
                output::note("what was made is left as it is; `tombolo down` removes it");
                return Err(error);
            }
            Err(error) => {
                tear_down(&file, &made.into_inner(), &progress).await?;
                return Err(error);
            }
        };
        match self.output {
            Some(format) => print(format, &report)?,
            None => print_report(&report),
        }
        let ok = report.ok;
        if !self.exit {
            advice(&file);
            asked.await?;
        }
        tear_down(&file, &made.into_inner(), &progress).await?;
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Makes the clusters and everything in them, unless the user interrupts it.
    async fn bring_up(
        &self,
        file: &MeshFile,
        made: &Mutex<Vec<ClusterName>>,
        mut asked: Pin<&mut impl Future<Output = io::Result<()>>>,
        progress: &Progress,
    ) -> anyhow::Result<Report> {
        let mut making = std::pin::pin!(lab_mesh::make(file, self.api_server, made, progress));
        tokio::select! {
            // Before anything is made, signals must not end the process any more.
            biased;
            asked = &mut asked => {
                asked?;
                // Only what is whole can be removed again.
                output::note("interrupted; waiting for the clusters that are being made");
                making.await?;
                anyhow::bail!("interrupted");
            }
            outcome = &mut making => outcome?,
        }
        tokio::select! {
            biased;
            asked = asked => asked.map_err(Into::into).and_then(|()| anyhow::bail!("interrupted")),
            outcome = self.join_and_verify(file, progress) => outcome,
        }
    }

    async fn join_and_verify(
        &self,
        file: &MeshFile,
        progress: &Progress,
    ) -> anyhow::Result<Report> {
        let access = access(file).await?;
        make(file, &access, progress).await?;
        let sample = file.clusters.iter().enumerate().filter_map(|(index, cluster)| {
            let access = access.get(&cluster.name)?;
            Some(sample::deploy(&access.cluster, index, READINESS_LIMIT, progress))
        });
        futures::future::try_join_all(sample).await?;
        verify_mesh(file, &access, self.requests, sample::NAMESPACE, progress).await
    }
}

/// Removes the clusters that this run made. Those that were there before are somebody else's.
async fn tear_down(
    file: &MeshFile,
    made: &[ClusterName],
    progress: &Progress,
) -> anyhow::Result<()> {
    lab_mesh::remove(made, progress).await?;
    for name in lab_mesh::names(file)?.iter().filter(|name| !made.contains(name)) {
        if lab_mesh::running(name.as_str()).await?.is_none() {
            continue;
        }
        output::note(format_args!(
            "lab cluster {name} was there before and stays; `tombolo down` removes it"
        ));
    }
    Ok(())
}

/// Where to look next.
fn advice(file: &MeshFile) {
    output::note("");
    output::note(format_args!(
        "mesh {} runs until you interrupt it (Ctrl-C). Look at it from another terminal:",
        file.name
    ));
    for cluster in &file.clusters {
        output::note(format_args!(
            "  kubectl --context kind-{} -n sample get pods -o wide",
            cluster.name
        ));
    }
    if let Some(first) = file.clusters.first() {
        output::note(format_args!(
            "  kubectl --context kind-{} -n sample exec deploy/sleep -c sleep -- curl -s helloworld.sample:5000/hello",
            first.name
        ));
    }
    output::note("  tombolo lab list");
}

impl DownCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(async {
            let names = lab_mesh::names(&mesh_file(self.file.as_ref())?)?;
            lab_mesh::remove(&names, &Progress::new()).await?;
            Ok(ExitCode::SUCCESS)
        })
    }
}
