//! Validation of pods and pod templates, as far as a lab's nodes can run them.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Errors, metadata, names};

/// Fields of a container list that may change in a running pod.
const MUTABLE: [&str; 1] = ["image"];

/// Checks a pod.
pub fn pod(value: &Value, errors: &mut Errors) {
    spec(&value["spec"], "spec", errors);
}

/// Checks the template of a workload, whose pods restart in one of the ways `restarts`.
pub fn template(value: &Value, field: &str, restarts: &[&str], errors: &mut Errors) {
    metadata::maps(&value["metadata"], &format!("{field}.metadata"), errors);
    let spec_field = format!("{field}.spec");
    spec(&value["spec"], &spec_field, errors);
    let restart = &value["spec"]["restartPolicy"];
    if restart.as_str().is_some_and(|policy| !restarts.contains(&policy)) {
        errors.unsupported(format!("{spec_field}.restartPolicy"), restart, restarts);
    }
}

fn spec(spec: &Value, field: &str, errors: &mut Errors) {
    let mut volumes = HashSet::new();
    for (at, volume) in list(spec, "volumes").iter().enumerate() {
        let field = format!("{field}.volumes[{at}].name");
        let name = text(volume, "name");
        dns_label(name, &field, errors);
        if !name.is_empty() && !volumes.insert(name) {
            errors.duplicate(field, &json!(name));
        }
    }
    if list(spec, "containers").is_empty() {
        errors.required(format!("{field}.containers"), "");
    }
    let mut containers = HashSet::new();
    for group in ["containers", "initContainers"] {
        for (at, container) in list(spec, group).iter().enumerate() {
            let field = format!("{field}.{group}[{at}]");
            self::container(container, &field, &volumes, errors);
            let name = text(container, "name");
            if !name.is_empty() && !containers.insert(name) {
                errors.duplicate(format!("{field}.name"), &json!(name));
            }
        }
    }
    choice(spec, "restartPolicy", field, &["Always", "OnFailure", "Never"], errors);
    choice(
        spec,
        "dnsPolicy",
        field,
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        errors,
    );
    let grace = &spec["terminationGracePeriodSeconds"];
    if grace.as_i64().is_some_and(|seconds| seconds < 0) {
        let why = "must be greater than or equal to 0";
        errors.invalid(format!("{field}.terminationGracePeriodSeconds"), grace, why);
    }
}

fn container(container: &Value, field: &str, volumes: &HashSet<&str>, errors: &mut Errors) {
    dns_label(text(container, "name"), &format!("{field}.name"), errors);
    if text(container, "image").is_empty() {
        errors.required(format!("{field}.image"), "");
    }
    for (at, port) in list(container, "ports").iter().enumerate() {
        self::port(port, &format!("{field}.ports[{at}]"), errors);
    }
    for (at, variable) in list(container, "env").iter().enumerate() {
        if text(variable, "name").is_empty() {
            errors.required(format!("{field}.env[{at}].name"), "");
        }
    }
    let mut paths = HashSet::new();
    for (at, mount) in list(container, "volumeMounts").iter().enumerate() {
        let field = format!("{field}.volumeMounts[{at}]");
        let (name, path) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.required(format!("{field}.name"), "");
        } else if !volumes.contains(name) {
            errors.not_found(format!("{field}.name"), &json!(name));
        }
        if path.is_empty() {
            errors.required(format!("{field}.mountPath"), "");
        } else if !paths.insert(path) {
            errors.invalid(format!("{field}.mountPath"), &json!(path), "must be unique");
        }
    }
    choice(container, "imagePullPolicy", field, &["Always", "IfNotPresent", "Never"], errors);
}

fn port(port: &Value, field: &str, errors: &mut Errors) {
    let name = text(port, "name");
    if !name.is_empty() {
        for why in names::port_name(name) {
            errors.invalid(format!("{field}.name"), &json!(name), why);
        }
    }
    let number = &port["containerPort"];
    match number.as_i64() {
        None | Some(0) => errors.required(format!("{field}.containerPort"), ""),
        Some(1..=65535) => {}
        Some(_) => {
            let why = "must be between 1 and 65535, inclusive";
            errors.invalid(format!("{field}.containerPort"), number, why);
        }
    }
    choice(port, "protocol", field, &["SCTP", "TCP", "UDP"], errors);
}

/// What may change in a pod that exists.
pub fn change(new: &Value, old: &Value, errors: &mut Errors) {
    let (mut new, old) = (new["spec"].clone(), &old["spec"]);
    for group in ["containers", "initContainers"] {
        let (own, before) = (list(&new, group).len(), list(old, group).len());
        if own != before {
            let field = format!("spec.{group}");
            return errors.forbidden(field, "pod updates may not add or remove containers");
        }
        for at in 0..own {
            for field in MUTABLE {
                new[group][at][field] = old[group][at][field].clone();
            }
        }
    }
    let free = [
        "activeDeadlineSeconds",
        "tolerations",
        "terminationGracePeriodSeconds",
        "ephemeralContainers",
        "schedulingGates",
        "nodeSelector",
        "affinity",
    ];
    let strip = |value: &Value| {
        let mut value = value.clone();
        if let Some(object) = value.as_object_mut() {
            object.retain(|key, value| !free.contains(&key.as_str()) && !value.is_null());
        }
        value
    };
    if strip(&new) != strip(old) {
        errors.forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` \
             (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` \
             (allow it to be set to 1 if it was previously negative)",
        );
    }
}

fn dns_label(name: &str, field: &str, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(field, "");
    }
    for why in names::label(name) {
        errors.invalid(field, &json!(name), why);
    }
}

fn choice(value: &Value, name: &str, field: &str, known: &[&str], errors: &mut Errors) {
    if value[name].as_str().is_some_and(|text| !known.contains(&text)) {
        let mut sorted = known.to_vec();
        sorted.sort_unstable();
        errors.unsupported(format!("{field}.{name}"), &value[name], &sorted);
    }
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}
