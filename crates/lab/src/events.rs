//! Kubernetes events: what `kubectl describe` shows about an object's life.
//!
//! As Kubernetes' own recorder does, an event that says the same of the same object again is
//! counted instead of written again. An event that cannot be written is logged, never an error:
//! the work that it tells about is done.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;
use tombolo_runtime::errors::chain;

/// Repetitions that are remembered.
const REMEMBERED: usize = 512;

/// Characters that a message may have, as Kubernetes' API allows.
const MOST_CHARACTERS: usize = 1000;

/// Where events of cluster-wide objects are kept.
const CLUSTER_WIDE: &str = "default";

/// What makes two events the same: object, part of it, reason and message.
type Key = (String, Option<String>, String, String);

/// Name and count of an event that was written.
type Written = (String, i32);

/// Writes events. Clones share what they remember.
#[derive(Clone)]
pub struct Events {
    client: Client,
    source: EventSource,
    written: Arc<Mutex<BTreeMap<Key, Written>>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Events {
    /// Events reported by `component`, on `host` where it runs on a node.
    pub fn new(client: Client, component: &str, host: Option<String>) -> Self {
        let source = EventSource { component: Some(component.to_owned()), host };
        Self { client, source, written: Arc::default() }
    }

    /// Something went as it should.
    pub async fn normal(&self, about: &ObjectReference, reason: &str, message: String) {
        self.write("Normal", about, reason, message, Timestamp::now()).await;
    }

    /// Something that a user should look at.
    pub async fn warning(&self, about: &ObjectReference, reason: &str, message: String) {
        self.write("Warning", about, reason, message, Timestamp::now()).await;
    }

    /// Writes what happened at a time.
    pub async fn write(
        &self,
        kind: &str,
        about: &ObjectReference,
        reason: &str,
        message: String,
        at: Timestamp,
    ) {
        let message: String = message.chars().take(MOST_CHARACTERS).collect();
        let key = (
            about.uid.clone().unwrap_or_default(),
            about.field_path.clone(),
            reason.to_owned(),
            message.clone(),
        );
        let outcome = match self.count(&key, about, at).await {
            Ok(true) => return,
            Ok(false) => self.create(key, kind, about, reason, message, at).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            let object = about.name.as_deref().unwrap_or_default();
            tracing::debug!(object, reason, error = %chain(&error), "event not written");
        }
    }

    /// Counts a repetition; false where it is none, or the first one has expired.
    async fn count(
        &self,
        key: &Key,
        about: &ObjectReference,
        at: Timestamp,
    ) -> Result<bool, kube::Error> {
        let repeated = self.written.lock().get_mut(key).map(|(name, count)| {
            *count += 1;
            (name.clone(), *count)
        });
        let Some((name, count)) = repeated else { return Ok(false) };
        let patch = json!({"count": count, "lastTimestamp": Time(at)});
        match self.api(about).patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            other => other.map(|_| true),
        }
    }

    async fn create(
        &self,
        key: Key,
        kind: &str,
        about: &ObjectReference,
        reason: &str,
        message: String,
        at: Timestamp,
    ) -> Result<(), kube::Error> {
        let object = about.name.as_deref().unwrap_or_default();
        let name = format!("{object}.{:x}", at.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            involved_object: about.clone(),
            type_: Some(kind.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            count: Some(1),
            first_timestamp: Some(Time(at)),
            last_timestamp: Some(Time(at)),
            source: Some(self.source.clone()),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            ..Event::default()
        };
        self.api(about).create(&PostParams::default(), &event).await?;
        let mut written = self.written.lock();
        if written.len() >= REMEMBERED {
            written.clear();
        }
        written.insert(key, (name, 1));
        Ok(())
    }

    fn api(&self, about: &ObjectReference) -> Api<Event> {
        let namespace = about.namespace.as_deref().unwrap_or(CLUSTER_WIDE);
        Api::namespaced(self.client.clone(), namespace)
    }
}
