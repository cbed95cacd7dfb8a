//! A gateway component: a Deployment whose pod the injection webhook completes, and its Service.

use serde_json::{Value, json};

use super::{autoscaler, object, rbac, service_account};
use crate::object::Object;
use crate::operator::{Gateway, Operator, overlay};

/// The objects of one gateway.
pub(super) fn objects(operator: &Operator, gateway: &Gateway) -> Vec<Object> {
    let (name, namespace) = (gateway.name.as_str(), gateway.namespace.as_str());
    let account = format!("{name}-service-account");
    let mut objects = vec![service_account(&account, namespace, name)];
    objects.extend(rbac::secret_reader(&format!("{name}-sds"), name, namespace, &account));
    objects.push(service(gateway));
    objects.push(deployment(operator, gateway, &account));
    if !gateway.k8s.get("replicaCount").is_some_and(Value::is_u64) {
        let bounds = gateway.k8s.get("hpaSpec").cloned().unwrap_or_else(|| json!({}));
        objects.push(autoscaler(name, namespace, name, &bounds));
    }
    objects
}

/// `app` and whatever labels the document gives the gateway.
fn labels(gateway: &Gateway) -> Value {
    let mut labels = json!({"app": gateway.name});
    overlay(&mut labels, &Value::Object(gateway.labels.clone()));
    labels
}

/// What selects the gateway's pods: the labels that do not say where it is.
fn selector(gateway: &Gateway) -> Value {
    let mut labels = labels(gateway);
    if let Some(labels) = labels.as_object_mut() {
        labels.retain(|key, _| key == "app" || key == "istio");
    }
    labels
}

fn ports(gateway: &Gateway) -> Vec<Value> {
    gateway.k8s.pointer("/service/ports").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn service(gateway: &Gateway) -> Object {
    let mut spec = json!({"type": "LoadBalancer", "selector": selector(gateway)});
    overlay(&mut spec, gateway.k8s.get("service").unwrap_or(&json!({})));
    let mut all = labels(gateway);
    overlay(&mut all, &json!({"release": "istio"}));
    let mut metadata = json!({"name": gateway.name, "namespace": gateway.namespace, "labels": all});
    if let Some(annotations) = gateway.k8s.get("serviceAnnotations") {
        overlay(&mut metadata, &json!({"annotations": annotations}));
    }
    let ports: Vec<Value> = ports(gateway)
        .into_iter()
        .map(|mut port| {
            if let Some(port) = port.as_object_mut() {
                port.entry("protocol").or_insert_with(|| "TCP".into());
            }
            port
        })
        .collect();
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("ports".to_owned(), ports.into());
    }
    object("v1", "Service", metadata, json!({"spec": spec}))
}

fn deployment(operator: &Operator, gateway: &Gateway, account: &str) -> Object {
    let name = gateway.name.as_str();
    let mut pod_labels = labels(gateway);
    overlay(
        &mut pod_labels,
        &json!({
            "sidecar.istio.io/inject": "true",
            "istio.io/rev": operator.revision_label(),
            "service.istio.io/canonical-name": name,
            "service.istio.io/canonical-revision": "latest",
            "operator.istio.io/component": gateway.component,
        }),
    );
    let mut annotations = json!({
        "inject.istio.io/templates": "gateway",
        "sidecar.istio.io/inject": "true",
        "prometheus.io/port": "15020",
        "prometheus.io/scrape": "true",
        "prometheus.io/path": "/stats/prometheus",
    });
    overlay(&mut annotations, gateway.k8s.get("podAnnotations").unwrap_or(&json!({})));
    let mut container_ports: Vec<Value> = ports(gateway)
        .iter()
        .filter_map(|port| port.get("targetPort").or_else(|| port.get("port")).cloned())
        .map(|port| json!({"containerPort": port, "protocol": "TCP"}))
        .collect();
    container_ports
        .push(json!({"containerPort": 15090, "protocol": "TCP", "name": "http-envoy-prom"}));
    let mut env = vec![json!({"name": "ISTIO_META_UNPRIVILEGED_POD", "value": "true"})];
    env.extend(gateway.k8s.get("env").and_then(Value::as_array).cloned().unwrap_or_default());
    let resources =
        gateway.k8s.get("resources").or_else(|| operator.value("/global/proxy/resources")).cloned();
    let mut spec = json!({
        "strategy": {"rollingUpdate": {"maxSurge": "100%", "maxUnavailable": "25%"}},
        "selector": {"matchLabels": selector(gateway)},
        "template": {
            "metadata": {"labels": pod_labels, "annotations": annotations},
            "spec": {
                "serviceAccountName": account,
                "securityContext": {"runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true},
                "containers": [{
                    "name": "istio-proxy",
                    "image": "auto",
                    "ports": container_ports,
                    "env": env,
                    "resources": resources,
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        },
    });
    if let Some(replicas) = gateway.k8s.get("replicaCount") {
        overlay(&mut spec, &json!({"replicas": replicas}));
    }
    for key in ["nodeSelector", "tolerations", "affinity"] {
        if let Some(given) = gateway.k8s.get(key) {
            overlay(&mut spec, &json!({"template": {"spec": {key: given}}}));
        }
    }
    let mut all = labels(gateway);
    overlay(&mut all, &json!({"release": "istio"}));
    object(
        "apps/v1",
        "Deployment",
        json!({"name": name, "namespace": gateway.namespace, "labels": all}),
        json!({"spec": spec}),
    )
}
