//! What a mesh file amounts to in each cluster: objects, and documents for an installation.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use serde_json::{Value, json};

use crate::cluster::{Access, CallError, Cluster};
use crate::eastwest::EastWest;
use crate::mesh_file::{MeshFile, Role};
use crate::object::{ManifestError, Object, read_manifest};
use crate::operator::{Operator, OperatorError, Source};
use crate::remote_secret::{self, RemoteSecretError};
use crate::render::render;
use crate::topology::{ClusterPlan, GATEWAY, NAMESPACE};
use crate::wait;

const EXPOSE_ISTIOD: &str = include_str!("../../../samples/multicluster/expose-istiod.yaml");
const EXPOSE_SERVICES: &str = include_str!("../../../samples/multicluster/expose-services.yaml");

/// Why it is not known what a cluster should have.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    RemoteSecret(#[from] RemoteSecretError),
    #[error(transparent)]
    Operator(#[from] OperatorError),
    #[error("read a built-in manifest")]
    Manifest(#[from] ManifestError),
}

/// Everything that applying the mesh file writes to a cluster.
///
/// # Errors
/// When a cluster that decides about another's objects cannot be asked.
pub(crate) async fn wanted(
    file: &MeshFile,
    plan: &ClusterPlan,
    all: &[ClusterPlan],
    access: &BTreeMap<String, Access>,
) -> Result<Vec<Object>, DocumentError> {
    let discovery = match &plan.role {
        Role::Remote { primary } => match access.get(primary) {
            Some(primary) => gateway_address(&primary.cluster).await?,
            None => None,
        },
        Role::Primary => None,
    };
    let mut objects = vec![system_namespace(plan)];
    let mut operators = vec![operator(file, plan, discovery.as_deref())?];
    if plan.gateway {
        operators.push(gateway_operator(plan)?);
    }
    for operator in &operators {
        objects.extend(render(operator).into_iter().flat_map(|component| component.objects));
    }
    objects.extend(exposures(plan.expose_istiod, plan.expose_services)?);
    if plan.plugged_in_ca {
        objects.push(secret("cacerts"));
    }
    if all.iter().any(|other| other.watches.contains(&plan.name)) {
        objects.push(secret(&reader_token()));
    }
    for other in &plan.watches {
        let made = match access.get(other) {
            Some(Access { cluster, server }) => {
                remote_secret::existing(cluster, &link(other, server)).await?
            }
            None => None,
        };
        objects.push(made.unwrap_or_else(|| secret(&format!("istio-remote-secret-{other}"))));
    }
    Ok(objects)
}

async fn gateway_address(cluster: &Cluster) -> Result<Option<String>, CallError> {
    let api: Api<Service> = cluster.namespaced(NAMESPACE);
    let found = api.get_opt(GATEWAY).await;
    let found = found
        .map_err(|error| cluster.failed("get", format!("Service/{NAMESPACE}/{GATEWAY}"), error))?;
    Ok(found.and_then(wait::assigned_address))
}

/// The remote secret by which another cluster's control plane watches `cluster`.
pub(crate) fn link(cluster: &str, server: &str) -> remote_secret::Request {
    remote_secret::Request {
        name: cluster.to_owned(),
        namespace: NAMESPACE.to_owned(),
        service_account: crate::render::READER.to_owned(),
        server: server.to_owned(),
        tls_server_name: None,
        secret_name: None,
        create_service_account: false,
        kind: remote_secret::Type::Remote,
    }
}

/// The secret that holds the token of whoever watches a cluster.
pub(crate) fn reader_token() -> String {
    remote_secret::token_secret(crate::render::READER)
}

/// A secret of the control plane's namespace, by name only.
pub(crate) fn secret(name: &str) -> Object {
    Object::new(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE},
    }))
}

/// What a cluster's gateway needs to let others in to its control plane and to its services.
///
/// # Errors
/// Never: the manifests are our own.
pub(crate) fn exposures(istiod: bool, services: bool) -> Result<Vec<Object>, DocumentError> {
    let mut objects = Vec::new();
    for (wanted, manifest) in [(istiod, EXPOSE_ISTIOD), (services, EXPOSE_SERVICES)] {
        if wanted {
            objects.extend(read_manifest(manifest)?);
        }
    }
    objects.iter_mut().for_each(|object| object.default_namespace(NAMESPACE));
    Ok(objects)
}

/// `istio-system` with the facts that other clusters' control planes read from it.
pub(crate) fn system_namespace(plan: &ClusterPlan) -> Object {
    let mut metadata = json!({"name": NAMESPACE});
    if let Some(metadata) = metadata.as_object_mut() {
        if plan.label_network {
            metadata
                .insert("labels".to_owned(), json!({"topology.istio.io/network": plan.network}));
        }
        if let Role::Remote { primary } = &plan.role {
            metadata.insert(
                "annotations".to_owned(),
                json!({"topology.istio.io/controlPlaneClusters": primary}),
            );
        }
    }
    Object::new(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
}

/// The IstioOperator document that a cluster's plan amounts to: the same that a user of `install`
/// would write.
///
/// # Errors
/// Never for a plan of a checked mesh file.
pub(crate) fn operator(
    file: &MeshFile,
    plan: &ClusterPlan,
    discovery: Option<&str>,
) -> Result<Operator, DocumentError> {
    let mut values = json!({"global": {
        "meshID": file.name,
        "multiCluster": {"clusterName": plan.name},
        "network": plan.network,
        "logAsJson": true,
    }});
    let mut more = |value: Value| crate::operator::overlay(&mut values, &value);
    if plan.is_primary() {
        if !plan.remotes.is_empty() {
            more(json!({"pilot": {"env": {"EXTERNAL_ISTIOD": "true"}}}));
        }
    } else {
        let path = format!("/inject/cluster/{}/net/{}", plan.name, plan.network);
        more(json!({"istiodRemote": {"injectionPath": path}, "global": {"configCluster": true}}));
        if let Some(address) = discovery {
            more(json!({"global": {"remotePilotAddress": address}}));
        }
    }
    let profile = if plan.is_primary() { "minimal" } else { "remote" };
    let spec = json!({"profile": profile, "meshConfig": file.mesh_config, "values": values});
    Ok(Operator::from_spec("tombolo".to_owned(), spec)?)
}

/// The east-west gateway's installation: Istio's document, under a name that tells it from one
/// that a user installed by the script.
///
/// # Errors
/// Never: the document is our own.
pub(crate) fn gateway_operator(plan: &ClusterPlan) -> Result<Operator, DocumentError> {
    let text = EastWest { network: Some(plan.network.clone()), revision: None }.document();
    let source = Source { name: "the east-west gateway's document".to_owned(), text };
    let mut operator = Operator::merge(&[source], &[])?;
    "tombolo-eastwest".clone_into(&mut operator.name);
    Ok(operator)
}
