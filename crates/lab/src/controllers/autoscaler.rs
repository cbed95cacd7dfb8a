//! HorizontalPodAutoscalers: says, as Kubernetes without a metrics server does, that there is
//! nothing to scale by. Never changes a scale.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::failure::{Doing, Failure, Refused};
use crate::controllers::kinds;
use crate::controllers::queue::{Key, Queue};
use crate::controllers::work::Controller;

const AGAIN: Duration = Duration::from_secs(15);

/// The controller.
pub(crate) struct Autoscalers {
    client: Client,
    queue: Arc<Queue>,
    scalers: Arc<Cache<HorizontalPodAutoscaler>>,
}

impl Autoscalers {
    /// Follows HorizontalPodAutoscalers.
    pub(crate) fn new(caches: &Caches) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let scalers = caches.all::<HorizontalPodAutoscaler>();
        let to = queue.clone();
        scalers.on_change(move |change| {
            change.new.into_iter().for_each(|scaler| to.add(Key::of(&**scaler)));
        });
        Self { client: caches.client(), queue, scalers }
    }

    /// The target's scale, or why there is none.
    async fn scale(&self, scaler: &HorizontalPodAutoscaler, key: &Key) -> Result<Scale, String> {
        let target = scaler.spec.scale_target_ref.clone();
        let version = target.api_version.unwrap_or_else(|| "v1".into());
        let served = kinds::find(&self.client, &version, &target.kind).await;
        let served = served.ok_or_else(|| format!("{version} {} is not served", target.kind))?;
        let path = served.resource.plural.clone();
        let group = if version.contains('/') { "apis" } else { "api" };
        let url =
            format!("/{group}/{version}/namespaces/{}/{path}/{}/scale", key.namespace, target.name);
        let request = http::Request::get(url).body(Vec::new()).map_err(|e| e.to_string())?;
        let scale = self.client.request::<Scale>(request).await;
        scale.map_err(|error| Refused(error).to_string())
    }
}

fn conditions(scaler: &HorizontalPodAutoscaler, scale: &Result<Scale, String>) -> Vec<[String; 4]> {
    let own = |parts: [&str; 4]| parts.map(str::to_owned);
    if let Err(why) = scale {
        let text =
            format!("the HPA controller was unable to get the target's current scale: {why}");
        return vec![own(["AbleToScale", "False", "FailedGetScale", &text])];
    }
    let metrics = scaler.spec.metrics.clone().unwrap_or_default();
    let metric = metrics.first();
    let name = metric.and_then(|metric| metric.resource.as_ref()).map(|r| r.name.as_str());
    let (reason, what) = match (metric.map(|metric| metric.type_.as_str()), name) {
        (Some("Resource"), Some(name)) => {
            ("FailedGetResourceMetric", format!("{name} utilization"))
        }
        (Some(kind), _) => {
            return vec![able(), {
                let reason = format!("FailedGet{kind}Metric");
                let text = "the HPA was unable to compute the replica count: this cluster has no \
                        metrics";
                own(["ScalingActive", "False", &reason, text])
            }];
        }
        (None, _) => ("FailedGetResourceMetric", "cpu utilization".to_owned()),
    };
    let resource = name.unwrap_or("cpu");
    let text = format!(
        "the HPA was unable to compute the replica count: failed to get {what}: unable to get \
         metrics for resource {resource}: unable to fetch metrics from resource metrics API: the \
         server could not find the requested resource (get pods.metrics.k8s.io)"
    );
    vec![able(), own(["ScalingActive", "False", reason, &text])]
}

fn able() -> [String; 4] {
    let text = "the HPA controller was able to get the target's current scale";
    ["AbleToScale", "True", "SucceededGetScale", text].map(str::to_owned)
}

fn status(
    scaler: &HorizontalPodAutoscaler,
    scale: &Result<Scale, String>,
) -> HorizontalPodAutoscalerStatus {
    let mut status = scaler.status.clone().unwrap_or_default();
    let mut held = status.conditions.take().unwrap_or_default();
    for [kind, state, reason, message] in conditions(scaler, scale) {
        let before = held.iter().find(|c| c.type_ == kind && c.status == state);
        let since = before.and_then(|c| c.last_transition_time.clone());
        held.retain(|condition| condition.type_ != kind);
        held.push(HorizontalPodAutoscalerCondition {
            type_: kind,
            status: state,
            reason: Some(reason),
            message: Some(message),
            last_transition_time: Some(since.unwrap_or_else(|| Time(Timestamp::now()))),
        });
    }
    let replicas = scale.as_ref().ok().and_then(|scale| scale.status.as_ref());
    HorizontalPodAutoscalerStatus {
        conditions: Some(held),
        current_replicas: replicas.map(|status| status.replicas).or(status.current_replicas),
        ..status
    }
}

impl Controller for Autoscalers {
    const NAME: &'static str = "horizontal-pod-autoscaler";
    const WORKERS: usize = 1;

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let Some(scaler) = self.scalers.get(key) else { return Ok(()) };
        self.queue.add_after(key.clone(), AGAIN);
        let wanted = status(&scaler, &self.scale(&scaler, key).await);
        if scaler.status.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let mut changed = (*scaler).clone();
        changed.status = Some(wanted);
        let api: Api<HorizontalPodAutoscaler> =
            Api::namespaced(self.client.clone(), &key.namespace);
        let written = api
            .replace_status(&key.name, &PostParams::default(), &changed)
            .await
            .doing(|| format!("write the status of HorizontalPodAutoscaler {key}"))?;
        self.scalers.wrote(&written);
        Ok(())
    }
}
