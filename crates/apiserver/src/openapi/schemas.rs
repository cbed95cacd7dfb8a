//! Schemas of built-in kinds: descriptions and types from the generated types, merge rules from
//! the same table that patches use.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{kind_mark, kinds, reference, schema_name};
use crate::resources::ResourceType;
use crate::schema::{self, ListType, Schema};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const KIND: &str = "x-kubernetes-group-version-kind";

/// Every schema that the kinds of a group and version are made of.
pub fn builtin(group: &str, version: &str) -> Map<String, Value> {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = SchemaGenerator::new(settings);
    for (_, add) in kinds::kinds(group, version) {
        add(&mut generator);
    }
    // Kinds that bodies and answers are made of in every group.
    generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>();
    generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta>();
    generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status>();
    generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions>();
    generator.subschema_for::<k8s_openapi::api::autoscaling::v1::Scale>();
    generator.subschema_for::<k8s_openapi::api::authentication::v1::TokenRequest>();
    generator.subschema_for::<k8s_openapi::api::policy::v1::Eviction>();
    let mut schemas = generator.take_definitions(false);
    for (name, schema) in &mut schemas {
        finish(name, schema);
    }
    schemas.insert(format!("{META}.Patch"), patch());
    for (kind, group, version) in [
        ("Scale", "autoscaling", "v1"),
        ("TokenRequest", "authentication.k8s.io", "v1"),
        ("Eviction", "policy", "v1"),
    ] {
        let name = kinds::schema_name(group, version, kind);
        if let Some(schema) = name.and_then(|name| schemas.get_mut(&name)) {
            schema[KIND] = json!([kind_mark(group, version, kind)]);
        }
    }
    schemas
}

/// Marks the schema of a resource's kind, and adds that of its list.
pub fn tag_kind(schemas: &mut Map<String, Value>, resource: &ResourceType) {
    let name = schema_name(resource);
    let (group, version) = (resource.group.as_str(), resource.version.as_str());
    if let Some(schema) = schemas.get_mut(&name) {
        schema[KIND] = json!([kind_mark(group, version, &resource.kind)]);
    }
    if resource.has_verb("list") {
        schemas.insert(format!("{name}List"), list(resource, &name));
    }
}

/// The schema of a list of a resource's objects.
pub fn list(resource: &ResourceType, item: &str) -> Value {
    json!({
        "description": format!("{} is a list of {}.", resource.list_kind, resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of this list's schema."},
            "kind": {"type": "string", "description": "The kind of this list."},
            "metadata": of(reference(&format!("{META}.ListMeta")), "Standard list metadata."),
            "items": {
                "type": "array",
                "description": "The objects of the list.",
                "items": of(reference(item), ""),
            },
        },
        KIND: [kind_mark(&resource.group, &resource.version, &resource.list_kind)],
    })
}

/// A reference with what is said about the place where it stands.
pub fn of(reference: Value, description: &str) -> Value {
    let mut schema = json!({"default": {}, "allOf": [reference]});
    if !description.is_empty() {
        schema["description"] = description.into();
    }
    schema
}

fn patch() -> Value {
    json!({
        "description": "Patch is provided to give a concrete name and type to the request body.",
        "type": "object",
    })
}

/// Turns a generated schema into OpenAPI's form and adds the merge rules of its fields.
fn finish(name: &str, schema: &mut Value) {
    if name.ends_with(".IntOrString") {
        replace_type(
            schema,
            json!({
                "format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}],
            }),
        );
        return;
    }
    if name.ends_with(".Quantity") {
        replace_type(schema, json!({"oneOf": [{"type": "string"}, {"type": "number"}]}));
        return;
    }
    let short: Vec<&str> = name.rsplitn(4, '.').take(3).collect();
    let short: Vec<&str> = short.into_iter().rev().collect();
    let table = schema::named(&short.join("."));
    if table.is_some_and(Schema::is_atomic) {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        // Objects may lack metadata in requests.
        required.retain(|field| field != "metadata" || name.starts_with(META));
        if required.is_empty()
            && let Some(object) = schema.as_object_mut()
        {
            object.remove("required");
        }
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for (field, property) in properties {
        wrap_references(property);
        if let Some(rules) = table.and_then(|table| table.field(field)) {
            merge_rules(rules, property);
        }
    }
}

fn replace_type(schema: &mut Value, with: Value) {
    let description = schema.get("description").cloned();
    *schema = with;
    if let Some(description) = description {
        schema["description"] = description;
    }
}

/// OpenAPI 3.0 allows nothing beside a `$ref`, so what stands there moves around it.
fn wrap_references(schema: &mut Value) {
    if let Some(object) = schema.as_object_mut()
        && let Some(reference) = object.remove("$ref")
    {
        object.insert("allOf".into(), json!([{"$ref": reference}]));
        object.insert("default".into(), json!({}));
    }
    for child in ["items", "additionalProperties"] {
        if let Some(child) = schema.get_mut(child).filter(|child| child.is_object()) {
            wrap_references(child);
        }
    }
}

fn merge_rules(rules: &Schema, property: &mut Value) {
    let is_list = property["type"] == "array";
    if is_list {
        match &rules.list {
            ListType::Atomic => property["x-kubernetes-list-type"] = "atomic".into(),
            ListType::Set => property["x-kubernetes-list-type"] = "set".into(),
            ListType::Map(keys) => {
                property["x-kubernetes-list-type"] = "map".into();
                property["x-kubernetes-list-map-keys"] = json!(keys);
            }
        }
    } else if rules.atomic {
        property["x-kubernetes-map-type"] = "atomic".into();
    }
    let strategies: Vec<&str> =
        [("merge", rules.patch.merge), ("retainKeys", rules.patch.retain_keys)]
            .into_iter()
            .filter_map(|(name, set)| set.then_some(name))
            .collect();
    if !strategies.is_empty() {
        property["x-kubernetes-patch-strategy"] = strategies.join(",").into();
    }
    if let Some(key) = &rules.patch.key {
        property["x-kubernetes-patch-merge-key"] = key.clone().into();
    }
    if let Some(default) = &rules.default {
        property["default"] = default.clone();
    }
}
