//! What the EndpointSlices of a Service should hold. Pure.
//!
//! Pods are grouped by the ports that the Service's ports mean in them, since a named port may be
//! another number in each pod; a group fills slices of at most a hundred endpoints. Slices that
//! are there are reused, and an endpoint is not moved without need.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::core::ObjectMeta;

use crate::controllers::endpoints::{HEADLESS, MANAGED_BY, OUR_SLICES, SERVICE_NAME, is_headless};
use crate::controllers::failure::Failure;
use crate::controllers::pods;

const MOST_ENDPOINTS: usize = 100;

/// What to write.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<EndpointSlice>,
}

/// Whether a pod is an endpoint at all. One on its way out is, so that it may end its work.
pub(super) fn counts(pod: &Pod) -> bool {
    !pods::is_finished(pod) && !addresses(pod).is_empty()
}

/// All addresses of a pod, the main one first.
pub(super) fn addresses(pod: &Pod) -> Vec<String> {
    let Some(status) = pod.status.as_ref() else { return Vec::new() };
    let listed = status.pod_ips.iter().flatten().map(|found| found.ip.clone());
    let mut all: Vec<_> = status.pod_ip.iter().cloned().chain(listed).collect();
    all.retain(|address| !address.is_empty());
    all.dedup();
    all
}

/// The number that a Service's port means in a pod; none when the pod has no port of that name.
pub(super) fn target(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match port.target_port.as_ref() {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let ports =
                spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
            ports
                .filter(|found| found.protocol.as_deref().unwrap_or("TCP") == protocol)
                .find(|found| found.name.as_ref() == Some(name))
                .map(|found| found.container_port)
        }
    }
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn sorted(mut ports: Vec<EndpointPort>) -> Vec<EndpointPort> {
    ports.sort_by_key(|port| (port.name.clone(), port.port, port.protocol.clone()));
    ports
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    address: String,
    zone: &dyn Fn(&str) -> Option<String>,
) -> Endpoint {
    let leaving = pod.metadata.deletion_timestamp.is_some();
    let serving = pods::is_ready(pod);
    let publish = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses);
    let spec = pod.spec.as_ref();
    let node_name = spec.and_then(|spec| spec.node_name.clone());
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref());
    let hostname = spec.and_then(|spec| spec.hostname.clone());
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publish == Some(true) || (serving && !leaving)),
            serving: Some(serving),
            terminating: Some(leaving),
        }),
        hostname: hostname.filter(|_| subdomain == Some(service.name_any().as_str())),
        zone: node_name.as_deref().and_then(zone),
        node_name,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: Some(pod.name_any()),
            uid: pod.uid(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS);
    labels.insert(SERVICE_NAME.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), OUR_SLICES.into());
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

fn families(service: &Service) -> Vec<String> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone());
    families.filter(|families| !families.is_empty()).unwrap_or_else(|| vec!["IPv4".into()])
}

/// One slice's worth of endpoints.
#[derive(Clone, Debug)]
struct Wanted {
    family: String,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
}

fn wanted(
    service: &Service,
    pods: &[Arc<Pod>],
    zone: &dyn Fn(&str) -> Option<String>,
) -> Vec<Wanted> {
    let mut all = Vec::new();
    for family in families(service) {
        let mut groups: Vec<Wanted> = Vec::new();
        for pod in pods {
            let is_family = |address: &String| address.contains(':') == (family == "IPv6");
            let Some(address) = addresses(pod).into_iter().find(is_family) else { continue };
            let ports = sorted(ports(service, pod));
            let has_ports =
                service.spec.as_ref().is_some_and(|s| s.ports.iter().flatten().count() > 0);
            if ports.is_empty() && (has_ports || !is_headless(service)) {
                continue;
            }
            let endpoint = endpoint(service, pod, address, zone);
            match groups.iter_mut().find(|group| group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => {
                    groups.push(Wanted {
                        family: family.clone(),
                        ports,
                        endpoints: vec![endpoint],
                    });
                }
            }
        }
        if groups.is_empty() {
            // A Service without pods has one empty slice, which says that it is looked after.
            groups.push(Wanted { family, ports: Vec::new(), endpoints: Vec::new() });
        }
        all.extend(groups);
    }
    all
}

/// How the slices that are there become the ones that should be.
pub(super) fn changes(
    service: &Service,
    pods: &[Arc<Pod>],
    held: &[Arc<EndpointSlice>],
    zone: &dyn Fn(&str) -> Option<String>,
) -> Result<Changes, Failure> {
    let owner = pods::controller_ref(service)?;
    let labels = labels(service);
    let mut changes = Changes::default();
    let mut left: Vec<_> = held.to_vec();
    for group in wanted(service, pods, zone) {
        let matching = |slice: &Arc<EndpointSlice>| {
            let ports = sorted(slice.ports.clone().unwrap_or_default());
            slice.address_type == group.family && (ports == group.ports)
        };
        let (mut same, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(matching);
        left = rest;
        same.sort_by_key(|slice| slice.name_any());
        for (index, endpoints) in spread(group.endpoints, &same).into_iter().enumerate() {
            let slice = EndpointSlice {
                address_type: group.family.clone(),
                endpoints: Some(endpoints),
                ports: Some(group.ports.clone()).filter(|ports| !ports.is_empty()),
                metadata: ObjectMeta {
                    generate_name: Some(format!("{}-", service.name_any())),
                    namespace: service.namespace(),
                    labels: Some(labels.clone()),
                    owner_references: Some(vec![owner.clone()]),
                    ..ObjectMeta::default()
                },
            };
            match same.get(index) {
                Some(old) => changes.update.extend(updated(old, slice)),
                None => changes.create.push(slice),
            }
        }
    }
    changes.delete.extend(left.iter().map(|slice| (**slice).clone()));
    // A slice whose ports nobody has any more may be reused before another is made.
    for slice in std::mem::take(&mut changes.create) {
        let old = changes.delete.iter().position(|old| old.address_type == slice.address_type);
        match old.map(|at| changes.delete.swap_remove(at)) {
            Some(old) => changes.update.extend(updated(&old, slice)),
            None => changes.create.push(slice),
        }
    }
    Ok(changes)
}

/// Puts endpoints where they are now, and new ones where there is room. Slices beyond `held` are
/// new; a slice that stays empty is emptied, except that the first always exists.
fn spread(endpoints: Vec<Endpoint>, held: &[Arc<EndpointSlice>]) -> Vec<Vec<Endpoint>> {
    let mut filled: Vec<Vec<Endpoint>> = vec![Vec::new(); held.len()];
    let mut fresh = Vec::new();
    for endpoint in endpoints {
        let home = held.iter().position(|slice| {
            slice.endpoints.iter().flatten().any(|old| {
                old.addresses == endpoint.addresses
                    && old.target_ref.as_ref().map(|r| &r.uid)
                        == endpoint.target_ref.as_ref().map(|r| &r.uid)
            })
        });
        match home.and_then(|at| filled.get_mut(at)) {
            Some(slice) => slice.push(endpoint),
            None => fresh.push(endpoint),
        }
    }
    for endpoint in fresh {
        match filled.iter_mut().find(|slice| slice.len() < MOST_ENDPOINTS) {
            Some(slice) => slice.push(endpoint),
            None => filled.push(vec![endpoint]),
        }
    }
    if filled.is_empty() {
        filled.push(Vec::new());
    }
    filled
}

/// `old` with the content of `new`, if that differs.
fn updated(old: &EndpointSlice, new: EndpointSlice) -> Option<EndpointSlice> {
    let key = |endpoint: &Endpoint| endpoint.addresses.clone();
    let sort = |endpoints: &Option<Vec<Endpoint>>| {
        let mut endpoints = endpoints.clone().unwrap_or_default();
        endpoints.sort_by_key(key);
        endpoints
    };
    let (before, after) = (sort(&old.endpoints), sort(&new.endpoints));
    let ports = |slice: &EndpointSlice| sorted(slice.ports.clone().unwrap_or_default());
    if before == after && ports(old) == ports(&new) && old.metadata.labels == new.metadata.labels {
        return None;
    }
    let mut changed = old.clone();
    changed.endpoints = new.endpoints;
    changed.ports = new.ports;
    changed.metadata.labels = new.metadata.labels;
    Some(changed)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "s1", "labels": {"team": "a"}},
            "spec": spec,
        }))
        .unwrap()
    }

    fn pod(name: &str, ip: &str, ready: bool, port: i32) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "ns", "uid": name},
                "spec": {"nodeName": "n1", "hostname": name, "subdomain": "web", "containers": [
                    {"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
                "status": {"phase": "Running", "podIP": ip,
                    "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap(),
        )
    }

    fn named() -> Service {
        service(json!({"clusterIP": "10.11.0.5", "selector": {"app": "web"},
            "ports": [{"name": "web", "port": 80, "targetPort": "http"}]}))
    }

    fn show(slice: &EndpointSlice) -> Vec<String> {
        let ports: Vec<_> = slice.ports.iter().flatten().filter_map(|port| port.port).collect();
        let line = |endpoint: &Endpoint| {
            let c = endpoint.conditions.clone().unwrap();
            format!(
                "{} {ports:?} ready={:?} serving={:?} terminating={:?}",
                endpoint.addresses[0],
                c.ready.unwrap(),
                c.serving.unwrap(),
                c.terminating.unwrap()
            )
        };
        slice.endpoints.iter().flatten().map(line).collect()
    }

    fn plan(service: &Service, pods: &[Arc<Pod>], held: &[Arc<EndpointSlice>]) -> Changes {
        changes(service, pods, held, &|_| None).unwrap()
    }

    #[test]
    fn pods_are_grouped_by_what_the_named_port_means_in_them() {
        let pods = [pod("a", "10.10.0.1", true, 8080), pod("b", "10.10.0.2", false, 9090)];
        let changes = plan(&named(), &pods, &[]);
        let shown: Vec<_> = changes.create.iter().map(show).collect();
        assert_eq!(
            shown,
            [
                ["10.10.0.1 [8080] ready=true serving=true terminating=false"],
                ["10.10.0.2 [9090] ready=false serving=false terminating=false"]
            ]
        );
        let meta = &changes.create[0].metadata;
        let want: BTreeMap<_, _> = [("team", "a"), (SERVICE_NAME, "web"), (MANAGED_BY, OUR_SLICES)]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        assert_eq!(meta.labels.as_ref(), Some(&want));
    }

    #[test]
    fn a_pod_on_its_way_out_still_serves_but_is_not_ready() {
        let mut leaving = (*pod("a", "10.10.0.1", true, 8080)).clone();
        leaving.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        let changes = plan(&named(), &[Arc::new(leaving)], &[]);
        assert_eq!(
            show(&changes.create[0]),
            ["10.10.0.1 [8080] ready=false serving=true terminating=true"]
        );
    }

    #[test]
    fn equal_slices_are_left_alone_and_empty_ones_reused() {
        let pods = [pod("a", "10.10.0.1", true, 8080)];
        let empty = plan(&named(), &[], &[]);
        assert_eq!((empty.create.len(), show(&empty.create[0]).len()), (1, 0));
        let held = [Arc::new(empty.create[0].clone())];
        let filled = plan(&named(), &pods, &held);
        assert_eq!((filled.create.len(), filled.update.len(), filled.delete.len()), (0, 1, 0));
        let held = [Arc::new(filled.update[0].clone())];
        assert_eq!(plan(&named(), &pods, &held), Changes::default());
    }

    #[test]
    fn publish_not_ready_addresses_makes_every_endpoint_ready() {
        let service = service(json!({"clusterIP": "None", "selector": {"app": "web"},
            "publishNotReadyAddresses": true, "ports": [{"port": 80}]}));
        let changes = plan(&service, &[pod("a", "10.10.0.1", false, 8080)], &[]);
        let slice = &changes.create[0];
        assert_eq!(show(slice), ["10.10.0.1 [80] ready=true serving=false terminating=false"]);
        assert_eq!(slice.endpoints.as_ref().unwrap()[0].hostname.as_deref(), Some("a"));
        assert_eq!(slice.labels().get(HEADLESS).map(String::as_str), Some(""));
    }

    #[test]
    fn more_than_a_hundred_endpoints_fill_several_slices() {
        let pods: Vec<_> =
            (0..150).map(|n| pod(&format!("p{n}"), &format!("10.10.1.{n}"), true, 80)).collect();
        let changes = plan(&named(), &pods, &[]);
        let sizes: Vec<_> =
            changes.create.iter().map(|slice| slice.endpoints.iter().flatten().count()).collect();
        assert_eq!(sizes, [100, 50]);
    }
}
