//! Validation of roles and bindings.

use serde_json::{Value, json};

use super::Errors;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks a Role or ClusterRole.
pub fn role(value: &Value, namespaced: bool, errors: &mut Errors) {
    for (at, rule) in list(value, "rules").iter().enumerate() {
        let field = format!("rules[{at}]");
        if list(rule, "verbs").is_empty() {
            errors.required(format!("{field}.verbs"), "verbs must contain at least one value");
        }
        let urls = list(rule, "nonResourceURLs");
        let (groups, resources) = (list(rule, "apiGroups"), list(rule, "resources"));
        if !urls.is_empty() {
            let field = format!("{field}.nonResourceURLs");
            if namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(field.clone(), &json!(urls), why);
            }
            if !groups.is_empty()
                || !resources.is_empty()
                || !list(rule, "resourceNames").is_empty()
            {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(field, &json!(urls), why);
            }
            continue;
        }
        if groups.is_empty() {
            let why = "resource rules must supply at least one api group";
            errors.required(format!("{field}.apiGroups"), why);
        }
        if resources.is_empty() {
            let why = "resource rules must supply at least one resource";
            errors.required(format!("{field}.resources"), why);
        }
    }
    if value["aggregationRule"].is_object()
        && list(&value["aggregationRule"], "clusterRoleSelectors").is_empty()
    {
        let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.required("aggregationRule.clusterRoleSelectors", why);
    }
}

/// Checks a RoleBinding or ClusterRoleBinding.
pub fn binding(value: &Value, namespaced: bool, errors: &mut Errors) {
    let role = &value["roleRef"];
    if role["apiGroup"] != GROUP {
        errors.unsupported("roleRef.apiGroup", &json!(text(role, "apiGroup")), &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["ClusterRole", "Role"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(role, "kind")) {
        errors.unsupported("roleRef.kind", &json!(text(role, "kind")), kinds);
    }
    if text(role, "name").is_empty() {
        errors.required("roleRef.name", "");
    }
    for (at, subject) in list(value, "subjects").iter().enumerate() {
        self::subject(subject, &format!("subjects[{at}]"), namespaced, errors);
    }
}

fn subject(subject: &Value, field: &str, namespaced: bool, errors: &mut Errors) {
    if text(subject, "name").is_empty() {
        errors.required(format!("{field}.name"), "");
    }
    let group = text(subject, "apiGroup");
    let wanted = match text(subject, "kind") {
        "ServiceAccount" => {
            if !namespaced && text(subject, "namespace").is_empty() {
                errors.required(format!("{field}.namespace"), "");
            }
            ""
        }
        "User" | "Group" => GROUP,
        other => {
            let kinds = ["Group", "ServiceAccount", "User"];
            return errors.unsupported(format!("{field}.kind"), &json!(other), &kinds);
        }
    };
    if group != wanted {
        errors.unsupported(format!("{field}.apiGroup"), &json!(group), &[wanted]);
    }
}

/// A binding stays with its role.
pub fn binding_change(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old) = (&new["roleRef"], &old["roleRef"]);
    if new != old {
        let shown = json!({
            "APIGroup": text(new, "apiGroup"), "Kind": text(new, "kind"), "Name": text(new, "name"),
        });
        errors.invalid("roleRef", &shown, "cannot change roleRef");
    }
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}
