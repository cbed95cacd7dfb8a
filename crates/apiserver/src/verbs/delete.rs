//! Deleting an object or many: preconditions, grace periods, finalizers, propagation.

use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::read::{self, Selection};
use crate::admission;
use crate::body;
use crate::crd::definition;
use crate::kinds;
use crate::object;
use crate::operation::Operation;
use crate::operation::options::DeleteOptions;
use crate::respond::Response;
use crate::status::Status;
use crate::store::{Expect, Key, Stored, WriteError};
use crate::verbs::{definitions, show};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const JOB_WARNING: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";
const ATTEMPTS: usize = 32;

/// How a deletion went.
#[derive(Debug)]
struct Deleted {
    /// The object in its last state.
    value: Value,
    /// Whether it is gone; otherwise it waits for its grace period or finalizers.
    is_gone: bool,
}

/// Answers DELETE of one object.
///
/// # Errors
/// The refusal that the client gets.
pub async fn delete(operation: &Operation, bytes: &Bytes) -> Result<Response, Status> {
    let options = options(operation, bytes)?;
    if operation.resource.storage == "batch/jobs"
        && options.propagation.is_none()
        && options.orphan.is_none()
    {
        operation.warn(JOB_WARNING);
    }
    let name = operation.call.info.name.clone();
    let deleted = delete_one(operation, &name, &options).await?;
    let resource = &operation.resource;
    if deleted.is_gone && !kinds::returns_deleted(resource) {
        let details = json!({
            "name": name,
            "kind": resource.plural,
            "uid": object::uid(&deleted.value),
        });
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": details,
        });
        if !resource.group.is_empty() {
            status["details"]["group"] = resource.group.clone().into();
        }
        return show::object(operation, 200, &status);
    }
    let is_async = !deleted.is_gone && options.orphan == Some(false);
    let code = if is_async { 202 } else { 200 };
    show::object(operation, code, &show::in_version(resource, &deleted.value))
}

fn options(operation: &Operation, bytes: &Bytes) -> Result<DeleteOptions, Status> {
    let body = if bytes.is_empty() {
        Value::Null
    } else {
        body::parse(&operation.call.parts.headers, bytes)?
    };
    if let Some(kind) = body["kind"].as_str()
        && kind != "DeleteOptions"
    {
        return Err(Status::bad_request(format!(
            "decoded object cannot be converted to DeleteOptions: got {kind}"
        )));
    }
    DeleteOptions::read(&body, &operation.call.query)
}

/// Answers DELETE of a list.
///
/// # Errors
/// The refusal that the client gets.
pub async fn delete_collection(operation: &Operation, bytes: &Bytes) -> Result<Response, Status> {
    let options = options(operation, bytes)?;
    let selection = Selection::read(operation)?;
    let resource = &operation.resource;
    let snapshot = operation.api.store.list(&resource.storage, read::namespace(operation));
    let mut items = Vec::new();
    for stored in &snapshot.objects {
        let value = show::in_version(resource, &stored.value);
        if !selection.matches(&value) {
            continue;
        }
        match delete_stored(operation, stored, &options).await {
            Ok(deleted) => {
                let mut item = show::in_version(resource, &deleted.value).into_owned();
                if resource.custom.is_none() {
                    object::remove(&mut item, "kind");
                    object::remove(&mut item, "apiVersion");
                }
                items.push(item);
            }
            Err(status) if status.reason() == "NotFound" => (),
            Err(status) => return Err(status),
        }
    }
    let mut list = json!({
        "kind": resource.list_kind,
        "apiVersion": resource.api_version(),
        "metadata": {"resourceVersion": operation.api.store.revision().to_string()},
        "items": items,
    });
    if resource.custom.is_some() {
        list["metadata"]["continue"] = "".into();
    }
    show::object(operation, 200, &list)
}

/// Deletes a pod that may be evicted.
///
/// # Errors
/// The refusal that the client gets.
pub async fn evicted(
    operation: &Operation,
    key: &Key,
    options: &DeleteOptions,
) -> Result<(), Status> {
    delete_key(operation, key, options).await.map(drop)
}

/// Deletes an object on behalf of the server itself.
///
/// # Errors
/// The refusal that a client would get.
pub async fn by_server(operation: &Operation, key: &Key) -> Result<(), Status> {
    match delete_key(operation, key, &DeleteOptions::default()).await {
        Err(status) if status.reason() != "NotFound" => Err(status),
        _ => Ok(()),
    }
}

async fn delete_stored(
    operation: &Operation,
    stored: &Stored,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    delete_key(operation, &stored.key, options).await
}

async fn delete_one(
    operation: &Operation,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    delete_key(operation, &operation.key(name), options).await
}

async fn delete_key(
    operation: &Operation,
    key: &Key,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    let name = &key.name;
    let store = &operation.api.store;
    for _ in 0..ATTEMPTS {
        let current = store.newest(key).ok_or_else(|| operation.not_found(name))?;
        let old = show::in_version(&operation.resource, &current.value).into_owned();
        check(operation, name, &old, options)?;
        admission::may_delete(operation, name)?;
        let dry = operation.options.dry_run || options.dry_run;
        admission::delete(operation, &old, dry).await?;
        let done = match step(operation, &current, options) {
            Step::Pending => {
                return Ok(Deleted { value: current.value.clone(), is_gone: false });
            }
            Step::Mark(value) if dry => return Ok(Deleted { value, is_gone: false }),
            Step::Remove if dry => {
                return Ok(Deleted { value: current.value.clone(), is_gone: true });
            }
            Step::Mark(value) => store
                .put(key.clone(), Expect::Revision(current.revision), value)
                .await
                .map(|stored| (stored, false)),
            Step::Remove => {
                store.remove(key.clone(), current.revision).await.map(|stored| (stored, true))
            }
        };
        match done {
            Ok((stored, false))
                if kinds::may_go(&stored.value) && stored.value["kind"] == "Pod" =>
            {
                let gone = store.remove(key.clone(), stored.revision).await;
                let value = gone.map_or_else(|_| stored.value.clone(), |gone| gone.value.clone());
                return Ok(Deleted { value, is_gone: true });
            }
            Ok((stored, is_gone)) => {
                definitions::changed(&operation.api, &operation.resource.storage).await;
                return Ok(Deleted { value: stored.value.clone(), is_gone });
            }
            Err(WriteError::Changed | WriteError::Exists) => (),
            Err(failed) => return Err(Status::internal(failed)),
        }
    }
    Err(operation.modified(name))
}

/// Preconditions, in Kubernetes' words.
fn check(
    operation: &Operation,
    name: &str,
    old: &Value,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let resource = &operation.resource;
    let refuse = |why: String| Err(Status::conflict(&resource.group, &resource.kind, name, why));
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != object::uid(old)) {
        return refuse(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            object::uid(old)
        ));
    }
    let version = object::meta(old, "resourceVersion");
    if let Some(wanted) = options.resource_version.as_deref().filter(|v| *v != version) {
        return refuse(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        ));
    }
    Ok(())
}

/// What a deletion does to an object now.
enum Step {
    /// It is on its way already.
    Pending,
    /// It gets a deletion timestamp, or new finalizers.
    Mark(Value),
    Remove,
}

fn step(operation: &Operation, current: &Arc<Stored>, options: &DeleteOptions) -> Step {
    let resource = &operation.resource;
    let mut value = current.value.clone();
    let before = value.clone();
    let graceful = match grace(operation, &mut value, options) {
        Grace::Pending => return Step::Pending,
        Grace::Set => true,
        Grace::None => false,
    };
    let finalizers = finalizers(operation, &value, options);
    if resource.storage == definition::STORAGE {
        mark(&mut value);
        definition::mark_terminating(&mut value);
        return if value == before { Step::Pending } else { Step::Mark(value) };
    }
    let keeps = !finalizers.is_empty() || kinds::has_spec_finalizers(resource, &value);
    let list = if finalizers.is_empty() { Value::Null } else { json!(finalizers) };
    object::set_meta(&mut value, "finalizers", list);
    if keeps && !graceful {
        if resource.storage == "/namespaces" {
            if !object::is_deleting(&value) {
                object::set_meta(&mut value, "deletionTimestamp", object::now());
            }
        } else {
            mark(&mut value);
        }
        kinds::mark_deleting(resource, &mut value);
    }
    if !keeps && !graceful {
        // Pods are seen going even when they go at once.
        if resource.storage == "/pods" && value["metadata"]["deletionGracePeriodSeconds"] != 0 {
            mark(&mut value);
            return Step::Mark(value);
        }
        return Step::Remove;
    }
    if value == before { Step::Pending } else { Step::Mark(value) }
}

enum Grace {
    None,
    Set,
    Pending,
}

/// Graceful deletion: only pods have it.
fn grace(operation: &Operation, value: &mut Value, options: &DeleteOptions) -> Grace {
    let asked = options.grace.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let Some(period) = kinds::grace_period(&operation.resource, value, asked) else {
        return Grace::None;
    };
    let now = Timestamp::now();
    if object::is_deleting(value) {
        let current = value["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        return match asked {
            _ if current == 0 => Grace::None,
            Some(0) => Grace::None,
            Some(asked) if asked < current => {
                let stamp = object::meta(value, "deletionTimestamp").parse::<Timestamp>();
                let moved = stamp.unwrap_or(now) - SignedDuration::from_secs(current - asked);
                let (at, period) = if moved < now { (now, 1) } else { (moved, asked) };
                object::set_meta(value, "deletionTimestamp", object::time(at));
                object::set_meta(value, "deletionGracePeriodSeconds", period);
                Grace::Set
            }
            _ => Grace::Pending,
        };
    }
    if period == 0 {
        return Grace::None;
    }
    bump_generation(value);
    object::set_meta(
        value,
        "deletionTimestamp",
        object::time(now + SignedDuration::from_secs(period)),
    );
    object::set_meta(value, "deletionGracePeriodSeconds", period);
    Grace::Set
}

/// Deletion without grace that waits for finalizers.
fn mark(value: &mut Value) {
    let now = Timestamp::now();
    if !object::is_deleting(value) {
        bump_generation(value);
    }
    let stamp = object::meta(value, "deletionTimestamp").parse::<Timestamp>();
    if stamp.is_err() || stamp.is_ok_and(|at| at > now) {
        object::set_meta(value, "deletionTimestamp", object::time(now));
    }
    object::set_meta(value, "deletionGracePeriodSeconds", 0);
}

fn bump_generation(value: &mut Value) {
    if let Some(generation) = value["metadata"]["generation"].as_i64().filter(|g| *g > 0) {
        object::set_meta(value, "generation", generation + 1);
    }
}

/// The finalizers that propagation leaves: the garbage collector's come and go with the policy.
fn finalizers(operation: &Operation, value: &Value, options: &DeleteOptions) -> Vec<String> {
    let mut list = object::finalizers(value);
    if !kinds::is_garbage_collected(&operation.resource) {
        return list;
    }
    let has = |name: &str, list: &[String]| list.iter().any(|have| have == name);
    let (orphan, foreground) = match (options.orphan, options.propagation.as_deref()) {
        (Some(orphan), _) => (orphan, false),
        (None, Some("Orphan")) => (true, false),
        (None, Some("Foreground")) => (false, true),
        (None, Some(_)) => (false, false),
        (None, None) if kinds::orphans_by_default(&operation.resource) => (true, false),
        (None, None) => (has(ORPHAN, &list), has(FOREGROUND, &list)),
    };
    list.retain(|name| name != ORPHAN && name != FOREGROUND);
    if orphan {
        list.push(ORPHAN.to_owned());
    }
    if foreground {
        list.push(FOREGROUND.to_owned());
    }
    list
}
