//! The volumes of the proxy and where they are mounted.

use serde_json::{Value, json};

use crate::inject::Context;

/// Volume name, mount path.
const MOUNTS: [(&str, &str); 9] = [
    ("workload-socket", "/var/run/secrets/workload-spiffe-uds"),
    ("credential-socket", "/var/run/secrets/credential-uds"),
    ("workload-certs", "/var/run/secrets/workload-spiffe-credentials"),
    ("istiod-ca-cert", "/var/run/secrets/istio"),
    ("istio-ca-crl", "/var/run/secrets/istio/crl"),
    ("istio-data", "/var/lib/istio/data"),
    ("istio-envoy", "/etc/istio/proxy"),
    ("istio-token", "/var/run/secrets/tokens"),
    ("istio-podinfo", "/etc/istio/pod"),
];

pub(crate) fn mounts(context: &Context<'_>) -> Vec<Value> {
    let all = MOUNTS.iter().map(|(name, path)| json!({"name": name, "mountPath": path}));
    all.chain(context.settings.mounts.iter().cloned()).collect()
}

pub(crate) fn volumes(context: &Context<'_>) -> Vec<Value> {
    let roots = context.text("/global/trustBundleName").unwrap_or("istio-ca-root-cert");
    let audience = context.text("/global/sds/token/aud").unwrap_or("istio-ca");
    let field = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    let mut volumes = vec![
        json!({"name": "workload-socket", "emptyDir": {}}),
        json!({"name": "credential-socket", "emptyDir": {}}),
        json!({"name": "workload-certs", "emptyDir": {}}),
        json!({"name": "istio-envoy", "emptyDir": {"medium": "Memory"}}),
        json!({"name": "istio-data", "emptyDir": {}}),
        json!({"name": "istio-podinfo", "downwardAPI": {"items": [
            field("labels", "metadata.labels"),
            field("annotations", "metadata.annotations"),
        ]}}),
        json!({"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": {
            "audience": audience, "expirationSeconds": 43200, "path": "istio-token",
        }}]}}),
        json!({"name": "istiod-ca-cert", "configMap": {"name": roots}}),
        json!({"name": "istio-ca-crl", "configMap": {"name": "istio-ca-crl", "optional": true}}),
    ];
    volumes.extend(context.settings.volumes.iter().cloned());
    volumes
}
