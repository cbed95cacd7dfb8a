//! What is wrong with an object, in Kubernetes' words.

use serde_json::Value;

use crate::status::Cause;

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

    /// An error in words of its own.
    pub fn plain(&mut self, reason: &'static str, field: &str, message: String) {
        self.0.push(Cause { reason, message, field: field.to_owned() });
    }

    /// Errors that somebody else found.
    pub fn extend(&mut self, causes: Vec<Cause>) {
        self.0.extend(causes);
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
