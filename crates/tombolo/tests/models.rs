//! The four models, end to end, on embedded API servers and on real ones: `tombolo up FILE --exit
//! -o json` makes the clusters, joins them, deploys the sample, and its report must hold.

#![cfg(test)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use parking_lot::Mutex;
use serde_json::{Value, json};

/// One mesh at a time: each is a dozen processes.
static TURN: Mutex<()> = parking_lot::const_mutex(());

struct Run {
    folder: tempfile::TempDir,
}

impl Run {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// The binary, in a lab, a home and a kubeconfig of its own.
    fn tombolo(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tombolo"));
        command
            .args(arguments)
            .env("TOMBOLO_LAB_DIR", self.folder.path().join("lab"))
            .env("XDG_STATE_HOME", self.folder.path().join("state"))
            .env("HOME", self.folder.path())
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"))
            .env_remove("TOMBOLO_LAB_API_SERVER");
        if let Some(programs) = kubernetes() {
            command.env("KUBEBUILDER_ASSETS", programs);
        }
        command
    }
}

/// How a run says which API server its clusters have.
#[derive(Clone, Copy, Debug)]
enum ApiServer {
    /// Not at all, which means the embedded one.
    Unsaid,
    /// A real one, by the mesh file's field.
    RealByFile,
    /// A real one, by the environment.
    RealByEnvironment,
}

/// The folder of the real Kubernetes programs, if they are there.
fn kubernetes() -> Option<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/kubernetes/bin");
    assets.into_iter().chain([built]).find(|folder| folder.join("kube-apiserver").exists())
}

/// Whether a run can have its API server. Where it cannot, CI fails and others are told.
fn has(api_server: ApiServer) -> bool {
    if matches!(api_server, ApiServer::Unsaid) || kubernetes().is_some() {
        return true;
    }
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "CI must have the Kubernetes programs: run tools/kubernetes/build"
    );
    eprintln!(
        "left out: the model on a real kube-apiserver (set KUBEBUILDER_ASSETS, see tools/kubernetes)"
    );
    false
}

fn example(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(format!("{model}.yaml"))
}

/// Whether the machine can run lab clusters. Where it cannot, CI fails and others are told.
fn able() -> bool {
    let check = Run::new().tombolo(&["lab", "check"]);
    if check.status.success() {
        return true;
    }
    let why = String::from_utf8_lossy(&check.stderr).into_owned();
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI must run lab clusters: {why}");
    eprintln!("left out, because this machine cannot run lab clusters: {why}");
    false
}

/// Brings a model up and returns its report.
fn verified(model: &str, api_server: ApiServer) -> Option<Value> {
    let _turn = TURN.lock();
    if !able() || !has(api_server) {
        return None;
    }
    let run = Run::new();
    let mut text = std::fs::read_to_string(example(model)).unwrap();
    if matches!(api_server, ApiServer::RealByFile) {
        text = text.replace("      podSubnet:", "      apiServer: Kubernetes\n      podSubnet:");
        assert_eq!(text.matches("apiServer: Kubernetes").count(), 2, "{text}");
    }
    let file = run.folder.path().join("mesh.yaml");
    std::fs::write(&file, text).unwrap();
    let mut command = run.command(&["up", file.to_str().unwrap(), "--exit", "-o", "json"]);
    if matches!(api_server, ApiServer::RealByEnvironment) {
        command.env("TOMBOLO_LAB_API_SERVER", "kubernetes");
    }
    let output = command.output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "{model}, {api_server:?}: exit code {:?}\n{stdout}\n{stderr}",
        output.status.code()
    );
    let real = stderr.contains("make the lab cluster with a real kube-apiserver");
    assert_eq!(real, !matches!(api_server, ApiServer::Unsaid), "{stderr}");
    assert_eq!(
        stdout.lines().count(),
        1,
        "{model}: standard output holds the report and nothing else\n{stdout}"
    );
    let kubeconfig =
        std::fs::read_to_string(run.folder.path().join("kubeconfig")).unwrap_or_default();
    assert!(
        !kubeconfig.contains("kind-cluster"),
        "{model}: the kubeconfig still has entries\n{kubeconfig}"
    );
    Some(serde_json::from_str(&stdout).unwrap())
}

/// What must hold in every model; `path` and the gateways' address prefixes are the model's own.
fn check(model: &str, api_server: ApiServer, path: &str, gateways: &[(&str, &str)]) {
    let Some(report) = verified(model, api_server) else { return };
    assert_eq!(report["mesh"], "mesh1");
    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(report["plaintext"]["canaries"], 0);
    assert!(report["plaintext"]["packets"].as_u64().unwrap() > 0, "{report:#}");
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 2);
    for (check, from) in checks.iter().zip(["cluster01", "cluster02"]) {
        assert_eq!(check["from"], from);
        assert_eq!(check["service"], "helloworld.sample.svc.cluster.local:5000");
        assert_eq!(
            (check["sent"].as_u64(), check["failed"].as_u64()),
            (Some(200), Some(0)),
            "{check:#}"
        );
        let answers: Vec<_> = check["answers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|answer| {
                (answer["cluster"].as_str().unwrap(), answer["version"].as_str().unwrap())
            })
            .collect();
        assert_eq!(answers, [("cluster01", "v1"), ("cluster02", "v2")]);
        assert_eq!(check["path"], path);
        assert_eq!(check["mtls"], true);
        assert_eq!(check["peer"], "spiffe://cluster.local/ns/sample/sa/helloworld");
        assert_eq!(check["client"], "spiffe://cluster.local/ns/sample/sa/sleep");
        let used: Vec<_> =
            check["gateways"].as_array().unwrap().iter().map(|g| g.as_str().unwrap()).collect();
        let expected: Vec<_> = gateways
            .iter()
            .filter(|(client, _)| *client == from)
            .map(|(_, prefix)| prefix)
            .collect();
        assert_eq!(used.len(), expected.len(), "{check:#}");
        for (used, prefix) in used.iter().zip(expected) {
            assert!(used.starts_with(prefix) && used.ends_with(":15443"), "{used}");
        }
    }
}

/// Each cluster reaches the other through the other's gateway.
const ACROSS: &[(&str, &str)] = &[("cluster01", "172.18.12."), ("cluster02", "172.18.11.")];

#[test]
fn several_primaries_on_separate_networks() {
    check("multi-primary-multi-network", ApiServer::Unsaid, "gateway", ACROSS);
}

#[test]
fn several_primaries_on_one_flat_network() {
    check("multi-primary", ApiServer::Unsaid, "direct", &[]);
}

#[test]
fn a_primary_and_its_remote_on_separate_networks() {
    check("primary-remote-multi-network", ApiServer::Unsaid, "gateway", ACROSS);
}

#[test]
fn a_primary_and_its_remote_on_one_flat_network() {
    check("primary-remote", ApiServer::Unsaid, "direct", &[]);
}

#[test]
fn several_primaries_on_separate_networks_on_a_real_api_server() {
    check("multi-primary-multi-network", ApiServer::RealByFile, "gateway", ACROSS);
}

#[test]
fn several_primaries_on_one_flat_network_on_a_real_api_server() {
    check("multi-primary", ApiServer::RealByEnvironment, "direct", &[]);
}

#[test]
fn a_primary_and_its_remote_on_separate_networks_on_a_real_api_server() {
    check("primary-remote-multi-network", ApiServer::RealByFile, "gateway", ACROSS);
}

#[test]
fn a_primary_and_its_remote_on_one_flat_network_on_a_real_api_server() {
    check("primary-remote", ApiServer::RealByEnvironment, "direct", &[]);
}

#[test]
fn three_clusters_in_mixed_models() {
    let Some(report) = verified("three-clusters", ApiServer::Unsaid) else { return };
    assert_eq!(report["ok"], true, "{report:#}");
    let checks = report["checks"].as_array().unwrap();
    // The first two share a network with two gateways; the third has one. From there, the gateways
    // choose the cluster, once for each connection: one may then answer nothing.
    for (check, (from, gateways)) in
        checks.iter().zip([("cluster01", 1), ("cluster02", 1), ("cluster03", 2)])
    {
        assert_eq!((check["from"].as_str(), check["failed"].as_u64()), (Some(from), Some(0)));
        let clusters: Vec<_> =
            check["answers"].as_array().unwrap().iter().map(|answer| &answer["cluster"]).collect();
        if from == "cluster03" {
            assert!(clusters.len() >= 2 && clusters.contains(&&json!(from)), "{check:#}");
        } else {
            assert_eq!(clusters, ["cluster01", "cluster02", "cluster03"]);
        }
        assert_eq!(check["path"], "gateway");
        assert_eq!(check["gateways"].as_array().unwrap().len(), gateways, "{check:#}");
    }
    assert_eq!(checks.len(), 3);
}

#[test]
fn mistakes_in_a_mesh_file_are_found_before_anything_is_made() {
    let run = Run::new();
    let text = std::fs::read_to_string(example("multi-primary"))
        .unwrap()
        .replace("10.20.0.0/16", "10.10.64.0/18");
    let file = run.folder.path().join("mesh.yaml");
    std::fs::write(&file, text).unwrap();
    let output = run.tombolo(&["up", file.to_str().unwrap(), "--exit"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        stderr.contains("mesh.yaml:25:18: spec.clusters[1].lab.podSubnet: 10.10.64.0/18"),
        "{stderr}"
    );
    assert!(!run.folder.path().join("lab").exists(), "something was made");
}
