//! What `tombolo up` refuses, with what it says, and that nothing was made of it. Needs root.

#![cfg(test)]

#[path = "lab/support.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod support;

#[path = "mesh/support.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod mesh;

use std::fs;
use std::process::Command;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use mesh::{example, interrupt, own_network};
use nix::sys::signal::Signal;
use support::{TestLab, eventually_async, text};

/// A mesh of one cluster, which is all that a step needs to fail.
const ONE: &str = "\
apiVersion: tombolo.dev/v1alpha1
kind: Mesh
metadata: {name: mesh1}
spec:
  clusters:
  - name: cluster01
    network: network1
    controlPlane: Primary
    lab: {podSubnet: 10.10.0.0/16, serviceSubnet: 10.11.0.0/16, loadBalancerPool: 172.18.11.0-172.18.11.255}
";

/// Nothing runs, no cluster is known, and the user's kubeconfig was not written.
#[track_caller]
fn nothing_was_made(lab: &TestLab) {
    assert_eq!(lab.supervisor(), None);
    let clusters = fs::read_dir(lab.lab_folder().join("clusters"));
    assert_eq!(clusters.map_or(0, Iterator::count), 0);
    assert_eq!(lab.kubeconfig(), "");
}

#[test]
fn mistakes_in_the_file_are_named_by_place_and_nothing_is_made() {
    let cases = [
        (
            "multi-primary",
            ("10.20.0.0/16", "10.10.64.0/18"),
            "mesh.yaml:25:18: spec.clusters[1].lab.podSubnet: 10.10.64.0/18 of cluster `cluster02` overlaps podSubnet 10.10.0.0/16 of cluster `cluster01` (line 18), which is in the same network `network1`; give each its own range",
        ),
        (
            "multi-primary",
            ("10.21.0.0/16", "10.11.0.0/16"),
            "mesh.yaml:26:22: spec.clusters[1].lab.serviceSubnet: 10.11.0.0/16 of cluster `cluster02` overlaps",
        ),
        (
            "multi-primary",
            ("10.20.0.0/16", "10.20.0.0/64"),
            "mesh.yaml:25:18: spec.clusters[1].lab.podSubnet: `10.20.0.0/64` is not a subnet; write it like 10.10.0.0/16",
        ),
        (
            "primary-remote",
            ("controlPlane: Primary", "controlPlane: Remote"),
            "spec.clusters[0].controlPlane: cluster `cluster01` is a remote, but no cluster of this mesh is a primary; say `controlPlane: Primary` for one of them",
        ),
        (
            "multi-primary",
            ("name: cluster02", "name: cluster01"),
            "spec.clusters[1].name: `cluster01` is the name of another cluster (line 14); give each cluster its own name",
        ),
        (
            "multi-primary",
            ("podSubnet: 10.20", "podNet: 10.20"),
            "mesh.yaml:25:7: unknown field `podNet`",
        ),
        (
            "multi-primary",
            ("podSubnet: 10.20", "apiServer: Real\n      podSubnet: 10.20"),
            "mesh.yaml:25:18: unknown variant `Real`, expected one of Embedded, Kubernetes",
        ),
        (
            "multi-primary",
            ("rootCA: SelfSigned", "rootCA: {Files: {certificate: no.pem, key: no-key.pem}}"),
            "no.pem: No such file or directory",
        ),
    ];
    for (model, (from, to), want) in cases {
        let lab = TestLab::new();
        let original = example(model);
        assert!(original.contains(from), "{from}");
        let file = lab.path("mesh.yaml");
        fs::write(&file, original.replacen(from, to, 1)).unwrap();
        let told = lab.fails(&["up", &file.display().to_string(), "--exit"]);
        assert!(told.contains(want), "{told}\nwanted: {want}");
        nothing_was_made(&lab);
        // Whatever else takes the file says the same.
        for command in ["plan", "apply", "verify"] {
            let again = lab.fails(&[command, "-f", &file.display().to_string()]);
            assert_eq!(again, told, "{command}");
        }
    }
}

#[test]
fn clusters_of_ones_own_are_not_brought_up_and_taken_down() {
    let lab = TestLab::new();
    let lines = example("multi-primary");
    let (before, _) = lines.rsplit_once("    lab:").unwrap();
    let file = lab.path("mesh.yaml");
    fs::write(&file, format!("{before}    kubeconfig: {{context: production}}\n")).unwrap();
    let told = lab.fails(&["up", &file.display().to_string(), "--exit"]);
    assert!(told.contains("cluster cluster02 of mesh mesh1 is no lab cluster"), "{told}");
    assert!(told.contains("use `tombolo apply -f FILE`"), "{told}");
    nothing_was_made(&lab);
}

/// Runs `tombolo up` by a shell script that takes something of the machine away before it runs
/// its arguments.
#[track_caller]
fn up_without(lab: &TestLab, unshare: &[&str], script: &str) -> String {
    let mut command = Command::new("unshare");
    command.args(unshare).args(["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_tombolo")]);
    command.args(["up", "--exit"]);
    command
        .env("TOMBOLO_LAB_DIR", lab.lab_folder())
        .env("KUBECONFIG", lab.path("kubeconfig"))
        .env("XDG_STATE_HOME", lab.path("state"));
    let output = command.output().unwrap();
    let told = text(&output.stderr);
    assert!(!output.status.success(), "{told}");
    told
}

#[test]
fn a_machine_that_cannot_is_told_so_and_nothing_is_made() {
    let lab = TestLab::new();
    let no_tools = "mount -t tmpfs none /usr/sbin && mount -t tmpfs none /sbin && exec \"$@\"";
    let told = up_without(&lab, &["--mount"], no_tools);
    assert!(
        told.contains("this machine cannot run lab clusters yet; nothing was created")
            && told.contains("program `nft` is not installed: install it, on Debian with `apt-get install nftables`"),
        "{told}"
    );
    nothing_was_made(&lab);

    // A kernel that gives no network namespaces, as root and as anybody.
    let no_namespaces = "echo 0 > /proc/sys/user/max_net_namespaces && exec \"$@\"";
    let told = up_without(&lab, &["--user", "--map-root-user"], no_namespaces);
    assert!(
        told.contains("this kernel does not let this user make network and mount namespaces")
            && told.contains("user.max_net_namespaces"),
        "{told}"
    );
    nothing_was_made(&lab);
    let told = up_without(&lab, &["--user"], "exec \"$@\"");
    assert!(told.contains("this kernel does not let this user make user namespaces"), "{told}");
    nothing_was_made(&lab);
}

#[tokio::test]
async fn a_step_that_fails_is_named_and_what_was_made_is_removed_or_left_as_asked() {
    own_network();
    let lab = TestLab::new();
    // The host already uses the bridge's range, which is said, and does no harm.
    let taken = Command::new("ip").args(["addr", "add", "172.18.77.1/24", "dev", "lo"]).status();
    assert!(taken.unwrap().success());
    let file = lab.path("mesh.yaml").display().to_string();
    fs::write(&file, ONE).unwrap();
    let subnets = "networking: {podSubnet: 10.10.0.0/16, serviceSubnet: 10.11.0.0/16}\n";
    let config = lab.config("cluster01", subnets);
    let pool = "172.18.11.0-172.18.11.255";
    let create = ["lab", "create", "--config", &config, "--load-balancer-pool", pool];
    let output = lab.run(&create);
    let told = text(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("this host already uses 172.18.77.0/24 (on lo)"), "{told}");

    // A namespace that is on its way out takes no new objects.
    let namespaces: Api<Namespace> = Api::all(lab.client("cluster01").await);
    let meta = ObjectMeta {
        name: Some("istio-system".to_owned()),
        finalizers: Some(vec!["example.org/stay".to_owned()]),
        ..ObjectMeta::default()
    };
    let stuck = Namespace { metadata: meta, ..Namespace::default() };
    namespaces.create(&PostParams::default(), &stuck).await.unwrap();
    namespaces.delete("istio-system", &kube::api::DeleteParams::default()).await.unwrap();
    eventually_async("the namespace to terminate", async || {
        let status = namespaces.get("istio-system").await.unwrap().status.unwrap();
        if status.phase.as_deref() == Some("Terminating") { Ok(()) } else { Err("not yet") }
    })
    .await;
    let told = lab.fails(&["up", &file, "--keep"]);
    let why = "namespace istio-system because it is being terminated";
    assert!(told.contains("cluster cluster01: apply ") && told.contains(why), "{told}");
    assert!(told.contains("what was made is left as it is; `tombolo down` removes it"), "{told}");
    assert_eq!(lab.ok(&["lab", "get", "clusters"]), "cluster01\n");

    // Without --keep, what `up` made goes; what was there stays.
    let told = lab.fails(&["up", &file]);
    assert!(told.contains("lab cluster cluster01 was there before and stays"), "{told}");
    assert_eq!(lab.ok(&["lab", "get", "clusters"]), "cluster01\n");
    lab.ok(&["down", &file]);
    assert_eq!(lab.ok(&["lab", "get", "clusters"]), "");
    assert!(!lab.kubeconfig().contains("cluster01"), "{}", lab.kubeconfig());
}

#[test]
fn an_interrupted_up_leaves_nothing_and_a_killed_one_is_finished_by_the_next() {
    own_network();
    let lab = TestLab::new();
    let file = lab.path("mesh.yaml").display().to_string();
    fs::write(&file, ONE).unwrap();
    for (until, by) in
        [("make the lab cluster", Signal::SIGINT), ("install the control plane", Signal::SIGTERM)]
    {
        let told = interrupt(lab.command(&["up", &file]), until, by);
        assert!(told.ends_with("error: interrupted"), "{told}");
        assert_eq!(lab.ok(&["lab", "get", "clusters"]), "", "{told}");
        assert!(!lab.kubeconfig().contains("cluster01"), "{}", lab.kubeconfig());
        assert_eq!(lab.supervisor(), None);
    }
    // Whatever it left half made is completed.
    interrupt(lab.command(&["up", &file]), "make the lab cluster", Signal::SIGKILL);
    interrupt(lab.command(&["up", &file]), "install Istio's definitions", Signal::SIGKILL);
    let report = lab.ok(&["up", &file, "--exit", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["ok"], true, "{report:#}");
    lab.ok(&["down", &file]);
    assert_eq!(lab.supervisor(), None);
}
