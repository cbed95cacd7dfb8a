//! ControllerRevisions: the past templates of DaemonSets and StatefulSets, as `kubectl rollout`
//! reads them.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::controllers::cache::Cache;
use crate::controllers::deployment::template_hash;
use crate::controllers::failure::{Doing, Failure, already_exists, unless_gone};
use crate::controllers::pods;

/// Marks pods and revisions with the template they are of.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";

/// The revisions of one owner.
pub(crate) struct Revisions<'a, O> {
    pub(crate) owner: &'a O,
    pub(crate) template: &'a PodTemplateSpec,
    pub(crate) client: &'a Client,
    pub(crate) cache: &'a Cache<ControllerRevision>,
    /// How many old revisions are kept besides those in use.
    pub(crate) limit: usize,
}

impl<O> Revisions<'_, O>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    fn data(&self) -> serde_json::Value {
        let mut template = json!(self.template);
        if let Some(map) = template.as_object_mut() {
            map.insert("$patch".into(), json!("replace"));
        }
        json!({"spec": {"template": template}})
    }

    fn owned(&self) -> Vec<Arc<ControllerRevision>> {
        let mut all = self.cache.in_namespace(&self.owner.namespace().unwrap_or_default());
        all.retain(|revision| pods::is_controlled_by(&**revision, self.owner));
        all.sort_by_key(|revision| revision.revision);
        all
    }

    fn api(&self) -> Api<ControllerRevision> {
        Api::namespaced(self.client.clone(), &self.owner.namespace().unwrap_or_default())
    }

    /// The revision of the present template: found, moved to the end of the history, or made.
    pub(crate) async fn present(&self) -> Result<Arc<ControllerRevision>, Failure> {
        let owned = self.owned();
        let next = owned.last().map_or(0, |last| last.revision) + 1;
        let data = self.data();
        let same =
            |held: &&Arc<ControllerRevision>| held.data.as_ref().is_some_and(|d| d.0 == data);
        if let Some(found) = owned.iter().rfind(same) {
            if found.revision + 1 == next {
                return Ok(found.clone());
            }
            let mut moved = (**found).clone();
            moved.revision = next;
            let name = moved.name_any();
            let written = self.api().replace(&name, &PostParams::default(), &moved).await;
            return self.keep(written, &name);
        }
        let hash = template_hash(self.template, 0);
        let name = format!("{}-{hash}", self.owner.name_any());
        let template = self.template.metadata.as_ref();
        let mut labels = template.and_then(|meta| meta.labels.clone()).unwrap_or_default();
        labels.insert(HASH_LABEL.into(), hash);
        let made = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: self.owner.namespace(),
                labels: Some(labels),
                annotations: self.owner.meta().annotations.clone(),
                owner_references: Some(vec![pods::controller_ref(self.owner)?]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data)),
            revision: next,
        };
        match self.api().create(&PostParams::default(), &made).await {
            // Ours, and not yet in the cache.
            Err(error) if already_exists(&error) => {
                let found = self.api().get(&name).await;
                self.keep(found, &name)
            }
            result => self.keep(result, &name),
        }
    }

    fn keep(
        &self,
        result: kube::Result<ControllerRevision>,
        name: &str,
    ) -> Result<Arc<ControllerRevision>, Failure> {
        let revision = result.doing(|| format!("write ControllerRevision {name}"))?;
        self.cache.wrote(&revision);
        Ok(Arc::new(revision))
    }

    /// Removes the oldest revisions beyond the limit that no pod is of.
    pub(crate) async fn forget(&self, in_use: &BTreeSet<String>) -> Result<(), Failure> {
        let idle: Vec<_> = self
            .owned()
            .into_iter()
            .filter(|held| held.labels().get(HASH_LABEL).is_none_or(|hash| !in_use.contains(hash)))
            .collect();
        let excess = idle.len().saturating_sub(self.limit);
        for revision in idle.into_iter().take(excess) {
            let name = revision.name_any();
            unless_gone(self.api().delete(&name, &DeleteParams::default()).await)
                .doing(|| format!("delete ControllerRevision {name}"))?;
            self.cache.deleted(&revision);
        }
        Ok(())
    }
}

/// The hash in a revision's label.
pub(crate) fn hash(revision: &ControllerRevision) -> String {
    revision.labels().get(HASH_LABEL).cloned().unwrap_or_default()
}
