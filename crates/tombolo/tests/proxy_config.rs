//! `proxy-config` on what a real Envoy said: a dump recorded from Envoy 1.40 with the resources of
//! a sidecar. The tables are golden files.

#![cfg(test)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(name)
}

fn tombolo(arguments: &[&str]) -> Output {
    // No cluster is needed for files, so there is none.
    Command::new(env!("CARGO_BIN_EXE_tombolo"))
        .args(arguments)
        .env("KUBECONFIG", "/nowhere")
        .output()
        .unwrap()
}

fn proxy_config(part: &str, file: &str, rest: &[&str]) -> String {
    let file = recorded(file);
    let mut arguments = vec!["proxy-config", part, "--file", file.to_str().unwrap()];
    arguments.extend(rest);
    let output = tombolo(&arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

const DUMP: &str = "envoy-config-dump.json";
const CLUSTERS: &str = "envoy-clusters.json";

#[test]
fn tables_of_a_real_envoy() {
    insta::assert_snapshot!("clusters", proxy_config("clusters", DUMP, &[]));
    insta::assert_snapshot!("listeners", proxy_config("listeners", DUMP, &[]));
    insta::assert_snapshot!("listeners-short", proxy_config("l", DUMP, &["--verbose=false"]));
    insta::assert_snapshot!("routes", proxy_config("routes", DUMP, &[]));
    insta::assert_snapshot!("routes-short", proxy_config("r", DUMP, &["--verbose=false"]));
    insta::assert_snapshot!("endpoints", proxy_config("endpoints", CLUSTERS, &[]));
    insta::assert_snapshot!("eds", proxy_config("eds", DUMP, &[]));
    insta::assert_snapshot!("secrets", proxy_config("secrets", DUMP, &[]));
    insta::assert_snapshot!("bootstrap", proxy_config("b", DUMP, &["-o", "short"]));
    insta::assert_snapshot!("all", proxy_config("all", DUMP, &["--with-headers"]));
}

#[test]
fn filters_choose_lines() {
    let names = |part: &str, file: &str, rest: &[&str]| -> Vec<String> {
        let text = proxy_config(part, file, rest);
        text.lines()
            .skip(1)
            .map(|line| line.split_whitespace().next().unwrap().to_owned())
            .collect()
    };
    let helloworld = "helloworld.sample.svc.cluster.local";
    let subset = ["--fqdn", "helloworld", "--subset", "v1", "--port", "5000"];
    assert_eq!(names("c", DUMP, &subset), [helloworld]);
    assert_eq!(names("c", DUMP, &["--direction", "outbound"]), [helloworld, helloworld]);
    assert_eq!(names("c", DUMP, &["--fqdn", "nobody"]), [""; 0]);
    assert_eq!(names("l", DUMP, &["--address", "10.96.3.4"]), ["10.96.3.4"]);
    assert_eq!(names("l", DUMP, &["--port", "3306", "--type", "tcp"]), ["10.96.3.4"]);
    assert_eq!(names("l", DUMP, &["--type", "UNKNOWN"]), [""; 0]);
    assert_eq!(names("r", DUMP, &["--name", "5000"]), ["5000", "5000"]);
    let gateway = ["--address", "172.18.12.1", "--port", "15443"];
    assert_eq!(names("ep", CLUSTERS, &gateway).len(), 2);
    let upstream = "outbound|5000||helloworld.sample.svc.cluster.local";
    let unhealthy = ["--cluster", upstream, "--status", "unhealthy"];
    assert_eq!(names("ep", CLUSTERS, &unhealthy), ["10.10.0.8:5000"]);
    assert_eq!(names("eds", DUMP, &unhealthy), ["10.10.0.8:5000"]);
}

#[test]
fn documents_have_the_fields_of_protobuf_json() {
    let json = |part: &str, file: &str, rest: &[&str]| -> serde_json::Value {
        let mut arguments = vec!["-o", "json"];
        arguments.extend(rest);
        serde_json::from_str(&proxy_config(part, file, &arguments)).unwrap()
    };
    let clusters = json("c", DUMP, &["--subset", "v1"]);
    assert_eq!(clusters.as_array().unwrap().len(), 1);
    assert_eq!(clusters[0]["connectTimeout"], "10s");
    assert_eq!(clusters[0].get("@type"), None);
    let metadata = &clusters[0]["metadata"]["filterMetadata"]["istio"]["config"];
    assert!(metadata.as_str().unwrap().ends_with("/destination-rule/helloworld"), "{metadata}");
    let listeners = json("l", DUMP, &["--port", "15006"]);
    assert_eq!(listeners[0]["filterChains"][0]["filterChainMatch"]["destinationPort"], 15006);
    let routes = json("r", DUMP, &["--name", "5000"]);
    assert_eq!(routes[0]["virtualHosts"].as_array().unwrap().len(), 3);
    let endpoints = json("ep", CLUSTERS, &["--status", "unhealthy"]);
    assert_eq!(endpoints[0]["hostStatuses"][1]["healthStatus"]["edsHealthStatus"], "UNHEALTHY");
    let secrets = json("s", DUMP, &[]);
    assert_eq!(secrets["dynamicActiveSecrets"][1]["name"], "ROOTCA");
    let bootstrap = json("b", DUMP, &[]);
    assert_eq!(bootstrap["bootstrap"]["node"]["metadata"]["CLUSTER_ID"], "cluster01");
    let all = json("a", DUMP, &[]);
    assert_eq!(all["configs"].as_array().unwrap().len(), 7);
    let yaml = proxy_config("c", DUMP, &["-o", "yaml", "--subset", "v1"]);
    assert!(yaml.contains("connectTimeout: 10s"), "{yaml}");
}

#[test]
fn a_document_can_come_from_standard_input() {
    let file = std::fs::File::open(recorded(DUMP)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tombolo"))
        .args(["pc", "r", "-f", "-", "--name", "5000", "--verbose=false"])
        .stdin(Stdio::from(file))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text, "NAME     VIRTUAL HOSTS\n5000     3\n");
}

#[test]
fn mistakes_are_named() {
    let clusters = recorded(CLUSTERS);
    let dump = recorded(DUMP);
    let (clusters, dump) = (clusters.to_str().unwrap(), dump.to_str().unwrap());
    for (arguments, expected) in [
        (vec!["pc", "c", "-f", clusters], "not a configuration dump"),
        (vec!["pc", "ep", "-f", dump], "/clusters?format=json"),
        (vec!["pc", "c", "-f", "/nowhere/dump.json"], "read /nowhere/dump.json"),
        (vec!["pc", "c"], "required arguments"),
        (vec!["pc", "c", "a", "-f", dump], "cannot be used with"),
        (vec!["pc", "c", "-f", dump, "-o", "xml"], "invalid value 'xml'"),
        (vec!["pc", "log", "a", "--level", "info", "-r"], "cannot be used with"),
        (vec!["pc", "l", "-f", dump, "--proxy-admin-port", "0"], "0 is not in 1..=65535"),
        (vec!["ps", "a", "-v", "2"], "2 is not in 0..=1"),
        (vec!["version", "-o", "xml"], "invalid value 'xml'"),
    ] {
        let output = tombolo(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
}

#[test]
fn the_version_is_told_without_a_cluster() {
    let version = env!("CARGO_PKG_VERSION");
    let output = tombolo(&["version", "--remote=false"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text, format!("client version: {version}\n"));
    let output = tombolo(&["version", "-o", "json"]);
    assert!(output.status.success());
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["clientVersion"]["version"], version);
    assert_eq!(document.get("meshVersion"), None);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.starts_with("Istio is not present in the cluster: "), "{stderr}");
}
