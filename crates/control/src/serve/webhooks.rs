//! The webhooks that API servers call: `/inject…` and `/validate`.
//!
//! Reviews come from anybody who reaches the port: they are limited in size and time, nothing
//! secret is in the answers, and whatever is malformed is answered, never fatal.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tombolo_runtime::errors::chain;
use tombolo_runtime::ready::Ready;

use crate::inject::{Injector, Place, Request};
use crate::push::publisher::Publisher;
use crate::serve::injection::{Config, Nodes};
use crate::serve::settings::Settings;
use crate::serve::validation;

const LARGEST_REVIEW: usize = 3 << 20;
const LONGEST_REVIEW: Duration = Duration::from_secs(10);
/// How long a review waits for the injector's configuration.
const UNREAD: Duration = Duration::from_secs(2);
/// The versions of reviews that are understood.
const API_VERSIONS: [&str; 2] = ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"];

/// What the webhooks answer from.
#[derive(Clone)]
pub struct Webhooks {
    pub settings: Arc<Settings>,
    pub publisher: Publisher,
    pub ready: Ready,
    pub config: Config,
    pub nodes: Arc<Nodes>,
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks").finish_non_exhaustive()
    }
}

/// The routes of the webhook port.
pub fn router(webhooks: Webhooks) -> Router {
    Router::new()
        .route("/inject", post(inject))
        .route("/inject/{*place}", post(inject))
        .route("/validate", post(validate))
        .route("/ready", get(async || "ready\n"))
        .layer(DefaultBodyLimit::max(LARGEST_REVIEW))
        .with_state(webhooks)
}

#[derive(Deserialize)]
struct Review {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    request: Option<AdmissionRequest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub(crate) struct AdmissionRequest {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub operation: String,
    pub object: Value,
}

/// What is said about an object.
pub(crate) enum Verdict {
    Allowed,
    Patched(Value),
    Warned(Vec<String>),
    Denied(String),
}

async fn inject(State(webhooks): State<Webhooks>, uri: Uri, body: Bytes) -> Response {
    answer(&body, |request| async move {
        let place = Place::parse(uri.path());
        match tokio::time::timeout(LONGEST_REVIEW, webhooks.inject(&request, &place)).await {
            Ok(verdict) => verdict,
            Err(_) => Verdict::Denied("injection took too long; try again".into()),
        }
    })
    .await
}

async fn validate(State(_): State<Webhooks>, body: Bytes) -> Response {
    answer(&body, |request| async move { validation::validate(&request) }).await
}

/// Reads a review, asks for a verdict and writes the answer.
async fn answer<F>(body: &[u8], judge: impl FnOnce(AdmissionRequest) -> F) -> Response
where
    F: Future<Output = Verdict>,
{
    let review: Review = match serde_json::from_slice(body) {
        Ok(review) => review,
        Err(error) => return bad(&format!("the body is not an AdmissionReview: {error}")),
    };
    let Some(version) = API_VERSIONS.iter().find(|known| **known == review.api_version) else {
        return bad(&format!("apiVersion `{}` is not one of {API_VERSIONS:?}", review.api_version));
    };
    let Some(request) = review.request else { return bad("the AdmissionReview has no request") };
    let uid = request.uid.clone();
    let mut response = json!({"uid": uid, "allowed": true});
    match judge(request).await {
        Verdict::Allowed => (),
        Verdict::Patched(patch) => {
            response["patchType"] = "JSONPatch".into();
            response["patch"] = STANDARD.encode(patch.to_string()).into();
        }
        Verdict::Warned(warnings) => response["warnings"] = json!(warnings),
        Verdict::Denied(message) => {
            response["allowed"] = false.into();
            response["status"] = json!({"code": 400, "message": message});
        }
    }
    let review = json!({"apiVersion": version, "kind": "AdmissionReview", "response": response});
    axum::Json(review).into_response()
}

fn bad(text: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{text}\n")).into_response()
}

impl Webhooks {
    async fn inject(&self, request: &AdmissionRequest, place: &Place) -> Verdict {
        let Ok(config) = tokio::time::timeout(UNREAD, self.config.read()).await else {
            return Verdict::Denied(format!(
                "ConfigMap {} in namespace {} of cluster {} is missing or cannot be read, so that no pod can be injected; the control plane's log says why",
                self.settings.injector_config_map(),
                self.settings.namespace,
                self.settings.cluster,
            ));
        };
        if !self.ready.is_ready() {
            return Verdict::Denied(
                "the control plane has not seen the mesh yet; try again".into(),
            );
        }
        let own = request.object.pointer("/metadata/namespace").and_then(Value::as_str);
        let namespace = match request.namespace.as_str() {
            "" => own.unwrap_or("default"),
            given => given,
        };
        let cluster = place
            .cluster
            .as_deref()
            .map_or_else(|| self.settings.cluster.clone(), |name| self.settings.resolve(name));
        let published = self.publisher.latest();
        let injector = Injector {
            config: &config,
            mesh: &published.picture.mesh.config,
            revision: &self.settings.revision,
        };
        let pod = &request.object;
        // Clusters are asked only when the answer matters: reviews come from anybody.
        let native = injector.wants(pod, namespace) && self.nodes.native(&cluster).await;
        match injector.inject(&Request { pod, namespace, place, native }) {
            Ok(None) => Verdict::Allowed,
            Ok(Some(injected)) => {
                let patch = json_patch::diff(pod, &injected);
                tracing::info!(
                    %cluster, namespace, native,
                    pod = %pod_name(request),
                    "proxy injected"
                );
                match serde_json::to_value(&patch) {
                    Ok(patch) => Verdict::Patched(patch),
                    Err(error) => Verdict::Denied(error.to_string()),
                }
            }
            Err(refused) => {
                let message = chain(&refused).to_string();
                tracing::warn!(%cluster, namespace, error = message, "pod refused");
                Verdict::Denied(message)
            }
        }
    }
}

/// Pods of a ReplicaSet have no name yet when they are reviewed.
fn pod_name(request: &AdmissionRequest) -> &str {
    let text =
        |key: &str| request.object.pointer(&format!("/metadata/{key}")).and_then(Value::as_str);
    match request.name.as_str() {
        "" => text("name").or_else(|| text("generateName")).unwrap_or_default(),
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tempfile::TempDir;
    use tombolo_model::id::ClusterId;

    use super::*;
    use crate::index::live::Live;
    use crate::index::picture::Picture;
    use crate::inject::InjectorConfig;
    use crate::serve::settings::NativeSidecars;
    use crate::watch::clusters::Clusters;

    /// A control plane whose API server counts how often it is asked.
    fn webhooks(asked: &Arc<AtomicUsize>) -> Webhooks {
        let asked = asked.clone();
        let counts = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            asked.fetch_add(1, Ordering::Relaxed);
            async { Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("away")) }
        });
        let cluster = ClusterId::new("cluster01");
        let clusters = Clusters::new(cluster.clone(), kube::Client::new(counts, "default"));
        let live = Live::new(cluster, "cluster.local", "istio-system");
        let config = Config::default();
        config.set(InjectorConfig::default());
        Webhooks {
            settings: Arc::new(crate::serve::tests::settings(&TempDir::new().unwrap())),
            publisher: Publisher::new(Picture::of(&live)),
            ready: Ready::default(),
            config,
            nodes: Arc::new(Nodes::new(NativeSidecars::Auto, clusters)),
        }
    }

    #[tokio::test]
    async fn no_cluster_is_asked_about_a_pod_that_gets_no_proxy() {
        let asked = Arc::new(AtomicUsize::new(0));
        let webhooks = webhooks(&asked);
        let review = |object: Value| AdmissionRequest { object, ..AdmissionRequest::default() };
        let host = review(json!({"spec": {"hostNetwork": true}}));
        let verdict = webhooks.inject(&host, &Place::default()).await;
        assert!(matches!(verdict, Verdict::Allowed));
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        webhooks.inject(&review(json!({"spec": {}})), &Place::default()).await;
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
