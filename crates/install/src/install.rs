//! One installation: applies what an IstioOperator renders, waits until it is ready, and prunes
//! what the same installation no longer asks for. Running it again changes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{Api, ResourceExt};
use serde_json::Value;

use crate::cluster::{CallError, Cluster};
use crate::object::Object;
use crate::operator::Operator;
use crate::progress::Progress;
use crate::render::{Component, injection_name, render};
use crate::wait::{self, Look, WaitError};

/// How long a component may take to become ready, unless the user says otherwise.
pub const READINESS_LIMIT: Duration = Duration::from_secs(300);

/// The kinds that an installation may have rendered, in the order they are pruned.
const PRUNED: &[(&str, &str)] = &[
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("policy/v1", "PodDisruptionBudget"),
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
    ensure_namespaces(cluster, operator).await?;
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
        cluster.apply(&settled(cluster, object).await?).await?;
    }
    Ok(())
}

/// The object as it is to be applied: without what a running control plane has taken over.
///
/// A validation webhook starts permissive, and its control plane makes it strict once it answers.
/// Installing again must not make it permissive for a while.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn settled(cluster: &Cluster, object: &Object) -> Result<Object, CallError> {
    if object.kind() != "ValidatingWebhookConfiguration" {
        return Ok(object.clone());
    }
    let Some(live) = cluster.get(object).await? else { return Ok(object.clone()) };
    Ok(keep_strict(object, &live.data))
}

fn keep_strict(object: &Object, live: &Value) -> Object {
    let mut object = object.clone();
    let live = live.get("webhooks").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let webhooks = object.value_mut().get_mut("webhooks").and_then(Value::as_array_mut);
    for webhook in webhooks.into_iter().flatten().filter_map(Value::as_object_mut) {
        let same = live.iter().find(|it| it.get("name") == webhook.get("name"));
        let policy = same.and_then(|it| it.get("failurePolicy"));
        if policy.is_some_and(|it| it == "Fail") {
            webhook.remove("failurePolicy");
        }
    }
    object
}

/// The namespaces of the control plane and of gateways. Only where the control plane's is made
/// here it gets the network's label, as Istio's installer does; an existing one is the user's.
async fn ensure_namespaces(cluster: &Cluster, operator: &Operator) -> Result<(), CallError> {
    let gateways = operator.gateways();
    let mut names: BTreeSet<&str> = gateways.iter().map(|it| it.namespace.as_str()).collect();
    names.insert(operator.namespace());
    for name in names {
        let mut namespace = Object::new(serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
        }));
        if cluster.get(&namespace).await?.is_some() {
            continue;
        }
        let network = operator.text("/global/network").filter(|_| name == operator.namespace());
        if let Some(network) = network {
            namespace.set_label("topology.istio.io/network", network);
        }
        cluster.apply(&namespace).await?;
    }
    Ok(())
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
    let name = injection_name(operator);
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
    labelled(cluster, &owner(operator)).await
}

/// The labels that only the objects of this installation have, as a selector.
pub(crate) fn owner(operator: &Operator) -> String {
    owner_labels(operator).map(|(key, value)| format!("{key}={value}")).join(",")
}

/// Whether an object is of this installation.
pub(crate) fn is_of(operator: &Operator, object: &Object) -> bool {
    owner_labels(operator).iter().all(|(key, value)| object.label(key) == Some(value))
}

fn owner_labels(operator: &Operator) -> [(&'static str, &str); 3] {
    [
        ("install.operator.istio.io/owning-resource", &operator.name),
        ("install.operator.istio.io/owning-resource-namespace", operator.namespace()),
        ("istio.io/rev", operator.revision_label()),
    ]
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

/// How much `uninstall` removes.
#[derive(Clone, Copy, Debug)]
pub enum Extent<'a> {
    /// What one document installed. Definitions stay.
    Installation(&'a Operator),
    /// The control plane and the gateways of a revision. What revisions share stays.
    Revision(&'a str),
    /// Everything, definitions and with them the objects of their kinds included.
    Everything,
}

/// What `uninstall` would remove, in that order.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn removable(cluster: &Cluster, extent: Extent<'_>) -> Result<Vec<Object>, CallError> {
    match extent {
        Extent::Installation(operator) => owned(cluster, operator).await,
        Extent::Revision(revision) => {
            let revision = if revision.is_empty() { "default" } else { revision };
            let components = "Pilot,IngressGateways,EgressGateways,IngressGateway,EgressGateway";
            let selector = format!(
                "istio.io/rev={revision},operator.istio.io/component in ({components})",
                components = components.replace(',', ", ")
            );
            labelled(cluster, &selector).await
        }
        Extent::Everything => {
            let mut objects = labelled(cluster, "operator.istio.io/component").await?;
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
            Ok(objects)
        }
    }
}

/// Removes what installations of ours made.
///
/// # Errors
/// When the cluster refuses or cannot be asked.
pub async fn uninstall(cluster: &Cluster, extent: Extent<'_>) -> Result<Vec<String>, CallError> {
    let mut removed = Vec::new();
    for object in removable(cluster, extent).await? {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_installation_is_told_from_one_of_its_name_in_another_namespace() {
        let spec = json!({"profile": "minimal", "values": {"global": {"istioNamespace": "mesh"}}});
        let operator = Operator::from_spec("eastwest".to_owned(), spec).unwrap();
        let selector = owner(&operator);
        assert_eq!(
            selector,
            "install.operator.istio.io/owning-resource=eastwest,\
             install.operator.istio.io/owning-resource-namespace=mesh,istio.io/rev=default"
        );
        for object in render(&operator).iter().flat_map(|component| &component.objects) {
            assert!(is_of(&operator, object), "{}", object.reference());
        }
    }

    #[test]
    fn a_webhook_that_its_control_plane_made_strict_is_not_made_permissive_again() {
        let ours = Object::new(json!({
            "kind": "ValidatingWebhookConfiguration",
            "webhooks": [{"name": "rev.validation.istio.io", "failurePolicy": "Ignore"}],
        }));
        let live = |policy| json!({"webhooks": [{"name": "rev.validation.istio.io", "failurePolicy": policy}]});
        let policy = |object: Object| object.value().pointer("/webhooks/0/failurePolicy").cloned();
        assert_eq!(policy(keep_strict(&ours, &live("Fail"))), None);
        assert_eq!(policy(keep_strict(&ours, &live("Ignore"))), Some(json!("Ignore")));
        assert_eq!(policy(keep_strict(&ours, &json!({}))), Some(json!("Ignore")));
    }
}
