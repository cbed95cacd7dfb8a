//! Turns a pod into one with a proxy: what the injection webhook answers.
//!
//! ```text
//!  URL -> [place] cluster, network, environment
//!  pod -> [decide] inject at all? -> [settings] annotations over mesh over defaults
//!      -> [sidecar] or [gateway] containers, volumes, labels -> [probes] -> patch
//! ```
//!
//! **Invariants**
//! * Injection is a fixed point: what was injected is taken out first, so that a second run on
//!   the result changes nothing but what the pod's owner changed.
//! * Text of users is only ever data: it becomes a value, an argument or a name, never a template.
//! * A pod that cannot be injected as asked is refused, with the annotation that is wrong.

use serde_json::{Map, Value, json};

mod config;
mod container;
mod decide;
pub mod manifest;
mod merge;
mod owner;
mod place;
mod previous;
mod probes;
mod prometheus;
mod settings;
mod sidecar;
#[cfg(test)]
mod tests;
mod volumes;

pub use config::{ConfigError, InjectorConfig};
pub use place::Place;

use crate::inject::owner::Owner;
use crate::inject::settings::PodSettings;
use tombolo_crds::mesh_config::MeshConfig;

pub(crate) const STATUS: &str = "sidecar.istio.io/status";
pub(crate) const OVERRIDES: &str = "proxy.istio.io/overrides";
pub(crate) const PROXY: &str = "istio-proxy";
pub(crate) const INIT: &str = "istio-init";

/// Why a pod is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the object is not a pod: {0}")]
    NotAPod(String),
    #[error("annotation {name}: `{value}` {problem}")]
    Annotation { name: String, value: String, problem: String },
    #[error("template `{0}` is not known; sidecar and gateway are")]
    Template(String),
    #[error("annotation {OVERRIDES} of an injected pod is damaged: {0}")]
    Overrides(String),
}

/// A pod and where it will run.
#[derive(Debug)]
pub struct Request<'a> {
    pub pod: &'a Value,
    pub namespace: &'a str,
    pub place: &'a Place,
    /// Whether the cluster's nodes know native sidecars, unless the pod says which it wants.
    pub native: bool,
}

/// Everything an injection is decided from besides the pod.
#[derive(Debug)]
pub struct Injector<'a> {
    pub config: &'a InjectorConfig,
    pub mesh: &'a MeshConfig,
    pub revision: &'a str,
}

/// What one injection works with.
pub(crate) struct Context<'a> {
    pub config: &'a InjectorConfig,
    pub mesh: &'a MeshConfig,
    pub revision: &'a str,
    pub place: &'a Place,
    pub native: bool,
    pub settings: PodSettings,
    pub owner: Owner,
    /// The pod without anything that was injected before.
    pub pod: Value,
    /// What the pod's owner says about the proxy's container.
    pub overrides: Option<Value>,
}

impl Injector<'_> {
    /// Whether the pod shall have a proxy.
    pub fn wants(&self, pod: &Value, namespace: &str) -> bool {
        decide::required(self.config, pod, namespace)
    }

    /// The pod with a proxy; none when it shall have none.
    ///
    /// # Errors
    /// When the pod asks for something that cannot be.
    pub fn inject(&self, request: &Request<'_>) -> Result<Option<Value>, Refused> {
        if !request.pod.get("spec").is_some_and(Value::is_object) {
            return Err(Refused::NotAPod("it has no spec".into()));
        }
        if !self.wants(request.pod, request.namespace) {
            return Ok(None);
        }
        let previous::Taken { pod, overrides, probers, prometheus } =
            previous::take_out(request.pod)?;
        let settings = PodSettings::read(self.config, self.mesh, &pod)?;
        let native = settings.native.unwrap_or(request.native);
        let context = Context {
            config: self.config,
            mesh: self.mesh,
            revision: self.revision,
            place: request.place,
            native,
            owner: Owner::of(&pod, request.namespace),
            settings,
            pod,
            overrides,
        };
        let templates = context.settings.templates.clone();
        let mut pod = context.pod.clone();
        for template in &templates {
            match template.as_str() {
                "sidecar" => sidecar::sidecar(&context, &mut pod),
                "gateway" => sidecar::gateway(&context, &mut pod),
                other => return Err(Refused::Template(other.to_owned())),
            }
        }
        prometheus::merge(&context, &mut pod, prometheus)?;
        probes::rewrite(&context, &mut pod, probers);
        Ok(Some(pod))
    }
}

impl Context<'_> {
    /// A value of the installation, such as `/global/proxy/logLevel`.
    pub(crate) fn value(&self, pointer: &str) -> Option<&Value> {
        self.config.values.pointer(pointer).filter(|value| !value.is_null())
    }

    pub(crate) fn text(&self, pointer: &str) -> Option<&str> {
        self.value(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    pub(crate) fn flag(&self, pointer: &str) -> bool {
        match self.value(pointer) {
            Some(Value::Bool(flag)) => *flag,
            Some(Value::String(text)) => text == "true",
            _ => false,
        }
    }

    /// The cluster the pod will run in.
    pub(crate) fn cluster(&self) -> &str {
        let value = self.text("/global/multiCluster/clusterName");
        self.place.cluster.as_deref().or(value).unwrap_or("Kubernetes")
    }

    /// The network the pod will be in; empty when none is known.
    pub(crate) fn network(&self) -> &str {
        let label = self.pod.pointer("/metadata/labels/topology.istio.io~1network");
        let label = label.and_then(Value::as_str).filter(|label| !label.is_empty());
        label
            .or(self.place.network.as_deref())
            .or_else(|| self.text("/global/network"))
            .unwrap_or_default()
    }
}

/// The object at `key`, made when it is not there. What is there and no object is replaced.
pub(crate) fn object<'a>(parent: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !parent.is_object() {
        *parent = json!({});
    }
    let slot = parent.as_object_mut().expect("made above").entry(key).or_insert_with(|| json!({}));
    if !slot.is_object() {
        *slot = json!({});
    }
    slot.as_object_mut().expect("made above")
}

/// The list at `key`, made when it is not there.
pub(crate) fn list<'a>(parent: &'a mut Value, key: &str) -> &'a mut Vec<Value> {
    if !parent.is_object() {
        *parent = json!({});
    }
    let slot = parent.as_object_mut().expect("made above").entry(key).or_insert_with(|| json!([]));
    if !slot.is_array() {
        *slot = json!([]);
    }
    slot.as_array_mut().expect("made above")
}

/// The items of a list that may be missing.
pub(crate) fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The name of a container, volume or variable.
pub(crate) fn name(value: &Value) -> &str {
    value.get("name").and_then(Value::as_str).unwrap_or_default()
}
