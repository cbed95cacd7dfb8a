//! The mesh's settings: the ConfigMap `istio` in the system namespace.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tombolo_crds::document;
use tombolo_crds::mesh_config::{MeshConfig, MeshNetworks};
use tombolo_model::id::{ClusterId, ObjectName};

use crate::diagnostic::Diagnostic;
use crate::index::live::MeshSettings;

/// Reads the settings from the ConfigMap's data.
///
/// A document that cannot be read leaves `old` in place, so that a typing error does not take a
/// mesh down; it is reported.
pub fn settings(
    cluster: &ClusterId,
    name: &ObjectName,
    data: &BTreeMap<String, String>,
    old: &MeshSettings,
) -> MeshSettings {
    let mut diagnostics = Vec::new();
    let mut report = |message: String| {
        diagnostics.push(Diagnostic {
            cluster: cluster.clone(),
            kind: String::from("ConfigMap"),
            object: name.clone(),
            message,
        });
    };
    let config = read::<MeshConfig>(data, "mesh", &mut report);
    let networks = read::<MeshNetworks>(data, "meshNetworks", &mut report);
    if let Some(networks) = &networks {
        for (name, network) in &networks.networks {
            for text in network.endpoints.iter().filter_map(|it| it.from_cidr.as_ref()) {
                if text.parse::<IpNet>().is_err() {
                    report(format!("network `{name}`: `{text}` is not a range of addresses"));
                }
            }
        }
    }
    MeshSettings {
        config: config.unwrap_or_else(|| old.config.clone()),
        networks: networks.unwrap_or_else(|| old.networks.clone()),
        diagnostics,
    }
}

fn read<T: Serialize + DeserializeOwned + Default>(
    data: &BTreeMap<String, String>,
    key: &str,
    report: &mut impl FnMut(String),
) -> Option<T> {
    let text = data.get(key).map(String::as_str).unwrap_or_default();
    if text.trim().is_empty() {
        return Some(T::default());
    }
    let document: Value = match serde_saphyr::from_str(text) {
        Ok(document) => document,
        Err(error) => {
            report(format!("{key} is not YAML, so the settings before it hold: {error}"));
            return None;
        }
    };
    match document::read::<T>(&document) {
        Ok(read) => {
            for path in read.unknown {
                report(format!("{key}: field `{path}` is not implemented: no effect"));
            }
            Some(read.value)
        }
        Err(error) => {
            report(format!("{key} cannot be read, so the settings before it hold: {error}"));
            None
        }
    }
}
