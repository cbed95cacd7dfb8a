//! What an Istio object must be to be stored: readable, field by field. Fields that have no
//! effect here are said as warnings, so that nobody relies on them by mistake.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tombolo_crds::{document, networking, security};

use crate::serve::webhooks::{AdmissionRequest, Verdict};

/// An object with this annotation is refused, by which installers test the webhook.
const ALWAYS_REJECT: &str = "internal.istio.io/webhook-always-reject";

pub(crate) fn validate(request: &AdmissionRequest) -> Verdict {
    if request.operation == "DELETE" {
        return Verdict::Allowed;
    }
    let object = &request.object;
    let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let annotations = object.pointer("/metadata/annotations");
    if annotations.and_then(|all| all.get(ALWAYS_REJECT)).is_some_and(|it| it == "true") {
        return Verdict::Denied("the object asks to be rejected".into());
    }
    let group = text("/apiVersion").split('/').next().unwrap_or_default();
    let none = Value::Object(serde_json::Map::new());
    let spec = object.get("spec").unwrap_or(&none);
    match (group, text("/kind")) {
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
        (_, kind) => Verdict::Warned(vec![format!(
            "{kind} is stored, but has no effect: this control plane does not implement it"
        )]),
    }
}

fn check<T: Serialize + DeserializeOwned>(spec: &Value) -> Verdict {
    match document::read::<T>(spec) {
        Err(error) => Verdict::Denied(format!("spec: {error}")),
        Ok(read) if read.unknown.is_empty() => Verdict::Allowed,
        Ok(read) => {
            let warn = |path: &String| format!("spec.{path} has no effect: not implemented");
            Verdict::Warned(read.unknown.iter().map(warn).collect())
        }
    }
}
