//! Validation: what Kubernetes refuses with 422, in its words.

use serde_json::Value;

use crate::crd;
use crate::resources::ResourceType;
use crate::status::Cause;
use crate::verbs::Operation;

mod config;
pub mod metadata;
pub mod names;
mod pods;
mod rbac;
mod services;
mod webhooks;
mod workloads;

/// Errors of one object, gathered by field.
#[derive(Debug, Default)]
pub struct Errors(Vec<Cause>);

impl Errors {
    pub fn required(&mut self, field: impl Into<String>, why: &str) {
        let message = if why.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {why}")
        };
        self.0.push(Cause { reason: "FieldValueRequired", message, field: field.into() });
    }

    pub fn invalid(&mut self, field: impl Into<String>, value: &Value, why: impl AsRef<str>) {
        let message = format!("Invalid value: {}: {}", shown(value), why.as_ref());
        self.0.push(Cause { reason: "FieldValueInvalid", message, field: field.into() });
    }

    pub fn unsupported(&mut self, field: impl Into<String>, value: &Value, known: &[&str]) {
        let known: Vec<String> = known.iter().map(|value| format!("\"{value}\"")).collect();
        let message =
            format!("Unsupported value: {}: supported values: {}", shown(value), known.join(", "));
        self.0.push(Cause { reason: "FieldValueNotSupported", message, field: field.into() });
    }

    pub fn forbidden(&mut self, field: impl Into<String>, why: &str) {
        let message = format!("Forbidden: {why}");
        self.0.push(Cause { reason: "FieldValueForbidden", message, field: field.into() });
    }

    pub fn duplicate(&mut self, field: impl Into<String>, value: &Value) {
        let message = format!("Duplicate value: {}", shown(value));
        self.0.push(Cause { reason: "FieldValueDuplicate", message, field: field.into() });
    }

    pub fn not_found(&mut self, field: impl Into<String>, value: &Value) {
        let message = format!("Not found: {}", shown(value));
        self.0.push(Cause { reason: "FieldValueNotFound", message, field: field.into() });
    }

    pub fn too_long(&mut self, field: impl Into<String>, most: usize) {
        let message = format!("Too long: may not be more than {most} bytes");
        self.0.push(Cause { reason: "FieldValueTooLong", message, field: field.into() });
    }

    pub fn into_causes(self) -> Vec<Cause> {
        self.0
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(_)
        | Value::Number(_)
        | Value::Bool(_)
        | Value::Array(_)
        | Value::Object(_) => value.to_string(),
    }
}

/// What is wrong with a new object.
pub fn create(operation: &Operation, value: &Value) -> Vec<Cause> {
    let mut errors = Errors::default();
    metadata::check(&operation.resource, value, &mut errors);
    spec(&operation.resource, value, &mut errors);
    custom(&operation.resource, value, None, &mut errors);
    errors.into_causes()
}

/// Custom resources are checked against their definition.
fn custom(resource: &ResourceType, value: &Value, old: Option<&Value>, errors: &mut Errors) {
    if let Some(custom) = &resource.custom {
        errors.0.extend(crd::check::check(&custom.open_api, custom.rules.as_ref(), value, old));
    }
}

/// What is wrong with a change.
pub fn update(operation: &Operation, new: &Value, old: &Value) -> Vec<Cause> {
    let mut errors = Errors::default();
    metadata::check(&operation.resource, new, &mut errors);
    metadata::check_change(new, old, &mut errors);
    if operation.subresource().is_empty() {
        spec(&operation.resource, new, &mut errors);
        change(&operation.resource, new, old, &mut errors);
    }
    custom(&operation.resource, new, Some(old), &mut errors);
    errors.into_causes()
}

fn spec(resource: &ResourceType, value: &Value, errors: &mut Errors) {
    if resource.storage == crd::definition::STORAGE {
        crd::definition::validate(value, errors);
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "configmaps") => config::config_map(value, errors),
        ("", "secrets") => config::secret(value, errors),
        ("", "pods") => pods::pod(value, errors),
        ("", "services") => services::service(value, errors),
        ("apps", "deployments" | "replicasets" | "daemonsets" | "statefulsets") => {
            workloads::selecting(value, errors);
        }
        ("batch", "jobs") => workloads::job(value, errors),
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations",
        ) => webhooks::configuration(value, errors),
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => {
            rbac::role(value, resource.namespaced, errors);
        }
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            rbac::binding(value, resource.namespaced, errors);
        }
        _ => {}
    }
}

/// What a kind does not let change.
fn change(resource: &ResourceType, new: &Value, old: &Value, errors: &mut Errors) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "configmaps") => config::change(new, old, &["data", "binaryData"], errors),
        ("", "secrets") => config::change(new, old, &["type", "data"], errors),
        ("", "pods") => pods::change(new, old, errors),
        ("", "services") => services::change(new, old, errors),
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            workloads::change(new, old, &["group", "scope"], errors);
        }
        ("apps", "deployments" | "replicasets" | "daemonsets") => {
            workloads::change(new, old, &["selector"], errors);
        }
        ("batch", "jobs") => workloads::change(new, old, &["selector", "template"], errors),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            rbac::binding_change(new, old, errors);
        }
        _ => {}
    }
}
