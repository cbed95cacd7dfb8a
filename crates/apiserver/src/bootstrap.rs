//! What every cluster holds from its first start: the system namespaces, the `kubernetes` Service
//! and its EndpointSlice, the system priority classes.
//!
//! Safe to run at every start: what is there stays, except the address of the API server, which
//! follows the settings.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::object;
use crate::settings::Settings;
use crate::store::{Expect, Key, Store, WriteError};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
const PORT_NAME: &str = "https";

/// Creates what is missing.
///
/// # Errors
/// When the store cannot write.
pub async fn create(store: &Store, settings: &Settings, port: u16) -> Result<(), WriteError> {
    for name in NAMESPACES {
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        });
        ensure(store, "/namespaces", namespace).await?;
    }
    for (name, value, what) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name, "generation": 1},
            "value": value,
            "description": what,
            "preemptionPolicy": "PreemptLowerPriority",
        });
        ensure(store, "scheduling.k8s.io/priorityclasses", class).await?;
    }
    kubernetes_service(store, settings, port).await
}

async fn kubernetes_service(
    store: &Store,
    settings: &Settings,
    port: u16,
) -> Result<(), WriteError> {
    let address = first_address(settings.service_cluster_ip_range).to_string();
    let family = if settings.service_cluster_ip_range.addr().is_ipv4() { "IPv4" } else { "IPv6" };
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "clusterIP": address,
            "clusterIPs": [address],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": [family],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": PORT_NAME, "port": 443, "protocol": "TCP", "targetPort": port}],
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    });
    ensure(store, "/services", service).await?;
    let advertised = settings.advertise_address;
    let endpoints = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": advertised.to_string()}],
            "ports": [{"name": PORT_NAME, "port": port, "protocol": "TCP"}],
        }],
    });
    follow(store, "/endpoints", endpoints, "subsets").await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "generation": 1,
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if advertised.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [advertised.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": PORT_NAME, "port": port, "protocol": "TCP"}],
    });
    let ports = slice.clone();
    follow(store, "discovery.k8s.io/endpointslices", slice, "endpoints").await?;
    follow(store, "discovery.k8s.io/endpointslices", ports, "ports").await
}

/// The first usable address of the range: that of the `kubernetes` Service.
fn first_address(range: IpNet) -> IpAddr {
    range.hosts().next().unwrap_or_else(|| range.addr())
}

async fn ensure(store: &Store, storage: &str, mut value: Value) -> Result<(), WriteError> {
    let key = Key::new(storage, object::namespace(&value), object::name(&value));
    if store.newest(&key).is_some() {
        return Ok(());
    }
    object::set_meta(&mut value, "uid", uuid::Uuid::new_v4().to_string());
    object::set_meta(&mut value, "creationTimestamp", object::now());
    store.put(key, Expect::Absent, value).await.map(drop)
}

/// Like [`ensure`], and keeps one field of an existing object as it is here.
async fn follow(store: &Store, storage: &str, value: Value, field: &str) -> Result<(), WriteError> {
    let key = Key::new(storage, object::namespace(&value), object::name(&value));
    let Some(stored) = store.newest(&key) else { return ensure(store, storage, value).await };
    if stored.value[field] == value[field] {
        return Ok(());
    }
    let mut new = stored.value.clone();
    new[field] = value[field].clone();
    store.put(key, Expect::Revision(stored.revision), new).await.map(drop)
}
