//! What applying once made and a mesh file no longer asks for, and what `destroy` takes away.
//!
//! Objects that carry an installation's labels are ours by these. Of the others only those count
//! whose fields this program owns: what a user applied under the same name stays.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use serde_json::{Value, json};

use crate::cluster::{CallError, Cluster, FIELD_MANAGER};
use crate::documents::{self, DocumentError};
use crate::install::{self, InstallError};
use crate::mesh_file::MeshFile;
use crate::object::Object;
use crate::topology::{ClusterPlan, NAMESPACE};
use crate::wait::{self, Look, WaitError};

/// The annotation of a control plane's namespace that applying a mesh file made.
const MADE_FOR: &str = "tombolo.dev/made-for-mesh";

/// The field manager of that annotation: applying the namespace again must not take it away.
const MAKER: &str = "tombolo-maker";

/// The ConfigMaps in which the control plane gives every namespace the mesh's roots and the lists of
/// revoked certificates.
const TRUST: [&str; 2] = ["istio-ca-root-cert", "istio-ca-crl"];

/// What `destroy` did to a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    /// The objects that are gone, in the order they went.
    pub removed: Vec<String>,
    /// Other installations and objects of users, which keep Istio's definitions in the cluster.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub in_use: Vec<String>,
}

/// Why it is not known what is to be removed, or why it is still there.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error(transparent)]
    Wait(#[from] WaitError),
}

/// Makes the control plane's namespace if it is not there, and notes that it was made for a mesh.
///
/// # Errors
/// When the cluster cannot be asked or refuses.
pub(crate) async fn make_namespace(cluster: &Cluster, mesh: &str) -> Result<(), CallError> {
    let namespace = Object::new(json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "annotations": {MADE_FOR: mesh}},
    }));
    if cluster.get(&namespace).await?.is_some() {
        return Ok(());
    }
    cluster.apply_as(MAKER, &namespace).await.map(drop)
}

/// What is in a cluster of this mesh that its file no longer asks for. `wanted` holds the
/// references of what it asks for.
///
/// # Errors
/// When the cluster cannot be asked.
pub(crate) async fn superfluous(
    cluster: &Cluster,
    file: &MeshFile,
    plan: &ClusterPlan,
    wanted: &BTreeSet<String>,
) -> Result<Vec<Object>, RemovalError> {
    let mut found = Vec::new();
    for operator in [documents::operator(file, plan, None)?, documents::gateway_operator(plan)?] {
        found.extend(install::owned(cluster, &operator).await?);
    }
    found.extend(extras(cluster).await?);
    // Without its intermediate a control plane would sign with another root after its next start.
    let stays = |object: &Object| {
        let pinned = object.label("install.operator.istio.io/owning-resource-not-pruned");
        pinned == Some("true") || (object.kind() == "Secret" && object.name() == "cacerts")
    };
    found.retain(|object| !wanted.contains(&object.reference()) && !stays(object));
    Ok(found)
}

/// What applying makes beside installations: exposures, and the secrets of trust and of links.
async fn extras(cluster: &Cluster) -> Result<Vec<Object>, RemovalError> {
    let mut candidates = documents::exposures(true, true)?;
    candidates.push(documents::secret("cacerts"));
    candidates.push(documents::secret(&documents::reader_token()));
    let linking = documents::secret("");
    for secret in cluster.list_labelled(&linking, "istio/multiCluster=true").await? {
        if secret.namespace().as_deref() == Some(NAMESPACE) {
            candidates.push(documents::secret(&secret.name_any()));
        }
    }
    let ours = try_join_all(candidates.into_iter().map(|candidate| async move {
        let ours = cluster.get(&candidate).await?.is_some_and(|object| is_ours(&object));
        Ok::<_, CallError>(ours.then_some(candidate))
    }));
    Ok(ours.await?.into_iter().flatten().collect())
}

fn is_ours(object: &DynamicObject) -> bool {
    object.managed_fields().iter().any(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER))
}

/// Removes everything that applying made in a cluster and that its control plane made since, and
/// waits until it is gone. A namespace that a user made stays. While other installations are in the
/// cluster, what they share with the mesh stays too: definitions, and in the control plane's
/// namespace the reader's account and the signing material. Definitions also stay while objects of
/// users need them.
///
/// # Errors
/// When the cluster refuses or cannot be asked, or something is not gone within `limit`.
pub async fn destroy(
    cluster: &Cluster,
    file: &MeshFile,
    plan: &ClusterPlan,
    limit: Duration,
) -> Result<Removed, RemovalError> {
    let control_plane = documents::operator(file, plan, None)?;
    let ours = [&control_plane, &documents::gateway_operator(plan)?];
    let (installed, others): (Vec<Object>, Vec<Object>) =
        install::labelled(cluster, "operator.istio.io/component")
            .await?
            .into_iter()
            .partition(|object| ours.iter().any(|operator| install::is_of(operator, object)));
    let shared = others.iter().any(|object| object.namespace() == Some(NAMESPACE));
    let is_base = |object: &Object| object.label("operator.istio.io/component") == Some("Base");
    let mut done = Removed::default();
    for object in installed.iter().filter(|object| !(shared && is_base(object))) {
        remove(cluster, object, &mut done).await?;
    }
    let istiod = control_plane.revisioned("istiod");
    let taken_over = others.iter().any(|object| {
        object.kind() == "Deployment"
            && (object.namespace(), object.name()) == (Some(NAMESPACE), istiod.as_str())
    });
    if !taken_over {
        // Until it is gone it would write the rest again.
        control_plane_gone(cluster, control_plane.revision_label(), limit).await?;
    }
    for object in extras(cluster).await? {
        if !(shared && object.kind() == "Secret" && object.name() == "cacerts") {
            remove(cluster, &object, &mut done).await?;
        }
    }
    if others.is_empty() {
        remove_trust(cluster, &mut done).await?;
    }
    let namespace = Object::new(json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE},
    }));
    let live = if shared { None } else { cluster.get(&namespace).await? };
    if live.is_some_and(|live| live.annotations().contains_key(MADE_FOR)) {
        cluster.delete(&namespace).await?;
        gone(cluster, &namespace, limit).await?;
        done.removed.push(namespace.reference());
    }
    done.in_use = others.iter().map(installation).collect::<BTreeSet<_>>().into_iter().collect();
    remove_definitions(cluster, &install::owner(&control_plane), &mut done).await?;
    Ok(done)
}

async fn remove(cluster: &Cluster, object: &Object, done: &mut Removed) -> Result<(), CallError> {
    if cluster.delete(object).await? {
        done.removed.push(object.reference());
    }
    Ok(())
}

/// Removes what namespaces were given to trust by.
async fn remove_trust(cluster: &Cluster, done: &mut Removed) -> Result<(), CallError> {
    let maps = Object::new(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}));
    for map in cluster.list_labelled(&maps, "istio.io/config=true").await? {
        let name = map.name_any();
        if TRUST.contains(&name.as_str()) {
            let metadata = json!({"name": name, "namespace": map.namespace()});
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
            remove(cluster, &Object::new(map), done).await?;
        }
    }
    Ok(())
}

/// Whose an object is, by the labels of its installation.
fn installation(object: &Object) -> String {
    format!(
        "installation {} (revision {})",
        object.label("install.operator.istio.io/owning-resource").unwrap_or("unknown"),
        object.label("istio.io/rev").unwrap_or("default")
    )
}

/// Waits until an object is not there any more.
async fn gone(cluster: &Cluster, object: &Object, limit: Duration) -> Result<(), WaitError> {
    let what = format!("{} to be gone", object.reference());
    wait::until(cluster, &what, limit, None, || async {
        Ok(match cluster.get(object).await? {
            None => Look::Holds(()),
            Some(live) => Look::Missing(remains(&live.data)),
        })
    })
    .await
}

/// Waits until no control plane of a revision runs in a cluster.
async fn control_plane_gone(
    cluster: &Cluster,
    revision: &str,
    limit: Duration,
) -> Result<(), WaitError> {
    let api: Api<Pod> = cluster.namespaced(NAMESPACE);
    let selector = format!("app=istiod,istio.io/rev={revision}");
    wait::until(cluster, "the control plane's pods to end", limit, None, || async {
        let listed = api.list(&ListParams::default().labels(&selector)).await;
        let listed = listed.map_err(|error| cluster.failed("list", "Pod", error))?;
        Ok(match listed.items.first() {
            None => Look::Holds(()),
            Some(pod) => Look::Missing(format!("pod {} still runs", pod.name_any())),
        })
    })
    .await
}

/// What a namespace that is being deleted says it still waits for.
fn remains(namespace: &Value) -> String {
    let conditions = namespace.pointer("/status/conditions").and_then(Value::as_array);
    let said: Vec<_> = conditions
        .into_iter()
        .flatten()
        .filter(|condition| condition["status"] == "True")
        .filter_map(|condition| condition["message"].as_str())
        .collect();
    if said.is_empty() { "it is still there".to_owned() } else { said.join("; ") }
}

/// Removes the definitions that `owner` selects, unless something uses them.
async fn remove_definitions(
    cluster: &Cluster,
    owner: &str,
    done: &mut Removed,
) -> Result<(), CallError> {
    let like = Object::new(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    }));
    let selector = format!("operator.istio.io/component=Base,{owner}");
    let definitions = cluster.list_labelled(&like, &selector).await?;
    let objects = definitions.iter().map(|definition| objects_of(cluster, &definition.data));
    done.in_use.extend(try_join_all(objects).await?.into_iter().flatten());
    if !done.in_use.is_empty() {
        return Ok(());
    }
    for definition in definitions {
        let definition = Object::new(json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": definition.name_any()},
        }));
        remove(cluster, &definition, done).await?;
    }
    Ok(())
}

/// References of all objects of a definition.
async fn objects_of(cluster: &Cluster, definition: &Value) -> Result<Vec<String>, CallError> {
    let text =
        |pointer: &str| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let kind = text("/spec/names/kind");
    let of = GroupVersionKind::gvk(text("/spec/group"), text("/spec/versions/0/name"), kind);
    let resource = ApiResource::from_gvk_with_plural(&of, text("/spec/names/plural"));
    let api: Api<DynamicObject> = Api::all_with(cluster.client().clone(), &resource);
    let found = match api.list(&ListParams::default()).await {
        Ok(found) => found.items,
        Err(error) => {
            let error = cluster.failed("list", kind, error);
            return if error.is_not_found() { Ok(Vec::new()) } else { Err(error) };
        }
    };
    let reference = |object: DynamicObject| {
        format!("{kind}/{}/{}", object.namespace().unwrap_or_default(), object.name_any())
    };
    Ok(found.into_iter().map(reference).collect())
}
