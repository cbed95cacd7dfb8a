//! Events about pods, written by one task, in order, while the pods go on. When that task falls
//! behind, events are dropped: they are news, not state.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use tokio::sync::mpsc;
use tombolo_runtime::shutdown::Shutdown;

use crate::events;

/// Events that may wait to be written.
const WAITING: usize = 256;

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
        let events = events::Events::new(client, "kubelet", Some(node));
        shutdown.spawn("events", write(events, receiver, shutdown.clone()));
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

async fn write(events: events::Events, mut news: mpsc::Receiver<News>, shutdown: Shutdown) {
    loop {
        let next = tokio::select! {
            next = news.recv() => next,
            () = shutdown.draining() => None,
        };
        let Some(News { object, kind, reason, message, at }) = next else { break };
        events.write(kind, &object, reason, message, at).await;
    }
}
