//! Definitions themselves: defaults, validation, status, and the resource types they stand for.

use std::sync::Arc;

use kube_cel::compile_schema;
use serde_json::{Map, Value, json};

use crate::errors::Errors;
use crate::names;
use crate::object::{self, child, default, strings};
use crate::resources::{Custom, ResourceType, ScalePaths, Subresource};
use crate::schema::structural;

/// Where definitions are kept.
pub const STORAGE: &str = "apiextensions.k8s.io/customresourcedefinitions";
/// Holds a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
const ALL: [&str; 8] =
    ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

/// Fills in what a definition leaves open.
pub fn defaults(value: &mut Value) {
    let spec = child(value, "spec");
    default(spec, "conversion", json!({"strategy": "None"}));
    let names = object::as_map(spec.entry("names").or_insert_with(|| json!({})));
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !kind.is_empty() {
        for (field, text) in
            [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))]
        {
            if names.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
                names.insert(field.to_owned(), text.into());
            }
        }
    }
    if spec.get("preserveUnknownFields").is_some_and(|on| *on == false) {
        spec.remove("preserveUnknownFields");
    }
    let status = child(value, "status");
    status.entry("conditions").or_insert(Value::Null);
    status.entry("storedVersions").or_insert(Value::Null);
    default(status, "acceptedNames", json!({"kind": "", "plural": ""}));
}

/// The status a new definition starts with.
pub fn first_status(value: &Value) -> Value {
    let stored: Vec<&Value> =
        versions(value).filter(|v| v["storage"] == true).map(|v| &v["name"]).collect();
    json!({
        "conditions": null,
        "acceptedNames": {"plural": "", "kind": ""},
        "storedVersions": stored,
    })
}

fn versions(value: &Value) -> impl Iterator<Item = &Value> {
    value["spec"]["versions"].as_array().into_iter().flatten()
}

/// What is wrong with a definition.
pub fn validate(value: &Value, errors: &mut Errors) {
    let spec = &value["spec"];
    let text = |field: &str| spec[field].as_str().unwrap_or_default();
    let name = |field: &str| spec["names"][field].as_str().unwrap_or_default();
    let wanted = format!("{}.{}", name("plural"), text("group"));
    if object::name(value) != wanted {
        errors.invalid(
            "metadata.name",
            &value["metadata"]["name"],
            "must be spec.names.plural+\".\"+spec.group",
        );
    }
    if text("group").is_empty() {
        errors.required("spec.group", "");
    } else if !text("group").contains('.') {
        errors.invalid("spec.group", &spec["group"], "should be a domain with at least one dot");
    }
    match text("scope") {
        "Cluster" | "Namespaced" => (),
        "" => errors.required("spec.scope", ""),
        _ => errors.unsupported("spec.scope", &spec["scope"], &["Cluster", "Namespaced"]),
    }
    for field in ["plural", "singular", "kind", "listKind"] {
        let path = format!("spec.names.{field}");
        if name(field).is_empty() {
            errors.required(path, "");
            continue;
        }
        for error in names::label_1035(&name(field).to_lowercase()) {
            errors.invalid(path.clone(), &spec["names"][field], error);
        }
    }
    validate_versions(value, errors);
}

/// Checks a change of a definition.
pub fn change(new: &Value, old: &Value, errors: &mut Errors) {
    for path in ["/spec/group", "/spec/scope", "/spec/names/kind", "/spec/names/plural"] {
        let (before, after) = (old.pointer(path), new.pointer(path));
        if before != after {
            let field = path.trim_start_matches('/').replace('/', ".");
            errors.invalid(field, after.unwrap_or(&Value::Null), "field is immutable");
        }
    }
}

fn validate_versions(value: &Value, errors: &mut Errors) {
    let stored = versions(value).filter(|v| v["storage"] == true).count();
    if stored != 1 {
        errors.invalid(
            "spec.versions",
            &value["spec"]["versions"],
            "must have exactly one version marked as storage version",
        );
    }
    if value["spec"]["conversion"]["strategy"] == "Webhook" {
        errors.invalid(
            "spec.conversion.strategy",
            &json!("Webhook"),
            "conversion webhooks are not called by this API server: use None",
        );
    }
    for (index, version) in versions(value).enumerate() {
        let path = format!("spec.versions[{index}]");
        for error in names::label_1035(version["name"].as_str().unwrap_or_default()) {
            errors.invalid(format!("{path}.name"), &version["name"], error);
        }
        let schema = &version["schema"]["openAPIV3Schema"];
        let alone = versions(value).count() == 1;
        let path = format!("{path}.schema.openAPIV3Schema");
        if !schema.is_object() {
            errors.required(path, "schemas are required");
            continue;
        }
        if schema["type"] != "object" {
            let have = schema["type"].as_str().unwrap_or_default();
            let why = if have.is_empty() { "must not be empty at the root" } else { "" };
            if have.is_empty() {
                errors.required(format!("{path}.type"), why);
            } else {
                errors.invalid(
                    format!("{path}.type"),
                    &schema["type"],
                    "must be object at the root",
                );
            }
        }
        // The schema of an only version is the definition's own.
        let place = if alone { "spec.validation.openAPIV3Schema" } else { path.as_str() };
        structural_errors(schema, place, true, errors);
        for error in compile_schema(schema).compilation_errors() {
            errors.invalid(
                format!("{path}.x-kubernetes-validations"),
                &Value::Null,
                format!("compilation failed: {error}"),
            );
        }
    }
}

/// Structural schemas give every field a type, unless they say that anything goes.
fn structural_errors(schema: &Value, path: &str, is_root: bool, errors: &mut Errors) {
    let anything = schema["x-kubernetes-preserve-unknown-fields"] == true
        || schema["x-kubernetes-int-or-string"] == true;
    if !is_root && !anything && schema["type"].as_str().unwrap_or_default().is_empty() {
        errors.required(format!("{path}.type"), "must not be empty for specified object fields");
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        structural_errors(field, &format!("{path}.properties[{name}]"), false, errors);
    }
    if schema["items"].is_object() {
        structural_errors(&schema["items"], &format!("{path}.items"), false, errors);
    } else if schema["type"] == "array" {
        errors.required(format!("{path}.items"), "must be specified");
    }
    if schema["additionalProperties"].is_object() {
        let below = format!("{path}.additionalProperties");
        structural_errors(&schema["additionalProperties"], &below, false, errors);
        if schema["properties"].as_object().is_some_and(|map| !map.is_empty()) {
            errors.forbidden(
                format!("{path}.additionalProperties"),
                "additionalProperties and properties are mutual exclusive",
            );
        }
    }
}

/// Conditions and accepted names of a definition that is being served.
pub fn accepted(value: &Value) -> Value {
    let names = &value["spec"]["names"];
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({
            "type": kind,
            "status": "True",
            "lastTransitionTime": object::now(),
            "reason": reason,
            "message": message,
        })
    };
    let mut status = value["status"].clone();
    status["acceptedNames"] = names.clone();
    let conditions = child_array(&mut status, "conditions");
    for (kind, reason, message) in [
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ] {
        if !conditions.iter().any(|have| have["type"] == kind) {
            conditions.push(condition(kind, reason, message));
        }
    }
    let stored = child_array(&mut status, "storedVersions");
    for version in versions(value).filter(|version| version["storage"] == true) {
        if !stored.contains(&version["name"]) {
            stored.push(version["name"].clone());
        }
    }
    status
}

fn child_array<'a>(value: &'a mut Value, field: &str) -> &'a mut Vec<Value> {
    let place = object::as_map(value).entry(field).or_insert_with(|| json!([]));
    if !place.is_array() {
        *place = json!([]);
    }
    match place {
        Value::Array(list) => list,
        _ => unreachable!("it was made a list above"),
    }
}

/// Marks a definition that is going: it waits for its objects.
pub fn mark_terminating(value: &mut Value) {
    let mut list = object::finalizers(value);
    if !list.iter().any(|have| have == CLEANUP) {
        list.push(CLEANUP.to_owned());
    }
    object::set_meta(value, "finalizers", json!(list));
    let mut status = value["status"].take();
    let conditions = child_array(&mut status, "conditions");
    if !conditions.iter().any(|have| have["type"] == "Terminating") {
        conditions.push(json!({
            "type": "Terminating",
            "status": "True",
            "lastTransitionTime": object::now(),
            "reason": "InstanceDeletionInProgress",
            "message": "CustomResource deletion is in progress",
        }));
    }
    value["status"] = status;
}

/// The types that a definition stands for, the preferred version first.
pub fn types(value: &Value) -> Vec<Arc<ResourceType>> {
    let mut served: Vec<&Value> = versions(value).filter(|v| v["served"] == true).collect();
    served.sort_by_key(|version| version_rank(version["name"].as_str().unwrap_or_default()));
    served.into_iter().map(|version| Arc::new(resource(value, version))).collect()
}

/// Kubernetes' order of versions: v2, v1, v1beta2, v1alpha1, others by name.
fn version_rank(name: &str) -> (u8, i64, i64, String) {
    let parsed = || -> Option<(u8, i64, i64)> {
        let rest = name.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, tail) = rest.split_at(end);
        let major: i64 = major.parse().ok()?;
        if tail.is_empty() {
            return Some((0, -major, 0));
        }
        for (rank, word) in [(1, "beta"), (2, "alpha")] {
            if let Some(minor) = tail.strip_prefix(word) {
                return Some((rank, -major, -minor.parse::<i64>().ok()?));
            }
        }
        None
    };
    match parsed() {
        Some((rank, major, minor)) => (rank, major, minor, String::new()),
        None => (3, 0, 0, name.to_owned()),
    }
}

fn resource(definition: &Value, version: &Value) -> ResourceType {
    let (spec, names) = (&definition["spec"], &definition["spec"]["names"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let open_api = version["schema"]["openAPIV3Schema"].clone();
    let (group, kind, plural) =
        (text(&spec["group"]), text(&names["kind"]), text(&names["plural"]));
    let has_rules = open_api.to_string().contains("\"x-kubernetes-validations\"");
    let custom = Custom {
        definition: object::name(definition).to_owned(),
        printer_columns: version["additionalPrinterColumns"]
            .as_array()
            .cloned()
            .unwrap_or_default(),
        scale: scale_paths(&version["subresources"]["scale"]),
        selectable_fields: version["selectableFields"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|field| text(&field["jsonPath"]))
            .collect(),
        preserve_unknown_fields: spec["preserveUnknownFields"] == true,
        deprecation_warning: deprecation(version, &group, &kind),
        rules: has_rules.then(|| compile_schema(&open_api)),
        is_terminating: object::is_deleting(definition),
        open_api,
    };
    ResourceType {
        storage: format!("{group}/{plural}"),
        version: text(&version["name"]),
        list_kind: text(&names["listKind"]),
        singular: text(&names["singular"]),
        short_names: strings(&names["shortNames"]),
        categories: strings(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        verbs: ALL.iter().map(|verb| (*verb).to_owned()).collect(),
        subresources: subresources(version, &group, &kind),
        schema: Some(Arc::new(structural::read(&custom.open_api))),
        custom: Some(Arc::new(custom)),
        group,
        kind,
        plural,
    }
}

fn subresources(version: &Value, group: &str, kind: &str) -> Vec<Subresource> {
    let verbs = || ["get", "patch", "update"].map(str::to_owned).to_vec();
    let offered = version["subresources"].as_object().cloned().unwrap_or_else(Map::new);
    let mut list = Vec::new();
    if offered.get("status").is_some_and(Value::is_object) {
        list.push(Subresource {
            name: "status".to_owned(),
            group: group.to_owned(),
            version: version["name"].as_str().unwrap_or_default().to_owned(),
            kind: kind.to_owned(),
            verbs: verbs(),
        });
    }
    if offered.get("scale").is_some_and(Value::is_object) {
        list.push(Subresource {
            name: "scale".to_owned(),
            group: "autoscaling".to_owned(),
            version: "v1".to_owned(),
            kind: "Scale".to_owned(),
            verbs: verbs(),
        });
    }
    list
}

fn scale_paths(scale: &Value) -> Option<ScalePaths> {
    Some(ScalePaths {
        spec_replicas: scale["specReplicasPath"].as_str()?.to_owned(),
        status_replicas: scale["statusReplicasPath"].as_str()?.to_owned(),
        label_selector: scale["labelSelectorPath"].as_str().map(str::to_owned),
    })
}

fn deprecation(version: &Value, group: &str, kind: &str) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    let own = version["deprecationWarning"].as_str().map(str::to_owned);
    let name = version["name"].as_str().unwrap_or_default();
    Some(own.unwrap_or_else(|| format!("{group}/{name} {kind} is deprecated")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_maturity() {
        let mut names = ["v1alpha1", "v1", "foo", "v2", "v1beta1", "v10"];
        names.sort_by_key(|name| version_rank(name));
        assert_eq!(names, ["v10", "v2", "v1", "v1beta1", "v1alpha1", "foo"]);
    }
}
