//! Verifies a mesh: for every client cluster and every service of the sample, requests are sent
//! and counted, and what is claimed about them is tested instead of eyeballed.
//!
//! A check holds when no request failed, every cluster with endpoints answered and the shares are
//! ones that chance explains ([`statistics`]), requests took the way the networks demand, and the
//! server saw the client over mutual TLS.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

pub mod probe;
pub mod statistics;
pub mod ways;
mod witness;

use crate::cluster::Cluster;
use crate::exec;
use crate::inspect::reach::ReachError;
use crate::progress::Step;
use crate::wait::{self, Look, WaitError};
use probe::Answers;
use statistics::Verdict;
use ways::Way;

/// What is verified.
#[derive(Clone, Debug)]
pub struct Target {
    /// The mesh's name.
    pub mesh: String,
    pub members: Vec<Member>,
    /// Where the sample lives.
    pub namespace: String,
    /// Requests per client cluster and service.
    pub requests: u32,
}

/// One cluster that takes part.
#[derive(Clone, Debug)]
pub struct Member {
    pub cluster: Cluster,
    pub network: String,
}

/// A service of the sample that answers with who answered.
#[derive(Clone, Copy, Debug)]
pub struct SampleService {
    pub name: &'static str,
    pub port: u16,
    pub path: &'static str,
}

/// Requests of a look at whether a mesh has settled: enough that two clusters both answer, but for
/// one time in half a million.
const WARM_UP: u32 = 20;
/// How often a crowd of clients asks for a cluster that has not answered.
const CROWDS: u32 = 5;

/// The services of the sample that have something to ask. `sleep` is the client.
pub const SERVICES: &[SampleService] =
    &[SampleService { name: "helloworld", port: 5000, path: "/hello" }];

/// The whole result: the document that `-o json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub mesh: String,
    pub ok: bool,
    pub checks: Vec<Check>,
    /// What a capture between the clusters saw, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plaintext: Option<Capture>,
}

/// A look at the wire between the clusters.
#[derive(Clone, Debug, Serialize)]
pub struct Capture {
    /// Where it was taken.
    pub on: String,
    /// Packets that crossed while requests were sent.
    pub packets: u64,
    /// Packets that held the canary which every request carried.
    pub canaries: u64,
}

/// One client cluster and one service.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// The client's cluster.
    pub from: String,
    /// `host:port`.
    pub service: String,
    pub sent: u32,
    pub failed: u32,
    pub answers: Vec<Answer>,
    /// `direct` or `gateway`: how other clusters were reached.
    pub path: &'static str,
    /// The gateways that requests went through, `address:port`.
    pub gateways: Vec<String>,
    /// The server's identity as it was proved to the client.
    pub peer: String,
    /// The client's identity as the server saw it.
    pub client: String,
    pub mtls: bool,
    pub balance: Verdict,
    pub ok: bool,
    /// What is wrong, in words; empty when the check holds.
    pub problems: Vec<String>,
}

/// One pod's share of the answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    pub cluster: String,
    pub version: String,
    pub pod: String,
    pub count: u32,
}

/// Why a mesh could not be verified at all, as opposed to failing verification.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Call(#[from] crate::cluster::CallError),
    #[error(
        "cluster {cluster}: no ready pod with label app=sleep in namespace {namespace}; deploy samples/sleep/sleep.yaml there"
    )]
    NoClient { cluster: String, namespace: String },
    #[error(transparent)]
    Exec(#[from] exec::ExecError),
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error(transparent)]
    Wait(#[from] WaitError),
}

/// Sends the requests of every check and judges them. `canary` is a text that every request
/// carries, for whoever watches the wire.
///
/// # Errors
/// When a cluster cannot be asked or has no client pod.
pub async fn verify(target: &Target, canary: &str) -> Result<Report, VerifyError> {
    let mut checks = Vec::new();
    for service in SERVICES {
        let pods = probe::pods(target, service).await?;
        for member in &target.members {
            let client = probe::client(member, &target.namespace).await?;
            let way = ways::Meter::start(member, &client, &target.namespace, service).await?;
            let mut answers = probe::send(member, &client, target, service, canary).await?;
            let way = way.finish().await?;
            witness::complete(&mut answers, target, member, &client, service, &pods).await?;
            let silent = unreached(target, member, &client, service, &pods, &answers).await?;
            let mut check = judge(target, member, service, &pods, &answers, &way);
            check.complain(silence(&silent));
            checks.push(check);
        }
    }
    let ok = checks.iter().all(|check| check.ok);
    Ok(Report { mesh: target.mesh.clone(), ok, checks, plaintext: None })
}

/// Waits until every cluster with endpoints answers every client without a failure: new pods,
/// endpoints and certificates take a moment to be known everywhere.
///
/// # Errors
/// When that does not happen within `limit`, with what was missing last; or when a cluster has no
/// client pod.
pub async fn settled(target: &Target, limit: Duration, step: &Step) -> Result<(), VerifyError> {
    let few = Target { requests: WARM_UP, ..target.clone() };
    for service in SERVICES {
        for member in &target.members {
            let client = probe::client(member, &target.namespace).await?;
            let what = format!("{} to be answered by every cluster", service.name);
            wait::until(&member.cluster, &what, limit, Some(step), || async {
                Ok(match missing(&few, member, &client, service).await {
                    Ok(None) => Look::Holds(()),
                    Ok(Some(missing)) => Look::Missing(missing),
                    Err(error) => Look::Missing(tombolo_runtime::errors::chain(&error).to_string()),
                })
            })
            .await?;
        }
    }
    Ok(())
}

/// What is not settled yet between one client and a service.
async fn missing(
    target: &Target,
    member: &Member,
    client: &exec::Container,
    service: &SampleService,
) -> Result<Option<String>, VerifyError> {
    let pods = probe::pods(target, service).await?;
    let answers = probe::send(member, client, target, service, "warm-up").await?;
    if let Some(why) = answers.failures.keys().next() {
        return Ok(Some(why.clone()));
    }
    let silent = unreached(target, member, client, service, &pods, &answers).await?;
    Ok(silence(&silent))
}

/// The clusters with endpoints that do not answer a client at all.
///
/// A gateway chooses an endpoint for each connection, and the client's proxy sends many requests
/// over one. Where several clusters share a network, some may therefore be silent for long: only a
/// crowd of clients, whose requests need more connections, tells whether they can be reached.
async fn unreached<'a>(
    target: &Target,
    member: &Member,
    client: &exec::Container,
    service: &SampleService,
    pods: &'a Pods,
    answers: &Answers,
) -> Result<BTreeSet<&'a str>, VerifyError> {
    let mut silent: BTreeSet<&str> = pods.values().map(|pod| pod.cluster.as_str()).collect();
    let hear = |silent: &mut BTreeSet<&str>, answers: &Answers| {
        for pod in answers.by_pod.keys().filter_map(|(_, pod)| pods.get(pod)) {
            silent.remove(pod.cluster.as_str());
        }
    };
    hear(&mut silent, answers);
    for _ in 0..CROWDS {
        if silent.is_empty() {
            break;
        }
        for answers in probe::crowd(member, client, target, service).await? {
            hear(&mut silent, &answers);
        }
    }
    Ok(silent)
}

fn silence(silent: &BTreeSet<&str>) -> Option<String> {
    let names: Vec<_> = silent.iter().copied().collect();
    (!names.is_empty()).then(|| format!("no answer from {}", names.join(", ")))
}

impl Check {
    fn complain(&mut self, problem: Option<String>) {
        self.ok &= problem.is_none();
        self.problems.extend(problem);
    }
}

impl Report {
    /// Adds what a capture between the clusters saw; a canary on the wire fails the mesh.
    pub fn with_capture(mut self, capture: Capture) -> Self {
        if capture.canaries > 0 {
            self.ok = false;
        }
        self.plaintext = Some(capture);
        self
    }
}

/// The ready pods of a service: name to cluster and version.
pub type Pods = BTreeMap<String, probe::Pod>;

fn judge(
    target: &Target,
    member: &Member,
    service: &SampleService,
    pods: &Pods,
    answers: &Answers,
    way: &Way,
) -> Check {
    let mut problems = Vec::new();
    if answers.sent != target.requests {
        problems.push(format!("{} of {} requests were sent", answers.sent, target.requests));
    }
    if let Some((why, count)) = answers.failures.iter().max_by_key(|(_, count)| **count) {
        problems.push(format!(
            "{} of {} requests failed, {count} of them with: {why}",
            answers.failed(),
            answers.sent
        ));
    }
    let (listed, strangers) = shares(pods, answers);
    problems.extend(strangers);
    let balance = balance(&member.network, pods, &listed);
    if !balance.holds {
        problems.push(balance.explain());
    }
    let crosses = target.members.iter().any(|other| other.network != member.network);
    let away = pods.values().any(|pod| pod.network != member.network);
    let path = if crosses && away { "gateway" } else { "direct" };
    problems.extend(wrong_way(&member.network, pods, way));
    let mtls = answers.sent > 0
        && answers.plaintext + answers.silent == 0
        && answers.identities.len() == 1;
    if !mtls {
        problems.push(answers.explain_identities());
    }
    let (peer, client) = answers.identities.first().cloned().unwrap_or_default();
    Check {
        from: member.cluster.name().to_owned(),
        service: format!(
            "{}.{}.svc.cluster.local:{}",
            service.name, target.namespace, service.port
        ),
        sent: answers.sent,
        failed: answers.failed(),
        answers: listed,
        path,
        gateways: way.gateways.iter().cloned().collect(),
        peer,
        client,
        mtls,
        balance,
        ok: problems.is_empty(),
        problems,
    }
}

/// Answers by pod, and complaints about answers from pods nobody knows.
fn shares(pods: &Pods, answers: &Answers) -> (Vec<Answer>, Vec<String>) {
    let mut listed = Vec::new();
    let mut strangers = Vec::new();
    for ((version, name), count) in &answers.by_pod {
        match pods.get(name) {
            Some(pod) => listed.push(Answer {
                cluster: pod.cluster.clone(),
                version: version.clone(),
                pod: name.clone(),
                count: *count,
            }),
            None => strangers.push(format!(
                "{count} answers came from `{name}`, which is no ready pod of the service"
            )),
        }
    }
    listed.sort_by(|a, b| (&a.cluster, &a.pod).cmp(&(&b.cluster, &b.pod)));
    (listed, strangers)
}

/// Compares the shares of what the client's proxy chooses between for each request: the clusters on
/// its own network, and the other networks. Between the clusters of another network their gateways
/// choose, once for each connection: the counts there are no independent draws.
fn balance(network: &str, pods: &Pods, answers: &[Answer]) -> Verdict {
    let choice = |pod: &probe::Pod| match pod.network == network {
        true => (true, pod.cluster.clone()),
        false => (false, pod.network.clone()),
    };
    let mut shares: BTreeMap<_, statistics::Share> = BTreeMap::new();
    for (name, pod) in pods {
        let choice = choice(pod);
        let share = statistics::Share { name: choice.1.clone(), weight: 0, seen: 0 };
        let share = shares.entry(choice).or_insert(share);
        share.weight += 1;
        share.seen += answers.iter().filter(|a| a.pod == *name).map(|a| a.count).sum::<u32>();
    }
    statistics::test(&shares.into_values().collect::<Vec<_>>())
}

/// Requests to pods of other networks must go through a gateway, to those of the own network
/// must not.
fn wrong_way(network: &str, pods: &Pods, way: &Way) -> Vec<String> {
    let addresses: BTreeMap<&str, &probe::Pod> =
        pods.values().map(|pod| (pod.address.as_str(), pod)).collect();
    let foreign: BTreeSet<&str> = pods
        .values()
        .filter(|pod| pod.network != network)
        .map(|pod| pod.cluster.as_str())
        .collect();
    let mut problems = Vec::new();
    for direct in &way.direct {
        let ip = direct.rsplit_once(':').map_or(direct.as_str(), |(ip, _)| ip);
        match addresses.get(ip) {
            Some(pod) if pod.network == network => (),
            // The same address may exist on two networks; then the own network's pod is meant.
            _ if pods.values().any(|pod| pod.address == ip && pod.network == network) => (),
            Some(pod) => problems.push(format!(
                "requests went to {direct} directly, which is pod {} on network {}",
                pod.name, pod.network
            )),
            None => problems
                .push(format!("requests went to {direct}, which is no ready pod of the service")),
        }
    }
    if foreign.is_empty() && !way.gateways.is_empty() {
        let gateways: Vec<_> = way.gateways.iter().map(String::as_str).collect();
        problems.push(format!(
            "requests went through {} although every pod is on the same network",
            gateways.join(", ")
        ));
    }
    if !foreign.is_empty() && way.gateways.is_empty() {
        let clusters: Vec<_> = foreign.into_iter().collect();
        problems.push(format!(
            "no gateway was used, although {} is on another network",
            clusters.join(", ")
        ));
    }
    problems
}

#[cfg(test)]
mod tests;
