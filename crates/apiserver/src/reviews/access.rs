//! May somebody do something? Reviews of access, and the list of a user's rules.

use serde_json::{Value, json};

use super::{invalid, strings, with_status};
use crate::api::Api;
use crate::quote::go_quote;
use crate::rbac::rules::Rule;
use crate::request::RequestInfo;
use crate::status::{Cause, Status};
use crate::user::User;

const GROUP: &str = "authorization.k8s.io";
const ONE_OF: &str = "exactly one of nonResourceAttributes or resourceAttributes must be specified";

/// `SubjectAccessReview`, or with a namespace `LocalSubjectAccessReview`.
///
/// # Errors
/// 422 when the question is not complete.
pub fn subject(api: &Api, object: Value, namespace: Option<&str>) -> Result<Value, Status> {
    let mut causes = Vec::new();
    let question = question(&object, &mut causes);
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let user = User {
        name: text("/spec/user").to_owned(),
        uid: text("/spec/uid").to_owned(),
        groups: strings(object.pointer("/spec/groups")),
        extra: object
            .pointer("/spec/extra")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, values)| (key.clone(), strings(Some(values))))
            .collect(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        let why = "at least one of user or group must be specified";
        causes.push(invalid("\"\"", "spec.user", why));
    }
    if let Some(namespace) = namespace {
        let asked = text("/spec/resourceAttributes/namespace");
        if asked != namespace {
            let field = "spec.resourceAttributes.namespace";
            causes.push(invalid(go_quote(asked), field, "must match metadata.namespace"));
        }
    }
    decide(api, object, &user, question, causes)
}

/// `SelfSubjectAccessReview`.
///
/// # Errors
/// 422 when the question is not complete.
pub fn own(api: &Api, user: &User, object: Value) -> Result<Value, Status> {
    let mut causes = Vec::new();
    let question = question(&object, &mut causes);
    decide(api, object, user, question, causes)
}

fn decide(
    api: &Api,
    object: Value,
    user: &User,
    question: RequestInfo,
    causes: Vec<Cause>,
) -> Result<Value, Status> {
    if !causes.is_empty() {
        return Err(Status::invalid(GROUP, "", "", causes));
    }
    let decision = api.authorizer.decide(user, &question);
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.into();
    }
    Ok(with_status(object, status))
}

/// What the review asks, as a request would.
fn question(object: &Value, causes: &mut Vec<Cause>) -> RequestInfo {
    let part =
        |name: &str| object.pointer(&format!("/spec/{name}")).filter(|value| value.is_object());
    let (resource, path) = (part("resourceAttributes"), part("nonResourceAttributes"));
    let text = |value: Option<&Value>, name: &str| {
        value.and_then(|value| value[name].as_str()).unwrap_or_default().to_owned()
    };
    if resource.is_some() == path.is_some() {
        let value = if resource.is_some() { "{}" } else { "null" };
        causes.push(invalid(value, "spec.resourceAttributes", ONE_OF));
    }
    if path.is_some() {
        let (verb, path) = (text(path, "verb"), text(path, "path"));
        return RequestInfo { verb, path, ..RequestInfo::default() };
    }
    RequestInfo {
        is_resource: true,
        verb: text(resource, "verb"),
        group: text(resource, "group"),
        version: text(resource, "version"),
        namespace: text(resource, "namespace"),
        resource: text(resource, "resource"),
        subresource: text(resource, "subresource"),
        name: text(resource, "name"),
        ..RequestInfo::default()
    }
}

/// `SelfSubjectRulesReview`: everything that the user may do in a namespace.
///
/// # Errors
/// 400 without a namespace.
pub fn rules(api: &Api, user: &User, object: Value) -> Result<Value, Status> {
    let namespace = object.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or_default();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (mut rules, problems) = api.authorizer.policy().rules_for(user, namespace);
    if user.is_in(crate::user::MASTERS) {
        let all = || vec!["*".to_owned()];
        let every = Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() };
        let paths = Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() };
        rules.splice(0..0, [every, paths]);
    }
    let (paths, resources): (Vec<Rule>, Vec<Rule>) =
        rules.into_iter().partition(|rule| !rule.non_resource_urls.is_empty());
    let mut status = json!({
        "resourceRules": resources,
        "nonResourceRules": paths,
        "incomplete": false,
    });
    if !problems.is_empty() {
        status["evaluationError"] = problems.join(", ").into();
    }
    let mut answer = with_status(object, status);
    // As Kubernetes does, the question itself is not repeated.
    answer["spec"] = json!({});
    Ok(answer)
}
