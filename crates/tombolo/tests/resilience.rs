//! What is killed, cut off or lost comes back without a hand, while requests go on all the time.
//! Needs root. Each test breaks one mesh, step by step.

#![cfg(test)]

#[path = "lab/support.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod support;

#[path = "mesh/support.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod mesh;
#[path = "mesh/stream.rs"]
mod stream;

use std::time::Instant;

use kube::ResourceExt as _;
use mesh::{Mesh, example, kill_and_wait, network_of, own_network};
use stream::{Stream, tally, told};
use support::eventually;
use tokio::sync::Mutex;

/// One mesh at a time: each is two dozen processes.
static TURN: Mutex<()> = Mutex::const_new(());

/// Requests that must be answered while something is away.
const WHILE_AWAY: usize = 150;

const SLEEP: (&str, &str) = ("sample", "app=sleep");
const HELLO: (&str, &str) = ("sample", "app=helloworld");
const GATEWAY: (&str, &str) = ("istio-system", "istio=eastwestgateway");
const ISTIOD: (&str, &str) = ("istio-system", "app=istiod");

/// A mesh with its stream of requests.
struct Scene {
    mesh: Mesh,
    client: &'static str,
    stream: Stream,
}

impl Scene {
    async fn new(model: &str, client: &'static str) -> Self {
        own_network();
        let mesh = Mesh::up(&example(model), &[]);
        let stream = Self::requests(&mesh, client).await;
        let scene = Self { mesh, client, stream };
        let took = scene.stream.recovers("the start");
        println!("{model}: requests from {client}, all answered after {took:.1?}");
        scene
    }

    /// Requests from a cluster's client pod.
    async fn requests(mesh: &Mesh, client: &str) -> Stream {
        let service = mesh.service(client).await;
        Stream::start(network_of(mesh.process(client, SLEEP, "infinity").await), &service)
    }

    async fn name(&self, cluster: &str, of: (&str, &str)) -> String {
        self.mesh.pod(cluster, of.0, of.1).await.name_any()
    }

    /// Says how a step went, in the test's output.
    fn report(&self, what: &str, from: Instant) {
        let seen = self.stream.since(from);
        let failed = tally(&seen).failures.len();
        println!("{what}: {} requests, {failed} failed{}", seen.len(), told(&seen, from));
    }

    /// A gateway is killed: what was under way through it is lost, then traffic is back.
    async fn gateway_killed(&self, cluster: &str) {
        let pod = self.name(cluster, GATEWAY).await;
        let from = Instant::now();
        let again = kill_and_wait(&pod, "router");
        let took = self.stream.recovers(&format!("the gateway of {cluster} was killed"));
        self.report(&format!("gateway of {cluster} (again after {again:.1?}, {took:.1?})"), from);
    }

    /// A control plane is killed: existing traffic does not notice, and afterwards it injects and
    /// pushes as before.
    async fn control_plane_killed(&self, cluster: &str) {
        let pod = self.name(cluster, ISTIOD).await;
        let from = Instant::now();
        let again = kill_and_wait(&pod, "control-plane");
        self.stream.holds("the control plane is away", from, WHILE_AWAY);
        self.changes_arrive(self.client).await;
        self.report(&format!("control plane of {cluster} (again after {again:.1?})"), from);
    }

    /// An API server is killed: existing traffic does not notice, and afterwards changes arrive.
    async fn api_server_killed(&self, cluster: &str) {
        let from = Instant::now();
        self.mesh.lab.ok(&["lab", "kill", "api-server", cluster]);
        self.stream.holds("the API server is away", from, WHILE_AWAY);
        self.changes_arrive(cluster).await;
        self.report(&format!("API server of {cluster}"), from);
    }

    /// A cluster's API server cannot be reached by the others: they keep its endpoints, and follow
    /// it again afterwards.
    async fn remote_api_lost(&self, cluster: &str) {
        let cut = "table ip cut { chain in { type filter hook prerouting priority -300; \
                   ip saddr 172.18.0.0/24 iifname eth0 tcp dport 6443 drop; }; }";
        let (done, said) = self.mesh.on_node(cluster, &["nft", cut]);
        assert!(done, "{said}");
        let from = Instant::now();
        self.stream.holds("the remote API is lost", from, 3 * WHILE_AWAY);
        let (done, said) = self.mesh.on_node(cluster, &["nft", "delete table ip cut"]);
        assert!(done, "{said}");
        self.changes_arrive(cluster).await;
        self.report(&format!("API of {cluster} lost to the others"), from);
    }

    /// No packet passes between the clusters for a while; afterwards traffic is as before.
    async fn partitioned(&self) {
        let gateway = self.name("cluster02", GATEWAY).await;
        let address = self.mesh.balancer("cluster02").await;
        let health = format!("http://{address}:15021/healthz/ready");
        let reached = || self.mesh.on_node("cluster01", &["curl", "-sSf", "-m3", &health]);
        assert!(reached().0, "{gateway}: {}", reached().1);
        let from = Instant::now();
        self.mesh.lab.ok(&["lab", "partition", "cluster01", "cluster02"]);
        let (through, said) = reached();
        assert!(!through, "{said}");
        self.mesh.lab.ok(&["lab", "heal"]);
        let took = self.stream.recovers("a partition was healed");
        self.report(&format!("partition (healed after {took:.1?})"), from);
    }

    /// A node of another cluster loses power and comes back with all its pods.
    async fn node_killed(&self, cluster: &str) {
        let pod = self.name(cluster, HELLO).await;
        let before = mesh::process(&pod, "helloworld").expect("the application runs");
        let from = Instant::now();
        self.mesh.lab.ok(&["lab", "kill", "node", cluster]);
        eventually("the application to run again", || match mesh::process(&pod, "helloworld") {
            Some(pid) if pid != before => Ok(()),
            other => Err(format!("{before} before, now {other:?}")),
        });
        let again = from.elapsed();
        let took = self.stream.recovers(&format!("the node of {cluster} was killed"));
        self.report(&format!("node of {cluster} (again after {again:.1?}, {took:.1?})"), from);
    }

    /// A pod that is added in a cluster gets a sidecar and requests; then it goes again.
    async fn changes_arrive(&self, cluster: &str) {
        let version = if cluster == "cluster01" { "v1" } else { "v2" };
        let from = Instant::now();
        self.mesh.scale(cluster, version, 2).await;
        self.stream.newcomer(from);
        self.mesh.scale(cluster, version, 1).await;
        self.stream.recovers("a pod was removed");
    }

    #[track_caller]
    fn verify(&self) {
        let report = self.mesh.verify();
        assert_eq!(report["ok"], true, "{report:#}");
    }
}

#[tokio::test]
async fn a_mesh_of_primaries_on_separate_networks_comes_back() {
    let _turn = TURN.lock().await;
    let mut scene = Scene::new("multi-primary-multi-network", "cluster01").await;
    scene.gateway_killed("cluster02").await;
    scene.control_plane_killed("cluster01").await;
    scene.api_server_killed("cluster01").await;
    scene.remote_api_lost("cluster02").await;
    scene.partitioned().await;
    scene.node_killed("cluster02").await;
    // The client's own node takes the stream with it.
    scene.mesh.lab.ok(&["lab", "kill", "node", "cluster01"]);
    let service = scene.mesh.service("cluster01").await;
    let pod = scene.name("cluster01", SLEEP).await;
    let process = eventually("the client to run again", || {
        mesh::process(&pod, "infinity").ok_or_else(|| "it does not".to_owned())
    });
    scene.stream = Stream::start(network_of(process), &service);
    scene.stream.recovers("the client's own node was killed");
    scene.verify();
    drop(scene.stream);
    scene.mesh.end();
}

#[tokio::test]
async fn a_primary_and_its_remote_on_separate_networks_come_back() {
    let _turn = TURN.lock().await;
    let scene = Scene::new("primary-remote-multi-network", "cluster02").await;
    // It carries the remote's configuration as well.
    scene.gateway_killed("cluster01").await;
    scene.control_plane_killed("cluster01").await;
    scene.api_server_killed("cluster02").await;
    scene.verify();
    drop(scene.stream);
    scene.mesh.end();
}
