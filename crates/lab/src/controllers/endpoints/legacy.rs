//! The legacy Endpoints object of a Service, for clients that do not read slices. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use kube::ResourceExt;
use kube::core::ObjectMeta;

use crate::controllers::endpoints::slices::{addresses, target};
use crate::controllers::endpoints::{HEADLESS, is_headless};
use crate::controllers::pods;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const OURS: &str = "endpoint-controller";

/// Whether this controller made the object.
pub(super) fn is_ours(endpoints: &Endpoints) -> bool {
    endpoints.labels().get(MANAGED_BY).is_some_and(|manager| manager == OURS)
}

fn address(service: &Service, pod: &Pod, ip: String) -> EndpointAddress {
    let spec = pod.spec.as_ref();
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref());
    let hostname = spec.and_then(|spec| spec.hostname.clone());
    EndpointAddress {
        ip,
        hostname: hostname.filter(|_| subdomain == Some(service.name_any().as_str())),
        node_name: spec.and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: Some(pod.name_any()),
            uid: pod.uid(),
            ..ObjectReference::default()
        }),
    }
}

fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let mut subsets: Vec<EndpointSubset> = Vec::new();
    let spec = service.spec.clone().unwrap_or_default();
    let service_ports = spec.ports.unwrap_or_default();
    let publish = spec.publish_not_ready_addresses == Some(true);
    let v6 = spec.ip_families.iter().flatten().next().is_some_and(|family| family == "IPv6");
    for pod in pods {
        let leaving = pod.metadata.deletion_timestamp.is_some();
        if leaving && !publish {
            continue;
        }
        let Some(ip) = addresses(pod).into_iter().find(|ip| ip.contains(':') == v6) else {
            continue;
        };
        let mut ports: Vec<_> = service_ports
            .iter()
            .filter_map(|port| {
                Some(EndpointPort {
                    name: port.name.clone(),
                    port: target(pod, port)?,
                    protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        ports.sort_by_key(|port| (port.name.clone(), port.port));
        if ports.is_empty() && !service_ports.is_empty() {
            continue;
        }
        let ports = Some(ports).filter(|ports| !ports.is_empty());
        let at = subsets.iter().position(|subset| subset.ports == ports).unwrap_or_else(|| {
            subsets.push(EndpointSubset { ports, ..EndpointSubset::default() });
            subsets.len() - 1
        });
        let Some(subset) = subsets.get_mut(at) else { continue };
        let list = if publish || pods::is_ready(pod) {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        list.get_or_insert_default().push(address(service, pod, ip));
    }
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses] {
            list.iter_mut().for_each(|list| list.sort_by_key(|address| address.ip.clone()));
        }
    }
    subsets.sort_by_key(|subset| format!("{:?}", subset.ports));
    subsets
}

/// The object to write, if the one that is there differs.
pub(super) fn wanted(
    service: &Service,
    pods: &[Arc<Pod>],
    held: Option<&Endpoints>,
) -> Option<Endpoints> {
    let subsets = Some(subsets(service, pods)).filter(|subsets| !subsets.is_empty());
    let mut labels: BTreeMap<String, String> = service.labels().clone();
    labels.remove(HEADLESS);
    labels.insert(MANAGED_BY.into(), OURS.into());
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    if let Some(held) = held {
        let empty = held.subsets.clone().filter(|subsets| !subsets.is_empty());
        if empty == subsets && held.labels() == &labels {
            return None;
        }
        let mut changed = held.clone();
        changed.subsets = subsets;
        changed.metadata.labels = Some(labels);
        return Some(changed);
    }
    let metadata = ObjectMeta {
        name: Some(service.name_any()),
        namespace: service.namespace(),
        labels: Some(labels),
        ..ObjectMeta::default()
    };
    Some(Endpoints { metadata, subsets })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ready_and_unready_pods_are_listed_apart_and_an_equal_object_is_left_alone() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"ports": [{"port": 80, "targetPort": 8080}]},
        }))
        .unwrap();
        let pod = |name: &str, ip: &str, ready: &str| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"name": name, "namespace": "ns", "uid": name},
                    "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]},
                }))
                .unwrap(),
            )
        };
        let pods = [pod("a", "10.0.0.1", "True"), pod("b", "10.0.0.2", "False")];
        let made = wanted(&service, &pods, None).unwrap();
        let subset = &made.subsets.as_ref().unwrap()[0];
        let ips = |list: &Option<Vec<EndpointAddress>>| -> Vec<String> {
            list.iter().flatten().map(|address| address.ip.clone()).collect()
        };
        assert_eq!(ips(&subset.addresses), ["10.0.0.1"]);
        assert_eq!(ips(&subset.not_ready_addresses), ["10.0.0.2"]);
        assert!(is_ours(&made));
        assert_eq!(wanted(&service, &pods, Some(&made)), None);
    }
}
