//! A lab of a test's own: its folder, its kubeconfig, its commands, and its end.

use std::fmt::Display;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which API servers a test runs against: the embedded one, and the real one where it is.
pub fn api_servers() -> Vec<&'static str> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/kubernetes/bin");
    let found = assets.into_iter().chain([built]).any(|f| f.join("kube-apiserver").exists());
    if found {
        return vec!["embedded", "kubernetes"];
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "CI must have the Kubernetes programs: run tools/kubernetes/build"
    );
    eprintln!("left out: the real Kubernetes API (set KUBEBUILDER_ASSETS, see tools/kubernetes)");
    vec!["embedded"]
}

/// A lab in a folder of its own.
pub struct TestLab {
    folder: tempfile::TempDir,
}

impl TestLab {
    /// An empty lab. These tests make namespaces, so they need root.
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "tests of the lab need root");
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn lab_folder(&self) -> PathBuf {
        self.path("lab")
    }

    /// A command of this program with the lab's environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tombolo"));
        command
            .args(arguments)
            .env("TOMBOLO_LAB_DIR", self.lab_folder())
            .env("KUBECONFIG", self.path("kubeconfig"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env_remove("TOMBOLO_LAB_API_SERVER")
            .env_remove("KIND_CLUSTER_NAME")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed and returns what it printed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?} failed: {err}\n{out}\n{}", self.logs());
        out
    }

    /// Runs a command that must fail and returns what it said.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} did not fail");
        text(&output.stderr)
    }

    /// Writes a kind document and returns its path.
    pub fn config(&self, name: &str, rest: &str) -> String {
        let path = self.path(&format!("{name}.yaml"));
        let text =
            format!("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nname: {name}\n{rest}");
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Creates a cluster from kind's defaults and the rest of a document.
    #[track_caller]
    pub fn create(&self, name: &str, rest: &str, api_server: &str) {
        let config = self.config(name, rest);
        self.ok(&[
            "lab",
            "create",
            "--config",
            &config,
            "--api-server",
            api_server,
            "--wait",
            "60s",
        ]);
    }

    /// The user's kubeconfig as text, empty when there is none.
    pub fn kubeconfig(&self) -> String {
        fs::read_to_string(self.path("kubeconfig")).unwrap_or_default()
    }

    /// A client of one cluster through the user's kubeconfig.
    pub async fn client(&self, cluster: &str) -> Client {
        // A second installation only says so.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig()).unwrap();
        let options =
            KubeConfigOptions { context: Some(format!("kind-{cluster}")), ..Default::default() };
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        Client::try_from(config).unwrap()
    }

    /// The supervisor's id on the host, and whether it has a link to the host.
    pub fn supervisor(&self) -> Option<(i32, bool)> {
        self.processes().into_iter().find_map(|(pid, command)| {
            let inside = command.contains("supervisor --inside");
            inside.then(|| (pid, command.contains("--attached")))
        })
    }

    /// The processes that name this lab's folder, with their command lines.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let folder = self.folder.path().display().to_string();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter_map(|entry| {
                let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
                let command = fs::read(entry.path().join("cmdline")).ok()?;
                let command = text(&command).replace('\0', " ");
                command.contains(&folder).then_some((pid, command))
            })
            .collect()
    }

    /// What the host has of this lab: processes, its network namespace, mounts.
    pub fn traces(&self, network: &str) -> Vec<String> {
        let folder = self.folder.path().display().to_string();
        let mut traces: Vec<_> =
            self.processes().into_iter().map(|(pid, command)| format!("{pid} {command}")).collect();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let link = fs::read_link(entry.path().join("ns/net")).unwrap_or_default();
            if link.display().to_string() == network {
                traces.push(format!("{} is in {network}", entry.path().display()));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        traces.extend(mounts.lines().filter(|l| l.contains(&folder)).map(str::to_owned));
        traces
    }

    /// The network namespace of the supervisor, as `/proc` names it.
    pub fn network(&self) -> String {
        let (pid, _) = self.supervisor().expect("a supervisor runs");
        fs::read_link(format!("/proc/{pid}/ns/net")).unwrap().display().to_string()
    }

    /// The ends of all logs, for a failure's message.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let mut files = vec![self.lab_folder().join("supervisor.log")];
        for cluster in
            fs::read_dir(self.lab_folder().join("clusters")).into_iter().flatten().flatten()
        {
            let logs = fs::read_dir(cluster.path().join("logs")).into_iter().flatten().flatten();
            files.extend(logs.map(|entry| entry.path()));
        }
        for file in files {
            let log = fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(5)..].join("\n");
            text.push_str(&format!("--- {}\n{last}\n", file.display()));
        }
        text
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        // The kernel ends the rest of a failed test's lab with its first process.
        if let Some((pid, _)) = self.supervisor() {
            let pid = nix::unistd::Pid::from_raw(pid);
            let killed = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            writeln!(std::io::stderr(), "lab of the test ended: {killed:?}").unwrap();
        }
    }
}

/// Waits until `look` finds what it looks for.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(started.elapsed() < PATIENCE, "waited for {what}: {seen}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until an asynchronous question is answered.
pub async fn eventually_async<T, E: Display>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let started = Instant::now();
    loop {
        match ask().await {
            Ok(found) => return found,
            Err(error) => assert!(started.elapsed() < PATIENCE, "waited for {what}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Writes a ConfigMap that a test looks for later.
pub async fn write_marker(client: &Client, name: &str) {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let object = serde_json::from_value(json!({"metadata": {"name": name}, "data": {"a": "b"}}));
    api.create(&PostParams::default(), &object.unwrap()).await.unwrap();
}

/// The names of the ConfigMaps that tests wrote.
pub async fn markers(client: &Client) -> Result<Vec<String>, kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let all = api.list(&ListParams::default()).await?;
    let names = all.items.into_iter().filter_map(|object| object.metadata.name);
    Ok(names.filter(|name| name != "kube-root-ca.crt").collect())
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
