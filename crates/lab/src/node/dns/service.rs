//! The Service `kube-system/kube-dns`, by which the cluster knows its DNS.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::PostParams;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tombolo_runtime::backoff::Backoff;
use tombolo_runtime::errors::chain;

use crate::node::Node;

/// Makes the Service and its endpoints when the cluster has none.
pub(crate) async fn ensure(node: &Node) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    loop {
        let delay = match create(node).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "Service kube-system/kube-dns could not be made, trying again");
                backoff.delay()
            }
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => (),
            () = node.shutdown.draining() => return,
        }
    }
}

async fn create(node: &Node) -> Result<(), kube::Error> {
    let labels = json!({"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"});
    let ports = |key: &str| json!([{"name": "dns", key: 53, "protocol": "UDP"}, {"name": "dns-tcp", key: 53, "protocol": "TCP"}]);
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {"clusterIP": node.settings.cluster_dns, "ports": ports("port")},
    });
    make::<Service>(node, service).await?;
    let mut owned = labels;
    owned["kubernetes.io/service-name"] = json!("kube-dns");
    owned["endpointslice.kubernetes.io/managed-by"] = json!("tombolo");
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": owned},
        "addressType": "IPv4",
        "ports": ports("port"),
        "endpoints": [{"addresses": [node.settings.node_ip], "nodeName": node.settings.node_name, "conditions": {"ready": true, "serving": true, "terminating": false}}],
    });
    make::<EndpointSlice>(node, slice).await
}

async fn make<K>(node: &Node, object: Value) -> Result<(), kube::Error>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + DeserializeOwned
        + serde::Serialize
        + Clone
        + std::fmt::Debug,
    K::DynamicType: Default,
{
    let object: K = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    let api = Api::<K>::namespaced(node.client.clone(), "kube-system");
    if api.get_opt("kube-dns").await?.is_some() {
        return Ok(());
    }
    match api.create(&PostParams::default(), &object).await {
        // Another node, or the user, was first.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}
