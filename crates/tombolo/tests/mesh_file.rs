//! A mesh by its file on clusters that exist: planned, applied with interruptions, verified,
//! changed and removed. Needs root. The clusters are lab clusters made by hand, found by
//! kubeconfig as any other cluster would be.

#![cfg(test)]

#[path = "lab/support.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod support;

#[path = "mesh/support.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod mesh;

use std::collections::BTreeMap;
use std::fs;

use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use mesh::{apply, interrupt, own_network};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{TestLab, text};
use tombolo_install::cluster::Cluster;
use tombolo_install::exec;
use tombolo_install::verify::{Member, probe};

/// A flat mesh of two primaries; `LOCATION1` and `LOCATION2` say where the clusters are.
const MESH: &str = "\
apiVersion: tombolo.dev/v1alpha1
kind: Mesh
metadata: {name: mesh1}
spec:
  meshConfig: {accessLogFile: /dev/stdout, accessLogEncoding: JSON}
  clusters:
  - name: cluster01
    network: network1
    controlPlane: Primary
    LOCATION1
  - name: cluster02
    network: network1
    controlPlane: Primary
    LOCATION2
";

/// Every kind that applying a mesh writes, and what its control planes write since.
const KINDS: &[(&str, &str)] = &[
    ("v1", "Namespace"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("apps/v1", "Deployment"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ("networking.istio.io/v1", "Gateway"),
];

struct Scene {
    lab: TestLab,
}

impl Scene {
    /// Two clusters on one flat network, with their kubeconfigs as other clusters would use them.
    fn new() -> Self {
        own_network();
        let lab = TestLab::new();
        for (name, pods, pool) in [("cluster01", 10, 11), ("cluster02", 20, 12)] {
            let subnets = format!(
                "networking: {{podSubnet: 10.{pods}.0.0/16, serviceSubnet: 10.{}.0.0/16}}\n",
                pods + 1
            );
            let config = lab.config(name, &subnets);
            let pool = format!("172.18.{pool}.0-172.18.{pool}.255");
            let create = ["lab", "create", "--config", &config, "--wait", "60s"];
            lab.ok(&[&create[..], &["--load-balancer-pool", &pool]].concat());
            let kubeconfig = lab.ok(&["lab", "get", "kubeconfig", "--name", name, "--internal"]);
            fs::write(lab.path(&format!("{name}.kubeconfig")), kubeconfig).unwrap();
        }
        lab.ok(&["lab", "route", "add", "cluster01", "cluster02"]);
        Self { lab }
    }

    /// Writes a mesh file and returns its path.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.lab.path(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// The mesh by kubeconfig, with changes.
    fn mesh(&self, changes: &[(&str, &str)]) -> String {
        let mut text = MESH.to_owned();
        for i in 1..=2 {
            let of = format!("{{context: kind-cluster0{i}, file: cluster0{i}.kubeconfig}}");
            text = text.replace(&format!("LOCATION{i}"), &format!("kubeconfig: {of}"));
        }
        for (from, to) in changes {
            assert!(text.contains(from), "{text}");
            text = text.replace(from, to);
        }
        self.file("mesh.yaml", &text)
    }

    /// What a plan would do, by cluster: `+`, `~` or `-` and the object. Objects that stay are left
    /// out.
    fn plan(&self, file: &str) -> BTreeMap<String, Vec<String>> {
        let plan: Value =
            serde_json::from_str(&self.lab.ok(&["plan", "-f", file, "-o", "json"])).unwrap();
        let clusters = plan["clusters"].as_array().unwrap().iter();
        let changes = clusters.map(|cluster| {
            assert_eq!(cluster["create"], false);
            let changes = cluster["changes"].as_array().unwrap().iter();
            let marked = changes.filter_map(|change| {
                let mark = match change["action"].as_str().unwrap() {
                    "create" => '+',
                    "change" => '~',
                    "remove" => '-',
                    "keep" => return None,
                    other => panic!("{other}"),
                };
                Some(format!("{mark} {}", change["object"].as_str().unwrap()))
            });
            (cluster["name"].as_str().unwrap().to_owned(), marked.collect::<Vec<_>>())
        });
        changes.filter(|(_, changes)| !changes.is_empty()).collect()
    }

    async fn client(&self, cluster: &str) -> Client {
        self.lab.client(cluster).await
    }
}

/// Objects of a cluster by reference, with their resource versions.
async fn objects(client: &Client) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (group_version, kind) in KINDS {
        for object in list(client, group_version, kind).await {
            let meta = &object.metadata;
            let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref().unwrap());
            let reference = format!("{kind}/{}/{name}", namespace.unwrap_or_default());
            found.insert(reference, meta.resource_version.clone().unwrap());
        }
    }
    found
}

async fn list(client: &Client, group_version: &str, kind: &str) -> Vec<DynamicObject> {
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    match api.list(&ListParams::default()).await {
        Ok(found) => found.items,
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => panic!("{kind}: {error}"),
    }
}

/// The objects of a new cluster, once its controllers have given each namespace what is its own.
async fn furnished(client: &Client) -> Vec<String> {
    support::eventually_async("what every namespace has", async || {
        let objects = objects(client).await;
        let namespaces = objects.keys().filter_map(|it| it.strip_prefix("Namespace//"));
        let missing: Vec<_> = namespaces
            .flat_map(|it| {
                [format!("ConfigMap/{it}/kube-root-ca.crt"), format!("ServiceAccount/{it}/default")]
            })
            .filter(|it| !objects.contains_key(it))
            .collect();
        if missing.is_empty() { Ok(objects.into_keys().collect()) } else { Err(missing.join(", ")) }
    })
    .await
}

#[tokio::test]
async fn a_mesh_is_planned_applied_changed_and_destroyed_on_clusters_that_exist() {
    let scene = Scene::new();
    let clients = [scene.client("cluster01").await, scene.client("cluster02").await];
    let mut bare = Vec::new();
    for client in &clients {
        bare.push(furnished(client).await);
    }
    a_server_on_loopback_is_refused(&scene);
    for (client, bare) in clients.iter().zip(&bare) {
        assert_eq!(objects(client).await.into_keys().collect::<Vec<_>>(), *bare);
    }
    let file = scene.mesh(&[]);
    interruptions_do_no_harm(&scene, &file);
    applying_again_changes_nothing(&scene, &file, &clients).await;
    requests_are_verified(&scene, &file, &clients).await;
    servers_that_do_not_tell_have_proxies_that_do(&scene, &file, &clients).await;
    plaintext_is_noticed(&scene, &clients).await;
    changes_are_planned_and_applied(&scene, &clients).await;
    destroying_leaves_clusters_as_they_were(&scene, &clients, &bare).await;
}

fn a_server_on_loopback_is_refused(scene: &Scene) {
    let kubeconfig = scene.lab.path("kubeconfig").display().to_string();
    let file = scene.mesh(&[("cluster02.kubeconfig", &kubeconfig)]);
    let told = scene.lab.fails(&["apply", "-f", &file]);
    assert!(told.contains("cluster cluster02: its API server is https://127.0.0.1:"), "{told}");
}

fn interruptions_do_no_harm(scene: &Scene, file: &str) {
    let plan = scene.plan(file);
    for cluster in ["cluster01", "cluster02"] {
        let other = if cluster == "cluster01" { "cluster02" } else { "cluster01" };
        for object in [
            "+ Namespace/istio-system",
            "+ Deployment/istio-system/istiod",
            "+ Secret/istio-system/cacerts",
            &format!("+ Secret/istio-system/istio-remote-secret-{other}"),
        ] {
            assert!(plan[cluster].contains(&object.to_owned()), "{object}: {plan:#?}");
        }
        assert!(plan[cluster].iter().all(|change| change.starts_with('+')), "{plan:#?}");
    }
    interrupt(scene.lab.command(&["apply", "-f", file]), "prepare istio-system", Signal::SIGKILL);
    interrupt(
        scene.lab.command(&["apply", "-f", file]),
        "install Istio's definitions",
        Signal::SIGINT,
    );
    interrupt(
        scene.lab.command(&["apply", "-f", file]),
        "install the control plane",
        Signal::SIGTERM,
    );
    interrupt(scene.lab.command(&["apply", "-f", file]), "watch cluster0", Signal::SIGKILL);
    let told = scene.lab.ok(&["apply", "-f", file]);
    assert_eq!(told, "mesh mesh1: applied\n");
}

async fn applying_again_changes_nothing(scene: &Scene, file: &str, clients: &[Client]) {
    assert_eq!(scene.lab.ok(&["plan", "-f", file]), "mesh mesh1: nothing to do\n");
    let yaml = scene.lab.ok(&["plan", "-f", file, "-o", "yaml"]);
    assert!(yaml.starts_with("mesh: mesh1\nclusters:\n"), "{yaml}");
    let mut before = Vec::new();
    for client in clients {
        before.push(objects(client).await);
    }
    let result: Value =
        serde_json::from_str(&scene.lab.ok(&["apply", "-f", file, "-o", "json"])).unwrap();
    assert_eq!(result, json!({"mesh": "mesh1", "ok": true, "removed": {}}));
    for (client, before) in clients.iter().zip(before) {
        let mut after = objects(client).await;
        // What the control plane keeps for itself changes by its own clock.
        let own =
            |reference: &str| reference.ends_with("-leader") || reference.ends_with("-election");
        after.retain(|reference, version| before.get(reference) != Some(version));
        let changed: Vec<_> = after.into_keys().filter(|r| !own(r)).collect();
        assert!(changed.is_empty(), "{changed:?}");
    }
}

async fn requests_are_verified(scene: &Scene, file: &str, clients: &[Client]) {
    let told = scene.lab.fails(&["verify", "-f", file]);
    assert!(told.contains("no ready pod with label app=sleep in namespace sample"), "{told}");
    for (index, client) in clients.iter().enumerate() {
        for object in tombolo_install::sample::objects(index).unwrap() {
            apply(client, object.value().clone()).await;
        }
    }
    let report = verified_in_time(scene, file);
    for check in report["checks"].as_array().unwrap() {
        assert_eq!((check["path"].as_str(), check["mtls"].as_bool()), (Some("direct"), Some(true)));
    }
    assert_eq!(report["plaintext"], Value::Null, "these are not known to be lab clusters");
}

/// Where the application does not say how it saw its client, as Istio's own sample, its proxy does.
async fn servers_that_do_not_tell_have_proxies_that_do(
    scene: &Scene,
    file: &str,
    clients: &[Client],
) {
    let rule = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "silent", "namespace": "sample"},
        "spec": {
            "hosts": ["helloworld"],
            "http": [{
                "route": [{"destination": {"host": "helloworld"}}],
                "headers": {"response": {"remove": ["tombolo-peer"]}},
            }],
        },
    });
    for client in clients {
        apply(client, rule.clone()).await;
    }
    let kubeconfig = scene.lab.path("kubeconfig");
    for name in ["cluster01", "cluster02"] {
        let context = format!("kind-{name}");
        let cluster = Cluster::open(name, Some(&kubeconfig), Some(&context)).await.unwrap();
        let member = Member { cluster, network: "network1".to_owned() };
        let client = probe::client(&member, "sample").await.unwrap();
        let ask = ["curl", "-sSi", "helloworld:5000/hello"].map(str::to_owned);
        support::eventually_async("an answer that does not tell", async || {
            let answer = exec::output(&member.cluster, &client, &ask, false).await;
            let answer = answer.map_err(|error| error.to_string())?;
            let tells = answer.contains("tombolo-peer") || !answer.contains("Hello version");
            if tells { Err(answer) } else { Ok(()) }
        })
        .await;
    }
    let report = verified_in_time(scene, file);
    for check in report["checks"].as_array().unwrap() {
        assert_eq!(check["mtls"], true, "{check:#}");
        assert_eq!(check["client"], "spiffe://cluster.local/ns/sample/sa/sleep");
        assert_eq!(check["peer"], "spiffe://cluster.local/ns/sample/sa/helloworld");
    }
    for client in clients {
        remove(client, "networking.istio.io/v1", "VirtualService", "silent").await;
    }
}

/// Verifies as soon as the sample's pods are ready.
fn verified_in_time(scene: &Scene, file: &str) -> Value {
    support::eventually("a verified mesh", || {
        let output = scene.lab.run(&["verify", "-f", file, "-o", "json"]);
        let report: Value =
            serde_json::from_slice(&output.stdout).map_err(|_| text(&output.stderr))?;
        if report["ok"] == true { Ok(report) } else { Err(report.to_string()) }
    })
}

/// Where mutual TLS is switched off, the look at the wire and the server both say so.
async fn plaintext_is_noticed(scene: &Scene, clients: &[Client]) {
    let mut mesh = MESH.to_owned();
    for (i, pods) in [(1, 10), (2, 20)] {
        let lab = format!(
            "lab: {{podSubnet: 10.{pods}.0.0/16, serviceSubnet: 10.{}.0.0/16, \
             loadBalancerPool: 172.18.1{i}.0-172.18.1{i}.255}}",
            pods + 1
        );
        mesh = mesh.replace(&format!("LOCATION{i}"), &lab);
    }
    let file = scene.file("lab.yaml", &mesh);
    let report: Value =
        serde_json::from_str(&scene.lab.ok(&["verify", "-f", &file, "-o", "json"])).unwrap();
    assert_eq!(report["plaintext"]["canaries"], 0, "{report:#}");
    let rule = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "plain", "namespace": "sample"},
        "spec": {"host": "helloworld", "trafficPolicy": {"tls": {"mode": "DISABLE"}}},
    });
    for client in clients {
        apply(client, rule.clone()).await;
    }
    let report = support::eventually("plaintext on the wire", || {
        let output = scene.lab.run(&["verify", "-f", &file, "-o", "json"]);
        let report: Value =
            serde_json::from_slice(&output.stdout).map_err(|_| text(&output.stderr))?;
        let seen = report["plaintext"]["canaries"].as_u64() > Some(0);
        if seen { Ok((output.status, report)) } else { Err(report.to_string()) }
    });
    let (status, report) = report;
    assert!(!status.success());
    assert_eq!(report["ok"], false, "{report:#}");
    let check = &report["checks"][0];
    assert_eq!((check["mtls"].as_bool(), check["ok"].as_bool()), (Some(false), Some(false)));
    let told = text(&scene.lab.run(&["verify", "-f", &file]).stdout);
    assert!(
        told.contains(" with plaintext\n") && told.contains("mesh mesh1: NOT verified"),
        "{told}"
    );
    for client in clients {
        remove(client, "networking.istio.io/v1", "DestinationRule", "plain").await;
    }
}

async fn remove(client: &Client, group_version: &str, kind: &str, name: &str) {
    let (group, version) = group_version.split_once('/').unwrap();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "sample", &resource);
    api.delete(name, &DeleteParams::default()).await.unwrap();
}

async fn changes_are_planned_and_applied(scene: &Scene, clients: &[Client]) {
    // A setting of the mesh is one object in each cluster.
    let file = scene.mesh(&[("accessLogEncoding: JSON", "accessLogEncoding: TEXT")]);
    let change = vec!["~ ConfigMap/istio-system/istio".to_owned()];
    let want: BTreeMap<_, _> =
        ["cluster01", "cluster02"].map(|cluster| (cluster.to_owned(), change.clone())).into();
    assert_eq!(scene.plan(&file), want);
    let told = scene.lab.ok(&["plan", "-f", &file]);
    assert!(told.contains("  ~ ConfigMap/istio-system/istio\n"), "{told}");
    assert!(told.contains("accessLogEncoding: TEXT"), "{told}");
    scene.lab.ok(&["apply", "-f", &file]);
    assert_eq!(scene.plan(&file), BTreeMap::new());

    // Another model is another set of objects: with two networks there are gateways.
    let two = (
        "    network: network1\n    controlPlane: Primary\n    kubeconfig: {context: kind-cluster02",
        "    network: network2\n    controlPlane: Primary\n    kubeconfig: {context: kind-cluster02",
    );
    let separate = scene.mesh(&[two]);
    let plan = scene.plan(&separate);
    for cluster in ["cluster01", "cluster02"] {
        for change in [
            "~ Namespace/istio-system",
            "+ Deployment/istio-system/istio-eastwestgateway",
            "+ Gateway/istio-system/cross-network-gateway",
        ] {
            assert!(plan[cluster].contains(&change.to_owned()), "{change}: {plan:#?}");
        }
    }
    scene.lab.ok(&["apply", "-f", &separate]);
    assert_eq!(scene.plan(&separate), BTreeMap::new());
    // And back: what is not asked for any more goes.
    let file = scene.mesh(&[]);
    let plan = scene.plan(&file);
    let gone = [
        "Deployment/istio-system/istio-eastwestgateway",
        "Gateway/istio-system/cross-network-gateway",
    ];
    for object in gone {
        for cluster in ["cluster01", "cluster02"] {
            assert!(plan[cluster].contains(&format!("- {object}")), "{object}: {plan:#?}");
        }
    }
    let result: Value =
        serde_json::from_str(&scene.lab.ok(&["apply", "-f", &file, "-o", "json"])).unwrap();
    for cluster in ["cluster01", "cluster02"] {
        let removed = result["removed"][cluster].as_array().unwrap();
        assert!(gone.iter().all(|object| removed.contains(&json!(object))), "{result:#}");
    }
    assert_eq!(scene.plan(&file), BTreeMap::new());
    for client in clients {
        let there = objects(client).await;
        assert!(gone.iter().all(|object| !there.contains_key(*object)), "{there:#?}");
    }
    verified_in_time(scene, &file);
}

async fn destroying_leaves_clusters_as_they_were(
    scene: &Scene,
    clients: &[Client],
    bare: &[Vec<String>],
) {
    let file = scene.mesh(&[]);
    let told = scene.lab.fails(&["destroy", "-f", &file]);
    assert!(
        told.contains("this removes mesh mesh1 from cluster01, cluster02; say -y to do it"),
        "{told}"
    );
    let own = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "own", "namespace": "sample"},
        "spec": {"hosts": ["example.org"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]},
    });
    apply(&clients[0], own).await;
    let result: Value =
        serde_json::from_str(&scene.lab.ok(&["destroy", "-f", &file, "-y", "-o", "json"])).unwrap();
    assert_eq!(result["clusters"]["cluster01"]["inUse"], json!(["ServiceEntry/sample/own"]));
    remove(&clients[0], "networking.istio.io/v1", "ServiceEntry", "own").await;
    scene.lab.ok(&["destroy", "-f", &file, "-y"]);
    for (client, bare) in clients.iter().zip(bare) {
        let left: Vec<_> = objects(client)
            .await
            .into_keys()
            .filter(|reference| !bare.contains(reference) && !reference.contains("sample"))
            .collect();
        assert!(left.is_empty(), "{left:#?}");
    }
    assert_eq!(scene.lab.ok(&["lab", "get", "clusters"]), "cluster01\ncluster02\n");
}
