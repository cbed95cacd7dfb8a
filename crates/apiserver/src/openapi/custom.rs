//! Schemas of custom kinds: what their definitions say, with the fields every object has.

use serde_json::{Map, Value, json};

use super::{kind_mark, reference, schema_name, schemas};
use crate::resources::{Custom, ResourceType};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an \
    object. Servers should convert recognized schemas to the latest internal value, and may \
    reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/\
    sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. \
    Servers may infer this from the endpoint the client submits requests to. Cannot be updated. \
    In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/\
    api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/\
    contributors/devel/sig-architecture/api-conventions.md#metadata";

/// The schema of a custom kind and of its list.
pub fn schemas(resource: &ResourceType, custom: &Custom) -> Map<String, Value> {
    let name = schema_name(resource);
    let mut schema = if custom.open_api.is_object() && !custom.preserve_unknown_fields {
        custom.open_api.clone()
    } else {
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    };
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    schema["properties"]["apiVersion"] = json!({"type": "string", "description": API_VERSION});
    schema["properties"]["kind"] = json!({"type": "string", "description": KIND});
    schema["properties"]["metadata"] = json!({
        "description": METADATA,
        "allOf": [reference(&format!("{META}.ObjectMeta"))],
    });
    schema["x-kubernetes-group-version-kind"] =
        json!([kind_mark(&resource.group, &resource.version, &resource.kind)]);
    let mut schemas = Map::new();
    schemas.insert(format!("{name}List"), schemas::list(resource, &name));
    schemas.insert(name, schema);
    schemas
}
