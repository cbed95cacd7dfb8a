//! The IstioOperator document: the input of `install`, merged from profile, files and `--set`.
//!
//! Later sources win. What a document sets but the renderer does not read is not dropped: it is
//! listed by full path in [`Operator::unsupported`], and the command decides.

use serde_json::{Map, Value, json};
use tombolo_crds::document::{self, ReadError};
use tombolo_crds::mesh_config::MeshConfig;

mod paths;
mod profiles;
mod settings;

use paths::Set;
pub use paths::SetPathError;
use settings::Remarks;

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
    /// Paths that nothing reads, set to what happens anyway.
    pub harmless: Vec<String>,
}

/// One gateway of the document.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    pub name: String,
    pub namespace: String,
    pub labels: Map<String, Value>,
    /// `values.gateways` and, over it, the entry's own `k8s`.
    pub k8s: Value,
    /// The autoscaler's bounds; none where there is none.
    pub autoscaler: Option<Value>,
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
    #[error(
        "{source_name} has apiVersion `{found}`; IstioOperator documents have install.istio.io/v1alpha1"
    )]
    ApiVersion { source_name: String, found: String },
    #[error("{source_name} has a field `{field}` beside apiVersion, kind, metadata and spec")]
    UnknownField { source_name: String, field: String },
    #[error("{path} is set to {found}, but it must be {want}")]
    WrongShape { path: String, found: String, want: &'static str },
    #[error("spec.meshConfig cannot be read")]
    MeshConfig(#[source] ReadError),
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
                check_frame(source, &document)?;
                let spec = document.get("spec").cloned().unwrap_or_else(|| json!({}));
                overlay(&mut user, &spec);
            }
        }
        let sets = sets.iter().map(|set| Set::parse(set)).collect::<Result<Vec<_>, _>>()?;
        Self::build(name, user, &sets)
    }

    /// An installation from a spec that this program made itself.
    ///
    /// # Errors
    /// When the profile is not known, or a setting is of the wrong shape.
    pub fn from_spec(name: String, user: Value) -> Result<Self, OperatorError> {
        Self::build(name, user, &[])
    }

    fn build(name: String, user: Value, sets: &[Set<'_>]) -> Result<Self, OperatorError> {
        let asked = sets.iter().rev().find_map(|set| set.of("profile"));
        let profile = asked.or_else(|| text_at(&user, "/profile")).unwrap_or("default").to_owned();
        let mut spec = profiles::spec(&profile)
            .ok_or_else(|| OperatorError::UnknownProfile(profile.clone()))?;
        let mut remarks = Remarks::default();
        remarks.collect(&mut Vec::new(), &user)?;
        overlay(&mut spec, &user);
        for set in sets {
            let (mut path, value) = set.apply(&mut spec)?;
            remarks.collect(&mut path, &value)?;
        }
        settings::normalise(&mut Vec::new(), &mut spec);
        if let Some(namespace) = text_at(&spec, "/namespace") {
            let values = json!({"values": {"global": {"istioNamespace": namespace}}});
            overlay(&mut spec, &values);
        }
        let revision = text_at(&spec, "/revision")
            .or_else(|| text_at(&spec, "/values/revision"))
            .unwrap_or_default()
            .to_owned();
        let Remarks { mut unsupported, harmless } = remarks;
        let mesh = merged_mesh_config(&spec);
        let read = document::read::<MeshConfig>(&mesh).map_err(OperatorError::MeshConfig)?;
        unsupported.extend(read.unknown.iter().map(|path| format!("spec.meshConfig.{path}")));
        let mut operator = Self { name, profile, revision, spec, unsupported, harmless };
        operator.judge_omission();
        operator.check_names()?;
        Ok(operator)
    }

    /// The injector's ConfigMap is left out for remotes, and for remotes only, whatever a document
    /// says.
    fn judge_omission(&mut self) {
        if self.flag("/global/omitSidecarInjectorConfigMap") == self.is_remote() {
            return;
        }
        let is_omission =
            |path: &mut String| path == "spec.values.global.omitSidecarInjectorConfigMap";
        self.unsupported.extend(self.harmless.extract_if(.., is_omission));
    }

    /// What becomes a part of names must be one.
    fn check_names(&self) -> Result<(), OperatorError> {
        let namespace = match text_at(&self.spec, "/namespace") {
            Some(_) => "spec.namespace",
            None => "spec.values.global.istioNamespace",
        };
        for (path, name) in
            [("spec.revision", self.revision.as_str()), (namespace, self.namespace())]
        {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let edges = name.starts_with('-') || name.ends_with('-');
            if !name.chars().all(plain) || edges || name.len() > 63 {
                let (path, found) = (path.to_owned(), format!("\"{name}\""));
                let want = "a name of lower-case letters, digits and dashes (RFC 1123)";
                return Err(OperatorError::WrongShape { path, found, want });
            }
        }
        for gateway in self.gateways() {
            if gateway.name.is_empty() {
                let path = format!("spec.components.{}", gateway.component);
                let (found, want) =
                    ("an entry without a name".to_owned(), "a list of named entries");
                return Err(OperatorError::WrongShape { path, found, want });
            }
        }
        Ok(())
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
        self.value(pointer).is_some_and(is_on)
    }

    /// The mesh configuration the user asked for, over the defaults that the installer adds.
    pub fn mesh_config(&self) -> Value {
        merged_mesh_config(&self.spec)
    }

    /// The namespace of the control plane: `spec.namespace`, else the value of the charts.
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
        self.spec.pointer(&pointer).is_some_and(is_on)
    }

    /// The `k8s` settings of the base component.
    pub fn base_k8s(&self) -> &Value {
        self.spec.pointer("/components/base/k8s").unwrap_or(&Value::Null)
    }

    /// The `k8s` settings of the control plane: `values.pilot` and, over it, `components.pilot.k8s`.
    pub fn pilot_k8s(&self) -> Value {
        let mut k8s = json!({});
        for key in [
            "affinity",
            "nodeSelector",
            "podAnnotations",
            "replicaCount",
            "resources",
            "serviceAnnotations",
            "tolerations",
        ] {
            if let Some(value) = self.value(&format!("/pilot/{key}")) {
                overlay(&mut k8s, &json!({key: value}));
            }
        }
        if let Some(policy) = self.value("/global/imagePullPolicy") {
            overlay(&mut k8s, &json!({"imagePullPolicy": policy}));
        }
        overlay(&mut k8s, self.spec.pointer("/components/pilot/k8s").unwrap_or(&Value::Null));
        k8s
    }

    /// Whether only the support objects of a remote are rendered.
    pub fn is_remote(&self) -> bool {
        self.profile == "remote" || self.flag("/istiodRemote/enabled")
    }

    /// The gateways that are switched on.
    pub fn gateways(&self) -> Vec<Gateway> {
        let kinds = [
            ("ingressGateways", "IngressGateways", "istio-ingressgateway"),
            ("egressGateways", "EgressGateways", "istio-egressgateway"),
        ];
        let mut gateways = Vec::new();
        for (key, component, root) in kinds {
            let listed = self.spec.pointer(&format!("/components/{key}")).and_then(Value::as_array);
            for entry in listed.into_iter().flatten() {
                if !entry.get("enabled").is_some_and(is_on) {
                    continue;
                }
                let (mut k8s, autoscaler) = self.gateway_values(root);
                overlay(&mut k8s, entry.get("k8s").unwrap_or(&Value::Null));
                gateways.push(Gateway {
                    name: text_at(entry, "/name").unwrap_or_default().to_owned(),
                    namespace: text_at(entry, "/namespace").unwrap_or(self.namespace()).to_owned(),
                    labels: entry
                        .get("label")
                        .and_then(Value::as_object)
                        .cloned()
                        .unwrap_or_default(),
                    k8s,
                    autoscaler,
                    component,
                });
            }
        }
        gateways
    }

    /// What `values.gateways.ROOT` says, as `k8s` settings, and the autoscaler's bounds.
    fn gateway_values(&self, root: &str) -> (Value, Option<Value>) {
        let value = |key: &str| self.value(&format!("/gateways/{root}/{key}"));
        let mut k8s = json!({});
        for key in [
            "serviceAnnotations",
            "podAnnotations",
            "resources",
            "nodeSelector",
            "tolerations",
            "replicaCount",
        ] {
            if let Some(value) = value(key) {
                overlay(&mut k8s, &json!({key: value}));
            }
        }
        for key in ["type", "loadBalancerIP", "loadBalancerSourceRanges", "externalTrafficPolicy"] {
            if let Some(value) = value(key) {
                overlay(&mut k8s, &json!({"service": {key: value}}));
            }
        }
        let env = value("env").and_then(Value::as_object).into_iter().flatten();
        let env: Vec<Value> =
            env.map(|(name, value)| json!({"name": name, "value": value})).collect();
        if !env.is_empty() {
            overlay(&mut k8s, &json!({"env": env}));
        }
        let on = value("autoscaleEnabled").is_none_or(is_on);
        let bounds = on.then(|| {
            let (min, max) = (value("autoscaleMin"), value("autoscaleMax"));
            json!({"minReplicas": min, "maxReplicas": max})
        });
        (k8s, bounds)
    }

    /// The merged `values`, as the injector and `values` ConfigMaps hold them.
    pub fn values(&self) -> Value {
        self.spec.get("values").cloned().unwrap_or_else(|| json!({}))
    }
}

fn merged_mesh_config(spec: &Value) -> Value {
    let mut config = spec.pointer("/values/meshConfig").cloned().unwrap_or_else(|| json!({}));
    overlay(&mut config, spec.get("meshConfig").unwrap_or(&Value::Null));
    config
}

fn is_on(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_str() == Some("true"))
}

/// The frame of a document: nothing but what an IstioOperator has.
fn check_frame(source: &Source, document: &Value) -> Result<(), OperatorError> {
    let source_name = source.name.clone();
    let version = document.get("apiVersion").and_then(Value::as_str);
    if let Some(found) = version.filter(|version| *version != "install.istio.io/v1alpha1") {
        return Err(OperatorError::ApiVersion { source_name, found: found.to_owned() });
    }
    // A status is what an operator in a cluster once wrote there.
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let fields = document.as_object().into_iter().flatten();
    for (field, _) in fields {
        if !known.contains(&field.as_str()) {
            return Err(OperatorError::UnknownField { source_name, field: field.clone() });
        }
    }
    Ok(())
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
                let place = under.entry(key.clone()).or_insert(Value::Null);
                // Whoever lists ports lists all of them, as in Istio.
                if key == "ports" && value.is_array() {
                    *place = value.clone();
                } else {
                    overlay(place, value);
                }
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
