//! A mesh that runs for the steps of a test: `tombolo up`, its pods and their processes.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{TestLab, eventually, eventually_async, text};

/// Gives the test's thread, and what it starts, a network of its own: a lab links its host to
/// 172.18.0.0/16, and only one lab can.
pub fn own_network() {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
    assert!(up.success());
}

/// The text of an example's mesh file.
pub fn example(model: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    fs::read_to_string(folder.join(format!("{model}.yaml"))).unwrap()
}

/// A mesh that `tombolo up` keeps running.
pub struct Mesh {
    pub lab: TestLab,
    pub file: String,
    /// What `up` printed once it was verified.
    pub report: Value,
    up: Child,
    /// Held open: a closed one would be an error to `up`.
    _stdout: BufReader<ChildStdout>,
}

impl Mesh {
    /// Brings up the mesh of a file's text.
    #[track_caller]
    pub fn up(mesh: &str, arguments: &[&str]) -> Self {
        let lab = TestLab::new();
        let path = lab.path("mesh.yaml");
        fs::write(&path, mesh).unwrap();
        let file = path.display().to_string();
        let log = File::create(lab.path("up.log")).unwrap();
        let mut up = lab
            .command(&[&["up", &file, "-o", "json"], arguments].concat())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(up.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let told = fs::read_to_string(lab.path("up.log")).unwrap();
        assert!(!line.is_empty(), "`tombolo up` failed: {told}\n{}", lab.logs());
        let report: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(report["ok"], true, "{report:#}\n{told}");
        Self { lab, file, report, up, _stdout: stdout }
    }

    /// Verifies the mesh again.
    #[track_caller]
    pub fn verify(&self) -> Value {
        let output = self.lab.run(&["verify", "-f", &self.file, "-o", "json"]);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"))
    }

    /// Ends `tombolo up` as a user does, and sees that it takes everything with it.
    #[track_caller]
    pub fn end(mut self) {
        let network = self.lab.network();
        signal(self.up.id().cast_signed(), Signal::SIGINT);
        let ended = eventually("the end of `tombolo up`", || {
            self.up.try_wait().unwrap().ok_or_else(|| "it still runs".to_owned())
        });
        let told = fs::read_to_string(self.lab.path("up.log")).unwrap();
        assert!(ended.success(), "{told}");
        eventually("nothing of the lab", || match self.lab.traces(&network) {
            traces if traces.is_empty() => Ok(()),
            traces => Err(traces.join("\n")),
        });
    }

    /// One of a cluster's pods.
    pub async fn pod(&self, cluster: &str, namespace: &str, selector: &str) -> Pod {
        let api: Api<Pod> = Api::namespaced(self.lab.client(cluster).await, namespace);
        eventually_async(&format!("a pod with {selector} in {cluster}"), async || {
            let listed = api.list(&ListParams::default().labels(selector)).await;
            let listed = listed.map_err(|error| error.to_string())?;
            let live = |pod: &Pod| {
                let status = pod.status.as_ref();
                pod.metadata.deletion_timestamp.is_none()
                    && status.is_some_and(|status| status.pod_ip.is_some())
            };
            listed.items.into_iter().find(live).ok_or_else(|| "there is none".to_owned())
        })
        .await
    }

    /// A process of one of a cluster's pods, by a word of its command line.
    pub async fn process(&self, cluster: &str, of: (&str, &str), word: &str) -> i32 {
        let pod = self.pod(cluster, of.0, of.1).await;
        let name = pod.name_any();
        eventually(&format!("a process `{word}` of pod {name}"), || {
            process(&name, word).ok_or_else(|| "there is none".to_owned())
        })
    }

    /// The address of `helloworld` as a cluster's clients see it.
    pub async fn service(&self, cluster: &str) -> String {
        let api: Api<Service> = Api::namespaced(self.lab.client(cluster).await, "sample");
        let service = api.get("helloworld").await.unwrap();
        service.spec.unwrap().cluster_ip.unwrap()
    }

    /// The load-balancer address of a cluster's gateway.
    pub async fn balancer(&self, cluster: &str) -> String {
        let api: Api<Service> = Api::namespaced(self.lab.client(cluster).await, "istio-system");
        let gateway = api.get("istio-eastwestgateway").await.unwrap();
        let balancer = gateway.status.unwrap().load_balancer.unwrap();
        balancer.ingress.unwrap().remove(0).ip.unwrap()
    }

    /// Changes how many pods a version of `helloworld` has.
    pub async fn scale(&self, cluster: &str, version: &str, replicas: u32) {
        let client = self.lab.client(cluster).await;
        let api: Api<Deployment> = Api::namespaced(client, "sample");
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let name = format!("helloworld-{version}");
        eventually_async(&format!("{name} to be scaled in {cluster}"), async || {
            api.patch(&name, &PatchParams::default(), &patch).await
        })
        .await;
    }

    /// Applies objects to a cluster, server-side.
    pub async fn apply(&self, cluster: &str, manifest: Value) {
        apply(&self.lab.client(cluster).await, manifest).await;
    }

    /// The node's own network, from which a command is run.
    pub fn on_node(&self, cluster: &str, command: &[&str]) -> (bool, String) {
        let node = format!("{cluster}-control-plane");
        let output = self.lab.run(&[&["lab", "container", "exec", &node], command].concat());
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Ok(None) = self.up.try_wait() {
            let killed = self.up.kill().and_then(|()| self.up.wait());
            writeln!(std::io::stderr(), "`tombolo up` of the test ended: {killed:?}").unwrap();
        }
    }
}

/// Applies an object server-side.
pub async fn apply(client: &Client, object: Value) {
    let group_version = object["apiVersion"].as_str().unwrap();
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    let kind = object["kind"].as_str().unwrap();
    let of = kube::core::GroupVersionKind::gvk(group, version, kind);
    let resource = kube::api::ApiResource::from_gvk(&of);
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let api: Api<kube::api::DynamicObject> = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let params = PatchParams::apply("test").force();
    api.patch(&name, &params, &Patch::Apply(object)).await.unwrap();
}

/// The process of a pod that has a word on its command line.
pub fn process(pod: &str, word: &str) -> Option<i32> {
    let hostname = format!("HOSTNAME={pod}");
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let environment = read("environ");
        let words = read("cmdline");
        let has = |bytes: &[u8], part: &str| bytes.split(|b| *b == 0).any(|w| w == part.as_bytes());
        (has(&environment, &hostname) && has(&words, word)).then_some(pid)
    })
}

/// The network namespace of a process.
pub fn network_of(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

pub fn signal(pid: i32, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(pid), signal).unwrap();
}

/// Kills a process of a pod at once and waits for the one that takes its place.
#[track_caller]
pub fn kill_and_wait(pod: &str, word: &str) -> Duration {
    let started = std::time::Instant::now();
    let killed = process(pod, word).expect("the process runs");
    signal(killed, Signal::SIGKILL);
    eventually(&format!("`{word}` of pod {pod} to start again"), || match process(pod, word) {
        Some(pid) if pid != killed => Ok(()),
        other => Err(format!("{other:?}")),
    });
    started.elapsed()
}

/// Runs a command until a line of its progress holds `until`, sends it a signal, and returns what
/// it said. It must not succeed.
#[track_caller]
pub fn interrupt(mut command: Command, until: &str, by: Signal) -> String {
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut seen = Vec::new();
    let mut sent = false;
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        seen.push(line.unwrap());
        if !sent && seen.last().unwrap().contains(until) {
            signal(child.id().cast_signed(), by);
            sent = true;
        }
    }
    let ended = child.wait().unwrap();
    let told = seen.join("\n");
    assert!(sent && !ended.success(), "it was not interrupted at `{until}`:\n{told}");
    told
}
