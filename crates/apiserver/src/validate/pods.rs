//! Validation of pods and pod templates.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};

use crate::errors::Errors;
use crate::names;
use crate::object;
use crate::quantity;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn list(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    value.as_array().into_iter().flatten().enumerate()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Checks a pod's spec below `path`.
pub fn spec(spec: &Value, path: &str, errors: &mut Errors) {
    let volumes = volumes(&spec["volumes"], path, errors);
    let mut seen = HashSet::new();
    if list(&spec["containers"]).next().is_none() {
        errors.required(format!("{path}.containers"), "");
    }
    for kind in ["containers", "initContainers"] {
        for (index, container) in list(&spec[kind]) {
            let at = format!("{path}.{kind}[{index}]");
            container_at(container, &at, &volumes, &mut seen, errors);
        }
    }
    let restart = &spec["restartPolicy"];
    let policies = &["Always", "OnFailure", "Never"];
    choice(restart, policies, &format!("{path}.restartPolicy"), errors);
    let policies = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    choice(&spec["dnsPolicy"], policies, &format!("{path}.dnsPolicy"), errors);
    for (field, check) in [
        ("nodeName", names::subdomain as fn(&str) -> Vec<String>),
        ("serviceAccountName", names::subdomain),
        ("hostname", names::label),
        ("subdomain", names::label),
    ] {
        let name = text(spec, field);
        if !name.is_empty() {
            for error in check(name) {
                errors.invalid(format!("{path}.{field}"), &spec[field], error);
            }
        }
    }
    super::metadata::labels(&spec["nodeSelector"], &format!("{path}.nodeSelector"), errors);
}

fn choice(value: &Value, known: &[&str], path: &str, errors: &mut Errors) {
    match value.as_str().unwrap_or_default() {
        "" => errors.required(path, ""),
        have if known.contains(&have) => (),
        _ => errors.unsupported(path, value, known),
    }
}

fn volumes(value: &Value, path: &str, errors: &mut Errors) -> HashSet<String> {
    let mut known = HashSet::new();
    for (index, volume) in list(value) {
        let at = format!("{path}.volumes[{index}].name");
        let name = text(volume, "name");
        if name.is_empty() {
            errors.required(at, "");
            continue;
        }
        for error in names::label(name) {
            errors.invalid(at.clone(), &volume["name"], error);
        }
        if !known.insert(name.to_owned()) {
            errors.duplicate(at, &volume["name"]);
        }
        let sources = volume.as_object().map_or(0, |map| map.len()).saturating_sub(1);
        if sources > 1 {
            errors.forbidden(
                format!("{path}.volumes[{index}]"),
                "may not specify more than 1 volume type",
            );
        }
    }
    known
}

fn container_at(
    container: &Value,
    at: &str,
    volumes: &HashSet<String>,
    seen: &mut HashSet<String>,
    errors: &mut Errors,
) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.required(format!("{at}.name"), "");
    } else {
        for error in names::label(name) {
            errors.invalid(format!("{at}.name"), &container["name"], error);
        }
        if !seen.insert(name.to_owned()) {
            errors.duplicate(format!("{at}.name"), &container["name"]);
        }
    }
    if text(container, "image").is_empty() {
        errors.required(format!("{at}.image"), "");
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[probe].is_object() {
            handler(&container[probe], &format!("{at}.{probe}"), true, errors);
        }
    }
    ports(&container["ports"], at, errors);
    environment(&container["env"], at, errors);
    mounts(&container["volumeMounts"], at, volumes, errors);
    let policies = &["Always", "IfNotPresent", "Never"];
    choice(&container["imagePullPolicy"], policies, &format!("{at}.imagePullPolicy"), errors);
    resources(&container["resources"], at, errors);
}

fn handler(probe: &Value, at: &str, needed: bool, errors: &mut Errors) {
    let kinds = ["exec", "httpGet", "tcpSocket", "grpc"];
    let given = kinds.iter().filter(|kind| probe[**kind].is_object()).count();
    if given == 0 && needed {
        errors.required(at, "must specify a handler type");
    }
    if given > 1 {
        errors.forbidden(at, "may not specify more than 1 handler type");
    }
    for kind in ["httpGet", "tcpSocket"] {
        if probe[kind].is_object() {
            port_or_name(&probe[kind]["port"], &format!("{at}.{kind}.port"), errors);
        }
    }
    if probe["exec"].is_object() && list(&probe["exec"]["command"]).next().is_none() {
        errors.required(format!("{at}.exec.command"), "");
    }
}

/// A port number or the name of one.
pub fn port_or_name(port: &Value, path: &str, errors: &mut Errors) {
    match port {
        Value::String(name) => {
            for error in names::port_name(name) {
                errors.invalid(path, port, error);
            }
        }
        _ => port_number(port, path, errors),
    }
}

/// A port number.
pub fn port_number(port: &Value, path: &str, errors: &mut Errors) {
    let number = port.as_i64().unwrap_or(0);
    if !(1..=65535).contains(&number) {
        errors.invalid(path, &json!(number), "must be between 1 and 65535, inclusive");
    }
}

/// TCP, UDP or SCTP.
pub fn protocol(value: &Value, path: &str, errors: &mut Errors) {
    choice(value, PROTOCOLS, path, errors);
}

fn ports(value: &Value, at: &str, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (index, port) in list(value) {
        let at = format!("{at}.ports[{index}]");
        let name = text(port, "name");
        if !name.is_empty() {
            let wrong = names::port_name(name);
            for error in &wrong {
                errors.invalid(format!("{at}.name"), &port["name"], error);
            }
            if wrong.is_empty() && !seen.insert(name.to_owned()) {
                errors.duplicate(format!("{at}.name"), &port["name"]);
            }
        }
        if port["containerPort"].as_i64().unwrap_or(0) == 0 {
            errors.required(format!("{at}.containerPort"), "");
        } else {
            port_number(&port["containerPort"], &format!("{at}.containerPort"), errors);
        }
        if port["hostPort"].as_i64().unwrap_or(0) != 0 {
            port_number(&port["hostPort"], &format!("{at}.hostPort"), errors);
        }
        protocol(&port["protocol"], &format!("{at}.protocol"), errors);
    }
}

fn environment(value: &Value, at: &str, errors: &mut Errors) {
    for (index, variable) in list(value) {
        let at = format!("{at}.env[{index}]");
        let name = text(variable, "name");
        if name.is_empty() {
            errors.required(format!("{at}.name"), "");
        } else if name.contains('=') || !name.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            errors.invalid(
                format!("{at}.name"),
                &variable["name"],
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            );
        }
        let source = &variable["valueFrom"];
        if !source.is_object() {
            continue;
        }
        let given =
            source.as_object().map_or(0, |map| map.values().filter(|v| v.is_object()).count());
        if given == 0 {
            errors.invalid(
                format!("{at}.valueFrom"),
                &json!(""),
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            );
        } else if !text(variable, "value").is_empty() {
            errors.invalid(
                format!("{at}.valueFrom"),
                &json!(""),
                "may not be specified when `value` is not empty",
            );
        } else if given > 1 {
            errors.invalid(
                format!("{at}.valueFrom"),
                &json!(""),
                "may not have more than one field specified at a time",
            );
        }
    }
}

fn mounts(value: &Value, at: &str, volumes: &HashSet<String>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    let all = &format!("{at}.volumeMounts");
    for (index, mount) in list(value) {
        let at = format!("{all}[{index}]");
        let name = text(mount, "name");
        if name.is_empty() {
            errors.required(format!("{at}.name"), "");
        } else if !volumes.contains(name) {
            errors.not_found(format!("{at}.name"), &mount["name"]);
        }
        let path = text(mount, "mountPath");
        if path.is_empty() {
            errors.required(format!("{at}.mountPath"), "");
        } else if !seen.insert(path.to_owned()) {
            errors.invalid(format!("{at}.mountPath"), &mount["mountPath"], "must be unique");
        }
        below_volume(mount, "subPath", all, errors);
        below_volume(mount, "subPathExpr", all, errors);
        if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
            errors.invalid(
                format!("{at}.subPathExpr"),
                &mount["subPathExpr"],
                "subPathExpr and subPath are mutually exclusive",
            );
        }
    }
}

/// A path that does not lead out of the volume it is in. Kubernetes does not tell which mount of
/// `all` it was.
fn below_volume(mount: &Value, field: &str, all: &str, errors: &mut Errors) {
    let path = text(mount, field);
    let at = format!("{all}.{field}");
    if path.starts_with('/') {
        errors.invalid(at.clone(), &mount[field], "must be a relative path");
    }
    if path.split('/').any(|step| step == "..") {
        errors.invalid(at, &mount[field], "must not contain '..'");
    }
}

fn resources(value: &Value, at: &str, errors: &mut Errors) {
    for (name, request) in value["requests"].as_object().into_iter().flatten() {
        let limit = &value["limits"][name.as_str()];
        let amount = |value: &Value| value.as_str().and_then(quantity::nanos);
        if let (Some(request_amount), Some(limit_amount)) = (amount(request), amount(limit))
            && request_amount > limit_amount
        {
            errors.invalid(
                format!("{at}.resources.requests"),
                request,
                format!(
                    "must be less than or equal to {name} limit of {}",
                    limit.as_str().unwrap_or_default()
                ),
            );
        }
    }
}

/// Checks a change of a pod: almost nothing may change.
pub fn change(new: &Value, old: &Value, errors: &mut Errors) {
    let (mut after, before) = (new["spec"].clone(), &old["spec"]);
    for kind in ["containers", "initContainers"] {
        let count = |spec: &Value| list(&spec[kind]).count();
        if count(&after) != count(before) {
            let path = format!("spec.{kind}");
            return errors.forbidden(path, "pod updates may not add or remove containers");
        }
        let images: BTreeMap<usize, Value> =
            list(&before[kind]).map(|(index, have)| (index, have["image"].clone())).collect();
        for (index, container) in
            after.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten().enumerate()
        {
            if text(container, "image").is_empty() {
                errors.required(format!("spec.{kind}[{index}].image"), "");
            }
            container["image"] = images.get(&index).cloned().unwrap_or_default();
        }
    }
    for field in ["activeDeadlineSeconds", "terminationGracePeriodSeconds", "schedulingGates"] {
        put_back(&mut after, before, field);
    }
    let kept = |have: &Value| list(&after["tolerations"]).any(|(_, now)| now == have);
    if list(&before["tolerations"]).all(|(_, have)| kept(have)) {
        put_back(&mut after, before, "tolerations");
    }
    if &after != before {
        errors.forbidden("spec", MAY_CHANGE);
    }
}

fn put_back(after: &mut Value, before: &Value, field: &str) {
    match before.get(field) {
        Some(value) => drop(object::as_map(after).insert(field.to_owned(), value.clone())),
        None => drop(object::remove(after, field)),
    }
}
