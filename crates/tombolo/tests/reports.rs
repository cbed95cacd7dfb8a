//! istioctl's reporting commands against running meshes of lab clusters: each test brings one up
//! and asks it everything.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use serde_json::Value;

/// One mesh at a time: each is a dozen processes.
static TURN: Mutex<()> = parking_lot::const_mutex(());
/// How long a mesh may take to come up.
const UP: Duration = Duration::from_secs(400);

struct Mesh {
    folder: tempfile::TempDir,
    up: Option<Child>,
}

impl Mesh {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = env!("CARGO_BIN_EXE_tombolo");
        std::os::unix::fs::symlink(binary, folder.path().join("istioctl")).unwrap();
        Self { folder, up: None }
    }

    /// The program under one of its names, in a lab, a home and a kubeconfig of its own.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("TOMBOLO_LAB_DIR", self.folder.path().join("lab"))
            .env("XDG_STATE_HOME", self.folder.path().join("state"))
            .env("HOME", self.folder.path())
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"))
            .env_remove("TOMBOLO_LAB_API_SERVER");
        command
    }

    /// Brings an example up; none where the machine cannot run lab clusters, which CI must.
    fn up(model: &str) -> Option<Self> {
        let mut mesh = Self::new();
        let check =
            mesh.command(env!("CARGO_BIN_EXE_tombolo")).args(["lab", "check"]).output().unwrap();
        if !check.status.success() {
            let why = String::from_utf8_lossy(&check.stderr).into_owned();
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI must run labs: {why}");
            eprintln!("left out, because this machine cannot run lab clusters: {why}");
            return None;
        }
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
        let log = mesh.folder.path().join("up.log");
        let child = mesh
            .command(env!("CARGO_BIN_EXE_tombolo"))
            .arg("up")
            .arg(file.join(format!("{model}.yaml")))
            .args(["--requests", "20"])
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        mesh.up = Some(child);
        let end = Instant::now() + UP;
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if said.contains("runs until you interrupt it") {
                return Some(mesh);
            }
            let ended = mesh.up.as_mut().and_then(|child| child.try_wait().unwrap());
            assert_eq!(ended, None, "{model} did not come up:\n{said}");
            assert!(Instant::now() < end, "{model} took too long:\n{said}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn try_istioctl(&self, cluster: u8, arguments: &[&str]) -> Output {
        let context = format!("kind-cluster0{cluster}");
        let mut command = self.command(self.folder.path().join("istioctl"));
        command.args(arguments).args(["--context", &context]).output().unwrap()
    }

    /// What a command prints, which must work.
    fn istioctl(&self, cluster: u8, arguments: &[&str]) -> String {
        let output = self.try_istioctl(cluster, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, cluster: u8, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let text = self.istioctl(cluster, &all);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{all:?}: {error}: {text}"))
    }

    /// The lines of a table below its headings, by cells.
    fn rows(&self, cluster: u8, arguments: &[&str]) -> Vec<Vec<String>> {
        let text = self.istioctl(cluster, arguments);
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        text.lines().skip(1).map(cells).collect()
    }

    fn save(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Mesh {
    /// As Ctrl-C does, which removes the clusters.
    fn drop(&mut self) {
        let Some(mut child) = self.up.take() else { return };
        if let Ok(id) = i32::try_from(child.id()) {
            let _ = kill(Pid::from_raw(id), Signal::SIGINT);
        }
        let _ = child.wait();
    }
}

const SLEEP: &str = "deploy/sleep.sample";
const HELLOWORLD: &str = "outbound|5000||helloworld.sample.svc.cluster.local";

/// The state of every type of every proxy, from the document.
fn states(document: &Value) -> BTreeMap<String, Vec<String>> {
    let resources = document["resources"].as_array().unwrap();
    let each = |resource: &Value| {
        let configs = resource["genericXdsConfigs"].as_array().unwrap().iter();
        let states = configs.map(|config| config["configStatus"].as_str().unwrap().to_owned());
        (resource["node"]["id"].as_str().unwrap().to_owned(), states.collect())
    };
    resources.iter().map(each).collect()
}

#[test]
fn several_primaries_on_separate_networks() {
    let _turn = TURN.lock();
    let Some(mesh) = Mesh::up("multi-primary-multi-network") else { return };
    control_planes(&mesh);
    proxies(&mesh);
    documents(&mesh);
    certificates(&mesh);
    levels(&mesh);
    mistakes(&mesh);
}

fn control_planes(mesh: &Mesh) {
    for (own, other) in [(1, 2), (2, 1)] {
        let rows = mesh.rows(own, &["remote-clusters"]);
        assert_eq!(rows.len(), 2, "{rows:?}");
        let of = |name: String| rows.iter().find(|row| row[0] == name).unwrap();
        // Its own cluster has no secret, so its line has a cell less.
        assert_eq!(of(format!("cluster0{own}"))[1], "synced");
        let remote = of(format!("cluster0{other}"));
        let secret = format!("istio-system/istio-remote-secret-cluster0{other}");
        assert_eq!((&remote[1], remote[2].as_str()), (&secret, "synced"));
        assert!(remote[3].starts_with("istiod-"), "{remote:?}");
        assert_eq!(remote[4], "default");
        assert_eq!(
            mesh.json(own, &["remote-clusters"])[0]["clusters"].as_array().unwrap().len(),
            2
        );
    }
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        mesh.istioctl(1, &["version"]),
        format!(
            "client version: {version}\ncontrol plane version: {version}\ndata plane version: {version} (3 proxies)\n"
        )
    );
    let versions = mesh.json(1, &["version"]);
    assert_eq!(versions["meshVersion"][0]["Component"], "pilot");
    assert_eq!(versions["meshVersion"][0]["Info"]["version"], version);
    assert_eq!(versions["dataPlaneVersion"].as_array().unwrap().len(), 3);
}

fn proxies(mesh: &Mesh) {
    let rows = mesh.rows(1, &["proxy-status"]);
    assert_eq!(rows.len(), 3, "{rows:?}");
    for (row, (pod, types)) in rows.iter().zip([
        ("helloworld-v1-", "(CDS,LDS,EDS,RDS)"),
        ("istio-eastwestgateway-", "(CDS,LDS,EDS"),
        ("sleep-", "(CDS,LDS,EDS,RDS)"),
    ]) {
        assert!(row[0].starts_with(pod) && row[1] == "cluster01", "{row:?}");
        assert!(row[2].starts_with("istiod-") && row[5].starts_with(types), "{row:?}");
    }
    let verbose = mesh.istioctl(1, &["ps", "-v", "1", "-n", "sample"]);
    assert_eq!(verbose.lines().count(), 3, "{verbose}");
    assert_eq!(verbose.matches("SYNCED (").count(), 8, "{verbose}");
    let states = states(&mesh.json(1, &["ps"]));
    assert_eq!(states.len(), 3);
    for (proxy, states) in states {
        assert!(states.iter().all(|state| state == "SYNCED"), "{proxy}: {states:?}");
    }
    for proxy in [SLEEP, "deploy/istio-eastwestgateway.istio-system"] {
        let report = mesh.istioctl(1, &["ps", proxy]);
        assert!(report.starts_with("Clusters Match\nListeners Match\nRoutes Match"), "{report}");
    }
    let before = ["--context", "kind-cluster02", "-n", "sample", "ps"];
    let output = mesh.command(mesh.folder.path().join("istioctl")).args(before).output().unwrap();
    let rows = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(rows.matches(" cluster02 ").count(), 2, "{rows}");
    // The other cluster's endpoint is its gateway.
    let rows = mesh.rows(1, &["proxy-config", "endpoint", SLEEP, "--cluster", HELLOWORLD]);
    let addresses: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(addresses.len(), 2, "{rows:?}");
    assert!(addresses[0].starts_with("10.10.") && addresses[0].ends_with(":5000"), "{rows:?}");
    assert!(addresses[1].starts_with("172.18.12.") && addresses[1].ends_with(":15443"), "{rows:?}");
    assert!(rows.iter().all(|row| row[1] == "HEALTHY" && row[2] == "OK"), "{rows:?}");
    let listeners = mesh.istioctl(1, &["pc", "listeners", "deploy/sleep", "-n", "sample"]);
    assert!(listeners.contains("Route: 5000"), "{listeners}");
    let routes = mesh.istioctl(1, &["pc", "routes", SLEEP, "--name", "5000"]);
    assert!(routes.contains("helloworld.sample.svc.cluster.local:5000"), "{routes}");
    let gateway = ["pc", "l", "deploy/istio-eastwestgateway.istio-system", "--port", "15443"];
    let chains = mesh.istioctl(1, &gateway);
    assert!(
        chains.contains("SNI: outbound_.5000_._.helloworld.sample.svc.cluster.local"),
        "{chains}"
    );
}

fn documents(mesh: &Mesh) {
    for part in ["cluster", "listener", "route", "endpoint", "eds"] {
        let document = mesh.json(1, &["pc", part, SLEEP]);
        assert!(!document.as_array().unwrap().is_empty(), "{part}");
    }
    let bootstrap = mesh.json(1, &["pc", "bootstrap", SLEEP]);
    let node = &bootstrap["bootstrap"]["node"];
    assert!(node["id"].as_str().unwrap().ends_with(".sample~sample.svc.cluster.local"), "{node}");
    assert_eq!(node["metadata"]["NETWORK"], "network1");
    // A dump from a file gives the tables that the proxy gives.
    let all = mesh.istioctl(1, &["pc", "all", SLEEP, "-o", "json"]);
    let dump: Value = serde_json::from_str(&all).unwrap();
    let upstream = &dump["configs"][1]["dynamic_active_clusters"][0];
    for field in ["version_info", "last_updated", "cluster"] {
        assert_ne!(upstream[field], Value::Null, "{field}: {upstream}");
    }
    let file = mesh.save("dump.json", &all);
    for part in ["c", "l", "r", "s", "eds"] {
        let saved = mesh.istioctl(1, &["pc", part, "-f", file.to_str().unwrap()]);
        assert_eq!(saved, mesh.istioctl(1, &["pc", part, SLEEP]), "{part}");
    }
}

fn certificates(mesh: &Mesh) {
    let rows = mesh.istioctl(1, &["pc", "secret", SLEEP]);
    let lines: Vec<&str> = rows.lines().collect();
    assert!(lines[1].starts_with("default     ") && lines[1].contains("Cert Chain"), "{rows}");
    assert!(lines[2].starts_with("ROOTCA      ") && lines[2].contains("CA  "), "{rows}");
    assert!(lines[1..].iter().all(|line| line.contains("ACTIVE     true ")), "{rows}");
    let secrets = mesh.json(1, &["pc", "secret", SLEEP]);
    let secret = &secrets["dynamicActiveSecrets"][0]["secret"]["tlsCertificate"];
    let bytes = |source: &Value| {
        let text = source["inlineBytes"].as_str().unwrap();
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).unwrap()).unwrap()
    };
    assert_eq!(bytes(&secret["privateKey"]), "[redacted]");
    let chain = tombolo_tls::x509::certificates(&bytes(&secret["certificateChain"])).unwrap();
    let facts = tombolo_tls::x509::Facts::read(&chain[0]).unwrap();
    assert_eq!(facts.uris, ["spiffe://cluster.local/ns/sample/sa/sleep"]);
    let compared =
        mesh.istioctl(1, &["pc", "rootca-compare", SLEEP, "deploy/helloworld-v1.sample"]);
    assert!(compared.contains("have the identical ROOTCA"), "{compared}");
}

fn levels(mesh: &Mesh) {
    let levels = mesh.istioctl(1, &["pc", "log", SLEEP, "--level", "http:debug,router:trace"]);
    assert!(levels.contains("  http: debug\n") && levels.contains("  router: trace\n"), "{levels}");
    let again = mesh.istioctl(1, &["pc", "log", SLEEP]);
    assert_eq!(again, levels);
    let reset = mesh.istioctl(1, &["pc", "log", SLEEP, "-r"]);
    assert!(reset.contains("  http: warning\n"), "{reset}");
}

fn mistakes(mesh: &Mesh) {
    for (arguments, expected) in [
        (vec!["pc", "c", "nobody.sample"], "get pod nobody in namespace sample"),
        (vec!["pc", "c", "deploy/nobody.sample"], "get Deployment nobody in namespace sample"),
        (vec!["pc", "c", "deploy/istiod.istio-system"], "has no container istio-proxy"),
        (vec!["pc", "c", "node/a.b"], "not of the form [TYPE/]NAME[.NAMESPACE]"),
        (vec!["pc", "log", SLEEP, "--level", "bogus:info"], "unrecognized logger name: bogus"),
        (vec!["ps", "-i", "nowhere"], "unable to find any Istiod instances"),
        (vec!["remote-clusters", "-r", "canary"], "app=istiod,istio.io/rev=canary"),
    ] {
        let output = mesh.try_istioctl(1, &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_primary_and_its_remote() {
    let _turn = TURN.lock();
    let Some(mesh) = Mesh::up("primary-remote") else { return };
    let rows = mesh.rows(1, &["remote-clusters"]);
    let remote = rows.iter().find(|row| row[0] == "cluster02").unwrap();
    assert_eq!(remote[1..3], ["istio-system/istio-remote-secret-cluster02", "synced"]);
    // The proxies of both clusters follow the primary.
    let states = states(&mesh.json(1, &["ps"]));
    assert!(states.values().flatten().all(|state| state == "SYNCED"), "{states:?}");
    let rows = mesh.rows(1, &["ps", "-n", "sample"]);
    let clusters: Vec<_> = rows.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(clusters.iter().filter(|name| **name == "cluster02").count(), 2, "{rows:?}");
    // On one network the other cluster's endpoint is the pod itself.
    let rows = mesh.rows(2, &["pc", "ep", SLEEP, "--cluster", HELLOWORLD]);
    let addresses: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert!(addresses.iter().all(|address| address.ends_with(":5000")), "{rows:?}");
    let prefixes: Vec<_> = addresses.iter().map(|address| &address[..6]).collect();
    assert_eq!(prefixes, ["10.10.", "10.20."]);
    let output = mesh.try_istioctl(2, &["ps"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("name the cluster of the control plane by --context"), "{stderr}");
}
