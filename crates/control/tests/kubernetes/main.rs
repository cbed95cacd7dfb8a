//! The whole control plane in one process against two real Kubernetes API servers: roots in
//! namespaces, trusted webhooks, an injected pod, certificates, xDS, a real Envoy that follows it.
//!
//! The programs are found by `KUBEBUILDER_ASSETS`, or in `tools/kubernetes/bin`.

#![cfg(test)]

mod support;

#[path = "../revocations/support.rs"]
mod revocations;

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use support::{Cluster, eventually, programs};
use tempfile::TempDir;
use tombolo_ca::offline::{Root, Settings as Offline};
use tombolo_control::serve::settings::{Flags, Settings};
use tombolo_tls::identity::Identity;
use tombolo_tls::key::{KeyKind, PrivateKey};
use tombolo_tls::roots::Roots;
use tombolo_xds::channel::Target;
use tombolo_xds::proto::istio::v1::auth::IstioCertificateRequest;
use tombolo_xds::proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use tonic::Request;

/// A running control plane and its two clusters.
struct Scene {
    home: Cluster,
    away: Cluster,
    ports: Ports,
    roots: Roots,
    cacerts: TempDir,
    plane: tokio::task::JoinHandle<()>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.plane.abort();
    }
}

#[derive(Clone, Copy)]
struct Ports {
    grpc: u16,
    http: u16,
    monitoring: u16,
}

async fn create<K>(api: Api<K>, object: Value) -> K
where
    K: Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

async fn prepare(cluster: &Cluster, annotations: Value) {
    let client = cluster.client();
    let namespaces = Api::<Namespace>::all(client.clone());
    for (name, annotations) in [("istio-system", annotations), ("sample", json!({}))] {
        let metadata = json!({"name": name, "annotations": annotations, "labels": {"istio-injection": "enabled"}});
        create(namespaces.clone(), json!({"metadata": metadata})).await;
    }
    let accounts = Api::<ServiceAccount>::namespaced(client, "sample");
    for name in ["default", "helloworld"] {
        create(accounts.clone(), json!({"metadata": {"name": name}})).await;
    }
}

async fn webhook(cluster: &Cluster, https: u16, path: &str) {
    let api = Api::<MutatingWebhookConfiguration>::all(cluster.client());
    create(api, json!({
        "metadata": {"name": "istio-sidecar-injector", "labels": {"istio.io/rev": "default"}},
        "webhooks": [{
            "name": "namespace.sidecar-injector.istio.io",
            "clientConfig": {"url": format!("https://localhost:{https}{path}")},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
            "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "namespaceSelector": {"matchLabels": {"istio-injection": "enabled"}},
        }],
    }))
    .await;
}

async fn scene() -> Option<Scene> {
    let programs = programs()?;
    tombolo_tls::install_provider();
    let (home, away) = tokio::join!(Cluster::start(&programs), Cluster::start(&programs));
    prepare(&home, json!({})).await;
    prepare(&away, json!({"topology.istio.io/controlPlaneClusters": "cluster01"})).await;
    let maps = Api::<ConfigMap>::namespaced(home.client(), "istio-system");
    let mesh = "defaultConfig: {discoveryAddress: 'istiod.istio-system.svc:15012'}\ntrustDomain: td.example\n";
    create(maps, json!({"metadata": {"name": "istio"}, "data": {"mesh": mesh}})).await;
    let secret = json!({
        "metadata": {"name": "istio-remote-secret-cluster02", "labels": {"istio/multiCluster": "true"}},
        "stringData": {"cluster02": away.kubeconfig()},
    });
    create(Api::<Secret>::namespaced(home.client(), "istio-system"), secret).await;

    let cacerts = TempDir::new().unwrap();
    let quick = |settings: Offline| Offline { key: KeyKind::Rsa2048, ..settings };
    let root = Root::generate(&quick(Offline::root())).unwrap();
    let one = root.intermediate("cluster01", &quick(Offline::intermediate())).unwrap();
    for (name, text) in one.cacerts() {
        std::fs::write(cacerts.path().join(name), text.as_bytes()).unwrap();
    }
    let [grpc, https, http, monitoring] = support::free_ports();
    let ports = Ports { grpc, http, monitoring };
    webhook(&home, https, "/inject").await;
    webhook(&away, https, "/inject/cluster/cluster02/net/network2").await;
    let address = |port: u16| format!("127.0.0.1:{port}");
    let flags = Flags {
        http_addr: address(http),
        https_addr: address(https),
        secure_grpc_addr: address(grpc),
        monitoring_addr: address(monitoring),
        domain: "cluster.local".into(),
        cluster_id: Some("cluster01".into()),
        cluster_aliases: vec![],
        kubeconfig: None,
        namespace: Some("istio-system".into()),
        shutdown_duration: "1s".into(),
        max_connection_age: "30m".into(),
    };
    let folder = cacerts.path().display().to_string();
    let environment = move |name: &str| match name {
        "EXTERNAL_ISTIOD" => Some("true".to_owned()),
        "ISTIOD_CUSTOM_HOST" => Some("localhost".to_owned()),
        "ENABLE_NATIVE_SIDECARS" => Some("true".to_owned()),
        "ROOT_CA_DIR" => Some(folder.clone()),
        "POD_NAME" => Some("istiod-0".to_owned()),
        _ => None,
    };
    let settings = Settings::read(flags, &environment).unwrap();
    let client = home.client();
    let plane = tokio::spawn(async move {
        if let Err(error) = tombolo_control::run::run(settings, client).await {
            panic!("the control plane ended: {error:?}");
        }
    });
    let roots = Roots::from_pem(&one.root_pem()).unwrap();
    let scene = Scene { home, away, ports, roots, cacerts, plane };
    eventually("the control plane is ready", async || {
        scene.get(ports.http, "/ready").await.filter(|(status, _)| *status == 200).map(drop)
    })
    .await;
    Some(scene)
}

impl Scene {
    /// GET over plain HTTP on loopback.
    async fn get(&self, port: u16, path: &str) -> Option<(u16, String)> {
        support::get(port, path).await
    }

    async fn token(
        &self,
        cluster: &Cluster,
        namespace: &str,
        account: &str,
        audience: &str,
    ) -> String {
        let api = Api::<ServiceAccount>::namespaced(cluster.client(), namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec![audience.into()]),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let token = api.create_token_request(account, &PostParams::default(), &request).await;
        token.unwrap().status.unwrap().token.unwrap()
    }

    async fn certificate(&self, token: &str, cluster: &str) -> Result<Identity, tonic::Status> {
        let tls = tombolo_tls::serving::client(&self.roots, None, &[b"h2"]).unwrap();
        let target = Target {
            address: format!("127.0.0.1:{}", self.ports.grpc),
            tls: Some(tls),
            server_name: Some("istiod.istio-system.svc".into()),
        };
        let channel = target.connect().await.unwrap();
        let key = PrivateKey::generate(KeyKind::P256).unwrap();
        let csr = key.request(&"spiffe://a/ns/b/sa/c".parse().unwrap()).unwrap();
        let mut request = Request::new(IstioCertificateRequest { csr, ..Default::default() });
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request.metadata_mut().insert("clusterid", cluster.parse().unwrap());
        let answer =
            IstioCertificateServiceClient::new(channel).create_certificate(request).await?;
        let mut chain = answer.into_inner().cert_chain;
        chain.pop();
        Ok(Identity::new(&chain.concat(), key).unwrap())
    }

    async fn roots_in(&self, cluster: &Cluster, namespace: &str) -> Option<String> {
        let api = Api::<ConfigMap>::namespaced(cluster.client(), namespace);
        let map = api.get_opt("istio-ca-root-cert").await.unwrap()?;
        map.data?.get("root-cert.pem").cloned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_leads_at_home_and_in_a_remote_that_names_it() {
    let Some(scene) = scene().await else { return };
    roots_are_in_every_namespace(&scene).await;
    revocations_are_in_every_namespace(&scene).await;
    nothing_but_injection_waits_for_its_configuration(&scene).await;
    webhooks_are_trusted_and_inject(&scene).await;
    certificates_follow_tokens(&scene).await;
    debugging_shows_both_clusters(&scene).await;
    an_envoy_follows(&scene).await;
}

async fn revocations_are_in_every_namespace(scene: &Scene) {
    let maps = |cluster: &Cluster| Api::<ConfigMap>::namespaced(cluster.client(), "sample");
    for cluster in [&scene.home, &scene.away] {
        assert_eq!(maps(cluster).get_opt("istio-ca-crl").await.unwrap(), None);
    }
    let list = revocations::list(1);
    std::fs::write(scene.cacerts.path().join("ca-crl.pem"), &list).unwrap();
    for cluster in [&scene.home, &scene.away] {
        eventually("revocations in a namespace", async || {
            let map = maps(cluster).get_opt("istio-ca-crl").await.unwrap()?;
            (map.data?.get("ca-crl.pem")? == &list).then_some(())
        })
        .await;
    }
}

async fn nothing_but_injection_waits_for_its_configuration(scene: &Scene) {
    let token = scene.token(&scene.home, "sample", "default", "istio-ca").await;
    scene.certificate(&token, "cluster01").await.unwrap();
    let maps = Api::<ConfigMap>::namespaced(scene.home.client(), "istio-system");
    let values = json!({"global": {"tomboloImage": "tombolo/tombolo:test", "network": "network1"}});
    create(
        maps,
        json!({"metadata": {"name": "istio-sidecar-injector"}, "data": {
            "config": "policy: enabled\n", "values": values.to_string(),
        }}),
    )
    .await;
}

async fn roots_are_in_every_namespace(scene: &Scene) {
    for cluster in [&scene.home, &scene.away] {
        for namespace in ["sample", "istio-system", "default", "kube-system"] {
            eventually(&format!("roots in {namespace}"), async || {
                let pem = scene.roots_in(cluster, namespace).await?;
                (pem == scene.roots.pem()).then_some(())
            })
            .await;
        }
        assert_eq!(scene.roots_in(cluster, "kube-public").await, None);
        // What is spoiled or deleted comes back, and a new namespace gets them too.
        let maps = Api::<ConfigMap>::namespaced(cluster.client(), "sample");
        let spoiled = Patch::Merge(json!({"data": {"root-cert.pem": "nonsense"}}));
        maps.patch("istio-ca-root-cert", &PatchParams::default(), &spoiled).await.unwrap();
        eventually("spoiled roots are mended", async || {
            (scene.roots_in(cluster, "sample").await? == scene.roots.pem()).then_some(())
        })
        .await;
        maps.delete("istio-ca-root-cert", &DeleteParams::default()).await.unwrap();
        create(Api::<Namespace>::all(cluster.client()), json!({"metadata": {"name": "later"}}))
            .await;
        for namespace in ["sample", "later"] {
            eventually("deleted roots come back", async || {
                scene.roots_in(cluster, namespace).await
            })
            .await;
        }
    }
}

async fn webhooks_are_trusted_and_inject(scene: &Scene) {
    for (cluster, id, network) in
        [(&scene.home, "cluster01", "network1"), (&scene.away, "cluster02", "network2")]
    {
        let api = Api::<MutatingWebhookConfiguration>::all(cluster.client());
        eventually("the webhook trusts our roots", async || {
            let webhook = api.get("istio-sidecar-injector").await.unwrap();
            let bundle = webhook.webhooks?.remove(0).client_config.ca_bundle?;
            (bundle.0 == scene.roots.pem().as_bytes()).then_some(())
        })
        .await;
        let pods = Api::<Pod>::namespaced(cluster.client(), "sample");
        let pod = json!({
            "metadata": {"name": "hello", "labels": {"app": "helloworld"}},
            "spec": {"serviceAccountName": "helloworld", "containers": [{"name": "hello", "image": "hello"}]},
        });
        // The API server notices a new bundle a moment later.
        let pod = eventually("a pod is injected", async || {
            let object: Pod = serde_json::from_value(pod.clone()).unwrap();
            match pods.create(&PostParams::default(), &object).await {
                Ok(pod) => Some(pod),
                Err(error) => {
                    eprintln!("not yet: {error}");
                    None
                }
            }
        })
        .await;
        let spec = pod.spec.unwrap();
        let names: Vec<_> = spec
            .init_containers
            .unwrap()
            .into_iter()
            .map(|it| (it.name, it.restart_policy))
            .collect();
        let want = [
            ("istio-init".to_owned(), None),
            ("istio-proxy".to_owned(), Some("Always".to_owned())),
        ];
        assert_eq!(names, want);
        let labels = pod.metadata.labels.unwrap();
        assert_eq!(
            labels.get("topology.istio.io/network").map(String::as_str),
            Some(network),
            "{id}"
        );
    }
}

async fn certificates_follow_tokens(scene: &Scene) {
    let home = scene.token(&scene.home, "sample", "helloworld", "istio-ca").await;
    let away = scene.token(&scene.away, "sample", "default", "istio-ca").await;
    let other = scene.token(&scene.home, "sample", "helloworld", "something-else").await;
    let id = "spiffe://td.example/ns/sample/sa/helloworld";
    assert_eq!(scene.certificate(&home, "cluster01").await.unwrap().id().to_string(), id);
    let id = "spiffe://td.example/ns/sample/sa/default";
    assert_eq!(scene.certificate(&away, "cluster02").await.unwrap().id().to_string(), id);
    for (token, cluster) in
        [(&home, "cluster02"), (&away, "cluster01"), (&other, "cluster01"), (&home, "x")]
    {
        let status = scene.certificate(token, cluster).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status}");
    }
}

async fn debugging_shows_both_clusters(scene: &Scene) {
    let (status, body) = scene.get(scene.ports.monitoring, "/debug/clusterz").await.unwrap();
    let clusters: Value = serde_json::from_str(&body).unwrap();
    let want = json!([
        {"id": "cluster01", "secretName": "", "syncStatus": "synced"},
        {"id": "cluster02", "secretName": "istio-system/istio-remote-secret-cluster02", "syncStatus": "synced"},
    ]);
    assert_eq!((status, clusters), (200, want));
    let (status, metrics) = scene.get(scene.ports.monitoring, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    assert!(metrics.contains("citadel_server_success_cert_issuance_count_total 3"), "{metrics}");
}

/// A real Envoy connects by TLS with a token, gets everything, and follows a new service.
async fn an_envoy_follows(scene: &Scene) {
    let Some(program) = support::envoy() else { return };
    let pods = Api::<Pod>::namespaced(scene.home.client(), "sample");
    let status = Patch::Merge(
        json!({"status": {"podIP": "10.10.0.5", "podIPs": [{"ip": "10.10.0.5"}], "phase": "Running"}}),
    );
    pods.patch_status("hello", &PatchParams::default(), &status).await.unwrap();
    let token = scene.token(&scene.home, "sample", "helloworld", "istio-ca").await;
    let identity = scene.certificate(&token, "cluster01").await.unwrap();
    let secrets = support::Secrets::serve(&identity, scene.roots.pem()).await;
    let folder = TempDir::new().unwrap();
    let header = |key: &str, value: &str| json!({"key": key, "value": value});
    let admin = support::free_ports::<1>()[0];
    let bootstrap = json!({
        "node": {
            "id": "sidecar~10.10.0.5~hello.sample~sample.svc.cluster.local",
            "cluster": "hello.sample",
            "metadata": {"CLUSTER_ID": "cluster01", "NAMESPACE": "sample", "SERVICE_ACCOUNT": "helloworld"},
        },
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "dynamic_resources": {
            "cds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
            "lds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
            "ads_config": {
                "api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
                "grpc_services": [{
                    "envoy_grpc": {"cluster_name": "xds-grpc"},
                    "initial_metadata": [header("authorization", &format!("Bearer {token}")), header("clusterid", "cluster01")],
                }],
            },
        },
        "static_resources": {"clusters": [
            support::xds_cluster(scene.ports.grpc, scene.roots.pem()),
            support::sds_cluster(secrets),
        ]},
    });
    let file = folder.path().join("envoy.json");
    std::fs::write(&file, bootstrap.to_string()).unwrap();
    let _envoy = support::start_envoy(&program, &file);
    let stats = async |wanted: &str| {
        let (_, text) = scene
            .get(admin, "/stats?filter=update_success|update_rejected|connected_state")
            .await?;
        text.contains(wanted).then_some(text)
    };
    let text = eventually("Envoy has clusters and listeners", async || {
        let text = stats("cluster_manager.cds.update_success").await?;
        let has =
            |name: &str| text.lines().any(|line| line.starts_with(name) && !line.ends_with(": 0"));
        (has("cluster_manager.cds.update_success") && has("listener_manager.lds.update_success"))
            .then_some(text)
    })
    .await;
    assert!(text.contains("cluster_manager.cds.update_rejected: 0"), "{text}");
    assert!(text.contains("listener_manager.lds.update_rejected: 0"), "{text}");
    create(
        Api::<Service>::namespaced(scene.home.client(), "sample"),
        json!({
            "metadata": {"name": "helloworld"},
            "spec": {"selector": {"app": "helloworld"}, "ports": [{"name": "http", "port": 5000}]},
        }),
    )
    .await;
    let name = "outbound|5000||helloworld.sample.svc.cluster.local";
    eventually("Envoy follows the new service", async || {
        let (_, text) = scene.get(admin, "/clusters").await?;
        text.contains(name).then_some(())
    })
    .await;
    let (_, sync) = scene.get(scene.ports.monitoring, "/debug/syncz").await.unwrap();
    let sync: Value = serde_json::from_str(&sync).unwrap();
    let mine = sync.as_array().unwrap().iter().find(|it| it["proxy"] == "hello.sample").unwrap();
    let rejected: BTreeMap<_, _> =
        mine.as_object().unwrap().iter().filter(|(key, _)| key.ends_with("_rejected")).collect();
    assert_eq!(rejected, BTreeMap::new());
    let dump = scene.get(scene.ports.monitoring, "/debug/config_dump?proxyID=hello.sample").await;
    assert!(dump.is_some_and(|(status, text)| status == 200 && text.contains(name)));
}
