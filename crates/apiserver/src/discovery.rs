//! What is served, said in the two dialects that clients ask for: one document per group and
//! version, or everything at once (aggregated discovery).
//!
//! Everything here is computed from the catalog of the moment, so a custom resource definition
//! shows up as soon as the catalog holds it. Nothing is kept between requests.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::resources::{Catalog, ResourceType, Subresource, group_version};

mod aggregated;
mod versions;

pub use aggregated::{Dialect, aggregated};
pub use versions::compare as compare_versions;

/// `/api`: the versions of the core group.
pub fn core_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [
            {"clientCIDR": "0.0.0.0/0", "serverAddress": server_address},
        ],
    })
}

/// `/apis`: every named group with its versions, the preferred one first.
pub fn groups(catalog: &Catalog) -> Value {
    let groups: Vec<Value> = group_versions(catalog)
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| Value::Object(group_object(group, versions)))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`, or nothing when no such group is served.
pub fn group(catalog: &Catalog, name: &str) -> Option<Value> {
    let all = group_versions(catalog);
    let (name, versions) = all.iter().find(|(group, _)| group == name && !group.is_empty())?;
    let mut object = Map::new();
    object.insert("kind".into(), "APIGroup".into());
    object.insert("apiVersion".into(), "v1".into());
    object.extend(group_object(name, versions));
    Some(Value::Object(object))
}

/// `/api/v1` or `/apis/GROUP/VERSION`, or nothing when no such version is served.
pub fn resources(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let types = sorted_types(catalog, group, version);
    if types.is_empty() {
        return None;
    }
    let mut list = Vec::new();
    for resource in types {
        list.push(resource_entry(&resource));
        list.extend(resource.subresources.iter().map(|sub| subresource_entry(&resource, sub)));
    }
    let mut object = Map::new();
    object.insert("kind".into(), "APIResourceList".into());
    if !group.is_empty() {
        object.insert("apiVersion".into(), "v1".into());
    }
    object.insert("groupVersion".into(), group_version(group, version).into());
    object.insert("resources".into(), list.into());
    Some(Value::Object(object))
}

fn group_object(group: &str, versions: &[String]) -> Map<String, Value> {
    let entries: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": group_version(group, version), "version": version}))
        .collect();
    let mut object = Map::new();
    object.insert("name".into(), group.into());
    if let Some(preferred) = entries.first() {
        object.insert("preferredVersion".into(), preferred.clone());
    }
    object.insert("versions".into(), entries.into());
    object
}

/// The groups in the order of their priority: built-in ones as the catalog has them, then those
/// of custom resources by name; versions of custom groups from the most to the least mature.
fn group_versions(catalog: &Catalog) -> Vec<(String, Vec<String>)> {
    let mut builtin: Vec<(String, Vec<String>)> = Vec::new();
    let mut custom: Vec<(String, Vec<String>)> = Vec::new();
    for resource in catalog.types() {
        let known = builtin.iter_mut().chain(custom.iter_mut());
        if let Some((_, versions)) = known.into_iter().find(|(group, _)| *group == resource.group) {
            if !versions.contains(&resource.version) {
                versions.push(resource.version.clone());
            }
            continue;
        }
        let list = if resource.custom.is_some() { &mut custom } else { &mut builtin };
        list.push((resource.group.clone(), vec![resource.version.clone()]));
    }
    for (_, versions) in &mut custom {
        versions.sort_by(|a, b| versions::compare(a, b));
    }
    custom.sort();
    builtin.extend(custom);
    builtin
}

/// The types of a group and version by plural name.
fn sorted_types(catalog: &Catalog, group: &str, version: &str) -> Vec<Arc<ResourceType>> {
    let mut types: Vec<_> = catalog
        .types()
        .iter()
        .filter(|t| t.group == group && t.version == version)
        .map(Arc::clone)
        .collect();
    types.sort_by(|a, b| a.plural.cmp(&b.plural));
    types
}

fn resource_entry(resource: &ResourceType) -> Value {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": sorted_verbs(resource),
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    entry
}

fn subresource_entry(resource: &ResourceType, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", resource.plural, sub.name),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if (&sub.group, &sub.version) != (&resource.group, &resource.version) {
        if !sub.group.is_empty() {
            entry["group"] = sub.group.clone().into();
        }
        entry["version"] = sub.version.clone().into();
    }
    entry
}

/// The verbs in the order in which Kubernetes lists them: by name, but for custom resources.
fn sorted_verbs(resource: &ResourceType) -> Vec<String> {
    const CUSTOM: [&str; 8] =
        ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
    let mut verbs = resource.verbs.clone();
    verbs.sort();
    if resource.custom.is_some() {
        verbs.sort_by_key(|verb| CUSTOM.iter().position(|known| known == verb));
    }
    verbs
}
