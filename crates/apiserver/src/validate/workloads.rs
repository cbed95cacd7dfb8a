//! Validation of what makes pods: Deployments, ReplicaSets, DaemonSets, StatefulSets, Jobs.

use serde_json::{Value, json};

use super::{Errors, pods};

/// Checks the spec of a kind whose `selector` selects the pods of its `template`.
pub fn selecting(value: &Value, errors: &mut Errors) {
    let spec = &value["spec"];
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"]
    {
        not_negative(spec, field, errors);
    }
    let selector = &spec["selector"];
    if selector.is_null() {
        errors.required("spec.selector", "");
    } else if is_empty(selector) {
        let why = "empty selector is invalid for deployment";
        errors.invalid("spec.selector", selector, why);
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if !selector.is_null() && !is_empty(selector) && !selects(selector, labels) {
        errors.invalid(
            "spec.template.metadata.labels",
            if labels.is_null() { &Value::Null } else { labels },
            "`selector` does not match template `labels`",
        );
    }
    pods::template(&spec["template"], "spec.template", &["Always"], errors);
}

/// Checks a Job.
pub fn job(value: &Value, errors: &mut Errors) {
    let spec = &value["spec"];
    let fields = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
    ];
    for field in fields {
        not_negative(spec, field, errors);
    }
    pods::template(&spec["template"], "spec.template", &["OnFailure", "Never"], errors);
}

/// What may not change after creation.
pub fn change(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    for field in fields {
        if new["spec"][*field] != old["spec"][*field] {
            let shown = &new["spec"][*field];
            errors.invalid(format!("spec.{field}"), shown, "field is immutable");
        }
    }
}

fn not_negative(spec: &Value, field: &str, errors: &mut Errors) {
    if spec[field].as_i64().is_some_and(|number| number < 0) {
        let why = "must be greater than or equal to 0";
        errors.invalid(format!("spec.{field}"), &spec[field], why);
    }
}

fn is_empty(selector: &Value) -> bool {
    selector["matchLabels"].as_object().is_none_or(serde_json::Map::is_empty)
        && selector["matchExpressions"].as_array().is_none_or(Vec::is_empty)
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let own = |key: &str| labels[key].as_str();
    let equal = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| own(key) == value.as_str());
    equal
        && selector["matchExpressions"].as_array().into_iter().flatten().all(|expression| {
            let value = own(expression["key"].as_str().unwrap_or_default());
            let among = value.is_some_and(|value| {
                expression["values"].as_array().is_some_and(|all| all.contains(&json!(value)))
            });
            match expression["operator"].as_str() {
                Some("In") => among,
                Some("NotIn") => !among,
                Some("Exists") => value.is_some(),
                Some("DoesNotExist") => value.is_none(),
                _ => false,
            }
        })
}
