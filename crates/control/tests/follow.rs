//! Clusters are followed, linked, linked anew and forgotten, against a real kube-apiserver.
//!
//! `KUBEBUILDER_ASSETS`, or `tools/kubernetes/bin`, is the folder of `etcd` and `kube-apiserver`.
//! One API server plays both clusters: what it holds is seen once through each link.

#![cfg(test)]

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tombolo_control::index::picture::Picture;
use tombolo_control::pipeline::{self, Pipeline, Settings};
use tombolo_control::watch::clusters::Sync;
use tombolo_control::watch::kubeconfig::Loopback;
use tombolo_model::id::{ClusterId, Host};
use tombolo_runtime::ready::Ready;
use tombolo_runtime::shutdown::Shutdown;

const PATIENCE: Duration = Duration::from_secs(60);

fn assets() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/kubernetes/bin");
    let named = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let found = named.or_else(|| built.join("etcd").is_file().then_some(built));
    assert!(
        found.is_some() || std::env::var_os("CI").is_none(),
        "no kube-apiserver: set KUBEBUILDER_ASSETS"
    );
    found
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An API server on loopback; ends with the test.
struct ApiServer {
    client: kube::Client,
    kubeconfig: String,
    folder: TempDir,
    _processes: Vec<Child>,
}

impl ApiServer {
    async fn start(assets: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(path("sa.key"), key.serialize_pem()).unwrap();
        std::fs::write(path("sa.pub"), key.public_key_pem()).unwrap();
        std::fs::write(path("tokens.csv"), "the-token,admin,1,system:masters\n").unwrap();
        let (client, peer, secure) = (free_port(), free_port(), free_port());
        let run = |name: &str, flags: Vec<String>| {
            let log = std::fs::File::create(folder.path().join(format!("{name}.log"))).unwrap();
            Command::new(assets.join(name))
                .args(flags)
                .stdout(Stdio::null())
                .stderr(log)
                .kill_on_drop(true)
                .spawn()
                .unwrap()
        };
        let etcd = run(
            "etcd",
            vec![
                format!("--data-dir={}", path("etcd")),
                String::from("--unsafe-no-fsync"),
                format!("--listen-client-urls=http://127.0.0.1:{client}"),
                format!("--advertise-client-urls=http://127.0.0.1:{client}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
            ],
        );
        let server = run(
            "kube-apiserver",
            vec![
                format!("--etcd-servers=http://127.0.0.1:{client}"),
                String::from("--bind-address=127.0.0.1"),
                format!("--secure-port={secure}"),
                format!("--cert-dir={}", path("certs")),
                String::from("--service-cluster-ip-range=10.11.0.0/16"),
                String::from(
                    "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                ),
                format!("--service-account-key-file={}", path("sa.pub")),
                format!("--service-account-signing-key-file={}", path("sa.key")),
                format!("--token-auth-file={}", path("tokens.csv")),
                String::from("--authorization-mode=Node,RBAC"),
            ],
        );
        let certificate = folder.path().join("certs/apiserver.crt");
        let deadline = Instant::now() + PATIENCE;
        while !certificate.is_file() {
            assert!(Instant::now() < deadline, "kube-apiserver wrote no certificate");
            sleep(Duration::from_millis(100)).await;
        }
        let authority = std::fs::read(&certificate).unwrap();
        let kubeconfig = kubeconfig(secure, &authority);
        let client =
            tombolo_control::watch::kubeconfig::client(kubeconfig.as_bytes(), Loopback::Allowed)
                .await
                .unwrap();
        while client.apiserver_version().await.is_err() {
            let log = || std::fs::read_to_string(path("kube-apiserver.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "kube-apiserver does not answer: {}", log());
            sleep(Duration::from_millis(200)).await;
        }
        Self { client, kubeconfig, folder, _processes: vec![etcd, server] }
    }

    async fn create<K>(&self, object: Value)
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + DeserializeOwned,
    {
        let namespace = object["metadata"]["namespace"].as_str().unwrap().to_owned();
        let api = Api::<K>::namespaced(self.client.clone(), &namespace);
        let object = serde_json::from_value(object).unwrap();
        // The server may still be preparing its own namespaces.
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = api.create(&PostParams::default(), &object).await {
            assert!(Instant::now() < deadline, "create: {error}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn namespace(&self, name: &str) {
        let api = Api::<Namespace>::all(self.client.clone());
        let object = json!({"metadata": {"name": name}});
        let object = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), "istio-system")
    }

    /// Links the server as `cluster02`.
    async fn link(&self, kubeconfig: &str) {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": "istio-remote-secret-cluster02",
                "labels": {"istio/multiCluster": "true"},
            },
            "stringData": {"cluster02": kubeconfig},
        });
        self.secrets()
            .patch(
                "istio-remote-secret-cluster02",
                &PatchParams::apply("test").force(),
                &Patch::Apply(&secret),
            )
            .await
            .unwrap();
    }
}

fn kubeconfig(port: u16, authority: &[u8]) -> String {
    use base64::Engine;
    let authority = base64::engine::general_purpose::STANDARD.encode(authority);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster:\n    \
         server: https://127.0.0.1:{port}\n    certificate-authority-data: {authority}\n\
         contexts:\n- name: c\n  context: {{cluster: c, user: c}}\n\
         users:\n- name: c\n  user:\n    token: the-token\n"
    )
}

/// The clusters that `helloworld` has endpoints in.
fn clusters_of(picture: &Picture) -> BTreeSet<String> {
    let host = Host::new("helloworld.sample.svc.cluster.local");
    let services = picture.services_of(&host);
    let endpoints = services.flat_map(|service| picture.endpoints_of(&service.key()));
    endpoints.map(|endpoint| endpoint.workload.cluster.to_string()).collect()
}

/// Waits for a picture in which `helloworld` has endpoints in exactly `want`. Every picture on
/// the way must have endpoints in at least `always`.
async fn until(pipeline: &Pipeline, what: &str, want: &[&str], always: &[&str]) {
    let mut pictures = pipeline.publisher.subscribe();
    let want: BTreeSet<String> = want.iter().map(ToString::to_string).collect();
    let wait = async {
        loop {
            let seen = clusters_of(&pictures.borrow_and_update().picture);
            for cluster in always {
                assert!(seen.contains(*cluster), "{what}: {cluster} was lost on the way");
            }
            if seen == want {
                return;
            }
            pictures.changed().await.unwrap();
        }
    };
    if timeout(PATIENCE, wait).await.is_err() {
        let seen = clusters_of(&pipeline.publisher.latest().picture);
        panic!("{what}: {seen:?} instead of {want:?}; {:?}", pipeline.clusters);
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_linked_linked_anew_and_forgotten() {
    let Some(assets) = assets() else { return };
    // Another test of this process may have installed it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let server = ApiServer::start(&assets).await;
    server.namespace("istio-system").await;
    server.namespace("sample").await;
    server
        .create::<Service>(json!({
            "metadata": {"name": "helloworld", "namespace": "sample"},
            "spec": {"ports": [{"name": "http", "port": 5000}]},
        }))
        .await;
    server
        .create::<EndpointSlice>(json!({
            "metadata": {
                "name": "helloworld-1",
                "namespace": "sample",
                "labels": {"kubernetes.io/service-name": "helloworld"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.10.0.20"], "conditions": {"ready": true}}],
            "ports": [{"name": "http", "port": 5000}],
        }))
        .await;
    let (shutdown, ready) = (Shutdown::default(), Ready::default());
    let settings = Settings {
        cluster: ClusterId::new("cluster01"),
        domain: String::from("cluster.local"),
        system_namespace: String::from("istio-system"),
        revision: String::from("default"),
        mesh_config_map: String::from("istio"),
        remote_timeout: Duration::from_secs(30),
        debounce_after: Duration::from_millis(100),
        debounce_most: Duration::from_secs(10),
        loopback: Loopback::Allowed,
    };
    let pipeline = pipeline::start(settings, server.client.clone(), &shutdown, &ready).await;
    timeout(PATIENCE, ready.wait()).await.expect("ready");
    until(&pipeline, "at the start", &["cluster01"], &["cluster01"]).await;

    server.link(&server.kubeconfig).await;
    until(&pipeline, "linked", &["cluster01", "cluster02"], &["cluster01"]).await;
    let of = |name: &str| {
        let all = pipeline.clusters.all();
        all.into_iter().find(|cluster| cluster.id.as_str() == name).expect("known")
    };
    eventually("synced", || of("cluster02").sync == Sync::Synced).await;
    assert_eq!(of("cluster02").secret, "istio-system/istio-remote-secret-cluster02");

    // A kubeconfig with a wrong address: whoever asks the cluster goes on to ask where it is.
    let address = server.kubeconfig.split_whitespace().find(|it| it.starts_with("https:")).unwrap();
    let nowhere = format!("https://127.0.0.1:{}", free_port());
    server.link(&server.kubeconfig.replace(address, &nowhere)).await;
    eventually("linked wrongly", || of("cluster02").sync == Sync::Syncing).await;
    let client = pipeline.clusters.client(&ClusterId::new("cluster02")).unwrap();
    client.apiserver_version().await.expect("the old connection still works");

    // Another kubeconfig: a new connection, and nothing is lost on the way.
    let first = of("cluster02").incarnation;
    server.link(&server.kubeconfig.replace("user: c}", "user: c, namespace: x}")).await;
    eventually("linked anew", || {
        let now = of("cluster02");
        now.incarnation > first && now.sync == Sync::Synced
    })
    .await;
    let both = ["cluster01", "cluster02"];
    until(&pipeline, "linked anew", &both, &both).await;

    // A hostile one changes nothing but is shown.
    let pwned = server.folder.path().join("pwned");
    let exec = format!(
        "exec: {{command: touch, args: [{}], apiVersion: client.authentication.k8s.io/v1}}",
        pwned.display()
    );
    server.link(&server.kubeconfig.replace("token: the-token", &exec)).await;
    eventually("refused", || !pipeline.clusters.refused().is_empty()).await;
    let refused = pipeline.clusters.refused();
    assert!(refused[&ClusterId::new("cluster02")].why.contains("exec"), "{refused:?}");
    assert_eq!(clusters_of(&pipeline.publisher.latest().picture).len(), 2);
    assert!(!pwned.exists());

    server
        .secrets()
        .delete("istio-remote-secret-cluster02", &DeleteParams::default())
        .await
        .unwrap();
    until(&pipeline, "forgotten", &["cluster01"], &["cluster01"]).await;
    assert_eq!(pipeline.clusters.all().len(), 1);
    assert!(pipeline.clusters.refused().is_empty(), "{:?}", pipeline.clusters.refused());
    assert!(
        shutdown.stop(Duration::from_secs(5)).await == tombolo_runtime::shutdown::Outcome::Clean
    );
    drop(Arc::new(pipeline));
}
