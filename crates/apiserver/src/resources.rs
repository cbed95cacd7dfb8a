//! Which resource types there are: a table of the built-in ones, and a catalog that also holds
//! those that custom resource definitions add. Names and verbs are Kubernetes' own.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use kube_cel::CompiledSchema;

use crate::schema::Schema;

mod table;

/// One resource in one version, as it appears in a URL.
#[derive(Debug)]
pub struct ResourceType {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub list_kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub subresources: Vec<Subresource>,
    /// What objects look like. Virtual resources (reviews) may have none.
    pub schema: Option<Arc<Schema>>,
    /// For custom resources: what its definition says about this version.
    pub custom: Option<Arc<Custom>>,
    /// Where objects are kept: `group/plural`, shared by all versions of the resource.
    pub storage: String,
}

/// A path below an object, such as `status`.
#[derive(Debug, Clone)]
pub struct Subresource {
    pub name: String,
    /// Group of the body's kind; the resource's own unless it differs (`autoscaling` for `scale`).
    pub group: String,
    pub version: String,
    pub kind: String,
    pub verbs: Vec<String>,
}

/// What a custom resource definition says about one version, beside names and schema.
pub struct Custom {
    /// Name of the definition: `plural.group`.
    pub definition: String,
    /// `spec.versions[].additionalPrinterColumns` of this version, as written.
    pub printer_columns: Vec<serde_json::Value>,
    /// `spec.versions[].schema.openAPIV3Schema` as written, for OpenAPI documents.
    pub open_api: serde_json::Value,
    pub scale: Option<ScalePaths>,
    pub selectable_fields: Vec<String>,
    pub preserve_unknown_fields: bool,
    pub deprecation_warning: Option<String>,
    /// The CEL rules of the schema, compiled.
    pub rules: Option<CompiledSchema>,
    /// The definition is being deleted.
    pub is_terminating: bool,
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Custom").field("definition", &self.definition).finish_non_exhaustive()
    }
}

/// Where `scale` finds its numbers in a custom resource.
#[derive(Debug, Clone)]
pub struct ScalePaths {
    pub spec_replicas: String,
    pub status_replicas: String,
    pub label_selector: Option<String>,
}

impl ResourceType {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
    }

    /// Whether the verb (`get`, `list`, `deletecollection`, ...) is served.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|have| have == verb)
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// Whether objects are stored at all; reviews and bindings are not.
    pub fn is_stored(&self) -> bool {
        self.has_verb("get") || self.has_verb("list")
    }
}

/// `v1` or `apps/v1`.
pub fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Splits `apps/v1` or `v1`.
pub fn split_group_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// All types that are served at one moment. Replaced as a whole when a definition changes.
#[derive(Debug)]
pub struct Catalog {
    types: Vec<Arc<ResourceType>>,
    by_path: HashMap<(String, String, String), Arc<ResourceType>>,
}

impl Catalog {
    /// The built-in types and those of the given custom resources.
    pub fn new(custom: impl IntoIterator<Item = Arc<ResourceType>>) -> Self {
        let mut types: Vec<_> = table::builtin().to_vec();
        types.extend(custom);
        let by_path = types
            .iter()
            .map(|t| ((t.group.clone(), t.version.clone(), t.plural.clone()), Arc::clone(t)))
            .collect();
        Self { types, by_path }
    }

    /// Every type, built-in first, in order of preference inside a group.
    pub fn types(&self) -> &[Arc<ResourceType>] {
        &self.types
    }

    /// The type served at `/apis/GROUP/VERSION/PLURAL`.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<ResourceType>> {
        self.by_path.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// The type of a kind in a group and version.
    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<ResourceType>> {
        self.types.iter().find(|t| t.group == group && t.version == version && t.kind == kind)
    }

    /// The first (preferred) version of a resource.
    pub fn find_resource(&self, group: &str, plural: &str) -> Option<&Arc<ResourceType>> {
        self.types.iter().find(|t| t.group == group && t.plural == plural)
    }

    /// Whether anything is served in the group and version.
    pub fn has_group_version(&self, group: &str, version: &str) -> bool {
        self.types.iter().any(|t| t.group == group && t.version == version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_type_is_found_by_path_and_kind() {
        let catalog = Catalog::new([]);
        for t in catalog.types() {
            let found = catalog.find(&t.group, &t.version, &t.plural).unwrap();
            assert_eq!(found.kind, t.kind);
            assert!(catalog.find_kind(&t.group, &t.version, &t.kind).is_some());
            if t.is_stored() {
                assert!(t.schema.is_some(), "{} has no schema", t.kind);
            }
        }
        let pods = catalog.find("", "v1", "pods").unwrap();
        assert_eq!(pods.short_names, ["po"]);
        assert_eq!(pods.subresource("status").unwrap().verbs, ["get", "patch", "update"]);
        assert_eq!(pods.subresource("eviction").unwrap().group, "policy");
    }
}
