//! Questions to the server about identities and permissions: token requests and reviews.
//!
//! None of these objects is stored; each is answered from tokens, roles and bindings of the moment.

use serde_json::{Value, json};

use crate::api::Api;
use crate::request::RequestInfo;
use crate::status::{Cause, Status};
use crate::user::{User, user_info};

mod access;
mod token_request;

/// Whether the request creates one of these objects.
pub fn serves(info: &RequestInfo) -> bool {
    info.is_resource
        && info.verb == "create"
        && match (info.group.as_str(), info.resource.as_str()) {
            ("authentication.k8s.io" | "authorization.k8s.io", _) => info.subresource.is_empty(),
            ("", "serviceaccounts") => info.subresource == "token",
            _ => false,
        }
}

/// Answers the object that a client sent. The answer's code is 201.
///
/// # Errors
/// The refusal that the client gets.
pub fn answer(api: &Api, user: &User, info: &RequestInfo, object: Value) -> Result<Value, Status> {
    match info.resource.as_str() {
        "serviceaccounts" => token_request::answer(api, info, object),
        "tokenreviews" => token_review(api, object),
        "selfsubjectreviews" => Ok(self_review(user)),
        "subjectaccessreviews" => access::subject(api, object, None),
        "localsubjectaccessreviews" => access::subject(api, object, Some(&info.namespace)),
        "selfsubjectaccessreviews" => access::own(api, user, object),
        "selfsubjectrulesreviews" => access::rules(api, user, object),
        _ => Err(Status::no_such_path()),
    }
}

/// Sets `status` and removes what a client may not say about an object that is never stored.
fn with_status(mut object: Value, status: Value) -> Value {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["status"] = status;
    object
}

fn token_review(api: &Api, object: Value) -> Result<Value, Status> {
    let token = object.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let issuer = api.authenticator.tokens().keys().issuer().to_owned();
    let mut audiences = strings(object.pointer("/spec/audiences"));
    if audiences.is_empty() {
        audiences.push(issuer);
    }
    let status = match api.authenticator.review(token, &audiences) {
        Ok(verified) => json!({
            "authenticated": true,
            "user": user_info(&verified.user),
            "audiences": verified.audiences,
        }),
        Err(why) => json!({"user": {}, "error": why}),
    };
    Ok(with_status(object, status))
}

fn self_review(user: &User) -> Value {
    json!({
        "kind": "SelfSubjectReview",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"creationTimestamp": now()},
        "status": {"userInfo": user_info(user)},
    })
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn invalid(value: impl std::fmt::Display, field: &str, why: &str) -> Cause {
    let message = format!("Invalid value: {value}: {why}");
    Cause { reason: "FieldValueInvalid", message, field: field.to_owned() }
}
