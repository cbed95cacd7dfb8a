//! A Kubernetes object as rendered: JSON with the parts that the installer looks at.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

/// Kinds that live outside namespaces, among those that the installer writes.
const CLUSTER_SCOPED: &[&str] = &[
    "Namespace",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "Node",
    "PriorityClass",
];

/// One rendered object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object(Value);

/// Why a document is not a Kubernetes object.
#[derive(Debug, thiserror::Error)]
#[error("document {index} has no {field}; every Kubernetes object has one")]
pub struct NotAnObject {
    /// 1-based number of the document in its file.
    pub index: usize,
    pub field: &'static str,
}

/// Why a manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("manifest is not YAML")]
    Yaml(#[from] serde_saphyr::Error),
    #[error(transparent)]
    Object(#[from] NotAnObject),
}

impl Object {
    /// Wraps JSON that is known to have `apiVersion`, `kind` and `metadata.name`.
    pub fn new(value: Value) -> Self {
        Self(value)
    }

    pub fn api_version(&self) -> &str {
        self.text("/apiVersion")
    }

    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// The namespace, or nothing for a cluster-scoped object or one that leaves it open.
    pub fn namespace(&self) -> Option<&str> {
        self.0.pointer("/metadata/namespace").and_then(Value::as_str)
    }

    /// Whether objects of this kind live in namespaces.
    pub fn is_namespaced(&self) -> bool {
        !CLUSTER_SCOPED.contains(&self.kind())
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.0.get("metadata")?.get("labels")?.get(key)?.as_str()
    }

    /// Adds or replaces a label.
    pub fn set_label(&mut self, key: &str, value: &str) {
        if let Some(metadata) = self.0.get_mut("metadata").and_then(Value::as_object_mut) {
            let labels = metadata.entry("labels").or_insert_with(|| json!({}));
            if let Some(labels) = labels.as_object_mut() {
                labels.insert(key.to_owned(), value.into());
            }
        }
    }

    /// Puts a namespaced object that leaves its namespace open into `namespace`.
    pub fn default_namespace(&mut self, namespace: &str) {
        if !self.is_namespaced() || self.namespace().is_some() {
            return;
        }
        if let Some(metadata) = self.0.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
    }

    /// `Kind/namespace/name`, as messages name objects.
    pub fn reference(&self) -> String {
        match self.namespace() {
            Some(namespace) => format!("{}/{namespace}/{}", self.kind(), self.name()),
            None => format!("{}/{}", self.kind(), self.name()),
        }
    }

    pub fn value(&self) -> &Value {
        &self.0
    }

    pub fn value_mut(&mut self) -> &mut Value {
        &mut self.0
    }

    /// The REST resource that objects of this kind are found at.
    pub fn resource(&self) -> ApiResource {
        let (group, version) =
            self.api_version().split_once('/').unwrap_or(("", self.api_version()));
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, self.kind()))
    }

    /// The object in the form the Kubernetes client takes.
    ///
    /// # Errors
    /// When `metadata` is not what Kubernetes takes as metadata.
    pub fn dynamic(&self) -> Result<DynamicObject, serde_json::Error> {
        serde_json::from_value(self.0.clone())
    }

    fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

/// Reads all objects of a YAML or JSON manifest; empty documents are skipped, `List`s opened.
///
/// # Errors
/// When the text is not YAML, or a document is not a Kubernetes object.
pub fn read_manifest(text: &str) -> Result<Vec<Object>, ManifestError> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    let mut objects = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        if document.is_null() {
            continue;
        }
        let items = match document.get("kind").and_then(Value::as_str) {
            Some("List") => {
                document.get("items").and_then(Value::as_array).cloned().unwrap_or_default()
            }
            _ => vec![document],
        };
        for item in items {
            let object = Object::new(item);
            for (pointer, field) in [
                ("/apiVersion", "apiVersion"),
                ("/kind", "kind"),
                ("/metadata/name", "metadata.name"),
            ] {
                if object.text(pointer).is_empty() {
                    return Err(NotAnObject { index: index + 1, field }.into());
                }
            }
            objects.push(object);
        }
    }
    Ok(objects)
}

/// Objects as one YAML stream, in their order.
///
/// # Errors
/// When a value cannot be written as YAML, which JSON values always can.
pub fn write_manifest(objects: &[Object]) -> Result<String, serde_saphyr::ser::Error> {
    let mut text = String::new();
    for object in objects {
        text.push_str(&serde_saphyr::to_string(object.value())?);
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str("---\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_with_its_lists_opened_and_written_back() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n---\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n";
        let mut objects = read_manifest(text).unwrap();
        for object in &mut objects {
            object.default_namespace("sample");
        }
        let references: Vec<_> = objects.iter().map(Object::reference).collect();
        assert_eq!(references, ["Namespace/a", "ConfigMap/sample/b"]);
        assert_eq!(read_manifest(&write_manifest(&objects).unwrap()).unwrap(), objects);
    }

    #[test]
    fn a_document_without_a_kind_is_refused_by_number() {
        let error = read_manifest("apiVersion: v1\nmetadata: {name: a}\n").unwrap_err();
        assert_eq!(error.to_string(), "document 1 has no kind; every Kubernetes object has one");
    }
}
