//! Tells API servers which roots the webhooks' certificates are issued under.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tombolo_runtime::backoff::Backoff;

use crate::lead::namespaces::follow;
use crate::lead::{Leading, Place};

/// A webhook configuration as far as it matters here.
trait Webhooks:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static
{
    /// Name and address of each webhook.
    fn webhooks(&self) -> Vec<(&str, &WebhookClientConfig)>;
    /// Whether a webhook of this name is ours.
    fn is_ours(name: &str) -> bool;
}

impl Webhooks for MutatingWebhookConfiguration {
    fn webhooks(&self) -> Vec<(&str, &WebhookClientConfig)> {
        let all = self.webhooks.iter().flatten();
        all.map(|it| (it.name.as_str(), &it.client_config)).collect()
    }

    fn is_ours(name: &str) -> bool {
        name.ends_with("sidecar-injector.istio.io")
    }
}

impl Webhooks for ValidatingWebhookConfiguration {
    fn webhooks(&self) -> Vec<(&str, &WebhookClientConfig)> {
        let all = self.webhooks.iter().flatten();
        all.map(|it| (it.name.as_str(), &it.client_config)).collect()
    }

    fn is_ours(name: &str) -> bool {
        name.ends_with("validation.istio.io")
    }
}

/// Follows the injection webhooks of this revision.
pub(super) async fn injection(leading: Leading, place: Place) {
    until_stopped::<MutatingWebhookConfiguration>(leading, place).await;
}

/// Follows the validation webhooks of this revision.
pub(super) async fn validation(leading: Leading, place: Place) {
    until_stopped::<ValidatingWebhookConfiguration>(leading, place).await;
}

async fn until_stopped<K: Webhooks>(leading: Leading, place: Place) {
    let stop = place.stop.clone();
    tokio::select! {
        () = run::<K>(leading, place) => (),
        () = stop.cancelled() => (),
    }
}

async fn run<K: Webhooks>(leading: Leading, place: Place) {
    let Leading { settings, mut roots, .. } = leading;
    let api = Api::<K>::all(place.client.clone());
    let selector = format!("istio.io/rev={}", settings.revision);
    let mut events = follow(api.clone(), watcher::Config::default().labels(&selector));
    let mut known: BTreeMap<String, K> = BTreeMap::new();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(60));
    let mut again: Option<Duration> = None;
    loop {
        let retry = async {
            match again {
                Some(delay) => tokio::time::sleep(delay).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(event) = events.next() => match event {
                watcher::Event::Init => known.clear(),
                watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
                    known.insert(object.name_any(), object);
                }
                watcher::Event::Delete(object) => {
                    known.remove(&object.name_any());
                }
                watcher::Event::InitDone => (),
            },
            changed = roots.changed() => if changed.is_err() { return },
            () = retry => (),
        }
        let pem = roots.borrow_and_update().clone();
        again = None;
        for (name, object) in &mut known {
            let Some(patch) = patch(object, &pem) else { continue };
            let patch = Patch::Json::<()>(patch);
            match api.patch(name, &PatchParams::default(), &patch).await {
                Ok(patched) => {
                    tracing::info!(cluster = %place.id, webhook = name, "webhook trusts our roots");
                    *object = patched;
                    backoff.reset();
                }
                Err(error) => {
                    let delay = backoff.delay();
                    tracing::warn!(cluster = %place.id, webhook = name, %error, ?delay, "webhook not patched, trying again");
                    again = Some(delay);
                }
            }
        }
    }
}

/// The changes that make every webhook of ours trust `roots`; none when all do.
fn patch<K: Webhooks>(object: &K, roots: &str) -> Option<json_patch::Patch> {
    let encoded = STANDARD.encode(roots);
    let mut operations: Vec<Value> = Vec::new();
    for (at, (name, client)) in object.webhooks().into_iter().enumerate() {
        let is_right = client.ca_bundle.as_ref().is_some_and(|bundle| bundle.0 == roots.as_bytes());
        if !K::is_ours(name) || is_right {
            continue;
        }
        // The name guards against a list that was reordered meanwhile.
        operations
            .push(json!({"op": "test", "path": format!("/webhooks/{at}/name"), "value": name}));
        let path = format!("/webhooks/{at}/clientConfig/caBundle");
        operations.push(json!({"op": "add", "path": path, "value": encoded}));
    }
    if operations.is_empty() {
        return None;
    }
    Some(serde_json::from_value(operations.into()).expect("written as a JSON patch above"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_webhooks_that_trust_something_else_are_patched() {
        let object: MutatingWebhookConfiguration = serde_json::from_value(json!({
            "metadata": {"name": "istio-sidecar-injector"},
            "webhooks": [
                {"name": "other.example", "clientConfig": {}, "sideEffects": "None", "admissionReviewVersions": ["v1"]},
                {"name": "rev.namespace.sidecar-injector.istio.io", "clientConfig": {"caBundle": STANDARD.encode("roots")}, "sideEffects": "None", "admissionReviewVersions": ["v1"]},
                {"name": "namespace.sidecar-injector.istio.io", "clientConfig": {}, "sideEffects": "None", "admissionReviewVersions": ["v1"]},
            ],
        }))
        .unwrap();
        let patch = patch(&object, "roots").unwrap();
        let want = json!([
            {"op": "test", "path": "/webhooks/2/name", "value": "namespace.sidecar-injector.istio.io"},
            {"op": "add", "path": "/webhooks/2/clientConfig/caBundle", "value": STANDARD.encode("roots")},
        ]);
        assert_eq!(serde_json::to_value(&patch).unwrap(), want);
    }
}
