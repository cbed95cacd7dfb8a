//! One installation: applies what an IstioOperator renders, waits until it is ready, and prunes
//! what the same installation no longer asks for. Running it again changes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{Api, ResourceExt};

use crate::cluster::{CallError, Cluster};
use crate::object::Object;
use crate::operator::Operator;
use crate::progress::Progress;
use crate::render::{Component, render};
use crate::wait::{self, Look, WaitError};

/// How long a component may take to become ready, unless the user says otherwise.
pub const READINESS_LIMIT: Duration = Duration::from_secs(300);

/// The kinds that an installation may have rendered, in the order they are pruned.
const PRUNED: &[(&str, &str)] = &[
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("v1", "ConfigMap"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("v1", "ServiceAccount"),
];

/// Why an installation did not complete.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Wait(#[from] WaitError),
}

/// What an installation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Components that were applied.
    pub components: Vec<&'static str>,
    /// Objects that were pruned.
    pub pruned: Vec<String>,
}

/// Applies `operator` to a cluster and waits until it is ready.
///
/// # Errors
/// When an object is refused or something does not become ready within `limit`.
pub async fn install(
    cluster: &Cluster,
    operator: &Operator,
    limit: Duration,
    progress: &Progress,
) -> Result<Installed, InstallError> {
    ensure_namespace(cluster, operator).await?;
    let components = render(operator);
    let mut installed = Installed::default();
    for component in &components {
        let step = progress.step(cluster.name(), &format!("install {}", title(component)));
        apply(cluster, component, limit).await?;
        for object in component.objects.iter().filter(|object| object.kind() == "Deployment") {
            let namespace = object.namespace().unwrap_or_default();
            wait::rolled_out(cluster, namespace, object.name(), limit, Some(&step)).await?;
        }
        if component.name == "Pilot" && !operator.is_remote() {
            injection_ready(cluster, operator, limit).await?;
        }
        step.done("");
        installed.components.push(component.name);
    }
    installed.pruned = prune(cluster, operator, &components).await?;
    Ok(installed)
}

/// Applies a component's objects: definitions first and until they are served, then the rest in
/// order.
///
/// # Errors
/// When an object is refused or a definition is not served within `limit`.
pub async fn apply(
    cluster: &Cluster,
    component: &Component,
    limit: Duration,
) -> Result<(), InstallError> {
    let (definitions, rest): (Vec<_>, Vec<_>) =
        component.objects.iter().partition(|object| object.kind() == "CustomResourceDefinition");
    try_join_all(definitions.iter().map(|object| cluster.apply(object))).await?;
    try_join_all(definitions.iter().map(|object| wait::established(cluster, object.name(), limit)))
        .await?;
    for object in rest {
        cluster.apply(object).await?;
    }
    Ok(())
}

/// The control plane's namespace. Only where it is made here it gets the network's label, as
/// Istio's installer does; an existing one is the user's.
async fn ensure_namespace(cluster: &Cluster, operator: &Operator) -> Result<(), CallError> {
    let name = operator.namespace();
    let mut namespace = Object::new(serde_json::json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
    }));
    if cluster.get(&namespace).await?.is_some() {
        return Ok(());
    }
    if let Some(network) = operator.text("/global/network") {
        namespace.set_label("topology.istio.io/network", network);
    }
    cluster.apply(&namespace).await.map(drop)
}

/// Waits until the control plane has put its CA bundle into its injection webhook: from then on
/// pods can be created in injected namespaces.
///
/// # Errors
/// When it has not within `limit`.
pub async fn injection_ready(
    cluster: &Cluster,
    operator: &Operator,
    limit: Duration,
) -> Result<(), WaitError> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(cluster.client().clone());
    let name = operator.revisioned("istio-sidecar-injector");
    let what = format!("MutatingWebhookConfiguration/{name} to get the control plane's CA bundle");
    wait::until(cluster, &what, limit, None, || async {
        let found = api.get_opt(&name).await.map_err(|e| cluster.failed("get", name.clone(), e))?;
        let webhooks = found.and_then(|configuration| configuration.webhooks).unwrap_or_default();
        let holds = !webhooks.is_empty()
            && webhooks.iter().all(|webhook| webhook.client_config.ca_bundle.is_some());
        Ok(if holds { Look::Holds(()) } else { Look::Missing("it has none yet".to_owned()) })
    })
    .await
}

/// Deletes the objects of this installation that it no longer renders.
async fn prune(
    cluster: &Cluster,
    operator: &Operator,
    components: &[Component],
) -> Result<Vec<String>, CallError> {
    let rendered: BTreeSet<String> =
        components.iter().flat_map(|component| &component.objects).map(Object::reference).collect();
    let mut pruned = Vec::new();
    for object in owned(cluster, operator).await? {
        if rendered.contains(&object.reference())
            || object.label("install.operator.istio.io/owning-resource-not-pruned") == Some("true")
        {
            continue;
        }
        if cluster.delete(&object).await? {
            pruned.push(object.reference());
        }
    }
    Ok(pruned)
}

/// What is in the cluster of this installation, definitions left out.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn owned(cluster: &Cluster, operator: &Operator) -> Result<Vec<Object>, CallError> {
    let selector = format!(
        "install.operator.istio.io/owning-resource={},istio.io/rev={}",
        operator.name,
        operator.revision_label()
    );
    labelled(cluster, &selector).await
}

/// Every object that any installation of ours made, definitions left out.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn labelled(cluster: &Cluster, selector: &str) -> Result<Vec<Object>, CallError> {
    let lists = PRUNED.iter().map(|(api_version, kind)| async move {
        let like = Object::new(serde_json::json!({"apiVersion": api_version, "kind": kind}));
        let mut found = cluster.list_labelled(&like, selector).await?;
        // A controller's own objects bear the labels of what it made them for, as the slices of a
        // Service do; they come and go with it.
        found.retain(|object| {
            !object.owner_references().iter().any(|owner| owner.controller == Some(true))
        });
        Ok::<_, CallError>(found.into_iter().map(move |object| {
            let mut metadata =
                serde_json::json!({"name": object.name_any(), "labels": object.labels()});
            if let (Some(namespace), Some(metadata)) =
                (object.namespace(), metadata.as_object_mut())
            {
                metadata.insert("namespace".to_owned(), namespace.into());
            }
            Object::new(
                serde_json::json!({"apiVersion": api_version, "kind": kind, "metadata": metadata}),
            )
        }))
    });
    Ok(try_join_all(lists).await?.into_iter().flatten().collect())
}

/// Removes everything that installations of ours made; definitions too where `purge` says so.
///
/// # Errors
/// When the cluster refuses or cannot be asked.
pub async fn uninstall(
    cluster: &Cluster,
    only: Option<&Operator>,
    purge: bool,
) -> Result<Vec<String>, CallError> {
    let mut objects = match only {
        Some(operator) => owned(cluster, operator).await?,
        None => labelled(cluster, "operator.istio.io/managed=Reconcile").await?,
    };
    if purge {
        let like = Object::new(serde_json::json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        }));
        for found in cluster.list_labelled(&like, "operator.istio.io/component=Base").await? {
            objects.push(Object::new(serde_json::json!({
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": found.name_any()},
            })));
        }
    }
    let mut removed = Vec::new();
    for object in objects {
        if cluster.delete(&object).await? {
            removed.push(object.reference());
        }
    }
    Ok(removed)
}

fn title(component: &Component) -> String {
    match component.name {
        "Base" => "Istio's definitions".to_owned(),
        "Pilot" => "the control plane".to_owned(),
        _ => component
            .objects
            .iter()
            .find(|object| object.kind() == "Deployment")
            .map_or_else(|| component.name.to_owned(), |object| object.name().to_owned()),
    }
}
