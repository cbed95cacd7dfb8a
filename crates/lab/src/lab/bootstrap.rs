//! What every cluster must hold before its first pod: the roles of node agents, and the Service
//! of cluster DNS at its well-known address.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::control::ClusterState;
use crate::lab::LabError;

/// The role of node agents, beside Kubernetes' own for nodes: they also play kube-proxy and
/// cluster DNS, which watch Services and their endpoints.
const NODE_ROLE: &str = "tombolo:node";

/// Makes these objects, where they are not there already.
pub(super) async fn apply(client: &Client, state: &ClusterState) -> Result<(), LabError> {
    let address = state.spec.service_address(10).to_string();
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let services: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    make(&roles, "ClusterRole tombolo:node", node_role(), state).await?;
    make(&bindings, "ClusterRoleBinding tombolo:node", node_binding(), state).await?;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "kube-system");
    make(&services, "Service kube-system/kube-dns", dns_service(&address), state).await?;
    make(&slices, "EndpointSlice kube-system/kube-dns", dns_endpoints(state), state).await
}

async fn make<K>(
    api: &Api<K>,
    object: &str,
    value: Value,
    state: &ClusterState,
) -> Result<(), LabError>
where
    K: Clone + Debug + DeserializeOwned + Serialize,
{
    let made = match serde_json::from_value::<K>(value) {
        Ok(wanted) => api.create(&PostParams::default(), &wanted).await,
        Err(error) => Err(kube::Error::SerdeError(error)),
    };
    match made {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(source) => {
            let (name, object) = (state.name().clone(), object.to_owned());
            Err(LabError::Bootstrap { name, object, source: Box::new(source) })
        }
    }
}

fn node_role() -> Value {
    let look = ["get", "list", "watch"];
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": NODE_ROLE},
        "rules": [
            {"apiGroups": [""], "verbs": look,
             "resources": ["services", "endpoints", "namespaces", "nodes", "pods", "serviceaccounts"]},
            {"apiGroups": [""], "verbs": look, "resources": ["configmaps", "secrets"]},
            {"apiGroups": ["discovery.k8s.io"], "verbs": look, "resources": ["endpointslices"]},
            {"apiGroups": [""], "verbs": ["create"], "resources": ["serviceaccounts/token"]},
            {"apiGroups": ["", "events.k8s.io"], "verbs": ["create", "patch", "update"],
             "resources": ["events"]},
        ],
    })
}

fn node_binding() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": NODE_ROLE},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NODE_ROLE},
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}],
    })
}

/// Without a selector: every node answers at this address itself.
fn dns_service(address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": dns_labels(),
        },
        "spec": {
            "clusterIP": address,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    })
}

fn dns_labels() -> Value {
    json!({
        "k8s-app": "kube-dns",
        "kubernetes.io/cluster-service": "true",
        "kubernetes.io/name": "CoreDNS",
    })
}

fn dns_endpoints(state: &ClusterState) -> Value {
    let mut labels = dns_labels();
    labels["kubernetes.io/service-name"] = json!("kube-dns");
    labels["endpointslice.kubernetes.io/managed-by"] = json!("tombolo");
    let endpoints: Vec<Value> = state
        .nodes
        .iter()
        .map(|node| {
            json!({
                "addresses": [node.address],
                "nodeName": node.name,
                "conditions": {"ready": true, "serving": true, "terminating": false},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "addressType": "IPv4",
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ],
        "endpoints": endpoints,
    })
}
