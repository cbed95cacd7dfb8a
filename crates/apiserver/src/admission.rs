//! Admission: what may change or refuse a write after it was authorized. First the server's own
//! plugins, then webhooks.

use serde_json::Value;

use crate::object;
use crate::operation::Operation;
use crate::status::{Cause, Status};
use crate::store::Key;

mod call;
mod matching;
pub mod pods;
pub mod webhooks;

use webhooks::Attempt;

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

impl Action {
    /// As webhooks and policies name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// Lets plugins and webhooks change an object.
///
/// # Errors
/// The refusal of one of them.
pub async fn mutate(
    operation: &Operation,
    action: Action,
    mut object: Value,
    old: Option<&Value>,
) -> Result<Value, Status> {
    let is_new_pod = operation.resource.storage == "/pods"
        && action == Action::Create
        && operation.subresource().is_empty();
    let plugins = |object: &mut Value| {
        if is_new_pod { pods::admit(operation, object) } else { Ok(()) }
    };
    plugins(&mut object)?;
    let attempt = attempt(operation, action, old, operation.options.dry_run);
    webhooks::mutate(&attempt, object, plugins).await
}

/// Lets webhooks refuse an object in its final form.
///
/// # Errors
/// The refusal of one of them.
pub async fn validate(
    operation: &Operation,
    action: Action,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    webhooks::validate(&attempt(operation, action, old, operation.options.dry_run), object).await
}

/// Lets webhooks refuse a deletion.
///
/// # Errors
/// The refusal of one of them.
pub async fn delete(operation: &Operation, old: &Value, dry_run: bool) -> Result<(), Status> {
    let attempt = attempt(operation, Action::Delete, Some(old), dry_run);
    webhooks::mutate(&attempt, Value::Null, |_| Ok(())).await?;
    webhooks::validate(&attempt, &Value::Null).await
}

fn attempt<'a>(
    operation: &'a Operation,
    action: Action,
    old: Option<&'a Value>,
    dry_run: bool,
) -> Attempt<'a> {
    let resource = &operation.resource;
    let kind = match resource.subresource(operation.subresource()) {
        Some(sub) => (sub.group.as_str(), sub.version.as_str(), sub.kind.as_str()),
        None => (resource.group.as_str(), resource.version.as_str(), resource.kind.as_str()),
    };
    Attempt { operation, action, old, kind, dry_run }
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
