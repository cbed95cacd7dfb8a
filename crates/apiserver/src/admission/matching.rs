//! Whether a webhook is to be asked: rules, selectors, conditions.

use kube_cel::{
    AdmissionRequest, GroupVersionKind, GroupVersionResource, VapEvaluator, VapExpression,
};
use serde_json::Value;

use super::webhooks::Attempt;
use crate::object::strings;
use crate::selector::Labels;
use crate::status::Status;
use crate::store::Key;

/// A webhook is to be asked.
#[derive(Debug, Default)]
pub struct Matched {
    /// The `apiVersion` in which it wants the object, when that is not the request's.
    pub version: Option<String>,
}

/// Whether a webhook is to be asked about the object.
///
/// # Errors
/// When selectors or conditions cannot be evaluated and the webhook's policy is to fail.
pub fn matches(
    attempt: &Attempt<'_>,
    hook: &Value,
    object: &Value,
) -> Result<Option<Matched>, Status> {
    let Some(matched) = by_rules(attempt, hook) else { return Ok(None) };
    let name = hook["name"].as_str().unwrap_or_default();
    let wrong = |why: String| Status::internal(format!("webhook \"{name}\": {why}"));
    if !namespace_selected(attempt, hook, object).map_err(wrong)? {
        return Ok(None);
    }
    let selector = &hook["objectSelector"];
    let labels = Labels::from_object(selector).map_err(wrong)?;
    let none = Value::Null;
    let old = attempt.old.unwrap_or(&none);
    let is_selected = labels.is_empty()
        || [object, old]
            .iter()
            .any(|side| !side.is_null() && labels.matches(&side["metadata"]["labels"]));
    if !is_selected || !conditions_hold(attempt, hook, object)? {
        return Ok(None);
    }
    Ok(Some(matched))
}

fn by_rules(attempt: &Attempt<'_>, hook: &Value) -> Option<Matched> {
    let rules = hook["rules"].as_array()?;
    let resource = &attempt.operation.resource;
    if rules.iter().any(|rule| rule_matches(attempt, rule, &resource.version)) {
        return Some(Matched::default());
    }
    if hook["matchPolicy"] != "Equivalent" {
        return None;
    }
    // Another version of the same resource will do: the webhook then sees that one.
    let catalog = attempt.operation.api.catalog.load();
    let mut others = catalog.types().iter().filter(|other| {
        other.group == resource.group
            && other.plural == resource.plural
            && other.version != resource.version
    });
    let other = others
        .find(|other| rules.iter().any(|rule| rule_matches(attempt, rule, &other.version)))?;
    Some(Matched { version: Some(other.api_version()) })
}

fn rule_matches(attempt: &Attempt<'_>, rule: &Value, version: &str) -> bool {
    let resource = &attempt.operation.resource;
    let any = |field: &str, wanted: &str| {
        strings(&rule[field]).iter().any(|have| have == "*" || have == wanted)
    };
    let scope = match rule["scope"].as_str() {
        Some("Namespaced") => resource.namespaced,
        Some("Cluster") => !resource.namespaced,
        _ => true,
    };
    let sub = attempt.operation.subresource();
    let is_resource = strings(&rule["resources"]).iter().any(|have| {
        let (name, below) = have.split_once('/').unwrap_or((have, ""));
        let is_name = name == "*" || name == resource.plural;
        let is_sub = below == sub || (below == "*" && (!sub.is_empty() || name == "*"));
        is_name && is_sub
    });
    scope
        && is_resource
        && any("operations", attempt.action.name())
        && any("apiGroups", &resource.group)
        && any("apiVersions", version)
}

fn namespace_selected(attempt: &Attempt<'_>, hook: &Value, object: &Value) -> Result<bool, String> {
    let selector = Labels::from_object(&hook["namespaceSelector"])?;
    if selector.is_empty() {
        return Ok(true);
    }
    let operation = attempt.operation;
    if operation.resource.storage == "/namespaces" {
        let side = if object.is_null() { attempt.old.unwrap_or(object) } else { object };
        return Ok(selector.matches(&side["metadata"]["labels"]));
    }
    if !operation.resource.namespaced {
        return Ok(true);
    }
    let key = Key::new("/namespaces", "", &operation.call.info.namespace);
    match operation.api.store.get(&key) {
        Some(namespace) => Ok(selector.matches(&namespace.value["metadata"]["labels"])),
        None => Err(format!("namespaces \"{}\" not found", key.name)),
    }
}

fn conditions_hold(attempt: &Attempt<'_>, hook: &Value, object: &Value) -> Result<bool, Status> {
    let Some(conditions) = hook["matchConditions"].as_array().filter(|list| !list.is_empty())
    else {
        return Ok(true);
    };
    let mut builder = VapEvaluator::builder().request(request(attempt));
    if !object.is_null() {
        builder = builder.object(object.clone());
    }
    if let Some(old) = attempt.old {
        builder = builder.old_object(old.clone());
    }
    let evaluator = builder.build();
    let expressions: Vec<VapExpression> = conditions
        .iter()
        .map(|condition| VapExpression {
            expression: condition["expression"].as_str().unwrap_or_default().to_owned(),
            message: Some(NOT_MET.to_owned()),
            message_expression: None,
        })
        .collect();
    let mut failed = None;
    for (result, condition) in evaluator.evaluate(&expressions).into_iter().zip(conditions) {
        match result.message {
            _ if result.passed => (),
            // A condition that is plainly false settles it, whatever is wrong with others.
            Some(message) if message == NOT_MET => return Ok(false),
            message => failed = Some((condition["name"].clone(), message.unwrap_or_default())),
        }
    }
    match failed {
        None => Ok(true),
        Some(_) if hook["failurePolicy"] == "Ignore" => Ok(false),
        Some((condition, why)) => Err(attempt.operation.forbidden(
            &attempt.operation.call.info.name,
            format!("match condition {condition} could not be evaluated: {why}"),
        )),
    }
}

const NOT_MET: &str = "the condition is not met";

/// The `request` variable of expressions.
pub fn request(attempt: &Attempt<'_>) -> AdmissionRequest {
    let operation = attempt.operation;
    let (info, user) = (&operation.call.info, &operation.call.user);
    let (group, version, kind) = attempt.kind;
    AdmissionRequest {
        operation: attempt.action.name().to_owned(),
        username: user.name.clone(),
        uid: user.uid.clone(),
        groups: user.groups.clone(),
        name: info.name.clone(),
        namespace: info.namespace.clone(),
        dry_run: attempt.dry_run,
        kind: GroupVersionKind {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
        },
        resource: GroupVersionResource {
            group: operation.resource.group.clone(),
            version: operation.resource.version.clone(),
            resource: operation.resource.plural.clone(),
        },
    }
}
