//! The version 2 document, made from those of version 3: the same paths and schemas under other
//! names.

use serde_json::{Map, Value, json};

use super::{VERSION, group_versions};
use crate::resources::Catalog;

/// `/openapi/v2`: everything that is served, in one document.
pub fn document(catalog: &Catalog) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for (group, version) in group_versions(catalog) {
        let Some(mut document) = super::document(catalog, &group, &version) else { continue };
        if let Value::Object(own) = document["paths"].take() {
            paths.extend(own.into_iter().map(|(path, item)| (path, path_item(item))));
        }
        if let Value::Object(own) = document["components"]["schemas"].take() {
            for (name, schema) in own {
                merge(&mut definitions, name, convert(schema));
            }
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "description": "Bearer Token authentication",
            "name": "authorization", "in": "header",
        }},
        "security": [{"BearerToken": []}],
    })
}

/// Keeps the copy that names its kind: a schema may be part of several documents.
fn merge(definitions: &mut Map<String, Value>, name: String, schema: Value) {
    let marked = schema.get("x-kubernetes-group-version-kind").is_some();
    if marked || !definitions.contains_key(&name) {
        definitions.insert(name, schema);
    }
}

fn path_item(item: Value) -> Value {
    let Value::Object(item) = item else { return item };
    let converted = item.into_iter().map(|(name, value)| {
        let value = match value {
            Value::Array(parameters) if name == "parameters" => {
                parameters.into_iter().map(parameter).collect()
            }
            operation => convert_operation(operation),
        };
        (name, value)
    });
    Value::Object(converted.collect())
}

fn convert_operation(mut operation: Value) -> Value {
    let mut parameters: Vec<Value> = match operation["parameters"].take() {
        Value::Array(parameters) => parameters.into_iter().map(parameter).collect(),
        _ => Vec::new(),
    };
    let body = operation.as_object_mut().and_then(|object| object.remove("requestBody"));
    if let Some(Value::Object(content)) =
        body.as_ref().and_then(|body| body.get("content")).cloned()
    {
        let schema = content.values().next().map(|media| convert(media["schema"].clone()));
        parameters.push(json!({"name": "body", "in": "body", "schema": schema}));
        operation["consumes"] = json!(content.keys().collect::<Vec<_>>());
    }
    operation["parameters"] = parameters.into();
    operation["produces"] = json!(["application/json", "application/yaml"]);
    operation["schemes"] = json!(["https"]);
    if let Some(responses) = operation["responses"].as_object_mut() {
        for response in responses.values_mut() {
            let schema = response.pointer("/content/application~1json/schema").cloned();
            if let Some(object) = response.as_object_mut() {
                object.remove("content");
            }
            if let Some(schema) = schema {
                response["schema"] = convert(schema);
            }
        }
    }
    operation
}

fn parameter(mut parameter: Value) -> Value {
    if let Value::Object(schema) = parameter["schema"].take()
        && let Some(object) = parameter.as_object_mut()
    {
        object.remove("schema");
        object.extend(schema);
    }
    parameter
}

/// References point elsewhere, and what stands around a reference stands beside it.
fn convert(schema: Value) -> Value {
    match schema {
        Value::Array(list) => list.into_iter().map(convert).collect(),
        Value::Object(mut object) => {
            if let Some(Value::Array(mut all)) = object.remove("allOf") {
                if let (1, Some(Value::Object(reference))) = (all.len(), all.first().cloned())
                    && reference.contains_key("$ref")
                {
                    object.remove("default");
                    object.extend(reference);
                } else {
                    all = all.into_iter().map(convert).collect();
                    object.insert("allOf".into(), all.into());
                }
            }
            let alternatives = object.remove("oneOf");
            if alternatives.is_some() {
                object.insert("type".into(), "string".into());
            }
            let converted = object.into_iter().map(|(key, value)| match value {
                Value::String(target) if key == "$ref" => {
                    (key, target.replace("#/components/schemas/", "#/definitions/").into())
                }
                value => (key, convert(value)),
            });
            Value::Object(converted.collect())
        }
        other => other,
    }
}
