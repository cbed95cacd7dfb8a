//! From the `openAPIV3Schema` of a custom resource to the form that patches and apply walk.

use std::sync::Arc;

use serde_json::Value;

use super::{Field, Kind, ListType, Object, Schema, Zero};
use crate::object::strings;

/// The schema of a whole custom resource.
pub fn read(open_api: &Value) -> Schema {
    let mut schema = node(open_api);
    match &mut schema.kind {
        Kind::Object(object) => object.embedded = true,
        other => {
            let rest = Some(Arc::new(Schema::any()));
            *other = Kind::Object(Object { embedded: true, rest, ..Object::default() });
        }
    }
    schema
}

fn node(value: &Value) -> Schema {
    let mut schema = Schema::of(kind(value));
    schema.nullable = value["nullable"] == true;
    schema.default = value.get("default").cloned();
    schema.atomic = value["x-kubernetes-map-type"] == "atomic";
    schema.list = match value["x-kubernetes-list-type"].as_str() {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map(strings(&value["x-kubernetes-list-map-keys"])),
        _ => ListType::Atomic,
    };
    schema
}

fn kind(value: &Value) -> Kind {
    if value["x-kubernetes-int-or-string"] == true {
        return Kind::IntOrString;
    }
    match value["type"].as_str() {
        Some("string") => Kind::String,
        Some("boolean") => Kind::Boolean,
        Some("integer") => Kind::Integer(64),
        Some("number") => Kind::Number,
        Some("array") => Kind::Array(Arc::new(node(&value["items"]))),
        Some("object") => object(value),
        _ => Kind::Any,
    }
}

fn object(value: &Value) -> Kind {
    let preserves = value["x-kubernetes-preserve-unknown-fields"] == true;
    let rest = match &value["additionalProperties"] {
        rest @ Value::Object(_) => Some(Arc::new(node(rest))),
        Value::Bool(true) => Some(Arc::new(Schema::any())),
        _ if preserves => Some(Arc::new(Schema::any())),
        _ => None,
    };
    let Some(properties) = value["properties"].as_object() else {
        return match rest {
            Some(rest) if preserves && value["additionalProperties"].is_null() => match rest.kind {
                Kind::Any => Kind::Any,
                _ => Kind::Map(rest),
            },
            Some(rest) => Kind::Map(rest),
            None => Kind::Object(Object {
                embedded: value["x-kubernetes-embedded-resource"] == true,
                ..Object::default()
            }),
        };
    };
    let required = strings(&value["required"]);
    let fields = properties
        .iter()
        .map(|(name, field)| {
            let required = required.contains(name);
            let field = Field { schema: node(field), required, zero: Zero::Kept, tag: Vec::new() };
            (name.clone(), field)
        })
        .collect();
    let embedded = value["x-kubernetes-embedded-resource"] == true;
    Kind::Object(Object { fields, rest, embedded })
}
