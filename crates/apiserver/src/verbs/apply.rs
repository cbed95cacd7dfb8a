//! Server-side apply: PATCH with a configuration that says all a manager wants of an object.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::body;
use crate::incoming;
use crate::managed;
use crate::object;
use crate::operation::Operation;
use crate::status::{Cause, Status};
use crate::verbs::create;
use crate::verbs::update::{self, Managed, Written};

/// Applies a configuration; creates the object if it does not exist.
///
/// # Errors
/// The refusal that the client gets.
pub async fn apply(operation: &Operation, name: &str, bytes: &Bytes) -> Result<Written, Status> {
    let config = configuration(operation, name, bytes)?;
    if operation.newest(name).is_none() && operation.subresource().is_empty() {
        match first(operation, &config).await {
            // Somebody else was first: apply onto what is there now.
            Err(status) if status.reason() == "AlreadyExists" => (),
            done => return done,
        }
    }
    update::replace(operation, name, Managed::Brought, |live| {
        let mut new = managed::by_apply(operation, live, &config)?;
        incoming::decode(operation, &mut new)?;
        let wanted = config["metadata"]["resourceVersion"].clone();
        object::set_meta(&mut new, "resourceVersion", wanted);
        Ok(new)
    })
    .await
}

async fn first(operation: &Operation, config: &Value) -> Result<Written, Status> {
    let resource = &operation.resource;
    let name = object::name(config);
    if !object::uid(config).is_empty() {
        let why = format!(
            "uid mismatch: the provided object specified uid {}, and no existing object was found",
            object::uid(config)
        );
        return Err(Status::conflict(&resource.group, &resource.plural, name, why));
    }
    if !object::meta(config, "resourceVersion").is_empty() {
        return Err(operation.not_found(name));
    }
    let blank = json!({"apiVersion": resource.api_version(), "kind": resource.kind});
    let mut new = managed::by_apply(operation, &blank, config)?;
    incoming::decode(operation, &mut new)?;
    let value = create::insert(operation, new).await?;
    Ok(Written { value, created: true })
}

fn configuration(operation: &Operation, name: &str, bytes: &Bytes) -> Result<Value, Status> {
    let resource = &operation.resource;
    if !operation.options.has_manager {
        let cause = Cause {
            reason: "FieldValueRequired",
            message: "Required value: is required for apply patch".into(),
            field: "fieldManager".into(),
        };
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
    }
    let mut config = body::yaml(bytes)?;
    if !config.is_object() {
        return Err(Status::bad_request("error decoding YAML: the configuration is not an object"));
    }
    let text = |field: &str| config[field].as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version != resource.api_version() || kind != resource.kind {
        let version = if version.contains('/') { version } else { format!("/{version}") };
        return Err(Status::bad_request(format!("invalid object type: {version}, Kind={kind}")));
    }
    if !config["metadata"]["managedFields"].is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    if object::name(&config).is_empty() {
        object::set_meta(&mut config, "name", name);
    }
    drop_nulls(&mut config);
    Ok(config)
}

/// A null says nothing about who wants what.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => (),
    }
}
