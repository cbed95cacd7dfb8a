//! Validation of configuration and policy: `ConfigMaps`, Secrets, roles, bindings, webhooks.

use serde_json::{Value, json};

use crate::errors::Errors;
use crate::names;
use crate::object::strings;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    value.as_array().into_iter().flatten().enumerate()
}

fn keys(value: &Value, field: &str, errors: &mut Errors) {
    for key in value[field].as_object().into_iter().flatten().map(|(key, _)| key) {
        for error in names::config_key(key) {
            errors.invalid(format!("{field}[{key}]"), &json!(key), error);
        }
    }
}

/// Checks a `ConfigMap`.
pub fn config_map(value: &Value, errors: &mut Errors) {
    keys(value, "data", errors);
    keys(value, "binaryData", errors);
}

/// Checks a Secret.
pub fn secret(value: &Value, errors: &mut Errors) {
    keys(value, "data", errors);
    let needs: &[&str] = match text(value, "type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if crate::object::entry(value, "annotations", key).is_none_or(str::is_empty) {
                errors.required(format!("metadata.annotations[{key}]"), "");
            }
            &[]
        }
        _ => &[],
    };
    for key in needs {
        if value["data"].get(*key).is_none() {
            errors.required(format!("data[{key}]"), "");
        }
    }
}

/// Checks a change of a Secret or `ConfigMap`.
pub fn data_change(new: &Value, old: &Value, errors: &mut Errors) {
    if new["kind"] == "Secret" && new["type"] != old["type"] {
        errors.invalid("type", &new["type"], "field is immutable");
    }
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        errors.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for field in ["data", "binaryData"] {
        if new[field] != old[field] {
            errors.forbidden(field, "field is immutable when `immutable` is set");
        }
    }
}

/// Checks the rules of a role.
pub fn role(value: &Value, namespaced: bool, errors: &mut Errors) {
    for (index, rule) in list(&value["rules"]) {
        let at = format!("rules[{index}]");
        let empty = |field: &str| strings(&rule[field]).is_empty();
        if empty("verbs") {
            errors.required(format!("{at}.verbs"), "verbs must contain at least one value");
        }
        if !empty("nonResourceURLs") {
            if namespaced {
                errors.invalid(
                    format!("{at}.nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    "namespaced rules cannot apply to non-resource URLs",
                );
            }
            continue;
        }
        if empty("apiGroups") {
            let why = "resource rules must supply at least one api group";
            errors.required(format!("{at}.apiGroups"), why);
        }
        if empty("resources") {
            let why = "resource rules must supply at least one resource";
            errors.required(format!("{at}.resources"), why);
        }
    }
}

/// Checks a role binding.
pub fn binding(value: &Value, namespaced: bool, errors: &mut Errors) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let role = &value["roleRef"];
    if text(role, "apiGroup") != GROUP {
        errors.unsupported("roleRef.apiGroup", &role["apiGroup"], &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(role, "kind")) {
        errors.unsupported("roleRef.kind", &role["kind"], kinds);
    }
    if text(role, "name").is_empty() {
        errors.required("roleRef.name", "");
    } else {
        for error in names::path_segment(text(role, "name")) {
            errors.invalid("roleRef.name", &role["name"], error);
        }
    }
    for (index, subject) in list(&value["subjects"]) {
        let at = format!("subjects[{index}]");
        if text(subject, "name").is_empty() {
            errors.required(format!("{at}.name"), "");
        }
        match text(subject, "kind") {
            "ServiceAccount" => {
                if text(subject, "namespace").is_empty() {
                    errors.required(format!("{at}.namespace"), "");
                }
                if !text(subject, "apiGroup").is_empty() {
                    let group = &subject["apiGroup"];
                    errors.unsupported(format!("{at}.apiGroup"), group, &[""]);
                }
            }
            "User" | "Group" => {
                if text(subject, "apiGroup") != GROUP {
                    let group = &subject["apiGroup"];
                    errors.unsupported(format!("{at}.apiGroup"), group, &[GROUP]);
                }
            }
            _ => {
                let known = &["ServiceAccount", "User", "Group"];
                errors.unsupported(format!("{at}.kind"), &subject["kind"], known);
            }
        }
    }
}

/// Checks a change of a role binding.
pub fn binding_change(new: &Value, old: &Value, errors: &mut Errors) {
    let role = &new["roleRef"];
    if *role != old["roleRef"] {
        let message = format!(
            "Invalid value: {{\"APIGroup\":{},\"Kind\":{},\"Name\":{}}}: cannot change roleRef",
            role["apiGroup"], role["kind"], role["name"]
        );
        errors.plain("FieldValueInvalid", "roleRef", message);
    }
}

/// Checks a webhook configuration.
pub fn webhooks(value: &Value, errors: &mut Errors) {
    let mut seen = std::collections::HashSet::new();
    for (index, hook) in list(&value["webhooks"]) {
        let at = format!("webhooks[{index}]");
        let name = text(hook, "name");
        let wrong = names::subdomain(name);
        if name.is_empty() {
            errors.required(format!("{at}.name"), "");
        } else if let Some(error) = wrong.first() {
            errors.invalid(format!("{at}.name"), &hook["name"], error);
        } else if name.split('.').count() < 3 {
            let why = "should be a domain with at least three segments separated by dots";
            errors.invalid(format!("{at}.name"), &hook["name"], why);
        }
        if !seen.insert(name.to_owned()) {
            errors.duplicate(format!("{at}.name"), &hook["name"]);
        }
        webhook(hook, &at, errors);
    }
}

fn webhook(hook: &Value, at: &str, errors: &mut Errors) {
    for (index, rule) in list(&hook["rules"]) {
        for field in ["operations", "apiGroups", "apiVersions", "resources"] {
            if strings(&rule[field]).is_empty() {
                errors.required(format!("{at}.rules[{index}].{field}"), "");
            }
        }
    }
    let known = &["Ignore", "Fail"];
    if !known.contains(&text(hook, "failurePolicy")) {
        errors.unsupported(format!("{at}.failurePolicy"), &hook["failurePolicy"], known);
    }
    if !matches!(text(hook, "sideEffects"), "None" | "NoneOnDryRun" | "Some" | "Unknown") {
        let why = "must specify one of None, NoneOnDryRun";
        errors.required(format!("{at}.sideEffects"), why);
    }
    let seconds = hook["timeoutSeconds"].as_i64().unwrap_or(10);
    if !(1..=30).contains(&seconds) {
        errors.invalid(
            format!("{at}.timeoutSeconds"),
            &hook["timeoutSeconds"],
            "the timeout value must be between 1 and 30 seconds",
        );
    }
    let client = &hook["clientConfig"];
    if client["url"].is_null() == client["service"].is_null() {
        let why = "exactly one of url or service is required";
        errors.required(format!("{at}.clientConfig"), why);
    }
    let versions = strings(&hook["admissionReviewVersions"]);
    if !versions.iter().any(|version| matches!(version.as_str(), "v1" | "v1beta1")) {
        let path = format!("{at}.admissionReviewVersions");
        if versions.is_empty() {
            errors.required(path, "must specify one of v1, v1beta1");
        } else {
            let why = "must include at least one of v1, v1beta1";
            errors.invalid(path, &hook["admissionReviewVersions"], why);
        }
    }
}
