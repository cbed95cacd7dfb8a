//! `Table` output: the columns that `kubectl get` prints.
//!
//! Built-in kinds have Kubernetes' own columns; custom kinds those of their definition; all others
//! a name and a time. Cells are computed from the object alone, at the moment of the request.

use serde_json::{Value, json};

use crate::resources::ResourceType;

mod access;
mod age;
mod builtin;
mod columns;
mod custom;
mod jsonpath;
mod network;
mod pods;
mod workloads;

use columns::Column;

/// Shows objects as a table. `include` is the request's `includeObject` option; `metadata` is the
/// list's.
pub fn render(
    resource: &ResourceType,
    objects: &[&Value],
    include: &str,
    metadata: Value,
) -> Value {
    let custom = resource.custom.as_deref().map(custom::columns);
    let columns = match &custom {
        Some(columns) => columns.iter().map(custom::definition).collect(),
        None => definitions(builtin::columns(&resource.group, &resource.plural)),
    };
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut cells = vec![object["metadata"]["name"].clone()];
            match &custom {
                Some(columns) => cells.extend(columns.iter().map(|c| custom::cell(c, object))),
                None => {
                    let columns = builtin::columns(&resource.group, &resource.plural);
                    cells.extend(columns.iter().map(|column| (column.cell)(object)));
                }
            }
            row(resource, object, cells, include)
        })
        .collect();
    let mut definitions = vec![json!({
        "name": "Name", "type": "string", "format": "name", "priority": 0,
        "description": "Name of the object",
    })];
    definitions.extend::<Vec<Value>>(columns);
    // Events are told apart by what happened, and named last.
    let (definitions, rows) =
        if resource.plural == "events" { events(definitions, rows) } else { (definitions, rows) };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

fn definitions(columns: &[Column]) -> Vec<Value> {
    columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.kind,
                "format": "",
                "priority": i32::from(column.wide),
                "description": column.name,
            })
        })
        .collect()
}

fn row(resource: &ResourceType, object: &Value, cells: Vec<Value>, include: &str) -> Value {
    let mut row = json!({"cells": cells});
    if resource.group.is_empty() && resource.plural == "pods" {
        let finished = match object.pointer("/status/phase").and_then(Value::as_str) {
            Some("Succeeded") => Some(("Succeeded", "The pod has completed successfully.")),
            Some("Failed") => Some(("Failed", "The pod failed.")),
            _ => None,
        };
        if let Some((reason, message)) = finished {
            row["conditions"] = json!([
                {"type": "Completed", "status": "True", "reason": reason, "message": message},
            ]);
        }
    }
    row["object"] = match include {
        "None" => Value::Null,
        "Object" => object.clone(),
        _ => partial(object),
    };
    row
}

fn events(mut definitions: Vec<Value>, mut rows: Vec<Value>) -> (Vec<Value>, Vec<Value>) {
    let mut name = definitions.remove(0);
    name["priority"] = 1.into();
    definitions.push(name);
    for row in &mut rows {
        if let Some(cells) = row["cells"].as_array_mut() {
            cells.rotate_left(1);
        }
    }
    (definitions, rows)
}

/// The object's metadata alone.
pub fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

#[cfg(test)]
mod tests;
