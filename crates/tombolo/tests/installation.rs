//! istioctl's commands on one cluster: install, install again, change, prune, verify, remove; on
//! the embedded API server, and on a real one where there is one. And what a mesh file means for
//! clusters in states that a mesh in the lab does not come into.

#![cfg(test)]

#[path = "installation/server.rs"]
mod server;

use serde_json::json;
use server::Server;

const TUTORIAL: &str =
    include_str!("../../install/src/render/tutorial/flat-multi-primary-cluster01.yaml");

const HELLO: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: hello, namespace: sample}\nspec:\n  selector: {matchLabels: {app: hello}}\n  template:\n    metadata: {labels: {app: hello}}\n    spec: {containers: [{name: hello, image: hello}]}\n";

const NOWHERE: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: lost, namespace: sample}\nspec: {hosts: [a.example.org], http: [{route: [{destination: {host: nobody}}]}]}\n";

#[test]
fn on_the_embedded_api_server() {
    scenario(&Server::embedded());
}

#[test]
fn on_a_real_api_server() {
    if let Some(server) = Server::real() {
        scenario(&server);
    }
}

fn scenario(server: &Server) {
    server.write("cluster01.yaml", TUTORIAL);
    nothing_is_there(server);
    install_twice(server);
    gateways_of_their_own(server);
    change_and_prune(server);
    refuse(server);
    link(server);
    inject_and_analyze(server);
    remove(server);
    in_another_namespace(server);
}

fn nothing_is_there(server: &Server) {
    let out = server.run(&["x", "precheck"], "");
    assert!(out.ok, "{}", out.text);
    assert!(out.text.contains("No issues found"), "{}", out.text);
    let out = server.run(&["verify-install"], "");
    assert!(!out.ok && out.text.contains("Nothing of this revision"), "{}", out.text);
}

fn install_twice(server: &Server) {
    let install = ["install", "-f", "cluster01.yaml", "-y", "--vklog=2", "--verify"];
    let out = server.run(&install, "");
    assert!(out.ok, "{}", out.text);
    assert!(out.text.contains("✔ Installation complete"), "{}", out.text);
    assert!(out.text.contains("Checked 15 custom resource definitions"), "{}", out.text);
    server.settle();
    let before = server.versions();
    assert!(before.contains_key("Deployment/istio-system/istiod"), "{before:?}");
    let out = server.run(&install, "");
    assert!(out.ok, "{}", out.text);
    assert_eq!(server.versions(), before, "installing again changes nothing");
}

fn gateways_of_their_own(server: &Server) {
    let flags = ["--mesh", "mesh1", "--cluster", "cluster01", "--network", "network1"];
    let document = server.run(&[&["eastwest-gateway"], &flags[..]].concat(), "");
    assert!(document.ok, "{}", document.text);
    server.write("eastwest.yaml", &document.stdout);
    let before = server.versions();
    let out = server.run(&["install", "-y", "-f", "-"], &document.stdout);
    assert!(out.ok, "{}", out.text);
    assert!(!out.text.contains("Pruned"), "{}", out.text);
    let after = server.versions();
    for (object, version) in &before {
        assert_eq!(after.get(object), Some(version), "{object} is another installation's");
    }
    assert!(after.contains_key("Service/istio-system/istio-eastwestgateway"), "{after:?}");
    for arguments in [&["verify-install"][..], &["verify-install", "-f", "eastwest.yaml"]] {
        let out = server.run(arguments, "");
        assert!(out.ok, "{}", out.text);
        assert!(out.text.contains("complete and ready"), "{}", out.text);
    }
}

fn change_and_prune(server: &Server) {
    let before = server.versions();
    let text = ["--set", "meshConfig.accessLogEncoding=TEXT"];
    let out = server.run(&[&["install", "-f", "cluster01.yaml", "-y"], &text[..]].concat(), "");
    assert!(out.ok, "{}", out.text);
    let after = server.versions();
    let changed: Vec<&String> = after
        .iter()
        .filter(|(key, version)| before.get(*key) != Some(version))
        .map(|it| it.0)
        .collect();
    assert_eq!(changed, ["ConfigMap/istio-system/istio"]);
    let off = "components.ingressGateways[0].enabled=false";
    let out = server.run(&["install", "-f", "cluster01.yaml", "-y", "--set", off], "");
    assert!(out.ok, "{}", out.text);
    assert!(
        out.text.contains("- Pruned Deployment/istio-system/istio-ingressgateway"),
        "{}",
        out.text
    );
    let after = server.versions();
    assert!(!after.keys().any(|key| key.contains("ingressgateway")), "{after:?}");
    assert!(after.contains_key("Deployment/istio-system/istio-eastwestgateway"), "{after:?}");
    server.delete_config_map("istio");
    let out = server.run(&["verify-install", "-f", "cluster01.yaml"], "");
    assert!(!out.ok, "{}", out.text);
    assert!(
        out.text.contains("✘ ConfigMap: istio.istio-system: it does not exist"),
        "{}",
        out.text
    );
    assert!(server.run(&["install", "-f", "cluster01.yaml", "-y"], "").ok);
}

fn refuse(server: &Server) {
    let before = server.versions();
    let set =
        ["--set", "values.global.tracer.zipkin.address=a", "--set", "meshConfig.accessLogFile="];
    let out = server.run(&[&["install", "-f", "cluster01.yaml", "-y"], &set[..]].concat(), "");
    assert!(
        !out.ok && out.text.contains("spec.values.global.tracer.zipkin.address"),
        "{}",
        out.text
    );
    let out = server.run(&["install", "-y", "--set", "values.global.logAsJson=maybe"], "");
    assert!(!out.ok && out.text.contains("it must be true or false"), "{}", out.text);
    assert_eq!(server.versions(), before, "nothing was touched");
    let out = server.run(&["install", "-f", "cluster01.yaml", "--dry-run"], "");
    assert!(out.ok && out.text.contains("Deployment/istio-system/istiod"), "{}", out.text);
    assert_eq!(server.versions(), before, "a dry run touches nothing");
    let generate = || server.run(&["manifest", "generate", "-f", "cluster01.yaml"], "").stdout;
    let manifest = generate();
    assert!(manifest.contains("kind: Deployment"), "{manifest}");
    assert_eq!(generate(), manifest, "the order is stable");
}

fn link(server: &Server) {
    let out = server.run(&["create-remote-secret", "--name=cluster01"], "");
    assert!(!out.ok && out.text.contains("loopback"), "{}", out.text);
    assert!(out.text.contains("--server"), "it says what to do: {}", out.text);
    let named = ["create-remote-secret", "--name=cluster01", "--server", "https://172.18.0.2:6443"];
    let out = server.run(&named, "");
    assert!(out.ok, "{}", out.text);
    assert!(out.stdout.starts_with("# This file is autogenerated, do not edit.\n"), "{}", out.text);
    assert!(out.stdout.ends_with("---\n"), "{}", out.text);
    for part in [
        "name: istio-remote-secret-cluster01",
        "istio/multiCluster: \"true\"",
        "networking.istio.io/cluster: cluster01",
        "server: https://172.18.0.2:6443",
        "token: token-of-istio-reader-service-account",
    ] {
        assert!(out.stdout.contains(part), "{part} is missing: {}", out.stdout);
    }
    let out = server.run(&[&named[..], &["--auth-type", "plugin"]].concat(), "");
    assert!(!out.ok && out.text.contains("not supported"), "{}", out.text);
    let out = server.run(&[&named[..], &["--service-account", "nobody"]].concat(), "");
    assert!(!out.ok && out.text.contains("nobody"), "{}", out.text);
}

fn inject_and_analyze(server: &Server) {
    let out = server.run(&["kube-inject", "-f", "-"], HELLO);
    assert!(out.ok && out.stdout.contains("name: istio-proxy"), "{}", out.text);
    assert!(out.stdout.contains("value: cluster01"), "the cluster's own values: {}", out.stdout);
    server.write("lost.yaml", NOWHERE);
    let out = server.run(&["analyze", "-n", "sample", "lost.yaml"], "");
    assert_eq!(out.code, 79, "{}", out.text);
    let line = "Error [IST0101] (VirtualService sample/lost lost.yaml:3) ";
    assert!(out.stdout.contains(line), "{}", out.text);
    let suppress = "IST0101=VirtualService lost.sample";
    let out = server.run(&["analyze", "-n", "sample", "lost.yaml", "-S", suppress], "");
    assert!(out.ok && out.text.contains("No validation issues found"), "{}", out.text);
    let out = server.run(&["analyze", "-A", "-o", "json", "lost.yaml"], "");
    assert_eq!(out.code, 79, "{}", out.text);
    assert!(out.stdout.contains("\"code\": \"IST0101\""), "{}", out.text);
}

fn remove(server: &Server) {
    let has = |object: &str| server.versions().contains_key(object);
    let out = server.run(&["uninstall", "-f", "eastwest.yaml", "-y"], "");
    assert!(out.ok, "{}", out.text);
    assert!(!has("Deployment/istio-system/istio-eastwestgateway"));
    assert!(has("Deployment/istio-system/istiod"), "another installation's");
    let out = server.run(&["uninstall", "--revision", "default", "-y"], "");
    assert!(out.ok, "{}", out.text);
    assert!(!has("Deployment/istio-system/istiod"));
    assert!(has("CustomResourceDefinition/gateways.networking.istio.io"), "the base stays");
    let out = server.run(&["uninstall", "--purge", "-y"], "");
    assert!(out.ok, "{}", out.text);
    server.gone();
    let out = server.run(&["uninstall", "--purge", "-y"], "");
    assert!(out.ok && out.text.contains("nothing is installed"), "{}", out.text);
}

/// What is waited for must be what is rendered.
fn in_another_namespace(server: &Server) {
    let namespace = ["-i", "mesh-system", "-y", "--readiness-timeout", "20s"];
    let out = server.run(&[&["install", "--set", "profile=minimal"], &namespace[..]].concat(), "");
    assert!(out.ok, "{}", out.text);
    let webhook = "MutatingWebhookConfiguration/istio-sidecar-injector-mesh-system";
    assert!(server.versions().contains_key(webhook), "{:?}", server.versions());
}

/// A mesh file of clusters that exist, each with a line about its role.
fn mesh(clusters: &[(&str, &str, &Server)]) -> String {
    let mut text = "apiVersion: tombolo.dev/v1alpha1\nkind: Mesh\nmetadata: {name: mesh1}\nspec:\n  clusters:\n".to_owned();
    for (name, role, server) in clusters {
        let file = server.kubeconfig();
        text.push_str(&format!(
            "  - {{name: {name}, network: network1, {role}, kubeconfig: {{context: test, file: {file}}}}}\n"
        ));
    }
    text
}

#[test]
fn a_remote_uses_a_control_plane_behind_a_host_name() {
    let (first, second) = (Server::embedded(), Server::embedded());
    let clusters = [
        ("cluster01", "controlPlane: Primary", &first),
        ("cluster02", "controlPlane: Remote", &second),
    ];
    first.write("mesh.yaml", &mesh(&clusters));
    let istiod = "+ Service/istio-system/istiod";
    let planned = || {
        let out = first.run(&["plan", "-f", "mesh.yaml"], "");
        assert!(out.ok, "{}", out.text);
        let (_, remote) = out.stdout.split_once("cluster cluster02\n").unwrap();
        remote.to_owned()
    };
    assert!(!planned().contains(istiod), "there is no address yet: {}", planned());
    first.balance("istio-eastwestgateway", json!({"hostname": "a.elb.example.org"}));
    assert!(planned().contains(istiod), "{}", planned());
}

#[test]
fn one_cluster_under_two_names_is_refused() {
    let (first, second) = (Server::embedded(), Server::embedded());
    let role = "controlPlane: Primary";
    let clusters = [("cluster01", role, &first), ("cluster02", role, &second)];
    first.write("two.yaml", &mesh(&clusters));
    let out = first.run(&["plan", "-f", "two.yaml"], "");
    assert!(out.ok, "{}", out.text);
    // Another path, but the same cluster.
    first.write("again", &first.read("kubeconfig"));
    first.write("one.yaml", &mesh(&clusters).replace(&second.kubeconfig(), "again"));
    let out = first.run(&["plan", "-f", "one.yaml"], "");
    let told = "clusters cluster01 and cluster02 of the mesh file are one Kubernetes cluster";
    assert!(!out.ok && out.text.contains(told), "{}", out.text);
}

/// A flat mesh needs no gateway, but a user may have one.
#[test]
fn a_users_own_gateway_is_not_the_meshs() {
    let server = Server::embedded();
    let metadata = json!({"name": "istio-system"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
    server.apply("Namespace", &namespace);
    let document = server.run(&["eastwest-gateway", "--network", "network1"], "");
    let out = server.run(&["install", "-y", "-f", "-"], &document.stdout);
    assert!(out.ok, "{}", out.text);
    server.write("mesh.yaml", &mesh(&[("cluster01", "controlPlane: Primary", &server)]));
    let out = server.run(&["plan", "-f", "mesh.yaml"], "");
    assert!(out.ok && out.text.contains("  + "), "{}", out.text);
    assert!(!out.text.contains("  - "), "{}", out.text);
}

#[test]
fn a_control_planes_own_root_is_not_passed_over() {
    let (first, second) = (Server::embedded(), Server::embedded());
    assert!(first.run(&["certs", "root-ca"], "").ok);
    let (certificate, key) = (first.read("root-cert.pem"), first.read("root-key.pem"));
    first.namespace("istio-system");
    first.apply(
        "Secret",
        &json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "istio-ca-secret", "namespace": "istio-system"},
            "stringData": {"ca-cert.pem": certificate, "ca-key.pem": key, "root-cert.pem": ""},
        }),
    );
    let role = "controlPlane: Primary";
    let text = mesh(&[("cluster01", role, &first), ("cluster02", role, &second)]);
    first.write("mesh.yaml", &text);
    let out = first.run(&["apply", "-f", "mesh.yaml"], "");
    for part in [
        "cluster cluster01: its control plane signs under a root of its own, ",
        "Secret/istio-system/istio-ca-secret",
        "tombolo certs fetch-root-ca",
        "trust.rootCA.Files",
    ] {
        assert!(!out.ok && out.text.contains(part), "{part}: {}", out.text);
    }
    // As the mesh's root it is in nobody's way; what comes next is that these servers are on
    // loopback.
    let files = "{Files: {certificate: root-cert.pem, key: root-key.pem}}";
    let named = text.replace("spec:\n", &format!("spec:\n  trust: {{rootCA: {files}}}\n"));
    first.write("mesh.yaml", &named);
    let out = first.run(&["apply", "-f", "mesh.yaml"], "");
    assert!(!out.ok && out.text.contains("its API server is https://127.0.0.1"), "{}", out.text);
}

#[test]
fn destroying_a_mesh_leaves_other_installations() {
    let server = Server::embedded();
    server.write("mesh.yaml", &mesh(&[("cluster01", "controlPlane: Primary", &server)]));
    let applied = || {
        let out = server.run(&["apply", "-f", "mesh.yaml"], "");
        assert!(out.ok, "{}", out.text);
    };
    applied();
    let canary = "kind: IstioOperator\nspec: {profile: minimal, revision: canary}\n";
    server.write("canary.yaml", canary);
    let out = server.run(&["install", "-y", "-f", "canary.yaml"], "");
    assert!(out.ok, "{}", out.text);
    // Definitions and the reader's account are everybody's; whoever applied last has them.
    applied();
    let before = server.versions();
    let destroy = ["destroy", "-f", "mesh.yaml", "-y", "-o", "json"];
    let out = server.run(&destroy, "");
    assert!(out.ok, "{}", out.text);
    assert!(
        out.stdout.contains(r#""installation installed-state (revision canary)""#),
        "{}",
        out.text
    );
    let left = server.versions();
    for gone in ["Deployment/istio-system/istiod", "ConfigMap/istio-system/istio"] {
        assert!(before.contains_key(gone) && !left.contains_key(gone), "{gone}: {left:?}");
    }
    for object in [
        "Deployment/istio-system/istiod-canary",
        "MutatingWebhookConfiguration/istio-sidecar-injector-canary",
        "ServiceAccount/istio-system/istio-reader-service-account",
        "CustomResourceDefinition/gateways.networking.istio.io",
    ] {
        assert_eq!(left.get(object), before.get(object), "{object}");
    }
    // Once nobody else is there, nothing stays. The namespace is made a user's, because no
    // controller is here to empty it.
    server.annotate_namespace("istio-system", "tombolo.dev/made-for-mesh", None);
    let out = server.run(&["uninstall", "-y", "-f", "canary.yaml"], "");
    assert!(out.ok, "{}", out.text);
    let out = server.run(&destroy, "");
    assert!(out.ok && !out.text.contains("inUse"), "{}", out.text);
    server.gone();
}
