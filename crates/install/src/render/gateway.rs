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
    if let Some(bounds) = &gateway.autoscaler {
        objects.push(autoscaler(name, namespace, name, bounds));
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
pub(super) fn selector(gateway: &Gateway) -> Value {
    let mut labels = labels(gateway);
    if let Some(labels) = labels.as_object_mut() {
        labels.retain(|key, _| key == "app" || key == "istio");
    }
    labels
}

/// The ports that the document lists, or those every gateway of Istio has.
fn ports(gateway: &Gateway) -> Vec<Value> {
    if let Some(listed) = gateway.k8s.pointer("/service/ports").and_then(Value::as_array) {
        return listed.clone();
    }
    let mut ports = vec![
        json!({"name": "http2", "port": 80, "targetPort": 8080, "protocol": "TCP"}),
        json!({"name": "https", "port": 443, "targetPort": 8443, "protocol": "TCP"}),
    ];
    if gateway.component == "IngressGateways" {
        let status =
            json!({"name": "status-port", "port": 15021, "targetPort": 15021, "protocol": "TCP"});
        ports.insert(0, status);
    }
    ports
}

fn service(gateway: &Gateway) -> Object {
    let mut all = labels(gateway);
    overlay(&mut all, &json!({"release": "istio"}));
    let metadata = json!({"name": gateway.name, "namespace": gateway.namespace, "labels": all});
    let spec =
        json!({"type": "LoadBalancer", "selector": selector(gateway), "ports": ports(gateway)});
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
    let annotations = json!({
        "inject.istio.io/templates": "gateway",
        "sidecar.istio.io/inject": "true",
        "prometheus.io/port": "15020",
        "prometheus.io/scrape": "true",
        "prometheus.io/path": "/stats/prometheus",
    });
    let mut container_ports: Vec<Value> = ports(gateway)
        .iter()
        .filter_map(|port| port.get("targetPort").or_else(|| port.get("port")).cloned())
        .map(|port| json!({"containerPort": port, "protocol": "TCP"}))
        .collect();
    container_ports
        .push(json!({"containerPort": 15090, "protocol": "TCP", "name": "http-envoy-prom"}));
    let spec = json!({
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
                    "env": [{"name": "ISTIO_META_UNPRIVILEGED_POD", "value": "true"}],
                    "resources": operator.value("/global/proxy/resources"),
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        },
    });
    let mut all = labels(gateway);
    overlay(&mut all, &json!({"release": "istio"}));
    object(
        "apps/v1",
        "Deployment",
        json!({"name": name, "namespace": gateway.namespace, "labels": all}),
        json!({"spec": spec}),
    )
}
