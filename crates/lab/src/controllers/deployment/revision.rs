//! The annotations, labels and names by which a Deployment keeps its history in ReplicaSets.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::core::ObjectMeta;
use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};

use crate::controllers::failure::Failure;
use crate::controllers::pods;

pub(super) const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MOST: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that are not for its ReplicaSets.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MOST,
    "deprecated.deployment.rollback.to",
];
/// Letters that make no words, as in Kubernetes' own names.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The revision of a Deployment or ReplicaSet; zero when it has none.
pub(super) fn of<K: Resource>(object: &K) -> i64 {
    let annotations = object.meta().annotations.as_ref();
    annotations.and_then(|all| all.get(REVISION)?.parse().ok()).unwrap_or(0)
}

/// Writes a revision.
pub(super) fn put<K: Resource>(object: &mut K, revision: i64) {
    let annotations = object.meta_mut().annotations.get_or_insert_default();
    annotations.insert(REVISION.into(), revision.to_string());
}

/// The highest revision among `sets`.
pub(super) fn highest(sets: &[Arc<ReplicaSet>]) -> i64 {
    sets.iter().map(|set| of(&**set)).max().unwrap_or(0)
}

/// The total that the Deployment allowed when `set` was last sized.
pub(super) fn most_replicas(set: &ReplicaSet) -> Option<i32> {
    set.annotations().get(MOST)?.parse().ok()
}

/// Whether the number of replicas has changed since active sets were last sized.
pub(super) fn was_resized(sets: &[Arc<ReplicaSet>], wanted: i32) -> bool {
    sets.iter().any(|set| {
        let active = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1) > 0;
        let before: Option<i32> = set.annotations().get(DESIRED).and_then(|t| t.parse().ok());
        active && before.is_some_and(|before| before != wanted)
    })
}

/// A short name for a template.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut hasher = Sha256::new();
    hasher.update(serde_json::to_vec(template).unwrap_or_default());
    if collisions > 0 {
        hasher.update(collisions.to_be_bytes());
    }
    let digest = hasher.finalize();
    digest.iter().take(10).map(|byte| char::from(letter(*byte))).collect()
}

fn letter(byte: u8) -> u8 {
    LETTERS.get(usize::from(byte) % LETTERS.len()).copied().unwrap_or(b'x')
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    if let Some(meta) = template.metadata.as_mut() {
        meta.creation_timestamp = None;
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
    }
    template
}

/// Whether `set` was made for `template`.
pub(super) fn is_of_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let held = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    held.is_some_and(|held| without_hash(held) == without_hash(template))
}

/// Whether nothing is left of an old set, so that it is mere history.
pub(super) fn is_idle(set: &ReplicaSet) -> bool {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = set.status.clone().unwrap_or_default();
    let observed = status.observed_generation >= set.metadata.generation;
    replicas == 0 && status.replicas == 0 && observed && set.meta().deletion_timestamp.is_none()
}

fn annotations_for_sets(deployment: &Deployment) -> BTreeMap<String, String> {
    let all = deployment.annotations().iter();
    all.filter(|(key, _)| !OWN.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// `set` with the annotations and settings that its Deployment asks for and at least `revision`,
/// if that changes anything.
pub(super) fn refresh(
    deployment: &Deployment,
    set: &ReplicaSet,
    revision: i64,
) -> Option<ReplicaSet> {
    let mut changed = set.clone();
    let annotations = changed.metadata.annotations.get_or_insert_default();
    annotations.extend(annotations_for_sets(deployment));
    let before = of(set);
    if before < revision {
        if before > 0 {
            let history = annotations.entry(HISTORY.into()).or_default();
            if !history.is_empty() {
                history.push(',');
            }
            history.push_str(&before.to_string());
        }
        annotations.insert(REVISION.into(), revision.to_string());
    }
    let min_ready = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
    if let Some(spec) = changed.spec.as_mut()
        && spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0)
    {
        spec.min_ready_seconds = min_ready;
    }
    (changed != *set).then_some(changed)
}

/// `set` at a new size, if that or its annotations change.
pub(super) fn resized(set: &ReplicaSet, size: i32, wanted: i32, most: i32) -> Option<ReplicaSet> {
    let mut changed = set.clone();
    let annotations = changed.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.into(), wanted.to_string());
    annotations.insert(MOST.into(), most.to_string());
    changed.spec.get_or_insert_default().replicas = Some(size);
    (changed != *set).then_some(changed)
}

/// The ReplicaSet of a Deployment's present template.
pub(super) fn new_set(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    collisions: i32,
    revision: i64,
    replicas: i32,
) -> Result<ReplicaSet, Failure> {
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let wanted = spec.replicas.unwrap_or(1);
    let strategy = crate::controllers::deployment::rollout::Strategy::of(spec);
    let mut annotations = annotations_for_sets(deployment);
    annotations.insert(REVISION.into(), revision.to_string());
    annotations.insert(DESIRED.into(), wanted.to_string());
    annotations.insert(MOST.into(), (wanted + strategy.surge(wanted)).to_string());
    Ok(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![pods::controller_ref(deployment)?]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: Some(replicas),
            selector,
            template: Some(template),
        }),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment() -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u1", "annotations": {
                "note": "kept", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "v1"}]}}},
        }))
        .unwrap()
    }

    #[test]
    fn a_new_set_carries_hash_revision_and_limits_and_is_found_by_its_template() {
        let deployment = deployment();
        let spec = deployment.spec.clone().unwrap();
        let set = new_set(&deployment, &spec, 0, 3, 2).unwrap();
        let hash = template_hash(&spec.template, 0);
        assert_eq!(set.name_any(), format!("web-{hash}"));
        let want = [(DESIRED, "4"), (MOST, "5"), (REVISION, "3"), ("note", "kept")];
        let want: BTreeMap<_, _> =
            want.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(*set.annotations(), want);
        assert!(is_of_template(&set, &spec.template));
        assert_ne!(template_hash(&spec.template, 1), hash);
    }

    #[test]
    fn an_old_set_that_is_used_again_remembers_its_former_revisions() {
        let deployment = deployment();
        let spec = deployment.spec.clone().unwrap();
        let set = new_set(&deployment, &spec, 0, 1, 2).unwrap();
        let again = refresh(&deployment, &set, 3).unwrap();
        let again = refresh(&deployment, &again, 5).unwrap();
        assert_eq!((of(&again), again.annotations()[HISTORY].as_str()), (5, "1,3"));
        assert_eq!(refresh(&deployment, &again, 5), None);
    }
}
