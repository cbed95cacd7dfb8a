//! Roles: what a control plane may do in its own cluster, and what other clusters' control planes
//! may read here. Least privilege: nothing that no code of ours asks for.

use serde_json::{Value, json};

use super::object;
use crate::object::Object;
use crate::operator::Operator;

const READ: &[&str] = &["get", "list", "watch"];
const ISTIO_GROUPS: &[&str] = &[
    "config.istio.io",
    "security.istio.io",
    "networking.istio.io",
    "authentication.istio.io",
    "rbac.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
];

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

/// The reader's cluster role and its binding. In a remote it may also do what leading needs:
/// write root certificates and patch webhooks.
pub(super) fn reader(operator: &Operator) -> Vec<Object> {
    let mut rules = vec![
        rule(ISTIO_GROUPS, &["*"], READ),
        rule(
            &[""],
            &[
                "endpoints",
                "pods",
                "services",
                "nodes",
                "replicationcontrollers",
                "namespaces",
                "secrets",
                "configmaps",
            ],
            READ,
        ),
        rule(&["networking.istio.io"], &["workloadentries"], READ),
        rule(&["networking.x-k8s.io", "gateway.networking.k8s.io"], &["gateways"], READ),
        rule(&["apiextensions.k8s.io"], &["customresourcedefinitions"], READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(
            &["multicluster.x-k8s.io"],
            &["serviceexports"],
            &["get", "list", "watch", "create", "delete"],
        ),
        rule(&["multicluster.x-k8s.io"], &["serviceimports"], READ),
        rule(&["apps"], &["replicasets"], READ),
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
    ];
    if operator.is_remote() {
        rules.push(rule(&[""], &["configmaps"], &["create", "get", "list", "watch", "update"]));
        rules.push(rule(
            &["admissionregistration.k8s.io"],
            &["mutatingwebhookconfigurations"],
            &["get", "list", "watch", "update", "patch"],
        ));
        rules.push(rule(
            &["admissionregistration.k8s.io"],
            &["validatingwebhookconfigurations"],
            &["get", "list", "watch", "update"],
        ));
        // The lead in a remote is held by a Lease there.
        rules.push(rule(
            &["coordination.k8s.io"],
            &["leases"],
            &["get", "create", "update", "patch"],
        ));
    }
    let name =
        format!("{}-{}", operator.revisioned("istio-reader-clusterrole"), operator.namespace());
    cluster_role(&name, "istio-reader", rules, super::base::READER, operator.namespace())
}

/// The control plane's roles: cluster-wide and in its own namespace.
pub(super) fn istiod(operator: &Operator) -> Vec<Object> {
    let namespace = operator.namespace();
    let account = operator.revisioned("istiod");
    let rules = vec![
        rule(
            &["admissionregistration.k8s.io"],
            &["mutatingwebhookconfigurations"],
            &["get", "list", "watch", "update", "patch"],
        ),
        rule(
            &["admissionregistration.k8s.io"],
            &["validatingwebhookconfigurations"],
            &["get", "list", "watch", "update", "patch"],
        ),
        rule(ISTIO_GROUPS, &["*"], READ),
        rule(&["networking.istio.io"], &["workloadentries", "workloadentries/status"], &["*"]),
        rule(&["apiextensions.k8s.io"], &["customresourcedefinitions"], READ),
        rule(&[""], &["pods", "nodes", "services", "namespaces", "endpoints"], READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(&["apps"], &["replicasets"], READ),
        rule(&[""], &["configmaps"], &["create", "get", "list", "watch", "update", "patch"]),
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
        rule(&["gateway.networking.k8s.io"], &["*"], READ),
        rule(&["multicluster.x-k8s.io"], &["serviceexports", "serviceimports"], READ),
        rule(&[""], &["secrets"], READ),
        rule(&[""], &["events"], &["create", "patch"]),
    ];
    let name = format!("{}-{namespace}", operator.revisioned("istiod-clusterrole"));
    let mut objects = cluster_role(&name, "istiod", rules, &account, namespace);
    let rules = vec![
        rule(&["networking.istio.io"], &["gateways"], &["create"]),
        rule(&[""], &["secrets"], &["create", "get", "watch", "list", "update", "delete"]),
        rule(&[""], &["configmaps"], &["delete"]),
        rule(&["coordination.k8s.io"], &["leases"], &["get", "update", "patch", "create"]),
    ];
    objects.extend(role(&account, "istiod", namespace, rules, &account));
    objects
}

fn cluster_role(
    name: &str,
    app: &str,
    rules: Vec<Value>,
    account: &str,
    namespace: &str,
) -> Vec<Object> {
    let api = "rbac.authorization.k8s.io/v1";
    let metadata = json!({"name": name, "labels": {"app": app, "release": "istio"}});
    let binding = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    });
    vec![
        object(api, "ClusterRole", metadata.clone(), json!({"rules": rules})),
        object(api, "ClusterRoleBinding", metadata, binding),
    ]
}

/// A role in a namespace, bound to an account there.
pub(super) fn role(
    name: &str,
    app: &str,
    namespace: &str,
    rules: Vec<Value>,
    account: &str,
) -> Vec<Object> {
    let api = "rbac.authorization.k8s.io/v1";
    let metadata =
        json!({"name": name, "namespace": namespace, "labels": {"app": app, "release": "istio"}});
    let binding = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    });
    vec![
        object(api, "Role", metadata.clone(), json!({"rules": rules})),
        object(api, "RoleBinding", metadata, binding),
    ]
}

/// What a gateway's account may do: read the secrets of its own namespace.
pub(super) fn secret_reader(name: &str, app: &str, namespace: &str, account: &str) -> Vec<Object> {
    role(name, app, namespace, vec![rule(&[""], &["secrets"], READ)], account)
}
