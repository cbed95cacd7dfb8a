//! What applying a mesh file would do: per cluster what is created, changed and removed.
//!
//! Changes are found by asking the API server what applying would make of an object (a dry run),
//! so defaults and webhooks count; nothing is written.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;
use kube::api::DynamicObject;
use serde::Serialize;
use serde_json::Value;
use similar::TextDiff;

use crate::cluster::{CallError, Cluster};
use crate::install;
use crate::mesh::{self, Access, MeshError, NAMESPACE};
use crate::mesh_file::{MeshFile, Role};
use crate::object::{Object, read_manifest};
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
        try_join_all(plans.iter().map(|plan| cluster_changes(file, plan, access))).await?;
    Ok(Plan { mesh: file.name.clone(), clusters })
}

async fn cluster_changes(
    file: &MeshFile,
    plan: &ClusterPlan,
    access: &BTreeMap<String, Access>,
) -> Result<ClusterChanges, MeshError> {
    let objects = objects(file, plan, access).await?;
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
    let rendered: BTreeSet<String> = objects.iter().map(Object::reference).collect();
    for operator in [mesh::operator(file, plan, None)?, mesh::gateway_operator(plan)?] {
        for gone in install::owned(cluster, &operator).await? {
            if !rendered.contains(&gone.reference()) {
                changes.push(Change {
                    object: gone.reference(),
                    action: Action::Remove,
                    diff: String::new(),
                });
            }
        }
    }
    Ok(ClusterChanges { name: plan.name.clone(), create: false, changes })
}

/// Everything that applying the mesh file writes to a cluster.
async fn objects(
    file: &MeshFile,
    plan: &ClusterPlan,
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
    let secret = |name: &str| {
        Object::new(serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE},
        }))
    };
    if plan.plugged_in_ca {
        objects.push(secret("cacerts"));
    }
    objects
        .extend(plan.watches.iter().map(|other| secret(&format!("istio-remote-secret-{other}"))));
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
    // Secrets are made by their own steps; that they are there is all a plan may look at.
    if object.kind() == "Secret" {
        return Ok(Change { object: reference, action: Action::Keep, diff: String::new() });
    }
    let applied = cluster.dry_run(object).await?;
    let (before, after) = (comparable(live), comparable(applied));
    if before == after {
        return Ok(Change { object: reference, action: Action::Keep, diff: String::new() });
    }
    let diff = TextDiff::from_lines(&before, &after).unified_diff().context_radius(2).to_string();
    Ok(Change { object: reference, action: Action::Change, diff })
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
