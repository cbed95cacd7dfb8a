//! Validation of Services.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Errors, names};

/// Checks a Service.
pub fn service(value: &Value, errors: &mut Errors) {
    let spec = &value["spec"];
    let kind = spec["type"].as_str().unwrap_or("ClusterIP");
    let headless = spec["clusterIP"] == "None";
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.required("spec.ports", "");
    }
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !kinds.contains(&kind) {
        errors.unsupported("spec.type", &spec["type"], &kinds);
    }
    if kind == "ExternalName" && spec["externalName"].as_str().is_none_or(str::is_empty) {
        errors.required("spec.externalName", "");
    }
    if kind == "LoadBalancer" && headless {
        let why = "may not be set to 'None' for LoadBalancer services";
        errors.invalid("spec.clusterIPs[0]", &spec["clusterIP"], why);
    }
    let affinity = &spec["sessionAffinity"];
    if affinity.as_str().is_some_and(|text| !matches!(text, "None" | "ClientIP")) {
        errors.unsupported("spec.sessionAffinity", affinity, &["ClientIP", "None"]);
    }
    let (mut names_seen, mut numbers) = (HashSet::new(), HashSet::new());
    for (at, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{at}]");
        self::port(port, &field, ports.len() > 1, errors);
        let name = port["name"].as_str().unwrap_or_default();
        if !name.is_empty() && !names_seen.insert(name) {
            errors.duplicate(format!("{field}.name"), &json!(name));
        }
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let number = port["port"].as_i64().unwrap_or_default();
        if !numbers.insert((protocol, number)) {
            let shown = json!({"port": number, "protocol": protocol});
            errors.duplicate(field, &shown);
        }
    }
}

/// What may not change: the address of a Service that keeps having one.
pub fn change(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old) = (&new["spec"], &old["spec"]);
    let has_address = |spec: &Value| spec["type"] != "ExternalName";
    let (own, before) = (&new["clusterIP"], &old["clusterIP"]);
    if has_address(new) && has_address(old) && before.is_string() && own != before {
        let why = "may not change once set";
        errors.invalid("spec.clusterIPs[0]", &json!([own]), why);
    }
}

fn port(port: &Value, field: &str, named: bool, errors: &mut Errors) {
    let name = port["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        if named {
            errors.required(format!("{field}.name"), "");
        }
    } else {
        for why in names::label(name) {
            errors.invalid(format!("{field}.name"), &json!(name), why);
        }
    }
    let range = "must be between 1 and 65535, inclusive";
    if !(1..=65535).contains(&port["port"].as_i64().unwrap_or_default()) {
        errors.invalid(format!("{field}.port"), &port["port"], range);
    }
    let protocol = &port["protocol"];
    if protocol.as_str().is_some_and(|text| !matches!(text, "TCP" | "UDP" | "SCTP")) {
        errors.unsupported(format!("{field}.protocol"), protocol, &["SCTP", "TCP", "UDP"]);
    }
    match &port["targetPort"] {
        Value::Number(number) if !(1..=65535).contains(&number.as_i64().unwrap_or_default()) => {
            errors.invalid(format!("{field}.targetPort"), &port["targetPort"], range);
        }
        Value::String(name) => {
            for why in names::port_name(name) {
                errors.invalid(format!("{field}.targetPort"), &json!(name), why);
            }
        }
        _ => {}
    }
}
