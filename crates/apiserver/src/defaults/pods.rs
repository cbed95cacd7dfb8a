//! Default values of pods and of the pod templates inside other kinds.

use serde_json::{Map, Value, json};

use super::{default_text, elements, existing};
use crate::object::{self, child, default};

const FILE_MODE: i64 = 420;
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// A pod.
pub fn pod(value: &mut Value) {
    let spec = child(value, "spec");
    spec_defaults(spec);
    for list in ["containers", "initContainers"] {
        for container in elements(spec, list) {
            requests_from_limits(container);
        }
    }
    default(spec, "enableServiceLinks", true);
    // The old name of the field follows the new one.
    let account = spec.get("serviceAccountName").or_else(|| spec.get("serviceAccount")).cloned();
    if let Some(account) = account {
        spec.insert("serviceAccountName".to_owned(), account.clone());
        spec.insert("serviceAccount".to_owned(), account);
    }
}

/// A `PodTemplate` object.
pub fn template(value: &mut Value) {
    let map = object::as_map(value);
    template_in(map);
}

/// The `template` inside the spec of a workload.
pub fn template_in(spec: &mut Map<String, Value>) {
    let Some(template) = existing(spec, "template") else { return };
    template.entry("metadata").or_insert_with(|| json!({}));
    let spec = object::as_map(template.entry("spec").or_insert_with(|| json!({})));
    let account = spec.get("serviceAccountName").or_else(|| spec.get("serviceAccount")).cloned();
    if let Some(account) = account {
        spec.insert("serviceAccountName".to_owned(), account.clone());
        spec.insert("serviceAccount".to_owned(), account);
    }
    spec_defaults(spec);
}

fn spec_defaults(spec: &mut Map<String, Value>) {
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default(spec, "securityContext", json!({}));
    default(spec, "terminationGracePeriodSeconds", 30);
    default_text(spec, "schedulerName", "default-scheduler");
    let on_host = spec.get("hostNetwork").is_some_and(|on| *on == true);
    for list in CONTAINERS {
        for container in elements(spec, list) {
            container_defaults(container, on_host);
        }
    }
    for volume in elements(spec, "volumes") {
        volume_defaults(volume);
    }
}

fn container_defaults(container: &mut Map<String, Value>, on_host: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    default_text(container, "imagePullPolicy", policy);
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    for port in elements(container, "ports") {
        default_text(port, "protocol", "TCP");
        if on_host && let Some(number) = port.get("containerPort").cloned() {
            default(port, "hostPort", number);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = existing(container, probe) {
            probe_defaults(probe);
        }
    }
    if let Some(hooks) = existing(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(http) = existing(hooks, hook).and_then(|hook| existing(hook, "httpGet")) {
                http_defaults(http);
            }
        }
    }
    for variable in elements(container, "env") {
        if let Some(field) =
            existing(variable, "valueFrom").and_then(|source| existing(source, "fieldRef"))
        {
            default_text(field, "apiVersion", "v1");
        }
    }
}

/// Whether an image is named without a tag or digest, or by the tag `latest`.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe_defaults(probe: &mut Map<String, Value>) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if probe.get(field).is_some_and(|have| *have == 0) {
            probe.remove(field);
        }
        default(probe, field, value);
    }
    if let Some(http) = existing(probe, "httpGet") {
        http_defaults(http);
    }
    if let Some(grpc) = existing(probe, "grpc") {
        default(grpc, "service", "");
    }
}

fn http_defaults(http: &mut Map<String, Value>) {
    default_text(http, "path", "/");
    default_text(http, "scheme", "HTTP");
}

fn volume_defaults(volume: &mut Map<String, Value>) {
    if volume.len() == 1 {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = existing(volume, source) {
            default(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(path) = existing(volume, "hostPath") {
        default(path, "type", "");
    }
    if let Some(downward) = existing(volume, "downwardAPI") {
        downward_defaults(downward);
    }
    if let Some(projected) = existing(volume, "projected") {
        for source in elements(projected, "sources") {
            if let Some(token) = existing(source, "serviceAccountToken") {
                default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = existing(source, "downwardAPI") {
                downward_defaults(downward);
            }
        }
    }
    if let Some(ephemeral) = existing(volume, "ephemeral")
        && let Some(claim) = existing(ephemeral, "volumeClaimTemplate")
        && let Some(spec) = existing(claim, "spec")
    {
        default(spec, "volumeMode", "Filesystem");
    }
}

fn downward_defaults(downward: &mut Map<String, Value>) {
    for item in elements(downward, "items") {
        if let Some(field) = existing(item, "fieldRef") {
            default_text(field, "apiVersion", "v1");
        }
    }
}

fn requests_from_limits(container: &mut Map<String, Value>) {
    let Some(resources) = existing(container, "resources") else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let requests = object::as_map(resources.entry("requests").or_insert_with(|| json!({})));
    for (name, amount) in limits {
        default(requests, &name, amount);
    }
}

/// The pod's quality of service.
pub fn qos_class(pod: &Value) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array().into_iter().flatten() {
            let resources = &container["resources"];
            for name in ["cpu", "memory"] {
                let (limit, request) = (&resources["limits"][name], &resources["requests"][name]);
                any |= !limit.is_null() || !request.is_null();
                guaranteed &= !limit.is_null() && (request.is_null() || request == limit);
            }
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_gets_what_kubernetes_fills_in() {
        let mut spec = json!({"template": {"spec": {
            "containers": [{"name": "a", "image": "b:1", "ports": [{"containerPort": 80}]}],
            "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "x"}}],
        }}});
        template_in(spec.as_object_mut().unwrap());
        let expected = json!({"template": {"metadata": {}, "spec": {
            "containers": [{
                "name": "a",
                "image": "b:1",
                "imagePullPolicy": "IfNotPresent",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
            }],
            "dnsPolicy": "ClusterFirst",
            "restartPolicy": "Always",
            "schedulerName": "default-scheduler",
            "securityContext": {},
            "terminationGracePeriodSeconds": 30,
            "volumes": [
                {"name": "v", "emptyDir": {}},
                {"name": "c", "configMap": {"name": "x", "defaultMode": 420}},
            ],
        }}});
        assert_eq!(spec, expected);
    }
}
