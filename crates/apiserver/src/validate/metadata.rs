//! Validation of metadata: names by kind, labels, annotations, owners, finalizers.

use serde_json::{Value, json};

use crate::errors::Errors;
use crate::names;
use crate::object;
use crate::resources::ResourceType;

/// The largest sum of annotation keys and values.
const MOST_ANNOTATIONS: usize = 256 * 1024;

/// Checks the metadata of any object.
pub fn check(resource: &ResourceType, value: &Value, errors: &mut Errors) {
    let name = object::name(value);
    for error in name_errors(resource, name) {
        errors.invalid("metadata.name", &json!(name), error);
    }
    maps(&value["metadata"], "metadata", errors);
    owners(&value["metadata"]["ownerReferences"], errors);
    for finalizer in object::finalizers(value) {
        for error in names::qualified_name(&finalizer) {
            errors.invalid("metadata.finalizers", &json!(finalizer), error);
        }
        let plain = !finalizer.contains('/')
            && !matches!(finalizer.as_str(), "orphan" | "foregroundDeletion" | "kubernetes");
        if plain {
            errors.invalid(
                "metadata.finalizers[0]",
                &json!(finalizer),
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
}

/// Checks labels and annotations below `path`.
pub fn maps(metadata: &Value, path: &str, errors: &mut Errors) {
    labels(&metadata["labels"], &format!("{path}.labels"), errors);
    let mut size = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        let field = format!("{path}.annotations");
        for error in names::qualified_name(&key.to_lowercase()) {
            errors.invalid(field.clone(), &json!(key), error);
        }
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > MOST_ANNOTATIONS {
        errors.invalid(
            format!("{path}.annotations"),
            &Value::Null,
            format!("Too long: may not be more than {MOST_ANNOTATIONS} bytes"),
        );
    }
}

/// Checks a map of labels.
pub fn labels(labels: &Value, path: &str, errors: &mut Errors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        for error in names::qualified_name(key) {
            errors.invalid(path, &json!(key), error);
        }
        for error in names::label_value(value.as_str().unwrap_or_default()) {
            errors.invalid(path, value, error);
        }
    }
}

fn owners(list: &Value, errors: &mut Errors) {
    let mut controllers = Vec::new();
    for (index, owner) in list.as_array().into_iter().flatten().enumerate() {
        let path = format!("metadata.ownerReferences[{index}]");
        for (field, what) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            let text = owner[field].as_str().unwrap_or_default();
            if text.is_empty() {
                errors.invalid(format!("{path}.{field}"), &json!(text), what);
            }
        }
        if owner["controller"] == true {
            controllers.push(owner["name"].as_str().unwrap_or_default());
        }
    }
    if controllers.len() > 1 {
        errors.invalid(
            "metadata.ownerReferences",
            list,
            format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                controllers[0], controllers[1]
            ),
        );
    }
}

fn name_errors(resource: &ResourceType, name: &str) -> Vec<String> {
    match resource.storage.as_str() {
        "/namespaces" | "/services" => names::label(name),
        "rbac.authorization.k8s.io/roles"
        | "rbac.authorization.k8s.io/rolebindings"
        | "rbac.authorization.k8s.io/clusterroles"
        | "rbac.authorization.k8s.io/clusterrolebindings"
        | "certificates.k8s.io/certificatesigningrequests" => names::path_segment(name),
        _ => names::subdomain(name),
    }
}

/// Checks what a change may not touch.
pub fn check_change(new: &Value, old: &Value, errors: &mut Errors) {
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        if new["metadata"][field] != old["metadata"][field] {
            errors.invalid(
                format!("metadata.{field}"),
                &new["metadata"][field],
                "field is immutable",
            );
        }
    }
    if object::is_deleting(old) {
        let before = object::finalizers(old);
        let added: Vec<String> =
            object::finalizers(new).into_iter().filter(|name| !before.contains(name)).collect();
        if !added.is_empty() {
            errors.forbidden(
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
                ),
            );
        }
    }
}
