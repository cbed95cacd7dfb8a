//! What all workload controllers share about pods: whose they are, whether they count, and how a
//! template becomes a pod.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::{ObjectMeta, Selector, SelectorExt};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::controllers::cache::{Cache, Kind};
use crate::controllers::failure::{Doing, Failure, unless_gone};
use crate::controllers::queue::Key;

/// The owner that controls an object, if any.
pub fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    let owners = object.meta().owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// Whether `owner` controls `object`.
pub fn is_controlled_by<K: Resource, O: Resource>(object: &K, owner: &O) -> bool {
    controller_of(object).is_some_and(|found| Some(&found.uid) == owner.meta().uid.as_ref())
}

/// The reference that makes `owner` the controller of an object.
///
/// # Errors
/// When `owner` does not come from an API server.
pub fn controller_ref<O: Resource<DynamicType = ()>>(owner: &O) -> Result<OwnerReference, Failure> {
    let reference = owner.controller_owner_ref(&()).ok_or_else(|| {
        Failure::Object(format!("{} {} has no UID", O::kind(&()), owner.name_any()))
    })?;
    Ok(OwnerReference { block_owner_deletion: Some(true), ..reference })
}

/// The keys of the owners of `kind` that a change of an owned object concerns.
pub fn owner_key<K: Resource>(object: &K, kind: &str) -> Option<Key> {
    let owner = controller_of(object).filter(|owner| owner.kind == kind)?;
    Some(Key::new(&object.namespace().unwrap_or_default(), &owner.name))
}

/// A selector that can be asked.
///
/// # Errors
/// When the selector is malformed, or empty (it would take every pod).
pub fn selector(of: &LabelSelector, object: &str) -> Result<Selector, Failure> {
    let selector = Selector::try_from(of.clone())
        .map_err(|error| Failure::Object(format!("selector of {object}: {error}")))?;
    if selector.selects_all() {
        return Err(Failure::Object(format!("selector of {object} is empty")));
    }
    Ok(selector)
}

/// Whether the pod still counts for its owner: neither finished nor on its way out.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Whether the pod's containers have ended for good.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// The pod's phase, empty when nobody has reported one.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// When the pod became ready, if it is.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready" && c.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0))
}

/// Whether the pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// How long until a pod has been ready for `min_ready_seconds`; zero when it has.
pub fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let since = ready_since(pod)?;
    let wanted = Duration::from_secs(u64::try_from(min_ready_seconds).unwrap_or(0));
    if wanted.is_zero() {
        return Some(Duration::ZERO);
    }
    let waited = Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO);
    Some(wanted.saturating_sub(waited))
}

/// Whether the pod has been ready long enough.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_in(pod, min_ready_seconds, now) == Some(Duration::ZERO)
}

/// A condition's time stamp: kept while the status stays the same.
pub fn transition(old: Option<(&str, Option<&Time>)>, status: &str, now: Timestamp) -> Time {
    match old {
        Some((before, Some(since))) if before == status => since.clone(),
        _ => Time(now),
    }
}

/// The pod that `template` describes, owned by `owner`.
pub fn from_template(template: &PodTemplateSpec, owner: OwnerReference, prefix: &str) -> Pod {
    let from = template.metadata.clone().unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(prefix.to_owned()),
        labels: from.labels,
        annotations: from.annotations,
        finalizers: from.finalizers,
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: template.spec.clone(), status: None }
}

/// Takes in orphans that an owner selects and lets go of what it no longer selects; returns what
/// the owner has afterwards.
pub struct Claim<'a, O, K> {
    /// The owner.
    pub owner: &'a O,
    /// Its selector.
    pub selector: &'a Selector,
    /// The cache of the owned kind.
    pub cache: &'a Cache<K>,
    /// How to write.
    pub client: &'a Client,
}

impl<O, K> Claim<'_, O, K>
where
    O: Resource<DynamicType = ()>,
    K: Kind + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    /// The owned objects, after adoption and release.
    ///
    /// # Errors
    /// When the API server refuses to change an owner reference.
    pub async fn owned(&self) -> Result<Vec<Arc<K>>, Failure> {
        let namespace = self.owner.namespace().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace);
        let leaving = self.owner.meta().deletion_timestamp.is_some();
        let mut owned = Vec::new();
        for object in self.cache.in_namespace(&namespace) {
            let selected = self.selector.matches(object.labels());
            if is_controlled_by(&*object, self.owner) {
                if selected || leaving || object.meta().deletion_timestamp.is_some() {
                    owned.push(object);
                } else {
                    self.release(&api, &object).await?;
                }
            } else if selected
                && !leaving
                && controller_of(&*object).is_none()
                && object.meta().deletion_timestamp.is_none()
                && let Some(adopted) = self.adopt(&api, &object).await?
            {
                owned.push(adopted);
            }
        }
        Ok(owned)
    }

    async fn adopt(&self, api: &Api<K>, object: &K) -> Result<Option<Arc<K>>, Failure> {
        let mut owners = object.owner_references().to_vec();
        owners.push(controller_ref(self.owner)?);
        let patch = json!({"metadata": {"ownerReferences": owners, "uid": object.uid()}});
        let name = object.name_any();
        let patched = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        let patched = unless_gone(patched).doing(|| format!("adopt {} {name}", K::kind(&())))?;
        Ok(patched.map(|object| {
            self.cache.wrote(&object);
            Arc::new(object)
        }))
    }

    async fn release(&self, api: &Api<K>, object: &K) -> Result<(), Failure> {
        let uid = self.owner.uid().unwrap_or_default();
        let owners: Vec<_> =
            object.owner_references().iter().filter(|owner| owner.uid != uid).collect();
        let patch = json!({"metadata": {"ownerReferences": owners, "uid": object.uid()}});
        let name = object.name_any();
        let patched = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        let patched = unless_gone(patched).doing(|| format!("release {} {name}", K::kind(&())))?;
        if let Some(object) = patched {
            self.cache.wrote(&object);
        }
        Ok(())
    }
}

/// Deletes exactly this pod, not one that took its name meanwhile.
///
/// # Errors
/// When the API server refuses.
pub async fn delete(client: &Client, cache: &Cache<Pod>, pod: &Pod) -> Result<(), Failure> {
    let api: Api<Pod> =
        Api::namespaced(client.clone(), &pod.metadata.namespace.clone().unwrap_or_default());
    let name = pod.name_any();
    let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    unless_gone(api.delete(&name, &params).await).doing(|| format!("delete pod {name}"))?;
    cache.deleted(pod);
    Ok(())
}

/// The labels of a template.
pub fn template_labels(template: &PodTemplateSpec) -> BTreeMap<String, String> {
    template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default()
}
