//! What an Istio object must be to be stored: readable, field by field.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::document::{self, ReadError};
use crate::{networking, security};

/// Reads an object of Istio's groups: what of it has no effect, in words. None for objects of
/// other groups.
///
/// # Errors
/// When a field of `spec` has a value that its type does not allow.
pub fn of(object: &Value) -> Option<Result<Vec<String>, ReadError>> {
    let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let group = text("/apiVersion").split('/').next().unwrap_or_default();
    if !group.ends_with(".istio.io") || group == "install.istio.io" {
        return None;
    }
    let none = Value::Object(Map::new());
    let spec = object.get("spec").unwrap_or(&none);
    Some(match (group, text("/kind")) {
        ("networking.istio.io", "VirtualService") => {
            check::<networking::virtual_service::VirtualService>(spec)
        }
        ("networking.istio.io", "DestinationRule") => {
            check::<networking::destination_rule::DestinationRule>(spec)
        }
        ("networking.istio.io", "Gateway") => check::<networking::gateway::Gateway>(spec),
        ("networking.istio.io", "ServiceEntry") => {
            check::<networking::service_entry::ServiceEntry>(spec)
        }
        ("networking.istio.io", "WorkloadEntry") => {
            check::<networking::service_entry::WorkloadEntry>(spec)
        }
        ("networking.istio.io", "Sidecar") => check::<networking::service_entry::Sidecar>(spec),
        ("security.istio.io", "PeerAuthentication") => check::<security::PeerAuthentication>(spec),
        ("security.istio.io", "AuthorizationPolicy") => {
            check::<security::AuthorizationPolicy>(spec)
        }
        (_, kind) => Ok(vec![format!(
            "{kind} is stored, but has no effect: this control plane does not implement it"
        )]),
    })
}

fn check<T: Serialize + DeserializeOwned>(spec: &Value) -> Result<Vec<String>, ReadError> {
    let read = document::read::<T>(spec)?;
    let warn = |path: &String| format!("spec.{path} has no effect: not implemented");
    Ok(read.unknown.iter().map(warn).collect())
}
