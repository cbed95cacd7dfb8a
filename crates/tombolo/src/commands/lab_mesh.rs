//! The lab's part in a mesh: its clusters as clusters of a mesh file, and a look at the wire
//! between them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, pipe};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use parking_lot::Mutex;
use tombolo_install::cluster::{Access, Cluster};
use tombolo_install::mesh_file::{self, ApiServer, LabCluster, Location, MeshFile};
use tombolo_install::progress::Progress;
use tombolo_install::verify::Capture;
use tombolo_lab::control::ClusterState;
use tombolo_lab::lab::{self, CreateOptions, Endpoint, Lab, LabError};
use tombolo_lab::spec::{ApiServerKind, ClusterName, ClusterSpec, NodeRole};
use tombolo_lab::wire::Seen;

use super::lab::settings::{lab as client, user_kubeconfig};

/// How long nodes may take to be ready for pods.
const NODES_READY: Duration = Duration::from_secs(60);

/// The description of a lab cluster that a mesh file's entry amounts to. `api_server` is for
/// clusters whose entry leaves it open.
fn spec(
    name: &str,
    cluster: &LabCluster,
    api_server: ApiServerKind,
) -> anyhow::Result<ClusterSpec> {
    let v4 = |net: IpNet| match net {
        IpNet::V4(net) => Ok(net),
        IpNet::V6(net) => {
            Err(anyhow::anyhow!("cluster {name}: lab clusters are IPv4, and {net} is not"))
        }
    };
    Ok(ClusterSpec {
        name: name.parse::<ClusterName>()?,
        pod_subnet: v4(cluster.pod_subnet)?,
        service_subnet: v4(cluster.service_subnet)?,
        load_balancer_pool: Some(cluster.load_balancer_pool.to_string().parse()?),
        nodes: vec![NodeRole::ControlPlane],
        api_server: match cluster.api_server {
            None => api_server,
            Some(ApiServer::Embedded) => ApiServerKind::Embedded,
            Some(ApiServer::Kubernetes) => ApiServerKind::Kubernetes,
        },
        api_server_address: std::net::Ipv4Addr::LOCALHOST.into(),
        api_server_port: 0,
    })
}

/// The names of the lab clusters of a mesh file.
pub fn names(file: &MeshFile) -> anyhow::Result<Vec<ClusterName>> {
    file.clusters
        .iter()
        .filter(|cluster| matches!(cluster.location, Location::Lab(_)))
        .map(|cluster| Ok(cluster.name.parse()?))
        .collect()
}

/// A lab cluster that runs, as a member of a mesh.
pub async fn running(name: &str) -> anyhow::Result<Option<Access>> {
    let lab = client()?;
    let name = name.parse::<ClusterName>()?;
    match lab.cluster(&name).await {
        Ok(state) => access(&lab, &state).await.map(Some),
        Err(LabError::NoCluster(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn access(lab: &Lab, state: &ClusterState) -> anyhow::Result<Access> {
    let name = state.name().as_str();
    let Some(server) = state.internal_server() else {
        bail!("lab cluster {name} has no control-plane node")
    };
    let kubeconfig = lab.kubeconfig(state.name(), Endpoint::Loopback).await?;
    let cluster = Cluster::from_kubeconfig(name, &kubeconfig).await?;
    Ok(Access { cluster, server })
}

/// Makes the lab clusters of a mesh file that do not run yet, all at once, and joins those of one
/// network. `api_server` is for clusters whose entry leaves it open.
///
/// Names of clusters go to `made` before they are made, so that whoever is interrupted knows what
/// to remove.
pub async fn make(
    file: &MeshFile,
    api_server: ApiServerKind,
    made: &Mutex<Vec<ClusterName>>,
    progress: &Progress,
) -> anyhow::Result<()> {
    let lab = client()?;
    let specs = file.clusters.iter().filter_map(|cluster| match &cluster.location {
        Location::Lab(lab) => Some(spec(&cluster.name, lab, api_server)),
        Location::Kubeconfig(_) => None,
    });
    let specs = specs.collect::<anyhow::Result<Vec<_>>>()?;
    // Everything that can be found wrong is found before anything is made.
    for spec in &specs {
        lab.check(spec)?;
    }
    let there: BTreeMap<_, _> =
        lab.clusters().await?.into_iter().map(|state| (state.name().clone(), state)).collect();
    for spec in &specs {
        match there.get(&spec.name) {
            None => (),
            Some(state) if same(&state.spec, spec) => (),
            Some(_) => bail!(
                "lab cluster {} runs with other subnets, pool or API server than the mesh file says; remove it (`tombolo lab delete --name {}`) or change the file",
                spec.name,
                spec.name
            ),
        }
    }
    let new = specs.iter().filter(|spec| !there.contains_key(&spec.name));
    made.lock().extend(new.map(|spec| spec.name.clone()));
    let kubeconfig = user_kubeconfig(None)?.target().map(Path::to_owned);
    let options = CreateOptions { kubeconfig, wait: NODES_READY, retain: false };
    futures::future::try_join_all(specs.iter().map(|spec| {
        let there = there.contains_key(&spec.name);
        create(&lab, spec, there, &options, progress)
    }))
    .await?;
    join(&lab, file).await
}

/// Whether a cluster is what is asked for; where it listens on loopback is its own matter.
fn same(there: &ClusterSpec, wanted: &ClusterSpec) -> bool {
    there.pod_subnet == wanted.pod_subnet
        && there.service_subnet == wanted.service_subnet
        && there.load_balancer_pool == wanted.load_balancer_pool
        && there.api_server == wanted.api_server
}

/// Makes a cluster, or brings up one that is there: whoever made it may have been interrupted.
async fn create(
    lab: &Lab,
    spec: &ClusterSpec,
    there: bool,
    options: &CreateOptions,
    progress: &Progress,
) -> anyhow::Result<()> {
    let action = match spec.api_server {
        ApiServerKind::Embedded => "make the lab cluster",
        ApiServerKind::Kubernetes => "make the lab cluster with a real kube-apiserver",
    };
    let step = progress.step(spec.name.as_str(), action);
    let told = |news: lab::Progress| match news {
        lab::Progress::Note(note) => progress.say(&note),
        lab::Progress::Begin(part) => step.waits_for(&format!("{part:?}")),
        lab::Progress::Done(_) => (),
    };
    if there {
        lab.complete(&spec.name, options, &told).await?;
        step.done("it was there");
    } else {
        lab.create(spec, options, &told).await?;
        step.done("");
    }
    Ok(())
}

/// Routes between the clusters of one network, as their mesh file has it.
async fn join(lab: &Lab, file: &MeshFile) -> anyhow::Result<()> {
    let members: Vec<&mesh_file::Cluster> = file
        .clusters
        .iter()
        .filter(|cluster| matches!(cluster.location, Location::Lab(_)))
        .collect();
    for (i, one) in members.iter().enumerate() {
        for other in members.iter().skip(i + 1).filter(|other| other.network == one.network) {
            lab.join(&one.name.parse()?, &other.name.parse()?).await?;
        }
    }
    Ok(())
}

/// Removes lab clusters, as far as they exist.
pub async fn remove(names: &[ClusterName], progress: &Progress) -> anyhow::Result<()> {
    let lab = client()?;
    let files = user_kubeconfig(None)?.all().to_vec();
    for name in names {
        match lab.cluster(name).await {
            Ok(_) => (),
            Err(LabError::NoCluster(_)) => continue,
            Err(error) => return Err(error.into()),
        }
        let step = progress.step(name.as_str(), "remove the lab cluster");
        lab.delete(name, &files).await?;
        step.done("");
    }
    Ok(())
}

/// A look at the wire that is under way.
#[derive(Debug)]
pub struct Watch {
    watchers: Vec<Watcher>,
}

#[derive(Debug)]
struct Watcher {
    node: String,
    /// Closing it ends the watch.
    stop: PipeWriter,
    answers: BufReader<PipeReader>,
    run: tokio::task::JoinHandle<Result<i32, LabError>>,
}

/// Watches the bridge side of every lab node of a mesh for `canary`. Nothing, where no cluster is
/// a lab cluster.
pub async fn capture(file: &MeshFile, canary: &str) -> anyhow::Result<Option<Watch>> {
    let names = names(file)?;
    if names.is_empty() {
        return Ok(None);
    }
    let lab = client()?;
    let mut watchers = Vec::new();
    for name in names {
        for node in lab.cluster(&name).await?.nodes {
            watchers.push(watcher(&lab, node.name, canary).await?);
        }
    }
    Ok(Some(Watch { watchers }))
}

async fn watcher(lab: &Lab, node: String, canary: &str) -> anyhow::Result<Watcher> {
    let (input, stop) = pipe().context("make a pipe")?;
    let (output, writer) = pipe().context("make a pipe")?;
    // The lab's own program, however its file was moved or replaced since.
    let command = ["/proc/self/exe", "lab", "wire", "--needle", canary].map(str::to_owned).to_vec();
    let run = tokio::spawn({
        let (lab, node) = (lab.clone(), node.clone());
        async move {
            let error = std::io::stderr();
            lab.exec(&node, &command, Vec::new(), [input.as_fd(), writer.as_fd(), error.as_fd()])
                .await
        }
    });
    let mut answers = BufReader::new(output);
    let (first, answers) = tokio::task::spawn_blocking(move || {
        let mut first = String::new();
        answers.read_line(&mut first).map(|_| (first, answers))
    })
    .await?
    .context("read from the wire's watcher")?;
    if first.trim() != "ready" {
        let failed = || format!("watch the wire of node {node}");
        let code = run.await?.with_context(failed)?;
        bail!("the wire of node {node} cannot be watched: exit code {code} {}", first.trim());
    }
    Ok(Watcher { node, stop, answers, run })
}

impl Watch {
    /// Ends the watch and says what was seen.
    pub async fn finish(self) -> anyhow::Result<Capture> {
        let mut seen = Seen::default();
        let mut nodes = Vec::new();
        for Watcher { node, stop, mut answers, run } in self.watchers {
            drop(stop);
            let line = tokio::task::spawn_blocking(move || {
                let mut line = String::new();
                answers.read_line(&mut line).map(|_| line)
            })
            .await?
            .context("read from the wire's watcher")?;
            run.await??;
            let one: Seen = serde_json::from_str(&line)
                .with_context(|| format!("what was seen on node {node}"))?;
            seen.packets += one.packets;
            seen.hits += one.hits;
            nodes.push(format!("{node} eth0"));
        }
        Ok(Capture { on: nodes.join(", "), packets: seen.packets, canaries: seen.hits })
    }
}
