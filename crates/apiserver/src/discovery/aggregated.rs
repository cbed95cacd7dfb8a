//! Aggregated discovery: every group, version and resource in one document.

use serde_json::{Map, Value, json};

use super::{group_versions, sorted_types, sorted_verbs};
use crate::resources::{Catalog, ResourceType};

/// The versions of the aggregated document that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    V2,
    V2Beta1,
}

impl Dialect {
    /// The dialect that an `Accept` header asks for, if it asks for one before plain JSON.
    pub fn of_accept(accept: &str) -> Option<Self> {
        for media in accept.split(',') {
            let mut parts = media.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            if !matches!(kind, "application/json" | "*/*" | "application/*" | "") {
                continue;
            }
            let (mut group, mut version, mut kind) = ("", "", "");
            for part in parts {
                match part.split_once('=') {
                    Some(("g", value)) => group = value,
                    Some(("v", value)) => version = value,
                    Some(("as", value)) => kind = value,
                    _ => {}
                }
            }
            match (group, version, kind) {
                ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") => return Some(Self::V2),
                ("apidiscovery.k8s.io", "v2beta1", "APIGroupDiscoveryList") => {
                    return Some(Self::V2Beta1);
                }
                ("", "", "") => return None,
                _ => {}
            }
        }
        None
    }

    fn version(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V2Beta1 => "v2beta1",
        }
    }

    /// The content type of the answer.
    pub fn content_type(self) -> String {
        format!(
            "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList",
            self.version()
        )
    }
}

/// The document at `/api` (`core`: the core group alone) or at `/apis` (all others).
pub fn aggregated(catalog: &Catalog, dialect: Dialect, core: bool) -> Value {
    let items: Vec<Value> = group_versions(catalog)
        .iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| group_item(catalog, group, versions))
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{}", dialect.version()),
        "metadata": {},
        "items": items,
    })
}

fn group_item(catalog: &Catalog, group: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            let resources: Vec<Value> = sorted_types(catalog, group, version)
                .iter()
                .map(|resource| resource_item(resource))
                .collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    json!({"metadata": metadata, "versions": versions})
}

fn resource_item(resource: &ResourceType) -> Value {
    let mut item = Map::new();
    item.insert("resource".into(), resource.plural.clone().into());
    let own = (resource.group.as_str(), resource.version.as_str());
    item.insert("responseKind".into(), kind(own, own, &resource.kind));
    let scope = if resource.namespaced { "Namespaced" } else { "Cluster" };
    item.insert("scope".into(), scope.into());
    item.insert("singularResource".into(), resource.singular.clone().into());
    item.insert("verbs".into(), json!(sorted_verbs(resource)));
    if !resource.short_names.is_empty() {
        item.insert("shortNames".into(), json!(resource.short_names));
    }
    if !resource.categories.is_empty() {
        item.insert("categories".into(), json!(resource.categories));
    }
    if !resource.subresources.is_empty() {
        let subresources: Vec<Value> = resource
            .subresources
            .iter()
            .map(|sub| {
                json!({
                    "subresource": sub.name,
                    "responseKind": kind(own, (&sub.group, &sub.version), &sub.kind),
                    "verbs": sub.verbs,
                })
            })
            .collect();
        item.insert("subresources".into(), subresources.into());
    }
    Value::Object(item)
}

/// A response kind; group and version are left empty where they are those of the list it is in.
fn kind(own: (&str, &str), of: (&str, &str), kind: &str) -> Value {
    let (group, version) = if own == of { ("", "") } else { of };
    json!({"group": group, "version": version, "kind": kind})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_header_chooses_the_dialect() {
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                       application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,\
                       application/json";
        assert_eq!(Dialect::of_accept(kubectl), Some(Dialect::V2));
        assert_eq!(Dialect::of_accept("application/json"), None);
        assert_eq!(Dialect::of_accept("application/json, */*"), None);
    }

    #[test]
    fn the_core_group_stands_alone() {
        let catalog = Catalog::new([]);
        let core = aggregated(&catalog, Dialect::V2, true);
        assert_eq!(core["items"].as_array().unwrap().len(), 1);
        let resources = core["items"][0]["versions"][0]["resources"].as_array().unwrap();
        let pods = resources.iter().find(|r| r["resource"] == "pods").unwrap();
        assert_eq!(pods["responseKind"], json!({"group": "", "version": "", "kind": "Pod"}));
        assert_eq!(pods["scope"], "Namespaced");
    }
}
