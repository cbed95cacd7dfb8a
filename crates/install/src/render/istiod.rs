//! The `Pilot` component of a primary: the control plane itself and its configuration.

use serde_json::{Map, Value, json};

use super::{autoscaler, object, rbac, service_account, webhooks};
use crate::object::Object;
use crate::operator::{Operator, overlay};

/// The objects of the component.
pub(super) fn objects(operator: &Operator) -> Vec<Object> {
    let namespace = operator.namespace();
    let name = operator.revisioned("istiod");
    let mut objects = vec![service_account(&name, namespace, "istiod")];
    objects.extend(rbac::istiod(operator));
    objects.push(mesh_config(operator));
    objects.push(injector_config(operator));
    objects.push(service(operator, &name));
    objects.push(deployment(operator, &name));
    if operator.flag("/pilot/autoscaleEnabled") {
        let bounds = json!({
            "minReplicas": operator.value("/pilot/autoscaleMin"),
            "maxReplicas": operator.value("/pilot/autoscaleMax"),
        });
        objects.push(autoscaler(&name, namespace, "istiod", &bounds));
    }
    if scales(operator) && operator.flag("/global/defaultPodDisruptionBudget/enabled") {
        let metadata = json!({"name": name, "namespace": namespace, "labels": {"app": "istiod", "istio": "pilot", "release": "istio"}});
        let spec = json!({"minAvailable": 1, "selector": {"matchLabels": selector(operator)}});
        objects.push(object("policy/v1", "PodDisruptionBudget", metadata, json!({"spec": spec})));
    }
    objects.push(webhooks::injection(operator, &name));
    if operator.flag("/global/configValidation") {
        objects.push(webhooks::validation(operator, &name));
    }
    objects
}

/// Whether there is always more than one replica, so that a budget can be kept.
fn scales(operator: &Operator) -> bool {
    let number = |value: Option<&Value>| {
        value.map(super::kubernetes::number).and_then(|it| it.as_u64()).unwrap_or(1)
    };
    if operator.flag("/pilot/autoscaleEnabled") {
        number(operator.value("/pilot/autoscaleMin")) > 1
    } else {
        number(operator.pilot_k8s().get("replicaCount")) > 1
    }
}

/// Labels that select the control plane's pods.
pub(super) fn selector(operator: &Operator) -> Value {
    if operator.revision.is_empty() {
        json!({"app": "istiod", "istio": "pilot"})
    } else {
        json!({"app": "istiod", "istio.io/rev": operator.revision})
    }
}

fn yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).expect("JSON values can be written as YAML")
}

/// The mesh configuration, as the control plane reads it.
fn mesh_config(operator: &Operator) -> Object {
    let namespace = operator.namespace();
    let discovery = if operator.text("/global/remotePilotAddress").is_some() {
        format!("istiod.{namespace}.svc:15012")
    } else {
        format!("{}.{namespace}.svc:15012", operator.revisioned("istiod"))
    };
    let mut mesh = json!({
        "trustDomain": "cluster.local",
        "rootNamespace": namespace,
        "defaultProviders": {"metrics": ["prometheus"]},
        "enablePrometheusMerge": true,
        "defaultConfig": {"discoveryAddress": discovery},
    });
    if let Some(id) = operator.text("/global/meshID") {
        overlay(&mut mesh, &json!({"defaultConfig": {"meshId": id}}));
    }
    overlay(&mut mesh, &operator.mesh_config());
    let networks = operator.value("/global/meshNetworks").cloned().unwrap_or_else(|| json!({}));
    object(
        "v1",
        "ConfigMap",
        json!({"name": operator.revisioned("istio"), "namespace": namespace, "labels": {"release": "istio"}}),
        json!({"data": {"mesh": yaml(&mesh), "meshNetworks": yaml(&json!({"networks": networks}))}}),
    )
}

/// What the injection webhook reads.
fn injector_config(operator: &Operator) -> Object {
    let mut values = operator.values();
    overlay(
        &mut values,
        &json!({"global": {"tomboloImage": operator.image()}, "revision": operator.revision}),
    );
    let config = json!({
        "policy": operator.text("/global/proxy/autoInject").unwrap_or("enabled"),
        "defaultTemplates": ["sidecar"],
        "alwaysInjectSelector": operator.value("/sidecarInjectorWebhook/alwaysInjectSelector").cloned().unwrap_or_else(|| json!([])),
        "neverInjectSelector": operator.value("/sidecarInjectorWebhook/neverInjectSelector").cloned().unwrap_or_else(|| json!([])),
        "injectedAnnotations": operator.value("/sidecarInjectorWebhook/injectedAnnotations").cloned().unwrap_or_else(|| json!({})),
    });
    let values = serde_json::to_string_pretty(&values).expect("JSON values can be written as JSON");
    object(
        "v1",
        "ConfigMap",
        json!({"name": operator.revisioned("istio-sidecar-injector"), "namespace": operator.namespace(), "labels": {"release": "istio"}}),
        json!({"data": {"config": yaml(&config), "values": values}}),
    )
}

fn service(operator: &Operator, name: &str) -> Object {
    object(
        "v1",
        "Service",
        json!({"name": name, "namespace": operator.namespace(), "labels": {"app": "istiod", "istio": "pilot", "release": "istio"}}),
        json!({"spec": {
            "ports": [
                {"name": "grpc-xds", "port": 15010, "protocol": "TCP"},
                {"name": "https-dns", "port": 15012, "protocol": "TCP"},
                {"name": "https-webhook", "port": 443, "targetPort": 15017, "protocol": "TCP"},
                {"name": "http-monitoring", "port": 15014, "protocol": "TCP"},
            ],
            "selector": selector(operator),
        }}),
    )
}

/// The environment of the control plane. What the user set comes last and wins.
fn environment(operator: &Operator) -> Vec<Value> {
    let field = |path: &str| json!({"fieldRef": {"apiVersion": "v1", "fieldPath": path}});
    let mut env = vec![
        json!({"name": "REVISION", "value": operator.revision_label()}),
        json!({"name": "PILOT_CERT_PROVIDER", "value": operator.text("/global/pilotCertProvider").unwrap_or("istiod")}),
        json!({"name": "POD_NAME", "valueFrom": field("metadata.name")}),
        json!({"name": "POD_NAMESPACE", "valueFrom": field("metadata.namespace")}),
        json!({"name": "SERVICE_ACCOUNT", "valueFrom": field("spec.serviceAccountName")}),
        json!({"name": "CLUSTER_ID", "value": operator.cluster()}),
    ];
    let given =
        operator.value("/pilot/env").and_then(Value::as_object).cloned().unwrap_or_default();
    if operator.flag("/global/externalIstiod") && !given.contains_key("EXTERNAL_ISTIOD") {
        env.push(json!({"name": "EXTERNAL_ISTIOD", "value": "true"}));
    }
    let entry = |(name, value): (String, Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (name.clone(), json!({"name": name, "value": text}))
    };
    let named: Map<String, Value> = given.into_iter().map(entry).collect();
    env.retain(|entry| {
        entry.get("name").and_then(Value::as_str).is_some_and(|name| !named.contains_key(name))
    });
    env.extend(named.into_values());
    env
}

fn deployment(operator: &Operator, name: &str) -> Object {
    let mut pod_labels = json!({
        "app": "istiod",
        "istio": if operator.revision.is_empty() { "pilot" } else { "istiod" },
        "istio.io/rev": operator.revision_label(),
        "istio.io/dataplane-mode": "none",
        "sidecar.istio.io/inject": "false",
        "operator.istio.io/component": "Pilot",
    });
    overlay(&mut pod_labels, operator.value("/pilot/podLabels").unwrap_or(&json!({})));
    let annotations = json!({
        "prometheus.io/port": "15014",
        "prometheus.io/scrape": "true",
        "sidecar.istio.io/inject": "false",
    });
    let spec = json!({
        "strategy": {"rollingUpdate": {"maxSurge": "100%", "maxUnavailable": "25%"}},
        "selector": {"matchLabels": selector(operator)},
        "template": {
            "metadata": {"labels": pod_labels, "annotations": annotations},
            "spec": pod(operator, name),
        },
    });
    object(
        "apps/v1",
        "Deployment",
        json!({"name": name, "namespace": operator.namespace(), "labels": {"app": "istiod", "istio": "pilot", "release": "istio"}}),
        json!({"spec": spec}),
    )
}

fn pod(operator: &Operator, account: &str) -> Value {
    let domain = operator.text("/global/proxy/clusterDomain").unwrap_or("cluster.local");
    let mut args = vec![
        "control-plane".to_owned(),
        "--monitoringAddr=:15014".to_owned(),
        format!(
            "--log_output_level={}",
            operator.text("/global/logging/level").unwrap_or("default:info")
        ),
        "--domain".to_owned(),
        domain.to_owned(),
        "--keepaliveMaxServerConnectionAge".to_owned(),
        "30m".to_owned(),
    ];
    if operator.flag("/global/logAsJson") {
        args.push("--log_as_json".to_owned());
    }
    let audience = operator.text("/global/sds/token/aud").unwrap_or("istio-ca");
    let mount = |name: &str, path: &str, read_only: bool| json!({"name": name, "mountPath": path, "readOnly": read_only});
    json!({
        "serviceAccountName": account,
        "securityContext": {},
        "tolerations": [{"key": "cni.istio.io/not-ready", "operator": "Exists"}],
        "containers": [{
            "name": "discovery",
            "image": operator.image(),
            "args": args,
            "ports": [
                {"containerPort": 8080, "protocol": "TCP", "name": "http-debug"},
                {"containerPort": 15010, "protocol": "TCP", "name": "grpc-xds"},
                {"containerPort": 15012, "protocol": "TCP", "name": "tls-xds"},
                {"containerPort": 15017, "protocol": "TCP", "name": "https-webhooks"},
                {"containerPort": 15014, "protocol": "TCP", "name": "http-monitoring"},
            ],
            "readinessProbe": {
                "httpGet": {"path": "/ready", "port": 8080},
                "initialDelaySeconds": 1,
                "periodSeconds": 3,
                "timeoutSeconds": 5,
            },
            "env": environment(operator),
            "resources": {},
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "runAsNonRoot": true,
                "runAsUser": 1337,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                mount("istio-token", "/var/run/secrets/tokens", true),
                mount("local-certs", "/var/run/secrets/istio-dns", false),
                mount("cacerts", "/etc/cacerts", true),
                mount("istio-kubeconfig", "/var/run/secrets/remote", true),
            ],
        }],
        "volumes": [
            {"name": "local-certs", "emptyDir": {"medium": "Memory"}},
            {"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": {
                "audience": audience, "expirationSeconds": 43200, "path": "istio-token",
            }}]}},
            {"name": "cacerts", "secret": {"secretName": "cacerts", "optional": true}},
            {"name": "istio-kubeconfig", "secret": {"secretName": "istio-kubeconfig", "optional": true}},
        ],
    })
}
