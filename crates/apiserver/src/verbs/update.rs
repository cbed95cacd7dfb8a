//! Replacing an object, and the loop that PUT, PATCH and the status writes share.

use bytes::Bytes;
use serde_json::Value;

use super::create::{self, check_place};
use crate::admission::{self, Action};
use crate::convert;
use crate::incoming;
use crate::kinds::{self, Allocation};
use crate::managed;
use crate::object;
use crate::operation::Operation;
use crate::respond::Response;
use crate::status::{Cause, Status};
use crate::store::{Expect, WriteError};
use crate::validate;
use crate::verbs::{definitions, show};

/// How often an unconditional write is tried against a moving object.
const ATTEMPTS: usize = 32;

/// What a write produced.
#[derive(Debug)]
pub struct Written {
    pub value: Value,
    pub created: bool,
}

/// Answers PUT.
///
/// # Errors
/// The refusal that the client gets.
pub async fn update(operation: &Operation, bytes: &Bytes) -> Result<Response, Status> {
    let mut object = operation.parse(bytes)?;
    operation.check_kind(&mut object)?;
    incoming::decode(operation, &mut object)?;
    let name = operation.call.info.name.clone();
    check_name(&object, &name)?;
    if operation.newest(&name).is_none()
        && operation.subresource().is_empty()
        && kinds::may_create_by_update(&operation.resource)
    {
        object::set_meta(&mut object, "resourceVersion", Value::Null);
        let value = create::insert(operation, object).await?;
        return show::object(operation, 201, &show::in_version(&operation.resource, &value));
    }
    let written = replace(operation, &name, Managed::ByUpdate, |_| Ok(object.clone())).await?;
    show::object(operation, 200, &show::in_version(&operation.resource, &written.value))
}

/// Who keeps `managedFields` up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Managed {
    /// The change counts as an update by the request's manager.
    ByUpdate,
    /// The change brings its own, as server-side apply does.
    Brought,
}

/// Replaces an object by what `compute` makes of its current state, as seen in the operation's
/// version. Tries again when the object moves meanwhile, unless the new state names a version.
///
/// # Errors
/// The refusal that the client gets.
pub async fn replace(
    operation: &Operation,
    name: &str,
    managed: Managed,
    compute: impl Fn(&Value) -> Result<Value, Status>,
) -> Result<Written, Status> {
    for _ in 0..ATTEMPTS {
        let current = operation.newest(name).ok_or_else(|| operation.not_found(name))?;
        let old = show::in_version(&operation.resource, &current.value).into_owned();
        let mut new = compute(&old)?;
        check_name(&new, name)?;
        check_version(operation, name, &new, &old)?;
        let is_pinned = !object::meta(&new, "resourceVersion").is_empty();
        carry_over(operation, &mut new, &old);
        check_place(operation, &new)?;
        let (new, allocation) = admit(operation, name, managed, new, &old).await?;
        if is_unchanged(&new, &old) {
            return Ok(Written { value: current.value.clone(), created: false });
        }
        let stored = store(operation, name, current.revision, new).await;
        drop(allocation);
        match stored {
            Ok(value) => return Ok(Written { value, created: false }),
            Err(WriteError::Changed) if is_pinned => return Err(operation.modified(name)),
            Err(WriteError::Changed) => (),
            Err(other) => return Err(Status::internal(other)),
        }
    }
    Err(operation.modified(name))
}

/// Everything between the wish and the store: preparation, admission, validation.
async fn admit(
    operation: &Operation,
    name: &str,
    managed: Managed,
    mut new: Value,
    old: &Value,
) -> Result<(Value, Allocation), Status> {
    let resource = &operation.resource;
    let sub = operation.subresource();
    kinds::prepare_update(resource, sub, &mut new, old);
    if managed == Managed::ByUpdate {
        managed::by_update(operation, Some(old), &mut new);
    }
    let mut new = admission::mutate(operation, Action::Update, new, Some(old)).await?;
    incoming::complete(operation, &mut new)?;
    kinds::prepare_update(resource, sub, &mut new, old);
    let allocation = kinds::allocate(operation, &mut new, Some(old)).await?;
    let causes = validate::update(operation, &new, old);
    if !causes.is_empty() {
        return Err(Status::invalid(&resource.group, &resource.kind, name, causes));
    }
    let (user, info) = (&operation.call.user, &operation.call.info);
    operation.api.authorizer.check_grant(user, info, &new, Some(old))?;
    admission::validate(operation, Action::Update, &new, Some(old)).await?;
    Ok((new, allocation))
}

/// Writes the new state, or removes an object whose last finalizer went.
async fn store(
    operation: &Operation,
    name: &str,
    revision: u64,
    mut new: Value,
) -> Result<Value, WriteError> {
    let is_gone = kinds::may_go(&new);
    convert::to_storage(&operation.resource, &mut new);
    if operation.options.dry_run {
        return Ok(new);
    }
    let api = &operation.api;
    let key = operation.key(name);
    let value = if is_gone {
        // The last state is seen before the removal, as in Kubernetes.
        let removed = api.store.remove(key, revision).await?;
        let mut last = new;
        object::set_meta(&mut last, "resourceVersion", removed.revision.to_string());
        last
    } else {
        api.store.put(key, Expect::Revision(revision), new).await?.value.clone()
    };
    definitions::changed(api, &operation.resource.storage).await;
    Ok(value)
}

fn check_name(object: &Value, name: &str) -> Result<(), Status> {
    let have = object::name(object);
    if have.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    if have != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({have}) does not match the name on the URL ({name})"
        )));
    }
    Ok(())
}

fn check_version(
    operation: &Operation,
    name: &str,
    new: &Value,
    old: &Value,
) -> Result<(), Status> {
    let resource = &operation.resource;
    let uid = object::uid(new);
    let is_patch = operation.call.info.verb == "patch";
    if !is_patch && !uid.is_empty() && uid != object::uid(old) {
        let key = operation.key(name);
        let place = if key.namespace.is_empty() {
            key.name
        } else {
            format!("{}/{}", key.namespace, key.name)
        };
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: /registry/{}/{place}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            resource.plural,
            object::uid(old)
        );
        return Err(Status::conflict(&resource.group, &resource.plural, name, why));
    }
    let version = object::meta(new, "resourceVersion");
    if version.is_empty() {
        // A patch starts from the current state whatever it is.
        if is_patch
            || operation.subresource() == "scale"
            || kinds::may_update_unconditionally(resource)
        {
            return Ok(());
        }
        let cause = Cause {
            reason: "FieldValueInvalid",
            message: "Invalid value: 0: must be specified for an update".into(),
            field: "metadata.resourceVersion".into(),
        };
        return Err(Status::invalid(&resource.group, &resource.plural, name, vec![cause]));
    }
    if version.parse::<u64>().is_err() {
        let cause = Cause {
            reason: "FieldValueInvalid",
            message: format!(
                "Invalid value: \"{version}\": strconv.ParseUint: parsing \"{version}\": invalid syntax"
            ),
            field: "metadata.resourceVersion".into(),
        };
        return Err(Status::invalid(&resource.group, &resource.kind, name, vec![cause]));
    }
    if version != object::meta(old, "resourceVersion") {
        return Err(operation.modified(name));
    }
    Ok(())
}

/// What an update cannot change.
fn carry_over(operation: &Operation, new: &mut Value, old: &Value) {
    if object::uid(new).is_empty() {
        object::set_meta(new, "uid", object::uid(old));
    }
    for field in ["creationTimestamp", "generation", "deletionTimestamp", "selfLink"] {
        object::set_meta(new, field, old["metadata"][field].clone());
    }
    if new["metadata"]["deletionGracePeriodSeconds"].is_null() {
        let grace = old["metadata"]["deletionGracePeriodSeconds"].clone();
        object::set_meta(new, "deletionGracePeriodSeconds", grace);
    }
    if operation.resource.namespaced && object::namespace(new).is_empty() {
        object::set_meta(new, "namespace", operation.call.info.namespace.clone());
    }
    object::set_meta(new, "resourceVersion", old["metadata"]["resourceVersion"].clone());
}

/// Whether a write would change nothing but times in `managedFields`.
fn is_unchanged(new: &Value, old: &Value) -> bool {
    if new == old {
        return true;
    }
    let without_times = |value: &Value| {
        let mut value = value.clone();
        let entries = value["metadata"].get_mut("managedFields").and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten() {
            object::remove(entry, "time");
        }
        value
    };
    without_times(new) == without_times(old)
}
