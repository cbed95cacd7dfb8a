//! Validation: what Kubernetes refuses with 422, in its words.

use serde_json::Value;

use crate::crd;
use crate::resources::ResourceType;
use crate::status::Cause;
use crate::verbs::Operation;

pub mod metadata;
pub mod names;

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
    }
    custom(&operation.resource, new, Some(old), &mut errors);
    errors.into_causes()
}

fn spec(resource: &ResourceType, value: &Value, errors: &mut Errors) {
    if resource.storage == crd::definition::STORAGE {
        crd::definition::validate(value, errors);
    }
}
