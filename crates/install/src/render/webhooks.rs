//! Admission webhooks: sidecar injection and validation of Istio's kinds.
//!
//! CA bundles are left out: the control plane writes its own.

use serde_json::{Value, json};

use super::object;
use crate::object::Object;
use crate::operator::Operator;

/// The name of the injection webhook's configuration, which is unique in the cluster.
pub fn injection_name(operator: &Operator) -> String {
    let name = operator.revisioned("istio-sidecar-injector");
    match operator.namespace() {
        "istio-system" => name,
        namespace => format!("{name}-{namespace}"),
    }
}

/// The injection webhook's configuration. Calls `service` in the control plane's namespace, or the
/// URL that the document names.
pub(super) fn injection(operator: &Operator, service: &str) -> Object {
    let namespace = operator.namespace();
    let mut client = match operator.text("/istiodRemote/injectionURL") {
        Some(url) => json!({"url": url}),
        None => {
            let path = operator.text("/istiodRemote/injectionPath").unwrap_or("/inject");
            json!({"service": {"name": service, "namespace": namespace, "path": path, "port": 443}})
        }
    };
    if let (Some(bundle), Some(client)) =
        (operator.text("/istiodRemote/injectionCABundle"), client.as_object_mut())
    {
        client.insert("caBundle".to_owned(), bundle.into());
    }
    let revision = operator.revision_label();
    let webhook = |prefix: &str, namespaces: Vec<Value>, objects: Vec<Value>| {
        json!({
            "name": format!("{prefix}sidecar-injector.istio.io"),
            "clientConfig": client,
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "reinvocationPolicy": operator.text("/sidecarInjectorWebhook/reinvocationPolicy").unwrap_or("Never"),
            "namespaceSelector": {"matchExpressions": namespaces},
            "objectSelector": {"matchExpressions": objects},
        })
    };
    let mut webhooks = vec![
        webhook(
            "rev.namespace.",
            vec![one_of("istio.io/rev", "In", revision), absent("istio-injection")],
            vec![one_of("sidecar.istio.io/inject", "NotIn", "false")],
        ),
        webhook(
            "rev.object.",
            vec![absent("istio.io/rev"), absent("istio-injection")],
            vec![
                one_of("sidecar.istio.io/inject", "NotIn", "false"),
                one_of("istio.io/rev", "In", revision),
            ],
        ),
    ];
    if operator.revision.is_empty() {
        webhooks.push(webhook(
            "namespace.",
            vec![one_of("istio-injection", "In", "enabled")],
            vec![one_of("sidecar.istio.io/inject", "NotIn", "false")],
        ));
        webhooks.push(webhook(
            "object.",
            vec![absent("istio-injection"), absent("istio.io/rev")],
            vec![one_of("sidecar.istio.io/inject", "In", "true"), absent("istio.io/rev")],
        ));
    }
    if operator.flag("/sidecarInjectorWebhook/enableNamespacesByDefault") {
        let system = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];
        webhooks.push(webhook(
            "auto.",
            vec![
                absent("istio-injection"),
                absent("istio.io/rev"),
                json!({"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": system}),
            ],
            vec![absent("sidecar.istio.io/inject"), absent("istio.io/rev")],
        ));
    }
    object(
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfiguration",
        json!({"name": injection_name(operator), "labels": {"app": "sidecar-injector", "release": "istio"}}),
        json!({"webhooks": webhooks}),
    )
}

/// The validation webhook's configuration. It starts permissive; the control plane makes it strict
/// once it answers.
pub(super) fn validation(operator: &Operator, service: &str) -> Object {
    let namespace = operator.namespace();
    let client = match operator.text("/base/validationURL") {
        Some(url) => json!({"url": url}),
        None => {
            json!({"service": {"name": service, "namespace": namespace, "path": "/validate", "port": 443}})
        }
    };
    let revisioned = operator.revisioned("istio-validator");
    let objects = if operator.revision.is_empty() {
        json!({})
    } else {
        json!({"matchExpressions": [one_of("istio.io/rev", "In", operator.revision_label())]})
    };
    object(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        json!({"name": format!("{revisioned}-{namespace}"), "labels": {"app": "istiod", "release": "istio", "istio": "istiod"}}),
        json!({"webhooks": [{
            "name": "rev.validation.istio.io",
            "clientConfig": client,
            "rules": [{
                "operations": ["CREATE", "UPDATE"],
                "apiGroups": ["security.istio.io", "networking.istio.io", "telemetry.istio.io", "extensions.istio.io"],
                "apiVersions": ["*"],
                "resources": ["*"],
            }],
            "failurePolicy": "Ignore",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "objectSelector": objects,
        }]}),
    )
}

fn absent(key: &str) -> Value {
    json!({"key": key, "operator": "DoesNotExist"})
}

fn one_of(key: &str, operator: &str, value: &str) -> Value {
    json!({"key": key, "operator": operator, "values": [value]})
}
