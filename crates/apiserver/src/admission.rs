//! Admission: what may change or refuse a write after it was authorized. First the server's own
//! plugins, then webhooks.

use serde_json::Value;

use crate::object;
use crate::status::{Cause, Status};
use crate::store::Key;
use crate::verbs::Operation;

pub mod pods;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Create,
    Update,
    Delete,
    Connect,
}

/// Namespaces that cannot be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// Lets plugins change an object.
///
/// # Errors
/// The refusal of a plugin.
#[expect(clippy::unused_async, reason = "webhooks are called here")]
pub async fn mutate(
    operation: &Operation,
    action: Action,
    mut object: Value,
    _old: Option<&Value>,
) -> Result<Value, Status> {
    if operation.resource.storage == "/pods"
        && action == Action::Create
        && operation.subresource().is_empty()
    {
        pods::admit(operation, &mut object)?;
    }
    Ok(object)
}

/// Lets plugins refuse an object in its final form.
///
/// # Errors
/// The refusal of a plugin.
#[expect(clippy::unused_async, reason = "webhooks are called here")]
pub async fn validate(
    _operation: &Operation,
    _action: Action,
    _object: &Value,
    _old: Option<&Value>,
) -> Result<(), Status> {
    Ok(())
}

/// New objects need a namespace that is there to stay.
///
/// # Errors
/// 404 without the namespace, 403 when it is going.
pub fn namespace_exists(operation: &Operation, name: &str) -> Result<(), Status> {
    if !operation.resource.namespaced {
        return Ok(());
    }
    let namespace = &operation.call.info.namespace;
    let Some(stored) = operation.api.store.get(&Key::new("/namespaces", "", namespace)) else {
        return Err(Status::not_found("", "namespaces", namespace));
    };
    if !object::is_deleting(&stored.value) {
        return Ok(());
    }
    let message = format!("namespace {namespace} is being terminated");
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let cause =
        Cause { reason: "NamespaceTerminating", message, field: "metadata.namespace".into() };
    Err(operation.forbidden(name, why).with_causes(vec![cause]))
}

/// Some namespaces cannot be deleted.
///
/// # Errors
/// 403 for them.
pub fn may_delete(operation: &Operation, name: &str) -> Result<(), Status> {
    if operation.resource.storage == "/namespaces" && IMMORTAL.contains(&name) {
        return Err(operation.forbidden(name, "this namespace may not be deleted"));
    }
    Ok(())
}
