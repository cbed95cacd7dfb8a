//! The tutorial's own commands for each model, as `examples/tutorial` has them, on both API
//! servers, with the real kubectl and make. Each script says itself whether both versions answered
//! from both clusters.
//!
//! Needs root: every script runs in a network namespace of its own, because it reaches nodes by
//! their addresses and two labs cannot have the same ones.

#![cfg(test)]

use std::env::{join_paths, split_paths, var_os};
use std::path::{Path, PathBuf};
use std::process::Command;

use parking_lot::Mutex;

/// One mesh at a time: each is a dozen processes.
static TURN: Mutex<()> = parking_lot::const_mutex(());

/// How long a script may take on a busy machine, in seconds. After that it is ended, and removes
/// its clusters.
const LIMIT: &str = "1200";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The folder of the real Kubernetes programs.
fn assets() -> Option<PathBuf> {
    let named = var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let built = repository().join("tools/kubernetes/bin");
    named.into_iter().chain([built]).find(|folder| folder.join("kube-apiserver").exists())
}

/// Whether something that the test needs is there. CI must have it; others are told.
fn have(there: bool, lacking: &str) -> bool {
    assert!(there || var_os("CI").is_none(), "CI must have {lacking}");
    if !there {
        eprintln!("left out: {lacking} is missing");
    }
    there
}

fn run(model: &str, api_server: &str) {
    let _turn = TURN.lock();
    assert!(nix::unistd::geteuid().is_root(), "tests of the lab need root");
    let assets = assets();
    if api_server == "kubernetes"
        && !have(assets.is_some(), "the real Kubernetes (run tools/kubernetes/build)")
    {
        return;
    }
    let path = var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = split_paths(&path).collect();
    folders.splice(0..0, assets.iter().cloned());
    if !have(folders.iter().any(|f| f.join("kubectl").exists()), "kubectl") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let script = repository().join(format!("examples/tutorial/{model}.sh"));
    let mut command = Command::new("unshare");
    command
        .args(["--net", "sh", "-c", "ip link set lo up && exec timeout -k 60 \"$1\" \"$2\""])
        .args(["sh", LIMIT])
        .arg(script)
        .env("TOMBOLO", env!("CARGO_BIN_EXE_tombolo"))
        .env("TOMBOLO_LAB_API_SERVER", api_server)
        .env("HOME", home.path())
        .env("PATH", join_paths(folders).unwrap())
        .env_remove("TOMBOLO_LAB_DIR")
        .env_remove("KUBECONFIG")
        .env_remove("KIND_CLUSTER_NAME");
    if let Some(assets) = assets {
        command.env("KUBEBUILDER_ASSETS", assets);
    }
    let output = command.output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{model}: {}\n{stdout}\n{stderr}", output.status);
    // The tutorial's words, from each of the two loops of ten.
    let answers = stdout.lines().filter(|line| line.starts_with("Hello version: v")).count();
    assert!(answers >= 20, "{answers} answers\n{stdout}");
    assert!(stdout.contains("both versions answered from both clusters"), "{stdout}");
}

#[test]
fn one_flat_network_and_one_control_plane() {
    run("primary-remote", "embedded");
}

#[test]
fn one_flat_network_and_one_control_plane_on_the_real_api_server() {
    run("primary-remote", "kubernetes");
}

#[test]
fn one_flat_network_and_two_control_planes() {
    run("multi-primary", "embedded");
}

#[test]
fn one_flat_network_and_two_control_planes_on_the_real_api_server() {
    run("multi-primary", "kubernetes");
}

#[test]
fn separate_networks_and_one_control_plane() {
    run("primary-remote-multi-network", "embedded");
}

#[test]
fn separate_networks_and_one_control_plane_on_the_real_api_server() {
    run("primary-remote-multi-network", "kubernetes");
}

#[test]
fn separate_networks_and_two_control_planes() {
    run("multi-primary-multi-network", "embedded");
}

#[test]
fn separate_networks_and_two_control_planes_on_the_real_api_server() {
    run("multi-primary-multi-network", "kubernetes");
}
