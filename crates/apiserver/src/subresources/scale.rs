//! `scale`: the replicas of a workload, as `autoscaling/v1 Scale`.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::body;
use crate::object;
use crate::operation::{Operation, check_kind};
use crate::respond::Response;
use crate::schema::{self, decode};
use crate::status::{Cause, Status};
use crate::strategic;
use crate::verbs::show;
use crate::verbs::update::{self, Managed};

const VERSION: &str = "autoscaling/v1";

/// Answers GET.
///
/// # Errors
/// The refusal that the client gets.
pub fn get(operation: &Operation) -> Result<Response, Status> {
    let name = &operation.call.info.name;
    let stored =
        operation.api.store.get(&operation.key(name)).ok_or_else(|| operation.not_found(name))?;
    show::object(operation, 200, &scale(operation, &stored.value))
}

/// Answers PUT.
///
/// # Errors
/// The refusal that the client gets.
pub async fn update(operation: &Operation, bytes: &Bytes) -> Result<Response, Status> {
    let mut wanted = body::parse(&operation.call.parts.headers, bytes)?;
    check_kind(&mut wanted, VERSION, "Scale")?;
    write(operation, |_| Ok(wanted.clone())).await
}

/// Answers PATCH.
///
/// # Errors
/// The refusal that the client gets.
pub async fn patch(operation: &Operation, bytes: &Bytes) -> Result<Response, Status> {
    let patch = body::json(bytes)?;
    let schema = schema::builtin("autoscaling", "v1", "Scale");
    match body::media_type(&operation.call.parts.headers) {
        "application/merge-patch+json" => {
            write(operation, |mut scale| {
                json_patch::merge(&mut scale, &patch);
                Ok(unpinned(scale, &patch))
            })
            .await
        }
        "application/strategic-merge-patch+json" => {
            write(operation, |mut scale| {
                strategic::apply(schema.as_deref(), &mut scale, &patch)
                    .map_err(Status::bad_request)?;
                Ok(unpinned(scale, &patch))
            })
            .await
        }
        "application/json-patch+json" => {
            let patch: json_patch::Patch = serde_json::from_value(patch)
                .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
            write(operation, |mut scale| {
                json_patch::patch(&mut scale, &patch)
                    .map_err(|error| Status::new(422, "Invalid", error.to_string()))?;
                Ok(unpinned(scale, &Value::Null))
            })
            .await
        }
        _ => Err(Status::unsupported_media_type(&[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ])),
    }
}

/// A patch depends on the version only if it names one.
fn unpinned(mut scale: Value, patch: &Value) -> Value {
    if patch["metadata"]["resourceVersion"].is_null() {
        object::set_meta(&mut scale, "resourceVersion", Value::Null);
    }
    scale
}

async fn write(
    operation: &Operation,
    change: impl Fn(Value) -> Result<Value, Status>,
) -> Result<Response, Status> {
    let name = operation.call.info.name.clone();
    let written = update::replace(operation, &name, Managed::ByUpdate, |old| {
        let mut wanted = change(scale(operation, old))?;
        check(&mut wanted, &name)?;
        let mut new = old.clone();
        let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
        set(&mut new, &spec_path(operation), replicas.into());
        object::set_meta(
            &mut new,
            "resourceVersion",
            wanted["metadata"]["resourceVersion"].clone(),
        );
        Ok(new)
    })
    .await?;
    show::object(operation, 200, &scale(operation, &written.value))
}

fn check(wanted: &mut Value, name: &str) -> Result<(), Status> {
    if let Some(schema) = schema::builtin("autoscaling", "v1", "Scale") {
        decode::decode(&schema, "Scale", wanted).map_err(|error| {
            Status::bad_request(format!(
                "Scale in version \"v1\" cannot be handled as a Scale: {error}"
            ))
        })?;
    }
    let have = object::name(wanted);
    if !have.is_empty() && have != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({have}) does not match the name on the URL ({name})"
        )));
    }
    let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let cause = Cause {
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
            field: "spec.replicas".into(),
        };
        return Err(Status::invalid("autoscaling", "Scale", name, vec![cause]));
    }
    Ok(())
}

/// An object as its `Scale`.
fn scale(operation: &Operation, value: &Value) -> Value {
    let number = |path: &str| at(value, path).as_i64().unwrap_or(0);
    let custom = operation.resource.custom.as_ref().and_then(|custom| custom.scale.as_ref());
    let status_path = custom.map_or("status.replicas", |paths| paths.status_replicas.as_str());
    let selector = match custom {
        Some(paths) => paths
            .label_selector
            .as_deref()
            .and_then(|path| at(value, path).as_str())
            .unwrap_or_default()
            .to_owned(),
        None => selector_text(&value["spec"]["selector"]),
    };
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !value["metadata"][field].is_null() {
            metadata[field] = value["metadata"][field].clone();
        }
    }
    let mut spec = json!({});
    let replicas = number(&spec_path(operation));
    if replicas != 0 {
        spec["replicas"] = replicas.into();
    }
    let mut status = json!({"replicas": number(status_path)});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": VERSION, "metadata": metadata, "spec": spec, "status": status})
}

fn spec_path(operation: &Operation) -> String {
    let custom = operation.resource.custom.as_ref().and_then(|custom| custom.scale.as_ref());
    custom.map_or("spec.replicas", |paths| paths.spec_replicas.as_str()).to_owned()
}

fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').filter(|part| !part.is_empty()).fold(value, |value, part| &value[part])
}

fn set(value: &mut Value, path: &str, new: Value) {
    let parts: Vec<&str> = path.split('.').filter(|part| !part.is_empty()).collect();
    if let Some((last, above)) = parts.split_last() {
        let parent = above
            .iter()
            .fold(value, |value, part| object::as_map(value).entry(*part).or_insert(Value::Null));
        object::as_map(parent).insert((*last).to_owned(), new);
    }
}

/// A selector as one line, the way URLs write it.
fn selector_text(selector: &Value) -> String {
    let is_map = selector["matchLabels"].is_null() && selector["matchExpressions"].is_null();
    let labels = if is_map { selector } else { &selector["matchLabels"] };
    let mut parts: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let mut values = object::strings(&expression["values"]);
        values.sort();
        let values = values.join(",");
        parts.push(match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.sort();
    parts.join(",")
}
