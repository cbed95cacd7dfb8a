//! Validation of Services, endpoints and disruption budgets.

use std::collections::HashSet;

use serde_json::Value;

use super::pods;
use crate::errors::Errors;
use crate::names;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Checks a Service.
pub fn service(value: &Value, errors: &mut Errors) {
    let spec = &value["spec"];
    let kind = text(spec, "type");
    let ports: Vec<&Value> = spec["ports"].as_array().into_iter().flatten().collect();
    if ports.is_empty() && kind != "ExternalName" && text(spec, "clusterIP") != "None" {
        errors.required("spec.ports", "");
    }
    let several = ports.len() > 1;
    let mut names_seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        port_at(port, &at, several, &mut names_seen, errors);
    }
    super::metadata::labels(&spec["selector"], "spec.selector", errors);
    for (field, known) in [
        ("sessionAffinity", &["ClientIP", "None"][..]),
        ("type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"][..]),
    ] {
        if !known.contains(&text(spec, field)) {
            errors.unsupported(format!("spec.{field}"), &spec[field], known);
        }
    }
    if kind == "ExternalName" {
        let name = text(spec, "externalName");
        if name.is_empty() {
            errors.required("spec.externalName", "");
        } else {
            for error in names::subdomain(name.trim_end_matches('.')) {
                errors.invalid("spec.externalName", &spec["externalName"], error);
            }
        }
        if !text(spec, "clusterIP").is_empty() {
            errors.forbidden("spec.clusterIPs", "may not be set when `type` is 'ExternalName'");
        }
    }
    duplicates(&ports, errors);
    policies(spec, kind, errors);
}

fn port_at(port: &Value, at: &str, several: bool, seen: &mut HashSet<String>, errors: &mut Errors) {
    let name = text(port, "name");
    if name.is_empty() {
        if several {
            errors.required(format!("{at}.name"), "");
        }
    } else {
        for error in names::label(name) {
            errors.invalid(format!("{at}.name"), &port["name"], error);
        }
        if !seen.insert(name.to_owned()) {
            errors.duplicate(format!("{at}.name"), &port["name"]);
        }
    }
    pods::port_number(&port["port"], &format!("{at}.port"), errors);
    pods::protocol(&port["protocol"], &format!("{at}.protocol"), errors);
    pods::port_or_name(&port["targetPort"], &format!("{at}.targetPort"), errors);
}

fn duplicates(ports: &[&Value], errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        if !seen.insert((port["port"].as_i64(), text(port, "protocol"))) {
            let message = format!(
                "Duplicate value: {{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{},\"TargetPort\":0,\"NodePort\":0}}",
                port["protocol"], port["port"]
            );
            errors.plain("FieldValueDuplicate", &format!("spec.ports[{index}]"), message);
        }
    }
}

fn policies(spec: &Value, kind: &str, errors: &mut Errors) {
    let external = &spec["externalTrafficPolicy"];
    if let Some(policy) = external.as_str() {
        if !matches!(policy, "Cluster" | "Local") {
            let known = &["Cluster", "Local"];
            errors.unsupported("spec.externalTrafficPolicy", external, known);
        } else if !matches!(kind, "NodePort" | "LoadBalancer") && spec["externalIPs"].is_null() {
            errors.invalid(
                "spec.externalTrafficPolicy",
                external,
                "may only be set for externally-accessible services",
            );
        }
    }
    let internal = &spec["internalTrafficPolicy"];
    if internal.as_str().is_some_and(|policy| !matches!(policy, "Cluster" | "Local")) {
        errors.unsupported("spec.internalTrafficPolicy", internal, &["Cluster", "Local"]);
    }
    if !text(spec, "loadBalancerClass").is_empty() && kind != "LoadBalancer" {
        errors
            .forbidden("spec.loadBalancerClass", "may only be used when `type` is 'LoadBalancer'");
    }
    if kind == "ClusterIP" {
        let ports = spec["ports"].as_array().into_iter().flatten().enumerate();
        for (index, _) in ports.filter(|(_, p)| p["nodePort"].as_i64().unwrap_or(0) != 0) {
            errors.forbidden(
                format!("spec.ports[{index}].nodePort"),
                "may not be used when `type` is 'ClusterIP'",
            );
        }
    }
}

/// Checks a change of a Service.
pub fn service_change(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old) = (&new["spec"], &old["spec"]);
    let (before, after) = (text(old, "clusterIP"), text(new, "clusterIP"));
    let both = text(old, "type") != "ExternalName" && text(new, "type") != "ExternalName";
    if both && !before.is_empty() && before != after {
        errors.invalid("spec.clusterIPs[0]", &new["clusterIPs"], "may not change once set");
    }
}

/// Checks an `EndpointSlice`.
pub fn slice(value: &Value, errors: &mut Errors) {
    let kind = text(value, "addressType");
    if kind.is_empty() {
        return errors.required("addressType", "");
    }
    let known = &["FQDN", "IPv4", "IPv6"];
    if !known.contains(&kind) {
        return errors.unsupported("addressType", &value["addressType"], known);
    }
    for (index, endpoint) in value["endpoints"].as_array().into_iter().flatten().enumerate() {
        let at = format!("endpoints[{index}].addresses");
        let addresses: Vec<&Value> =
            endpoint["addresses"].as_array().into_iter().flatten().collect();
        if addresses.is_empty() {
            errors.required(at.clone(), "must contain at least 1 address");
        }
        for (place, address) in addresses.into_iter().enumerate() {
            let text = address.as_str().unwrap_or_default();
            let path = format!("{at}[{place}]");
            match kind {
                "IPv4" if text.parse::<std::net::Ipv4Addr>().is_err() => {
                    errors.invalid(
                        path,
                        address,
                        "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    );
                }
                "IPv6" if text.parse::<std::net::Ipv6Addr>().is_err() => {
                    errors.invalid(
                        path,
                        address,
                        "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    );
                }
                _ => (),
            }
        }
    }
}

/// Checks a change of an `EndpointSlice`.
pub fn slice_change(new: &Value, old: &Value, errors: &mut Errors) {
    if new["addressType"] != old["addressType"] {
        errors.invalid("addressType", &new["addressType"], "field is immutable");
    }
}

/// Checks a `PodDisruptionBudget`.
pub fn budget(value: &Value, errors: &mut Errors) {
    let spec = &value["spec"];
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        let message = format!(
            "Invalid value: {{\"MinAvailable\":{},\"Selector\":{},\"MaxUnavailable\":{},\"UnhealthyPodEvictionPolicy\":null}}: minAvailable and maxUnavailable cannot be both set",
            spec["minAvailable"], spec["selector"], spec["maxUnavailable"]
        );
        errors.plain("FieldValueInvalid", "spec", message);
    }
}
