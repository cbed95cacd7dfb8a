//! The `Pilot` component of a remote: no control plane, only the way to the primary's.

use std::net::IpAddr;

use serde_json::json;

use super::{object, rbac, service_account, webhooks};
use crate::object::Object;
use crate::operator::Operator;

/// The objects of the component.
pub(super) fn objects(operator: &Operator) -> Vec<Object> {
    let namespace = operator.namespace();
    let name = operator.revisioned("istiod");
    let mut objects = Vec::new();
    if operator.flag("/global/configCluster") {
        objects.push(service_account(&name, namespace, "istiod"));
        objects.extend(rbac::istiod(operator));
        if operator.flag("/global/configValidation") {
            objects.push(webhooks::validation(operator, &name));
        }
    }
    if let Some(address) = operator.text("/global/remotePilotAddress") {
        objects.extend(istiod_elsewhere(operator, &name, address));
    }
    objects.push(webhooks::injection(operator, &name));
    objects
}

/// A Service without a selector whose endpoint is the primary's gateway, so that
/// `istiod.istio-system.svc` means the same in every cluster and certificates match.
fn istiod_elsewhere(operator: &Operator, name: &str, address: &str) -> Vec<Object> {
    let namespace = operator.namespace();
    let ports = json!([
        {"name": "tcp-istiod", "port": 15012, "protocol": "TCP"},
        {"name": "tcp-webhook", "port": 443, "targetPort": 15017, "protocol": "TCP"},
    ]);
    let metadata = json!({"name": name, "namespace": namespace, "labels": {"app": "istiod", "release": "istio"}});
    let Ok(ip) = address.parse::<IpAddr>() else {
        let spec =
            json!({"spec": {"type": "ExternalName", "externalName": address, "ports": ports}});
        return vec![object("v1", "Service", metadata, spec)];
    };
    let slice = json!({
        "addressType": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
        "ports": [
            {"name": "tcp-istiod", "port": 15012, "protocol": "TCP"},
            {"name": "tcp-webhook", "port": 15017, "protocol": "TCP"},
        ],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
    });
    let labels = json!({
        "app": "istiod",
        "release": "istio",
        "kubernetes.io/service-name": name,
        "endpointslice.kubernetes.io/managed-by": "tombolo",
    });
    vec![
        object("v1", "Service", metadata, json!({"spec": {"ports": ports}})),
        object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            json!({"name": name, "namespace": namespace, "labels": labels}),
            slice,
        ),
    ]
}
