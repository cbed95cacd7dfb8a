//! `pods/binding`: a scheduler puts a pod on a node.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::admission::{self, Action};
use crate::body;
use crate::object::{self, child};
use crate::operation::{Operation, check_kind};
use crate::respond::{self, Response};
use crate::status::{Cause, Status};
use crate::verbs::update::{self, Managed};

/// Answers POST of a binding, below a pod or at `bindings`.
///
/// # Errors
/// The refusal that the client gets.
pub async fn create(operation: &Operation, bytes: &Bytes) -> Result<Response, Status> {
    let mut binding = body::parse(&operation.call.parts.headers, bytes)?;
    check_kind(&mut binding, "v1", "Binding")?;
    let name = match operation.call.info.name.as_str() {
        "" => object::name(&binding).to_owned(),
        name => name.to_owned(),
    };
    if object::name(&binding) != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
    if node.is_empty() {
        let cause = Cause {
            reason: "FieldValueRequired",
            message: "Required value".into(),
            field: "target.name".into(),
        };
        return Err(Status::invalid("", "Binding", &name, vec![cause]));
    }
    admission::validate(operation, Action::Create, &binding, None).await?;
    update::replace(operation, &name, Managed::Brought, |pod| bound(pod, &binding, &node)).await?;
    Ok(respond::json(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

fn bound(pod: &Value, binding: &Value, node: &str) -> Result<Value, Status> {
    let name = object::name(pod);
    let refuse = |why: String| Err(Status::conflict("", "pods/binding", name, why));
    let uid = object::uid(binding);
    if !uid.is_empty() && uid != object::uid(pod) {
        return refuse(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::uid(pod)
        ));
    }
    if object::is_deleting(pod) {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let current = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !current.is_empty() {
        return refuse(format!("pod {name} is already assigned to node \"{current}\""));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut pod = pod.clone();
    child(&mut pod, "spec").insert("nodeName".to_owned(), node.into());
    for (key, value) in binding["metadata"]["annotations"].as_object().into_iter().flatten() {
        let metadata = object::meta_mut(&mut pod);
        object::as_map(metadata.entry("annotations").or_insert_with(|| json!({})))
            .insert(key.clone(), value.clone());
    }
    let conditions = child(&mut pod, "status").entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|have| have["type"] != "PodScheduled");
        conditions.push(json!({
            "type": "PodScheduled",
            "status": "True",
            "lastProbeTime": null,
            "lastTransitionTime": object::now(),
        }));
    }
    object::set_meta(&mut pod, "resourceVersion", Value::Null);
    Ok(pod)
}
