//! The ConfigMap `istio-sidecar-injector`: policy and the values of the installation.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::Value;

/// What the ConfigMap says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InjectorConfig {
    pub policy: Policy,
    pub default_templates: Vec<String>,
    pub aliases: BTreeMap<String, Vec<String>>,
    pub always: Vec<LabelSelector>,
    pub never: Vec<LabelSelector>,
    /// Annotations for every injected pod.
    pub annotations: BTreeMap<String, String>,
    /// The values the mesh was installed with.
    pub values: Value,
}

/// Whether pods that say nothing are injected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    #[default]
    Enabled,
    Disabled,
}

/// Why the ConfigMap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("key `{0}` is missing")]
    Missing(&'static str),
    #[error("key `config`: {0}")]
    Config(String),
    #[error("key `values`: {0}")]
    Values(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    policy: Policy,
    default_templates: Vec<String>,
    aliases: BTreeMap<String, Vec<String>>,
    never_inject_selector: Vec<LabelSelector>,
    always_inject_selector: Vec<LabelSelector>,
    injected_annotations: BTreeMap<String, String>,
}

impl Default for Document {
    fn default() -> Self {
        Self {
            policy: Policy::Enabled,
            default_templates: vec!["sidecar".into()],
            aliases: BTreeMap::new(),
            never_inject_selector: Vec::new(),
            always_inject_selector: Vec::new(),
            injected_annotations: BTreeMap::new(),
        }
    }
}

impl InjectorConfig {
    /// Reads the ConfigMap's data. Templates in it are Istio's; ours are compiled in, so they are
    /// not read.
    ///
    /// # Errors
    /// When a key is missing or cannot be read.
    pub fn read(data: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let text = |key: &'static str| data.get(key).ok_or(ConfigError::Missing(key));
        let document: Document = serde_saphyr::from_str(text("config")?)
            .map_err(|error| ConfigError::Config(error.to_string()))?;
        let values = serde_json::from_str(text("values")?)
            .map_err(|error| ConfigError::Values(error.to_string()))?;
        Ok(Self {
            policy: document.policy,
            default_templates: document.default_templates,
            aliases: document.aliases,
            always: document.always_inject_selector,
            never: document.never_inject_selector,
            annotations: document.injected_annotations,
            values,
        })
    }
}
