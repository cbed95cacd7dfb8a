//! The IstioOperator document: the input of `install`, merged from profile, files and `--set`.
//!
//! Later sources win. What a document sets but the renderer does not read is not dropped: it is
//! listed by full path in [`Operator::unsupported`], and the command decides.

use serde_json::{Map, Value, json};

mod paths;
mod profiles;

pub use paths::SetPathError;

/// The version this build installs, used as the image tag.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A merged installation: what to render.
#[derive(Clone, Debug, PartialEq)]
pub struct Operator {
    /// `metadata.name`: the owner of what is installed.
    pub name: String,
    pub profile: String,
    /// Empty for the default revision.
    pub revision: String,
    spec: Value,
    /// Paths that were set by the user and that nothing reads.
    pub unsupported: Vec<String>,
}

/// One gateway of the document.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    pub name: String,
    pub namespace: String,
    pub labels: Map<String, Value>,
    pub k8s: Value,
    /// `IngressGateways` or `EgressGateways`.
    pub component: &'static str,
}

/// Why documents do not make an installation.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("{source_name} is not YAML")]
    Yaml { source_name: String, source: serde_saphyr::Error },
    #[error(
        "{source_name} is a `{kind}`; `install` takes an IstioOperator (install.istio.io/v1alpha1)"
    )]
    NotAnOperator { source_name: String, kind: String },
    #[error("{0} holds no IstioOperator document")]
    Empty(String),
    #[error(
        "profile `{0}` is not known; the profiles are default, demo, minimal, remote and empty"
    )]
    UnknownProfile(String),
    #[error("{source_name} sets {path} to {found}, but it is {want}")]
    WrongType { source_name: String, path: String, found: String, want: &'static str },
    #[error(transparent)]
    SetPath(#[from] SetPathError),
}

/// A document with the name it has in messages.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    pub text: String,
}

impl Operator {
    /// Merges `sources` in order, then `sets` (`path=value`, relative to `spec`) in order, over the
    /// profile that they name.
    ///
    /// # Errors
    /// When a source is not an IstioOperator, a path does not parse or a profile is not known.
    pub fn merge(sources: &[Source], sets: &[String]) -> Result<Self, OperatorError> {
        let mut name = "installed-state".to_owned();
        let mut user = json!({});
        for source in sources {
            let documents: Vec<Value> =
                serde_saphyr::from_multiple(&source.text).map_err(|error| OperatorError::Yaml {
                    source_name: source.name.clone(),
                    source: error,
                })?;
            if documents.iter().all(Value::is_null) {
                // A pipe whose first program failed must not install the default profile.
                return Err(OperatorError::Empty(source.name.clone()));
            }
            for document in documents.into_iter().filter(|document| !document.is_null()) {
                let kind = document
                    .get("kind")
                    .and_then(Value::as_str)
                    .unwrap_or("document without a kind");
                if kind != "IstioOperator" {
                    let (source_name, kind) = (source.name.clone(), kind.to_owned());
                    return Err(OperatorError::NotAnOperator { source_name, kind });
                }
                if let Some(given) = document.pointer("/metadata/name").and_then(Value::as_str) {
                    given.clone_into(&mut name);
                }
                let spec = document.get("spec").cloned().unwrap_or_else(|| json!({}));
                if !spec.is_object() && !spec.is_null() {
                    return Err(OperatorError::WrongType {
                        source_name: source.name.clone(),
                        path: "spec".to_owned(),
                        found: spec.to_string(),
                        want: "a mapping",
                    });
                }
                overlay(&mut user, &spec);
            }
        }
        for set in sets {
            paths::set(&mut user, set)?;
        }
        Self::from_spec(name, user)
    }

    /// An installation from a spec that this program made itself.
    ///
    /// # Errors
    /// When the profile is not known.
    pub fn from_spec(name: String, user: Value) -> Result<Self, OperatorError> {
        let profile = user.get("profile").and_then(Value::as_str).unwrap_or("default").to_owned();
        let mut spec = profiles::spec(&profile)
            .ok_or_else(|| OperatorError::UnknownProfile(profile.clone()))?;
        let unsupported = paths::unsupported(&user);
        overlay(&mut spec, &user);
        let revision = text_at(&spec, "/revision")
            .or_else(|| text_at(&spec, "/values/revision"))
            .unwrap_or_default()
            .to_owned();
        Ok(Self { name, profile, revision, spec, unsupported })
    }

    /// A value below `spec.values`, by JSON pointer.
    pub fn value(&self, pointer: &str) -> Option<&Value> {
        self.spec.get("values")?.pointer(pointer).filter(|value| !value.is_null())
    }

    /// A text below `spec.values`; empty counts as not set.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.value(pointer)?.as_str().filter(|text| !text.is_empty())
    }

    /// A boolean below `spec.values`; the text `"true"` counts as true, as `--set` may write it.
    pub fn flag(&self, pointer: &str) -> bool {
        match self.value(pointer) {
            Some(Value::Bool(on)) => *on,
            Some(Value::String(text)) => text == "true",
            _ => false,
        }
    }

    /// The mesh configuration the user asked for, over the defaults that the installer adds.
    pub fn mesh_config(&self) -> Value {
        let mut config = self.value("/meshConfig").cloned().unwrap_or_else(|| json!({}));
        if let Some(given) = self.spec.get("meshConfig") {
            overlay(&mut config, given);
        }
        config
    }

    /// The namespace of the control plane.
    pub fn namespace(&self) -> &str {
        self.text("/global/istioNamespace").unwrap_or("istio-system")
    }

    /// The cluster's name in the mesh.
    pub fn cluster(&self) -> &str {
        self.text("/global/multiCluster/clusterName").unwrap_or("Kubernetes")
    }

    /// The label value of `istio.io/rev`.
    pub fn revision_label(&self) -> &str {
        if self.revision.is_empty() { "default" } else { &self.revision }
    }

    /// `name`, with the revision appended where there is one.
    pub fn revisioned(&self, name: &str) -> String {
        if self.revision.is_empty() { name.to_owned() } else { format!("{name}-{}", self.revision) }
    }

    /// The image of control plane and proxies.
    pub fn image(&self) -> String {
        let hub = text_at(&self.spec, "/hub")
            .or_else(|| self.text("/global/hub"))
            .unwrap_or("docker.io/tombolo");
        let tag =
            text_at(&self.spec, "/tag").or_else(|| self.text("/global/tag")).unwrap_or(VERSION);
        format!("{hub}/tombolo:{tag}")
    }

    /// Whether a component (`base`, `pilot`) is switched on.
    pub fn enabled(&self, component: &str) -> bool {
        let pointer = format!("/components/{component}/enabled");
        self.spec.pointer(&pointer).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The `k8s` overlay of a component.
    pub fn overlay_of(&self, component: &str) -> Value {
        self.spec
            .pointer(&format!("/components/{component}/k8s"))
            .cloned()
            .unwrap_or_else(|| json!({}))
    }

    /// Whether only the support objects of a remote are rendered.
    pub fn is_remote(&self) -> bool {
        self.profile == "remote" || self.flag("/istiodRemote/enabled")
    }

    /// The gateways that are switched on.
    pub fn gateways(&self) -> Vec<Gateway> {
        let kinds = [("ingressGateways", "IngressGateways"), ("egressGateways", "EgressGateways")];
        let mut gateways = Vec::new();
        for (key, component) in kinds {
            let listed = self.spec.pointer(&format!("/components/{key}")).and_then(Value::as_array);
            for entry in listed.into_iter().flatten() {
                if !entry.get("enabled").and_then(Value::as_bool).unwrap_or(false) {
                    continue;
                }
                gateways.push(Gateway {
                    name: text_at(entry, "/name").unwrap_or("istio-ingressgateway").to_owned(),
                    namespace: text_at(entry, "/namespace").unwrap_or(self.namespace()).to_owned(),
                    labels: entry
                        .get("label")
                        .and_then(Value::as_object)
                        .cloned()
                        .unwrap_or_default(),
                    k8s: entry.get("k8s").cloned().unwrap_or_else(|| json!({})),
                    component,
                });
            }
        }
        gateways
    }

    /// The merged `values`, as the injector and `values` ConfigMaps hold them.
    pub fn values(&self) -> Value {
        self.spec.get("values").cloned().unwrap_or_else(|| json!({}))
    }
}

fn text_at<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
}

/// Merges `over` into `under`: mappings by key, lists of named entries by `name`, everything else
/// replaced.
pub fn overlay(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                overlay(under.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(under), Value::Array(over)) if named(under) && named(over) => {
            for entry in over {
                let name = entry.get("name");
                match under.iter_mut().find(|known| known.get("name") == name) {
                    Some(known) => overlay(known, entry),
                    None => under.push(entry.clone()),
                }
            }
        }
        (_, Value::Null) => (),
        (under, over) => *under = over.clone(),
    }
}

fn named(list: &[Value]) -> bool {
    list.iter().all(|entry| entry.get("name").is_some_and(Value::is_string))
}

#[cfg(test)]
mod tests;
