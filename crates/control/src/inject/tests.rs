//! Goldens: a pod in, the injected pod out. Every case is also injected a second time, which must
//! change nothing.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tombolo_crds::mesh_config::MeshConfig;

use super::{Injector, InjectorConfig, Place, Refused, Request};

fn config() -> InjectorConfig {
    let values = json!({
        "global": {
            "istioNamespace": "istio-system", "meshID": "mesh1",
            "multiCluster": {"clusterName": "cluster01"}, "network": "network1",
            "tomboloImage": "docker.io/tombolo/tombolo:test",
            "proxy": {
                "clusterDomain": "cluster.local", "logLevel": "warning",
                "componentLogLevel": "misc:error", "includeIPRanges": "*",
                "includeInboundPorts": "*", "statusPort": 15020,
                "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "2000m"}},
            },
        },
        "sidecarInjectorWebhook": {"rewriteAppHTTPProbe": true},
    });
    let data = BTreeMap::from([
        ("config".to_owned(), "policy: enabled\ndefaultTemplates: [sidecar]\n".to_owned()),
        ("values".to_owned(), values.to_string()),
    ]);
    InjectorConfig::read(&data).unwrap()
}

fn mesh() -> MeshConfig {
    MeshConfig {
        default_config: json!({"discoveryAddress": "istiod.istio-system.svc:15012", "meshId": "mesh1"}),
        ..MeshConfig::default()
    }
}

fn inject(pod: &Value, path: &str, native: bool) -> Result<Option<Value>, Refused> {
    let (config, mesh, place) = (config(), mesh(), Place::parse(path));
    let injector = Injector { config: &config, mesh: &mesh, revision: "default" };
    injector.inject(&Request { pod, namespace: "sample", place: &place, native })
}

/// The injected pod of a YAML text, after checking that injecting it again changes nothing.
fn golden(pod: &str, path: &str, native: bool) -> Value {
    let pod: Value = serde_saphyr::from_str(pod).unwrap();
    let once = inject(&pod, path, native).unwrap().expect("the pod is injected");
    let twice = inject(&once, path, native).unwrap().expect("the pod is injected");
    similar(&once, &twice);
    let patch = json_patch::diff(&pod, &once);
    let mut patched = pod;
    json_patch::patch(&mut patched, &patch).unwrap();
    similar(&patched, &once);
    once
}

#[track_caller]
fn similar(one: &Value, other: &Value) {
    let changes = json_patch::diff(one, other);
    assert!(changes.is_empty(), "{changes}");
}

const HELLOWORLD: &str = "
metadata:
  generateName: helloworld-v1-5d8f-
  labels: {app: helloworld, version: v1, pod-template-hash: 5d8f}
  ownerReferences:
  - {apiVersion: apps/v1, kind: ReplicaSet, name: helloworld-v1-5d8f, controller: true}
spec:
  serviceAccountName: helloworld
  containers:
  - name: helloworld
    image: docker.io/istio/examples-helloworld-v1
    ports: [{containerPort: 5000}]
    volumeMounts:
    - {name: kube-api-access, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
  volumes:
  - {name: kube-api-access, projected: {sources: []}}
";

#[test]
fn a_native_sidecar_of_the_tutorial() {
    insta::assert_yaml_snapshot!(golden(
        HELLOWORLD,
        "/inject/cluster/cluster02/net/network2",
        true
    ));
}

#[test]
fn a_sidecar_container_where_nodes_are_old() {
    insta::assert_yaml_snapshot!(golden(HELLOWORLD, "/inject", false));
}

#[test]
fn a_gateway_with_automatic_image() {
    let pod = "
metadata:
  name: istio-eastwestgateway-6f-x
  labels: {istio: eastwestgateway, topology.istio.io/network: network1, sidecar.istio.io/inject: 'true'}
  annotations: {inject.istio.io/templates: gateway, prometheus.io/scrape: 'true', prometheus.io/port: '15020', prometheus.io/path: /stats/prometheus}
spec:
  securityContext: {runAsUser: 1337, runAsGroup: 1337, runAsNonRoot: true}
  containers:
  - name: istio-proxy
    image: auto
    ports: [{containerPort: 15443, protocol: TCP}]
    env: [{name: ISTIO_META_REQUESTED_NETWORK_VIEW, value: network1}]
";
    insta::assert_yaml_snapshot!(golden(pod, "/inject", true));
}

#[test]
fn probes_and_metrics_go_through_the_agent_and_annotations_change_the_proxy() {
    let pod = "
metadata:
  name: web
  labels: {app: web}
  annotations:
    prometheus.io/scrape: 'true'
    prometheus.io/port: '9100'
    prometheus.io/path: /m
    proxy.istio.io/config: '{proxyMetadata: {A: b}, holdApplicationUntilProxyStarts: true}'
    sidecar.istio.io/proxyCPU: 50m
    traffic.sidecar.istio.io/excludeOutboundPorts: '53,3306'
    traffic.sidecar.istio.io/excludeInboundPorts: '9999'
    sidecar.istio.io/nativeSidecar: 'false'
spec:
  containers:
  - name: web
    image: web
    ports: [{name: http, containerPort: 8080}]
    livenessProbe: {httpGet: {path: /live, port: http}, periodSeconds: 7, timeoutSeconds: 2}
    readinessProbe: {tcpSocket: {port: 8080}}
    startupProbe: {exec: {command: ['true']}}
    lifecycle: {preStop: {httpGet: {path: /bye, port: 8080}}}
";
    insta::assert_yaml_snapshot!(golden(pod, "/inject", true));
}

#[test]
fn what_the_owner_says_about_the_proxy_counts() {
    let pod = "
metadata: {name: own, labels: {app: own, service.istio.io/canonical-revision: stable}}
spec:
  containers:
  - {name: app, image: app}
  - name: istio-proxy
    image: registry.example/proxy:mine
    env: [{name: POD_NAME, value: fixed}, {name: EXTRA, value: 'yes'}]
    resources: {limits: {cpu: '1'}}
";
    let injected = golden(pod, "/inject", true);
    let proxy = &injected["spec"]["initContainers"][1];
    assert_eq!(proxy["image"], "registry.example/proxy:mine");
    let env = |name: &str| {
        let all = proxy["env"].as_array().unwrap();
        all.iter().find(|it| it["name"] == name).cloned().unwrap()
    };
    assert_eq!(env("POD_NAME"), json!({"name": "POD_NAME", "value": "fixed"}));
    assert_eq!(env("EXTRA"), json!({"name": "EXTRA", "value": "yes"}));
    assert_eq!(proxy["resources"]["limits"]["cpu"], "1");
    assert_eq!(injected["spec"]["containers"].as_array().unwrap().len(), 1);
    assert_eq!(injected["metadata"]["labels"]["service.istio.io/canonical-revision"], "stable");
}

#[test]
fn wrong_annotations_refuse_the_pod_and_are_named() {
    for (name, value) in [
        ("sidecar.istio.io/interceptionMode", "MAGIC"),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", "10.0.0.0/8 -j ACCEPT"),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "80;reboot"),
        ("traffic.sidecar.istio.io/excludeInterfaces", "eth0 $(x)"),
        ("sidecar.istio.io/nativeSidecar", "perhaps"),
        ("proxy.istio.io/config", "- a"),
        ("sidecar.istio.io/logLevel", "a b"),
        ("sidecar.istio.io/userVolume", "{{"),
        ("status.sidecar.istio.io/port", "99999"),
        ("prometheus.io/port", "15090"),
    ] {
        let pod = json!({
            "metadata": {"name": "a", "annotations": {name: value, "prometheus.io/scrape": "true"}},
            "spec": {"containers": [{"name": "a"}]},
        });
        let error = inject(&pod, "/inject", true).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(value), "{name}: {error}");
    }
}

#[test]
fn a_pod_that_wants_none_gets_none() {
    let pod = json!({"metadata": {"labels": {"sidecar.istio.io/inject": "false"}}, "spec": {}});
    assert_eq!(inject(&pod, "/inject", true).unwrap(), None);
    assert!(matches!(inject(&json!({"kind": "Pod"}), "/inject", true), Err(Refused::NotAPod(_))));
}
