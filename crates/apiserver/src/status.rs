//! Errors of the API, as Kubernetes writes them: a `Status` object with code, reason, message and
//! details. Every refusal of this server is one of these; clients match on `reason`.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Value, json};

/// A refusal. Small, because it is the error half of almost every result here.
#[derive(Clone, Debug)]
pub struct Status(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    code: u16,
    reason: Cow<'static, str>,
    message: String,
    details: Map<String, Value>,
    /// Shows `details` even when they are empty, as refusals without an object do.
    has_details: bool,
}

/// One entry of `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub reason: &'static str,
    pub message: String,
    pub field: String,
}

impl Status {
    /// A refusal without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Inner {
            code,
            reason: reason.into(),
            message,
            details: Map::new(),
            has_details: false,
        }))
    }

    /// 400 for requests that cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401, the same text for every cause.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 404 for an object: `pods "x" not found`.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(group, plural));
        Self::new(404, "NotFound", message).about(group, plural, name)
    }

    /// 404 for a path nothing is served at.
    pub fn no_such_path() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(404, "NotFound", message).with_empty_details()
    }

    /// 403 with Kubernetes' prefix `pods "x" is forbidden: `.
    pub fn forbidden(group: &str, plural: &str, name: &str, why: impl fmt::Display) -> Self {
        let resource = qualified(group, plural);
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} \"{name}\" is forbidden: {why}")
        };
        Self::new(403, "Forbidden", message).with_empty_details().about(group, plural, name)
    }

    /// 409 because the name is taken.
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(group, plural));
        Self::new(409, "AlreadyExists", message).about(group, plural, name)
    }

    /// 409 because of a lost race or a failed precondition.
    pub fn conflict(group: &str, plural: &str, name: &str, why: impl fmt::Display) -> Self {
        let resource = qualified(group, plural);
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}");
        Self::new(409, "Conflict", message).about(group, plural, name)
    }

    /// 409 for an update that carries an old resourceVersion.
    pub fn modified(group: &str, plural: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version \
                   and try again";
        Self::conflict(group, plural, name, why)
    }

    /// 422 with one cause per field error. `kind` is the object's kind.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let texts: Vec<String> = causes
            .iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .fold(Vec::new(), |mut unique, text| {
                if !unique.contains(&text) {
                    unique.push(text);
                }
                unique
            });
        let list = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {list}", qualified(group, kind));
        Self::new(422, "Invalid", message).about(group, kind, name).with_causes(causes)
    }

    /// 405 for a verb the resource does not have.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message).with_empty_details()
    }

    /// 422 for a patch that cannot be applied.
    pub fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::new(422, "Invalid", message).with_empty_details()
    }

    /// 415 for a patch of an unknown kind.
    pub fn unsupported_patch() -> Self {
        let message = "415: Unsupported Media Type";
        Self::new(415, "UnsupportedMediaType", message).with_empty_details()
    }

    /// 406 for an `Accept` header nothing matches.
    pub fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json, \
                       application/yaml";
        Self::new(406, "NotAcceptable", message)
    }

    /// 415 for a body in a form that is not read here.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 410 for versions that are no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 500 for what is this server's own fault.
    pub fn internal(message: impl fmt::Display) -> Self {
        let message = message.to_string();
        let mut status =
            Self::new(500, "InternalError", format!("Internal error occurred: {message}"));
        status.0.details.insert("causes".into(), json!([{"message": message}]));
        status
    }

    /// 501 for what this server does not do, in words that say so.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(501, "NotImplemented", message)
    }

    /// What a webhook answered, with its own code, reason and details.
    pub fn from_webhook(code: u16, reason: &str, message: String, details: &Value) -> Self {
        let mut status = Self::new(code, "", message);
        status.0.reason = reason.to_owned().into();
        status.0.details = details.as_object().cloned().unwrap_or_default();
        status
    }

    /// Adds whom the refusal is about.
    #[must_use]
    pub fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
            if !value.is_empty() {
                self.0.details.insert(key.into(), value.into());
            }
        }
        self
    }

    /// Shows `details` even though there is nothing in them.
    #[must_use]
    pub fn with_empty_details(mut self) -> Self {
        self.0.has_details = true;
        self
    }

    /// Adds the object's uid to the details.
    #[must_use]
    pub fn with_uid(mut self, uid: &str) -> Self {
        self.0.details.insert("uid".into(), uid.into());
        self
    }

    /// Adds causes to the details.
    #[must_use]
    pub fn with_causes(mut self, causes: Vec<Cause>) -> Self {
        if !causes.is_empty() {
            let causes = causes
                .into_iter()
                .map(|cause| {
                    let mut entry = Map::new();
                    if !cause.reason.is_empty() {
                        entry.insert("reason".into(), cause.reason.into());
                    }
                    entry.insert("message".into(), cause.message.into());
                    if !cause.field.is_empty() {
                        entry.insert("field".into(), cause.field.into());
                    }
                    Value::Object(entry)
                })
                .collect();
            self.0.details.insert("causes".into(), Value::Array(causes));
        }
        self
    }

    /// Tells the client when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u64) -> Self {
        self.0.details.insert("retryAfterSeconds".into(), seconds.into());
        self
    }

    /// Replaces the message.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.0.message = message.into();
        self
    }

    /// Replaces the code, as webhooks may.
    #[must_use]
    pub fn with_code(mut self, code: u16) -> Self {
        self.0.code = code;
        self
    }

    pub fn code(&self) -> u16 {
        self.0.code
    }

    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn retry_after(&self) -> Option<u64> {
        self.0.details.get("retryAfterSeconds").and_then(Value::as_u64)
    }

    /// The `Status` object, as sent in bodies and in watch errors.
    pub fn to_value(&self) -> Value {
        let mut object = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.0.message,
            "code": self.0.code,
        });
        if !self.0.reason.is_empty() {
            object["reason"] = self.reason().into();
        }
        if !self.0.details.is_empty() || self.0.has_details {
            object["details"] = Value::Object(self.0.details.clone());
        }
        object
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Status {}

/// `deployments.apps`, or just `pods` in the core group.
pub fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_lists_every_field_and_repeats_none() {
        let cause = |field: &str| Cause {
            reason: "FieldValueRequired",
            message: "Required value".into(),
            field: field.into(),
        };
        let status =
            Status::invalid("apps", "Deployment", "d", vec![cause("a"), cause("b"), cause("a")]);
        assert_eq!(
            status.message(),
            "Deployment.apps \"d\" is invalid: [a: Required value, b: Required value]"
        );
        assert_eq!(status.to_value()["details"]["causes"].as_array().unwrap().len(), 3);
    }
}
