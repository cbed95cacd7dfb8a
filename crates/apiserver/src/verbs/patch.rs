//! Changing parts of an object: JSON patch, merge patch, strategic merge patch, apply.

use bytes::Bytes;
use serde_json::Value;

use super::update::{self, Managed, Written};
use crate::body;
use crate::incoming;
use crate::operation::Operation;
use crate::respond::Response;
use crate::status::{Cause, Status};
use crate::strategic;
use crate::verbs::apply;
use crate::verbs::show;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
/// The most operations of a JSON patch.
const MOST_OPERATIONS: usize = 10_000;

/// Answers PATCH.
///
/// # Errors
/// The refusal that the client gets.
pub async fn patch(operation: &Operation, bytes: &Bytes) -> Result<Response, Status> {
    let name = operation.call.info.name.clone();
    let is_custom = operation.resource.custom.is_some();
    if operation.options.force && body::media_type(&operation.call.parts.headers) != APPLY {
        let cause = Cause {
            reason: "FieldValueForbidden",
            message: "Forbidden: may not be specified for non-apply patch".into(),
            field: "force".into(),
        };
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
    }
    let written = match body::media_type(&operation.call.parts.headers) {
        JSON_PATCH => {
            let patch = json_patch(bytes)?;
            edit(operation, &name, |object| {
                json_patch::patch(object, &patch).map_err(|_| Status::unprocessable())
            })
            .await?
        }
        MERGE_PATCH => {
            let patch = body::json(bytes)?;
            edit(operation, &name, |object| {
                json_patch::merge(object, &patch);
                Ok(())
            })
            .await?
        }
        STRATEGIC if !is_custom => {
            let patch = body::json(bytes)?;
            let schema = operation.resource.schema.clone();
            edit(operation, &name, |object| {
                strategic::apply(schema.as_deref(), object, &patch).map_err(Status::bad_request)
            })
            .await?
        }
        APPLY => apply::apply(operation, &name, bytes).await?,
        STRATEGIC => {
            return Err(Status::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH, APPLY]));
        }
        _ => return Err(Status::unsupported_patch()),
    };
    let code = if written.created { 201 } else { 200 };
    show::object(operation, code, &show::in_version(&operation.resource, &written.value))
}

fn json_patch(bytes: &[u8]) -> Result<json_patch::Patch, Status> {
    let value = body::json(bytes)?;
    if value.as_array().is_some_and(|list| list.len() > MOST_OPERATIONS) {
        return Err(Status::new(
            413,
            "RequestEntityTooLarge",
            format!("The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}"),
        ));
    }
    if !value.is_array() {
        return Err(Status::bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        ));
    }
    serde_json::from_value(value)
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))
}

/// A patch whose outcome cannot be read is an invalid patch.
fn unreadable(status: &Status, outcome: &Value) -> Status {
    let why = match status.message().split_once(" cannot be handled as a ") {
        Some((_, rest)) => rest.split_once(": ").map_or(rest, |(_, why)| why),
        None => status.message(),
    };
    let value = Value::from(outcome.to_string());
    let cause = Cause {
        reason: "FieldValueInvalid",
        message: format!("Invalid value: {value}: {why}"),
        field: "patch".into(),
    };
    Status::invalid("", "", "", vec![cause])
}

/// Applies a change to the current state and writes the outcome.
async fn edit(
    operation: &Operation,
    name: &str,
    change: impl Fn(&mut Value) -> Result<(), Status>,
) -> Result<Written, Status> {
    update::replace(operation, name, Managed::ByUpdate, |old| {
        let mut new = old.clone();
        change(&mut new)?;
        operation.check_kind(&mut new)?;
        let shown = new.clone();
        incoming::decode(operation, &mut new).map_err(|status| unreadable(&status, &shown))?;
        // A patch that does not touch the version does not depend on it.
        if new["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"] {
            crate::object::set_meta(&mut new, "resourceVersion", Value::Null);
        }
        Ok(new)
    })
    .await
}
