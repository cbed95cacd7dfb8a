//! Kubernetes objects, reduced to what the mesh is made from.
//!
//! Done as soon as an object arrives, so that managed fields, annotations and pod specifications
//! never stay in memory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Namespace, Node, Pod, PodCondition, Service, ServicePort as KubePort,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::DynamicObject;
use tombolo_model::endpoint::Health;
use tombolo_model::id::ObjectName;
use tombolo_model::port::{Protocol, ServicePort};

use crate::index::objects::{
    External, IstioObject, NamespaceObject, NodeObject, PodObject, ServiceObject, SliceEndpoint,
    SliceObject,
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const IMPORTED_SERVICE: &str = "multicluster.kubernetes.io/service-name";
const NODE_SELECTOR: &str = "traffic.istio.io/nodeSelector";

fn name(metadata: &ObjectMeta) -> ObjectName {
    ObjectName::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

/// Annotations that the mesh reads: those of Istio.
fn annotations(metadata: ObjectMeta) -> BTreeMap<String, String> {
    let all = metadata.annotations.unwrap_or_default();
    all.into_iter().filter(|(name, _)| name.contains("istio.io/")).collect()
}

/// A `Service`.
pub fn service(object: Service) -> ServiceObject {
    let spec = object.spec.unwrap_or_default();
    let is_type = |name: &str| spec.type_.as_deref() == Some(name);
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let ips = match spec.cluster_ips.as_deref() {
        Some(ips) if !ips.is_empty() => ips.to_vec(),
        _ => spec.cluster_ip.iter().cloned().collect(),
    };
    let ports = spec.ports.unwrap_or_default();
    let selector = object.metadata.annotations.as_ref().and_then(|all| all.get(NODE_SELECTOR));
    let external = if is_type("LoadBalancer") {
        let ingress = object.status.and_then(|status| status.load_balancer);
        let ingress = ingress.and_then(|status| status.ingress).unwrap_or_default();
        let mut addresses: Vec<String> =
            ingress.into_iter().filter_map(|at| at.ip.or(at.hostname)).collect();
        addresses.extend(spec.external_ips.clone().unwrap_or_default());
        External::Addresses(addresses)
    } else if let (true, Some(selector)) = (is_type("NodePort"), selector) {
        // A selector that is not JSON selects nothing, which the missing gateway then shows.
        match serde_json::from_str(selector) {
            Ok(selector) => External::NodePorts { selector, ports: node_ports(&ports) },
            Err(_) => External::No,
        }
    } else {
        match spec.external_ips.clone() {
            Some(addresses) if !addresses.is_empty() => External::Addresses(addresses),
            _ => External::No,
        }
    };
    ServiceObject {
        name: name(&object.metadata),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        created: created(&object.metadata),
        annotations: annotations(object.metadata),
        ports: ports.iter().filter_map(service_port).collect(),
        cluster_ips: ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        headless,
        external_name: spec.type_.filter(|it| it == "ExternalName").and(spec.external_name),
        external,
        node_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
    }
}

fn number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn service_port(port: &KubePort) -> Option<ServicePort> {
    let name = port.name.clone().unwrap_or_default();
    let is_udp = matches!(port.protocol.as_deref(), Some("UDP" | "SCTP"));
    Some(ServicePort {
        protocol: Protocol::of_service_port(port.app_protocol.as_deref(), &name, is_udp),
        name,
        number: number(port.port)?,
    })
}

fn node_ports(ports: &[KubePort]) -> BTreeMap<u16, u16> {
    ports.iter().filter_map(|port| Some((number(port.port)?, number(port.node_port?)?))).collect()
}

/// An `EndpointSlice`; nothing when it belongs to no service or holds no addresses.
pub fn slice(object: EndpointSlice) -> Option<SliceObject> {
    let labels = object.metadata.labels.as_ref()?;
    if labels.contains_key(IMPORTED_SERVICE) || object.address_type == "FQDN" {
        return None;
    }
    let service = labels.get(SERVICE_NAME)?.as_str().into();
    let name = name(&object.metadata);
    let ports = object.ports.unwrap_or_default().into_iter();
    let endpoints = object.endpoints.unwrap_or_default().into_iter();
    Some(SliceObject {
        service,
        ports: ports
            .filter_map(|port| Some((port.name.unwrap_or_default(), number(port.port?)?)))
            .collect(),
        endpoints: endpoints.map(|endpoint| slice_endpoint(endpoint, &name.namespace)).collect(),
        name,
    })
}

fn slice_endpoint(endpoint: Endpoint, namespace: &str) -> SliceEndpoint {
    let conditions = endpoint.conditions.unwrap_or_default();
    let (ready, serving, terminating) = (
        conditions.ready.unwrap_or(true),
        conditions.serving.unwrap_or(false),
        conditions.terminating.unwrap_or(false),
    );
    let health = match (ready, serving, terminating) {
        (true, _, _) => Health::Healthy,
        (_, true, true) => Health::Draining,
        (_, _, true) => Health::Terminating,
        _ => Health::Unhealthy,
    };
    let pod = endpoint.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
    SliceEndpoint {
        addresses: endpoint.addresses.iter().filter_map(|ip| ip.parse().ok()).collect(),
        health,
        pod: pod.and_then(|pod| {
            let namespace = pod.namespace.as_deref().unwrap_or(namespace);
            Some(ObjectName::new(namespace, pod.name.as_deref()?))
        }),
        hostname: endpoint.hostname.unwrap_or_default(),
        node: endpoint.node_name.unwrap_or_default(),
    }
}

/// A `Pod`.
pub fn pod(object: Pod) -> PodObject {
    let spec = object.spec.unwrap_or_default();
    let status = object.status.unwrap_or_default();
    let mut ips: Vec<IpAddr> =
        status.pod_ips.unwrap_or_default().iter().filter_map(|ip| ip.ip.parse().ok()).collect();
    if ips.is_empty() {
        ips.extend(status.pod_ip.and_then(|ip| ip.parse::<IpAddr>().ok()));
    }
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let is_ready = |it: &PodCondition| it.type_ == "Ready" && it.status == "True";
    PodObject {
        name: name(&object.metadata),
        workload: workload(&object.metadata, &labels),
        labels,
        ips,
        service_account: spec.service_account_name.unwrap_or_default(),
        node: spec.node_name.unwrap_or_default(),
        serving: object.metadata.deletion_timestamp.is_none()
            && status.phase.as_deref() == Some("Running")
            && status.conditions.iter().flatten().any(is_ready),
    }
}

/// The name of what a pod belongs to: its Deployment, StatefulSet or other owner, else itself.
fn workload(metadata: &ObjectMeta, labels: &BTreeMap<String, String>) -> String {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let Some(owner) = owners.iter().find(|owner| owner.controller == Some(true)) else {
        return metadata.name.clone().unwrap_or_default();
    };
    let hash = labels.get("pod-template-hash").map(|hash| format!("-{hash}"));
    match (owner.kind.as_str(), hash) {
        ("ReplicaSet", Some(hash)) => {
            owner.name.strip_suffix(&hash).unwrap_or(&owner.name).to_owned()
        }
        _ => owner.name.clone(),
    }
}

/// A `Node`.
pub fn node(object: Node) -> NodeObject {
    let addresses = object.status.and_then(|status| status.addresses).unwrap_or_default();
    NodeObject {
        name: name(&object.metadata),
        labels: object.metadata.labels.unwrap_or_default(),
        external_ips: addresses
            .into_iter()
            .filter(|address| address.type_ == "ExternalIP")
            .map(|address| address.address)
            .collect(),
    }
}

/// A `Namespace`.
pub fn namespace(object: Namespace) -> NamespaceObject {
    NamespaceObject {
        name: name(&object.metadata),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        annotations: annotations(object.metadata),
    }
}

/// An Istio object.
pub fn istio(kind: &'static str, mut object: DynamicObject) -> IstioObject {
    let spec = object.data.get_mut("spec").map(serde_json::Value::take);
    IstioObject {
        kind,
        name: name(&object.metadata),
        created: created(&object.metadata),
        spec: Arc::new(spec.unwrap_or_else(|| serde_json::json!({}))),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        annotations: annotations(object.metadata),
    }
}
