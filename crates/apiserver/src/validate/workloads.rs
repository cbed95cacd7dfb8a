//! Validation of Deployments, `ReplicaSets`, `DaemonSets`, `StatefulSets`, Jobs and `CronJobs`.

use serde_json::{Value, json};

use super::{metadata, pods};
use crate::errors::Errors;
use crate::selector::Labels;

const STATEFUL: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
const MAY_CHANGE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// Checks a workload that keeps pods running. `what` names it in words.
pub fn workload(value: &Value, what: &str, errors: &mut Errors) {
    let spec = &value["spec"];
    not_negative(spec, "replicas", errors);
    let labels = &spec["template"]["metadata"]["labels"];
    let selector = &spec["selector"];
    let is_empty = selector.as_object().is_some_and(|map| {
        map.values().all(|part| {
            part.as_object().is_some_and(serde_json::Map::is_empty)
                || part.as_array().is_some_and(Vec::is_empty)
        })
    });
    if selector.is_null() {
        errors.required("spec.selector", "");
    } else if is_empty {
        errors.invalid("spec.selector", selector, format!("empty selector is invalid for {what}"));
    }
    let matches = !selector.is_null()
        && Labels::from_object(selector).is_ok_and(|selector| selector.matches(labels));
    if !matches {
        errors.invalid(
            "spec.template.metadata.labels",
            labels,
            "`selector` does not match template `labels`",
        );
    }
    template(&spec["template"], "spec.template", errors);
    let restart = &spec["template"]["spec"]["restartPolicy"];
    if restart.as_str().is_some_and(|policy| policy != "Always") {
        let path = "spec.template.spec.restartPolicy";
        errors.unsupported(path, restart, &["Always"]);
    }
    not_negative(spec, "minReadySeconds", errors);
    not_negative(spec, "revisionHistoryLimit", errors);
}

fn not_negative(spec: &Value, field: &str, errors: &mut Errors) {
    if spec[field].as_i64().is_some_and(|number| number < 0) {
        let why = "must be greater than or equal to 0";
        errors.invalid(format!("spec.{field}"), &spec[field], why);
    }
}

fn template(template: &Value, path: &str, errors: &mut Errors) {
    metadata::maps(&template["metadata"], &format!("{path}.metadata"), errors);
    pods::spec(&template["spec"], &format!("{path}.spec"), errors);
}

/// Checks a Deployment's strategy.
pub fn deployment(value: &Value, errors: &mut Errors) {
    let strategy = &value["spec"]["strategy"];
    let rolling = &strategy["rollingUpdate"];
    match strategy["type"].as_str().unwrap_or_default() {
        "Recreate" if !rolling.is_null() => errors.forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        "Recreate" => (),
        "RollingUpdate" => {
            let is_zero = |value: &Value| *value == 0 || *value == "0%";
            if is_zero(&rolling["maxSurge"]) && is_zero(&rolling["maxUnavailable"]) {
                errors.invalid(
                    "spec.strategy.rollingUpdate.maxUnavailable",
                    &rolling["maxUnavailable"],
                    "may not be 0 when `maxSurge` is 0",
                );
            }
        }
        other => {
            let message = format!(
                "Unsupported value: {{\"Type\":\"{other}\",\"RollingUpdate\":null}}: supported values: \"Recreate\", \"RollingUpdate\""
            );
            errors.plain("FieldValueNotSupported", "spec.strategy", message);
        }
    }
}

/// Checks a change of a workload.
pub fn change(kind: &str, new: &Value, old: &Value, errors: &mut Errors) {
    let (after, before) = (&new["spec"], &old["spec"]);
    if kind == "StatefulSet" {
        let rest = |spec: &Value| {
            let mut spec = spec.clone();
            MAY_CHANGE.iter().for_each(|field| drop(crate::object::remove(&mut spec, field)));
            spec
        };
        if rest(after) != rest(before) {
            errors.forbidden("spec", STATEFUL);
        }
    } else if after["selector"] != before["selector"] {
        errors.invalid("spec.selector", &after["selector"], "field is immutable");
    }
}

/// Checks a Job's spec below `path`.
pub fn job(spec: &Value, path: &str, errors: &mut Errors) {
    template(&spec["template"], &format!("{path}.template"), errors);
    let restart = &spec["template"]["spec"]["restartPolicy"];
    let at = format!("{path}.template.spec.restartPolicy");
    match restart.as_str() {
        Some("OnFailure" | "Never") => (),
        Some("Always") => errors.required(at, "valid values: \"OnFailure\", \"Never\""),
        _ => (),
    }
}

/// Checks a change of a Job.
pub fn job_change(new: &Value, old: &Value, errors: &mut Errors) {
    let is_suspended = old["spec"]["suspend"] == true;
    for field in ["selector", "template", "completionMode"] {
        if new["spec"][field] != old["spec"][field] && !(is_suspended && field == "template") {
            errors.invalid(format!("spec.{field}"), &new["spec"][field], "field is immutable");
        }
    }
}

/// Checks a `CronJob`.
pub fn cron_job(value: &Value, errors: &mut Errors) {
    let schedule = value["spec"]["schedule"].as_str().unwrap_or_default();
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if schedule.is_empty() {
        errors.required("spec.schedule", "");
    } else if fields.len() != 5 && !schedule.starts_with('@') {
        errors.invalid(
            "spec.schedule",
            &json!(schedule),
            format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")),
        );
    }
    job(&value["spec"]["jobTemplate"]["spec"], "spec.jobTemplate.spec", errors);
}
