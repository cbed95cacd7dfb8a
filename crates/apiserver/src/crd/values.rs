//! Pruning and defaulting of custom resources by their structural schema.

use serde_json::{Map, Value};

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const IDENTITY: &[&str] = &["apiVersion", "kind", "metadata"];

/// Drops what the schema does not know; returns the paths of what was dropped.
pub fn prune(schema: &Value, object: &mut Value) -> Vec<String> {
    let mut dropped = Vec::new();
    prune_at(schema, object, true, "", &mut dropped);
    dropped
}

fn prune_at(
    schema: &Value,
    value: &mut Value,
    identified: bool,
    path: &str,
    dropped: &mut Vec<String>,
) {
    match value {
        Value::Object(map) => prune_object(schema, map, identified, path, dropped),
        Value::Array(items) => {
            let element = &schema["items"];
            for (index, item) in items.iter_mut().enumerate() {
                let identified = element[EMBEDDED] == true;
                prune_at(element, item, identified, &format!("{path}[{index}]"), dropped);
            }
        }
        _ => (),
    }
}

fn prune_object(
    schema: &Value,
    map: &mut Map<String, Value>,
    identified: bool,
    path: &str,
    dropped: &mut Vec<String>,
) {
    let preserves = schema[PRESERVE] == true;
    let names: Vec<String> = map.keys().cloned().collect();
    for name in names {
        if identified && IDENTITY.contains(&name.as_str()) {
            continue;
        }
        let field = match (schema["properties"].get(&name), &schema["additionalProperties"]) {
            (Some(field), _) => Some(field),
            (None, rest @ Value::Object(_)) => Some(rest),
            (None, Value::Bool(true)) => continue,
            (None, _) if preserves => continue,
            (None, _) => None,
        };
        let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match (field, map.get_mut(&name)) {
            (Some(field), Some(value)) => {
                prune_at(field, value, field[EMBEDDED] == true, &below, dropped);
            }
            _ => {
                map.remove(&name);
                dropped.push(below);
            }
        }
    }
}

/// Fills in the schema's defaults. A null that the schema does not allow gives way to a default.
pub fn default(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                let Some(default) = field.get("default") else { continue };
                let is_wanted = match map.get(name) {
                    None => true,
                    Some(have) => have.is_null() && field["nullable"] != true,
                };
                if is_wanted {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in map.iter_mut() {
                match (schema["properties"].get(name), &schema["additionalProperties"]) {
                    (Some(field), _) => default(field, value),
                    (None, rest @ Value::Object(_)) => default(rest, value),
                    _ => (),
                }
            }
        }
        Value::Array(items) => {
            items.iter_mut().for_each(|item| default(&schema["items"], item));
        }
        _ => (),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_fields_go_and_defaults_come() {
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "default": {}, "properties": {
                "mode": {"type": "string", "default": "A"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "integer"}}}},
            }},
        }});
        let mut object = json!({
            "kind": "X", "metadata": {"name": "a"},
            "spec": {"x": 1, "free": {"y": 1}, "map": {"k": {"a": 1, "b": 2}}},
            "extra": 1,
        });
        assert_eq!(prune(&schema, &mut object), ["extra", "spec.map.k.b", "spec.x"]);
        default(&schema, &mut object);
        let expected = json!({
            "kind": "X", "metadata": {"name": "a"},
            "spec": {"mode": "A", "free": {"y": 1}, "map": {"k": {"a": 1}}},
        });
        assert_eq!(object, expected);
        let mut empty = json!({});
        default(&schema, &mut empty);
        assert_eq!(empty, json!({"spec": {"mode": "A"}}));
    }
}
