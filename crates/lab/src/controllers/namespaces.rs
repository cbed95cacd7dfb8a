//! Namespace deletion: everything in a namespace goes first, then the namespace.
//!
//! What there is to delete is asked from the API server by discovery, so custom resources go too.
//! A namespace in which something stays says what, in its conditions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::failure::{Doing, Failure, unless_gone};
use crate::controllers::kinds::{self, Served};
use crate::controllers::queue::{Key, Queue};
use crate::controllers::work::Controller;

const FINALIZER: &str = "kubernetes";
/// How soon to look again at what has not gone yet.
const AGAIN: Duration = Duration::from_millis(300);

/// The controller.
pub(crate) struct Namespaces {
    client: Client,
    queue: Arc<Queue>,
    namespaces: Arc<Cache<Namespace>>,
}

/// What is left in a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    /// Objects by kind.
    objects: BTreeMap<String, usize>,
    /// Objects by the finalizer that holds them.
    finalizers: BTreeMap<String, usize>,
}

fn waits_for_us(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    namespace.metadata.deletion_timestamp.is_some()
        && finalizers.is_some_and(|all| all.iter().any(|name| name == FINALIZER))
}

impl Namespaces {
    /// Follows namespaces.
    pub(crate) fn new(caches: &Caches) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let namespaces = caches.all::<Namespace>();
        let to = queue.clone();
        namespaces.on_change(move |change| {
            if let Some(namespace) = change.new.filter(|namespace| waits_for_us(namespace)) {
                to.add(Key::of(&**namespace));
            }
        });
        Self { client: caches.client(), queue, namespaces }
    }

    async fn empty(&self, namespace: &str, kinds: &[Served]) -> Result<Left, Failure> {
        let mut left = Left::default();
        for kind in kinds.iter().filter(|kind| kind.namespaced) {
            let api = kind.api(&self.client, namespace);
            let doing = || format!("list {} of namespace {namespace}", kind.full_name());
            let held = unless_gone(api.list_metadata(&ListParams::default()).await).doing(doing)?;
            let items = held.map(|list| list.items).unwrap_or_default();
            if items.is_empty() {
                continue;
            }
            let deleting = || format!("delete {} of namespace {namespace}", kind.full_name());
            let background = DeleteParams::background();
            if kind.collective {
                let all = api.delete_collection(&background, &ListParams::default()).await;
                unless_gone(all).doing(deleting)?;
            } else {
                for item in &items {
                    let one = api.delete(&item.name_any(), &background).await;
                    unless_gone(one).doing(deleting)?;
                }
            }
            let held = unless_gone(api.list_metadata(&ListParams::default()).await).doing(doing)?;
            for item in held.map(|list| list.items).unwrap_or_default() {
                *left.objects.entry(kind.full_name()).or_default() += 1;
                for finalizer in item.finalizers() {
                    *left.finalizers.entry(finalizer.clone()).or_default() += 1;
                }
            }
        }
        Ok(left)
    }

    async fn write_conditions(
        &self,
        namespace: &Namespace,
        wanted: Vec<NamespaceCondition>,
    ) -> Result<(), Failure> {
        let mut changed = namespace.clone();
        let status = changed.status.get_or_insert_default();
        status.phase = Some("Terminating".into());
        let conditions = status.conditions.get_or_insert_default();
        for mut condition in wanted {
            let at = conditions.iter().position(|held| held.type_ == condition.type_);
            match at.and_then(|at| conditions.get_mut(at)) {
                Some(held) => {
                    if held.status == condition.status {
                        condition.last_transition_time = held.last_transition_time.clone();
                    }
                    *held = condition;
                }
                None => conditions.push(condition),
            }
        }
        if changed == *namespace {
            return Ok(());
        }
        let name = namespace.name_any();
        let api: Api<Namespace> = Api::all(self.client.clone());
        let written = api
            .replace_status(&name, &PostParams::default(), &changed)
            .await
            .doing(|| format!("write the conditions of namespace {name}"))?;
        self.namespaces.wrote(&written);
        Ok(())
    }

    async fn finalize(&self, name: &str) -> Result<(), Failure> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let doing = || format!("finalize namespace {name}");
        let Some(mut live) = unless_gone(api.get(name).await).doing(doing)? else { return Ok(()) };
        if let Some(finalizers) = live.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let body = serde_json::to_vec(&live)
            .map_err(|error| Failure::Object(format!("namespace {name}: {error}")))?;
        let request = http::Request::put(format!("/api/v1/namespaces/{name}/finalize"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| Failure::Object(format!("namespace {name}: {error}")))?;
        let done = self.client.request::<serde_json::Value>(request).await;
        unless_gone(done).doing(doing)?;
        Ok(())
    }
}

fn list(counts: &BTreeMap<String, usize>, verb: &str) -> String {
    let part = |(name, n): (&String, &usize)| format!("{name} {verb} {n} resource instances");
    let parts: Vec<_> = counts.iter().map(part).collect();
    parts.join(", ")
}

fn condition(kind: &str, bad: Option<(&str, String)>, good: [&str; 2]) -> NamespaceCondition {
    let status = if bad.is_some() { "True" } else { "False" };
    let [reason, message] = good;
    let (reason, message) = bad.unwrap_or((reason, message.to_owned()));
    NamespaceCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(Time(Timestamp::now())),
    }
}

fn conditions(left: &Left, failure: Option<&Failure>) -> Vec<NamespaceCondition> {
    let chain = |failure: &Failure| tombolo_runtime::errors::chain(failure).to_string();
    let remaining = (!left.objects.is_empty()).then(|| {
        let list = list(&left.objects, "has");
        ("SomeResourcesRemain", format!("Some resources are remaining: {list}"))
    });
    let held = (!left.finalizers.is_empty()).then(|| {
        let list = list(&left.finalizers, "in");
        let text = format!("Some content in the namespace has finalizers remaining: {list}");
        ("SomeFinalizersRemain", text)
    });
    vec![
        condition(
            "NamespaceDeletionDiscoveryFailure",
            None,
            ["ResourcesDiscovered", "All resources successfully discovered"],
        ),
        condition(
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ["ParsedGroupVersions", "All legacy kube types successfully parsed"],
        ),
        condition(
            "NamespaceDeletionContentFailure",
            failure.map(|failure| ("ContentDeletionFailed", chain(failure))),
            ["ContentDeleted", "All content successfully deleted, may be waiting on finalization"],
        ),
        condition(
            "NamespaceContentRemaining",
            remaining,
            ["ContentRemoved", "All content successfully removed"],
        ),
        condition(
            "NamespaceFinalizersRemaining",
            held,
            ["ContentHasNoFinalizers", "All content-preserving finalizers finished"],
        ),
    ]
}

impl Controller for Namespaces {
    const NAME: &'static str = "namespace";
    const WORKERS: usize = 4;

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let Some(namespace) = self.namespaces.get(key).filter(|found| waits_for_us(found)) else {
            return Ok(());
        };
        let discovered = kinds::discover(&self.client).await;
        let kinds = match discovered {
            Ok(kinds) => kinds,
            Err(failure) => {
                let text = tombolo_runtime::errors::chain(&failure).to_string();
                let bad = Some(("DiscoveryFailed", text));
                let bad = condition("NamespaceDeletionDiscoveryFailure", bad, ["", ""]);
                self.write_conditions(&namespace, vec![bad]).await?;
                return Err(failure);
            }
        };
        match self.empty(&key.name, &kinds).await {
            Ok(left) if left == Left::default() => self.finalize(&key.name).await,
            Ok(left) => {
                self.write_conditions(&namespace, conditions(&left, None)).await?;
                self.queue.add_after(key.clone(), AGAIN);
                Ok(())
            }
            Err(failure) => {
                let told = conditions(&Left::default(), Some(&failure));
                self.write_conditions(&namespace, told).await?;
                Err(failure)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_told_by_kind_and_by_finalizer() {
        let left = Left {
            objects: BTreeMap::from([("pods".into(), 2), ("things.example.com".into(), 1)]),
            finalizers: BTreeMap::from([("example.com/hold".into(), 1)]),
        };
        let told: Vec<_> = conditions(&left, None)
            .into_iter()
            .filter(|condition| condition.status == "True")
            .map(|condition| (condition.reason.unwrap(), condition.message.unwrap()))
            .collect();
        let want = [
            (
                "SomeResourcesRemain",
                "Some resources are remaining: pods has 2 resource instances, things.example.com \
                 has 1 resource instances",
            ),
            (
                "SomeFinalizersRemain",
                "Some content in the namespace has finalizers remaining: example.com/hold in 1 \
                 resource instances",
            ),
        ];
        assert_eq!(told, want.map(|(reason, text)| (reason.to_owned(), text.to_owned())));
    }
}
