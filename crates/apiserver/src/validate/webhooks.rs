//! Validation of webhook configurations.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::Errors;

/// Versions of `AdmissionReview` that this server sends.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// Checks a configuration of mutating or validating webhooks.
pub fn configuration(value: &Value, errors: &mut Errors) {
    let mut names = HashSet::new();
    for (at, webhook) in value["webhooks"].as_array().into_iter().flatten().enumerate() {
        let field = format!("webhooks[{at}]");
        self::webhook(webhook, &field, errors);
        let name = webhook["name"].as_str().unwrap_or_default();
        if !name.is_empty() && !names.insert(name) {
            errors.duplicate(format!("{field}.name"), &json!(name));
        }
    }
}

fn webhook(webhook: &Value, field: &str, errors: &mut Errors) {
    let name = webhook["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        errors.required(format!("{field}.name"), "");
    } else if name.split('.').count() < 3 {
        let why = "should be a domain with at least three segments separated by dots";
        errors.invalid(format!("{field}.name"), &json!(name), why);
    }
    let effects = &webhook["sideEffects"];
    let known = ["None", "NoneOnDryRun"];
    match effects.as_str() {
        None => {
            let why = "must specify one of None, NoneOnDryRun";
            errors.required(format!("{field}.sideEffects"), why);
        }
        Some(text) if !known.contains(&text) => {
            errors.unsupported(format!("{field}.sideEffects"), effects, &known);
        }
        Some(_) => {}
    }
    let seconds = &webhook["timeoutSeconds"];
    if seconds.as_i64().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(format!("{field}.timeoutSeconds"), seconds, why);
    }
    let versions = webhook["admissionReviewVersions"].as_array().map_or(&[][..], Vec::as_slice);
    if versions.is_empty() {
        let why = "must specify one of v1, v1beta1";
        errors.required(format!("{field}.admissionReviewVersions"), why);
    } else if !versions.iter().filter_map(Value::as_str).any(|version| REVIEWS.contains(&version)) {
        let why = "must include at least one of v1, v1beta1";
        errors.invalid(format!("{field}.admissionReviewVersions"), &json!(versions), why);
    }
    client(&webhook["clientConfig"], &format!("{field}.clientConfig"), errors);
}

fn client(config: &Value, field: &str, errors: &mut Errors) {
    let (url, service) = (config["url"].as_str(), config["service"].is_object());
    if url.is_some() == service {
        errors.required(field, "exactly one of url or service is required");
    }
    if url.is_some_and(|url| !url.starts_with("https://")) {
        let why = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
        errors.invalid(format!("{field}.url"), &config["url"], why);
    }
}
