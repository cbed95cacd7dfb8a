//! What an Istio object must be to be stored: readable, field by field. Fields that have no
//! effect here are said as warnings, so that nobody relies on them by mistake.

use serde_json::Value;
use tombolo_crds::validity;

use crate::serve::webhooks::{AdmissionRequest, Verdict};

/// An object with this annotation is refused, by which installers test the webhook.
const ALWAYS_REJECT: &str = "internal.istio.io/webhook-always-reject";

pub(crate) fn validate(request: &AdmissionRequest) -> Verdict {
    if request.operation == "DELETE" {
        return Verdict::Allowed;
    }
    let object = &request.object;
    let annotations = object.pointer("/metadata/annotations");
    if annotations.and_then(|all| all.get(ALWAYS_REJECT)).is_some_and(|it| it == "true") {
        return Verdict::Denied("the object asks to be rejected".into());
    }
    match validity::of(object) {
        None => Verdict::Warned(vec![format!(
            "{} is stored, but has no effect: this control plane does not implement it",
            object.pointer("/kind").and_then(Value::as_str).unwrap_or_default()
        )]),
        Some(Err(error)) => Verdict::Denied(format!("spec: {error}")),
        Some(Ok(warnings)) if warnings.is_empty() => Verdict::Allowed,
        Some(Ok(warnings)) => Verdict::Warned(warnings),
    }
}
