//! Creating an object.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use crate::admission::{self, Action};
use crate::convert;
use crate::crd::known;
use crate::incoming;
use crate::kinds;
use crate::managed;
use crate::names;
use crate::object;
use crate::operation::Operation;
use crate::respond::Response;
use crate::status::Status;
use crate::store::{Expect, Stored, WriteError};
use crate::validate;
use crate::verbs::{definitions, show};

/// Letters of generated names: no vowels, nothing that looks alike.
/// How often a generated name may be taken before the client is told.
const ATTEMPTS: usize = 8;

/// Answers POST.
///
/// # Errors
/// The refusal that the client gets.
pub async fn create(operation: &Operation, bytes: &Bytes) -> Result<Response, Status> {
    let mut object = operation.parse(bytes)?;
    operation.check_kind(&mut object)?;
    incoming::decode(operation, &mut object)?;
    let value = insert(operation, object).await?;
    show::object(operation, 201, &show::in_version(&operation.resource, &value))
}

/// Creates a decoded object; returns it as kept.
///
/// # Errors
/// The refusal that the client gets.
pub async fn insert(operation: &Operation, mut object: Value) -> Result<Value, Status> {
    identify(operation, &mut object)?;
    let generated = object::name(&object).is_empty();
    for attempt in 1.. {
        let mut candidate = object.clone();
        if generated {
            let name = names::generate(object::meta(&object, "generateName"));
            object::set_meta(&mut candidate, "name", name);
        }
        let done = insert_named(operation, candidate).await;
        match done {
            Err(status)
                if generated && status.reason() == "AlreadyExists" && attempt < ATTEMPTS => {}
            done => return done,
        }
    }
    unreachable!("the loop above ends by returning")
}

async fn insert_named(operation: &Operation, mut object: Value) -> Result<Value, Status> {
    let resource = &operation.resource;
    let name = object::name(&object).to_owned();
    check_place(operation, &object)?;
    admission::namespace_exists(operation, &name)?;
    if !known::takes_objects(resource) {
        return Err(Status::new(
            405,
            "MethodNotAllowed",
            "create not allowed while custom resource definition is terminating",
        )
        .about(&resource.group, &resource.plural, &name));
    }
    // An applied object brings its own record.
    if object["metadata"]["managedFields"].is_null() {
        managed::by_update(operation, None, &mut object);
    }
    let mut object = admission::mutate(operation, Action::Create, object, None).await?;
    incoming::complete(operation, &mut object)?;
    kinds::prepare_create(resource, &mut object);
    let allocation = kinds::allocate(operation, &mut object, None).await?;
    let causes = validate::create(operation, &object);
    if !causes.is_empty() {
        return Err(Status::invalid(&resource.group, &resource.kind, &name, causes));
    }
    let (user, info) = (&operation.call.user, &operation.call.info);
    operation.api.authorizer.check_grant(user, info, &object, None)?;
    admission::validate(operation, Action::Create, &object, None).await?;
    convert::to_storage(resource, &mut object);
    if operation.options.dry_run {
        return match operation.newest(&name) {
            Some(_) => Err(Status::already_exists(&resource.group, &resource.plural, &name)),
            None => Ok(object),
        };
    }
    let stored = store(operation, &name, object).await?;
    drop(allocation);
    definitions::changed(&operation.api, &stored.key.storage).await;
    Ok(stored.value.clone())
}

async fn store(operation: &Operation, name: &str, object: Value) -> Result<Arc<Stored>, Status> {
    let resource = &operation.resource;
    let put = operation.api.store.put(operation.key(name), Expect::Absent, object);
    put.await.map_err(|error| match error {
        WriteError::Exists => {
            let deleting =
                operation.newest(name).is_some_and(|existing| object::is_deleting(&existing.value));
            let status = Status::already_exists(&resource.group, &resource.plural, name);
            if deleting {
                let message = format!("object is being deleted: {}", status.message());
                return status.with_message(message);
            }
            status
        }
        other => Status::internal(other),
    })
}

/// Gives a new object its identity and takes away what only the server may set.
fn identify(operation: &Operation, object: &mut Value) -> Result<(), Status> {
    let resource = &operation.resource;
    let name = object::name(object).to_owned();
    if name.is_empty() && object::meta(object, "generateName").is_empty() {
        let causes = vec![crate::status::Cause {
            reason: "FieldValueRequired",
            message: "Required value: name or generateName is required".into(),
            field: "metadata.name".into(),
        }];
        return Err(Status::invalid(&resource.group, &resource.kind, "", causes));
    }
    if !object::meta(object, "resourceVersion").is_empty() {
        return Err(Status::new(
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let metadata = object::meta_mut(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".to_owned(), object::now().into());
    if resource.namespaced && object::namespace(object).is_empty() {
        object::set_meta(object, "namespace", operation.call.info.namespace.clone());
    }
    Ok(())
}

/// The namespace in the object must be the one in the URL.
pub fn check_place(operation: &Operation, object: &Value) -> Result<(), Status> {
    let (have, wanted) = (object::namespace(object), &operation.call.info.namespace);
    let wanted = if operation.resource.namespaced { wanted.as_str() } else { "" };
    if have == wanted {
        return Ok(());
    }
    if !operation.resource.namespaced {
        return Err(Status::bad_request(
            "namespace specified on a cluster-scoped object".to_owned(),
        )
        .with_message(format!(
            "the namespace of the provided object does not match the namespace sent on the request ({have} is not empty)"
        )));
    }
    Err(Status::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}
