//! Events: what `kubectl describe` shows about a pod's life.
//!
//! They are written by one task, in order, and a repeated one is counted instead of written
//! again. When that task falls behind, events are dropped: they are news, not state.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tombolo_runtime::shutdown::Shutdown;

/// Events that may wait to be written.
const WAITING: usize = 256;

/// Repetitions that are remembered.
const REMEMBERED: usize = 512;

#[derive(Debug)]
struct News {
    object: ObjectReference,
    kind: &'static str,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// Takes events to write.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    news: mpsc::Sender<News>,
}

impl Events {
    /// Starts the task that writes events.
    pub(crate) fn start(client: kube::Client, node: String, shutdown: &Shutdown) -> Self {
        let (news, receiver) = mpsc::channel(WAITING);
        let writer = Writer { client, node, known: BTreeMap::new() };
        shutdown.spawn("events", writer.run(receiver, shutdown.clone()));
        Self { news }
    }

    pub(crate) fn normal(
        &self,
        pod: &Pod,
        container: Option<&str>,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.send(pod, container, "Normal", reason, message.into());
    }

    pub(crate) fn warning(
        &self,
        pod: &Pod,
        container: Option<&str>,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.send(pod, container, "Warning", reason, message.into());
    }

    fn send(
        &self,
        pod: &Pod,
        container: Option<&str>,
        kind: &'static str,
        reason: &'static str,
        message: String,
    ) {
        let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let list = |name: &str| {
            if init.clone().any(|container| container.name == name) {
                "initContainers"
            } else {
                "containers"
            }
        };
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: container.map(|name| format!("spec.{}{{{name}}}", list(name))),
        };
        if let Err(error) =
            self.news.try_send(News { object, kind, reason, message, at: Timestamp::now() })
        {
            tracing::debug!(%error, "event dropped");
        }
    }
}

/// What makes two events the same.
type Key = (String, Option<String>, &'static str, String);

struct Writer {
    client: kube::Client,
    node: String,
    /// Name and count of events that were written.
    known: BTreeMap<Key, (String, i32)>,
}

impl Writer {
    async fn run(mut self, mut news: mpsc::Receiver<News>, shutdown: Shutdown) {
        loop {
            let next = tokio::select! {
                next = news.recv() => next,
                () = shutdown.draining() => None,
            };
            let Some(next) = next else { break };
            if let Err(error) = self.write(next).await {
                tracing::debug!(error = %tombolo_runtime::errors::chain(&error), "event could not be written");
            }
        }
    }

    async fn write(&mut self, news: News) -> Result<(), kube::Error> {
        let object = news.object;
        let key = (
            object.uid.clone().unwrap_or_default(),
            object.field_path.clone(),
            news.reason,
            news.message.clone(),
        );
        let namespace = object.namespace.clone().unwrap_or_default();
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
        if let Some((name, count)) = self.known.get_mut(&key) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": Time(news.at)});
            match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                // It has expired meanwhile.
                Err(kube::Error::Api(status)) if status.code == 404 => (),
                other => return other.map(drop),
            }
        }
        let name =
            format!("{}.{:x}", object.name.clone().unwrap_or_default(), news.at.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: object,
            type_: Some(news.kind.into()),
            reason: Some(news.reason.into()),
            message: Some(news.message),
            count: Some(1),
            first_timestamp: Some(Time(news.at)),
            last_timestamp: Some(Time(news.at)),
            source: Some(EventSource {
                component: Some("kubelet".into()),
                host: Some(self.node.clone()),
            }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node.clone()),
            ..Event::default()
        };
        api.create(&PostParams::default(), &event).await?;
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(key, (name, 1));
        Ok(())
    }
}
