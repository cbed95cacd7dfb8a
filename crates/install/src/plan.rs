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

use crate::cluster::{CallError, Cluster};
use crate::mesh::{self, Access, MeshError, NAMESPACE};
use crate::mesh_file::{MeshFile, Role};
use crate::object::{Object, read_manifest};
use crate::remote_secret;
use crate::removal;
use crate::render::render;
use crate::topology::{ClusterPlan, plans};

/// Metadata that differs between any two writes and that nobody asks for.
const BOOKKEEPING: &[&str] =
    &["managedFields", "resourceVersion", "generation", "creationTimestamp", "uid", "selfLink"];

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
pub async fn plan(file: &MeshFile, access: &BTreeMap<String, Access>) -> Result<Plan, MeshError> {
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
) -> Result<ClusterChanges, MeshError> {
    let objects = objects(file, plan, all, access).await?;
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

/// Everything that applying the mesh file writes to a cluster.
///
/// # Errors
/// When a cluster that decides about another's objects cannot be asked.
pub(crate) async fn objects(
    file: &MeshFile,
    plan: &ClusterPlan,
    all: &[ClusterPlan],
    access: &BTreeMap<String, Access>,
) -> Result<Vec<Object>, MeshError> {
    let discovery = match &plan.role {
        Role::Remote { primary } => match access.get(primary) {
            Some(primary) => gateway_address(&primary.cluster).await?,
            None => None,
        },
        Role::Primary => None,
    };
    let mut objects = vec![mesh::system_namespace(plan)];
    let mut operators = vec![mesh::operator(file, plan, discovery.as_deref())?];
    if plan.gateway {
        operators.push(mesh::gateway_operator(plan)?);
    }
    for operator in &operators {
        objects.extend(render(operator).into_iter().flat_map(|component| component.objects));
    }
    for manifest in mesh::exposures(plan) {
        for mut object in read_manifest(manifest)? {
            object.default_namespace(NAMESPACE);
            objects.push(object);
        }
    }
    if plan.plugged_in_ca {
        objects.push(mesh::secret("cacerts"));
    }
    if all.iter().any(|other| other.watches.contains(&plan.name)) {
        objects.push(mesh::secret(&mesh::reader_token()));
    }
    for other in &plan.watches {
        let made = match access.get(other) {
            Some(Access { cluster, server }) => {
                remote_secret::existing(cluster, &mesh::link(other, server)).await?
            }
            None => None,
        };
        objects.push(made.unwrap_or_else(|| mesh::secret(&format!("istio-remote-secret-{other}"))));
    }
    Ok(objects)
}

async fn gateway_address(cluster: &Cluster) -> Result<Option<String>, CallError> {
    let service = Object::new(serde_json::json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "istio-eastwestgateway", "namespace": NAMESPACE},
    }));
    let found = cluster.get(&service).await?;
    Ok(found.and_then(|service| {
        service
            .data
            .pointer("/status/loadBalancer/ingress/0/ip")
            .and_then(Value::as_str)
            .map(str::to_owned)
    }))
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
