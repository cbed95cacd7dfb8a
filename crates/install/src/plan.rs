//! What applying a mesh file would do: per cluster what is created, changed and removed.
//!
//! Changes are found by asking the API server what applying would make of an object (a dry run),
//! so defaults and webhooks count; nothing is written.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::future::try_join_all;
use kube::api::DynamicObject;
use serde::Serialize;
use serde_json::Value;
use similar::TextDiff;

use crate::cluster::{Access, CallError, Cluster};
use crate::documents::{self, DocumentError};

use crate::mesh_file::MeshFile;
use crate::object::Object;
use crate::removal::{self, RemovalError};
use crate::topology::{ClusterPlan, plans};

/// Metadata that differs between any two writes and that nobody asks for.
const BOOKKEEPING: &[&str] =
    &["managedFields", "resourceVersion", "generation", "creationTimestamp", "uid", "selfLink"];

/// Why it is not known what applying would do.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Removal(#[from] RemovalError),
    #[error(transparent)]
    Call(#[from] CallError),
}

/// The whole plan: the document that `-o json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub mesh: String,
    pub clusters: Vec<ClusterChanges>,
}

/// What would happen to one cluster.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterChanges {
    pub name: String,
    /// Whether the cluster itself would be made.
    pub create: bool,
    pub changes: Vec<Change>,
}

/// What would happen to one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub object: String,
    pub action: Action,
    /// For a change, the difference as a unified diff of YAML.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub diff: String,
}

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Create,
    Change,
    Remove,
    Keep,
}

impl Plan {
    /// Whether applying would change anything.
    pub fn is_empty(&self) -> bool {
        self.clusters.iter().all(|cluster| {
            !cluster.create && cluster.changes.iter().all(|change| change.action == Action::Keep)
        })
    }
}

/// Makes the plan. Clusters without an entry in `access` do not exist yet.
///
/// # Errors
/// When a cluster cannot be asked.
pub async fn plan(file: &MeshFile, access: &BTreeMap<String, Access>) -> Result<Plan, PlanError> {
    let plans = plans(file);
    let clusters =
        try_join_all(plans.iter().map(|plan| cluster_changes(file, plan, &plans, access))).await?;
    Ok(Plan { mesh: file.name.clone(), clusters })
}

async fn cluster_changes(
    file: &MeshFile,
    plan: &ClusterPlan,
    all: &[ClusterPlan],
    access: &BTreeMap<String, Access>,
) -> Result<ClusterChanges, PlanError> {
    let objects = documents::wanted(file, plan, all, access).await?;
    let Some(Access { cluster, .. }) = access.get(&plan.name) else {
        let create = |object: &Object| Change {
            object: object.reference(),
            action: Action::Create,
            diff: String::new(),
        };
        let changes = objects.iter().map(create).collect();
        return Ok(ClusterChanges { name: plan.name.clone(), create: true, changes });
    };
    let mut changes = try_join_all(objects.iter().map(|object| change(cluster, object))).await?;
    let wanted: BTreeSet<String> = objects.iter().map(Object::reference).collect();
    for gone in removal::superfluous(cluster, file, plan, &wanted).await? {
        changes.push(Change {
            object: gone.reference(),
            action: Action::Remove,
            diff: String::new(),
        });
    }
    Ok(ClusterChanges { name: plan.name.clone(), create: false, changes })
}

async fn change(cluster: &Cluster, object: &Object) -> Result<Change, CallError> {
    let reference = object.reference();
    let Some(live) = cluster.get(object).await? else {
        return Ok(Change { object: reference, action: Action::Create, diff: String::new() });
    };
    // Secrets are made by their own steps. Of one whose content is known it is said whether it
    // changes, but never what it holds.
    if object.kind() == "Secret" {
        let action = if holds(&live, object) { Action::Keep } else { Action::Change };
        return Ok(Change { object: reference, action, diff: String::new() });
    }
    let applied = cluster.dry_run(&crate::install::settled(cluster, object).await?).await?;
    let (before, after) = (comparable(live), comparable(applied));
    if before == after {
        return Ok(Change { object: reference, action: Action::Keep, diff: String::new() });
    }
    let diff = TextDiff::from_lines(&before, &after).unified_diff().context_radius(2).to_string();
    Ok(Change { object: reference, action: Action::Change, diff })
}

/// Whether a secret holds what is asked for, if that is known.
fn holds(live: &DynamicObject, object: &Object) -> bool {
    let wanted = object.value().get("stringData").and_then(Value::as_object);
    wanted.into_iter().flatten().all(|(key, text)| {
        let found = live.data.get("data").and_then(|data| data.get(key)).and_then(Value::as_str);
        found == text.as_str().map(|text| BASE64.encode(text)).as_deref()
    })
}

/// An object as YAML, without what differs between any two writes.
fn comparable(object: DynamicObject) -> String {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|key, _| !BOOKKEEPING.contains(&key.as_str()));
        }
    }
    serde_saphyr::to_string(&value).unwrap_or_default()
}
