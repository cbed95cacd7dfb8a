//! `Table` output: the columns that `kubectl get` prints.

use serde_json::{Value, json};

use crate::resources::ResourceType;

/// Shows objects as a table. `include` is the request's `includeObject` option; `metadata` is the
/// list's.
pub fn render(_: &ResourceType, objects: &[&Value], include: &str, metadata: Value) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let meta = &object["metadata"];
            let mut row = json!({"cells": [meta["name"], meta["creationTimestamp"]]});
            row["object"] = match include {
                "None" => Value::Null,
                "Object" => (*object).clone(),
                _ => partial(object),
            };
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [
            {"name": "Name", "type": "string", "format": "name", "priority": 0,
             "description": "Name of the object"},
            {"name": "Created At", "type": "date", "format": "", "priority": 0,
             "description": "When the object was made"},
        ],
        "rows": rows,
    })
}

/// The object's metadata alone.
pub fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}
