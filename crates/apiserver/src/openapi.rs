//! OpenAPI documents: version 3, one per group and version with an index, and version 2 as one.
//!
//! `kubectl` reads them to validate, to explain, and to learn which options the server knows.
//! Schemas of built-in kinds come with their descriptions and merge rules; those of custom kinds
//! are what their definitions say. Everything is computed from the catalog of the moment.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::resources::{Catalog, ResourceType, group_version};

pub mod binary;
mod custom;
mod kinds;
mod operations;
mod schemas;
mod v2;

pub use v2::document as v2_document;

const VERSION: &str = "1.36";

/// `/openapi/v3`: where the documents are, each address carrying a hash of its content.
pub fn index(catalog: &Catalog) -> Value {
    let mut paths = Map::new();
    for (group, version) in group_versions(catalog) {
        let name = document_name(&group, &version);
        let tag = tag(catalog, &group, &version);
        let url = format!("/openapi/v3/{name}?hash={tag}");
        paths.insert(name, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// The version 3 document of a group and version, or nothing if that is not served.
pub fn document(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let types = types_of(catalog, group, version);
    if types.is_empty() {
        return None;
    }
    let mut schemas = schemas::builtin(group, version);
    let mut paths = Map::new();
    for resource in &types {
        match &resource.custom {
            Some(custom) => schemas.extend(custom::schemas(resource, custom)),
            None => schemas::tag_kind(&mut schemas, resource),
        }
        paths.extend(operations::paths(resource));
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "description": "Bearer Token authentication",
                "name": "authorization", "in": "header",
            }},
        },
    }))
}

/// `api/v1` or `apis/GROUP/VERSION`.
fn document_name(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{}", group_version(group, version))
    }
}

/// Changes whenever the document does. Built-in documents change only with this program; those of
/// custom kinds with their definitions.
fn tag(catalog: &Catalog, group: &str, version: &str) -> String {
    let mut seed = format!("{group}/{version} {VERSION} {}", env!("CARGO_PKG_VERSION"));
    for resource in types_of(catalog, group, version) {
        if let Some(custom) = &resource.custom {
            seed.push_str(&resource.kind);
            seed.push_str(&custom.open_api.to_string());
        }
        seed.push_str(&format!("{:?}{:?}", resource.verbs, resource.subresources));
    }
    digest(seed.as_bytes())
}

fn types_of(catalog: &Catalog, group: &str, version: &str) -> Vec<Arc<ResourceType>> {
    let all = catalog.types().iter();
    all.filter(|t| t.group == group && t.version == version).map(Arc::clone).collect()
}

fn group_versions(catalog: &Catalog) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for resource in catalog.types() {
        let pair = (resource.group.clone(), resource.version.clone());
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    pairs
}

/// The name of a kind's schema among the components.
fn schema_name(resource: &ResourceType) -> String {
    if resource.custom.is_none()
        && let Some(name) = kinds::schema_name(&resource.group, &resource.version, &resource.kind)
    {
        return name;
    }
    let mut labels: Vec<&str> = resource.group.split('.').collect();
    labels.reverse();
    format!("{}.{}.{}", labels.join("."), resource.version, resource.kind)
}

/// A reference to a component.
fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The mark that joins schemas and operations with kinds.
fn kind_mark(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// A hash of a document, as it appears in addresses and tags.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha512};
    Sha512::digest(bytes).iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests;
