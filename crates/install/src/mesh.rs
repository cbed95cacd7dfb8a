//! Makes a mesh out of clusters: applies what follows from the mesh file, in an order that real
//! conditions drive.
//!
//! Every step can be repeated: an interrupted run is finished by running it again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::{try_join, try_join_all};
use serde_json::{Value, json};

use crate::cluster::{CallError, Cluster};
use crate::eastwest::EastWest;
use crate::install::{self, InstallError};
use crate::mesh_file::{MeshFile, Role};
use crate::object::{ManifestError, Object, read_manifest};
use crate::operator::{Operator, OperatorError, Source};
use crate::progress::Progress;
use crate::remote_secret::{self, RemoteSecretError};
use crate::removal;
use crate::render::{Component, render};
use crate::topology::{ClusterPlan, plans};
use crate::trust::{Authority, TrustError};
use crate::wait::{self, WaitError};

const EXPOSE_ISTIOD: &str = include_str!("../../../samples/multicluster/expose-istiod.yaml");
const EXPOSE_SERVICES: &str = include_str!("../../../samples/multicluster/expose-services.yaml");

/// The namespace of the control plane and the gateways.
pub const NAMESPACE: &str = "istio-system";
const GATEWAY: &str = "istio-eastwestgateway";

/// A cluster that can be called, and its API server as the other clusters reach it.
#[derive(Clone, Debug)]
pub struct Access {
    pub cluster: Cluster,
    pub server: String,
}

/// Why a mesh was not made.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    #[error("cluster {0} is in the mesh file, but there is no way to it")]
    NoAccess(String),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error(transparent)]
    Wait(#[from] WaitError),
    #[error(transparent)]
    RemoteSecret(#[from] RemoteSecretError),
    #[error(transparent)]
    Operator(#[from] OperatorError),
    #[error("read a built-in manifest")]
    Manifest(#[from] ManifestError),
}

/// A mesh that is being made.
#[derive(Debug)]
pub struct Mesh<'a> {
    file: &'a MeshFile,
    plans: Vec<ClusterPlan>,
    access: &'a BTreeMap<String, Access>,
    authority: &'a Authority,
    progress: &'a Progress,
    limit: Duration,
}

impl<'a> Mesh<'a> {
    /// A mesh to be made of clusters that exist.
    ///
    /// # Errors
    /// When a cluster of the file cannot be called, or one that others must watch has its API
    /// server on loopback.
    pub fn new(
        file: &'a MeshFile,
        access: &'a BTreeMap<String, Access>,
        authority: &'a Authority,
        progress: &'a Progress,
    ) -> Result<Self, MeshError> {
        let plans = plans(file);
        for plan in &plans {
            let access =
                access.get(&plan.name).ok_or_else(|| MeshError::NoAccess(plan.name.clone()))?;
            let watched = plans.iter().any(|other| other.watches.contains(&plan.name));
            if watched && remote_secret::is_loopback(&access.server) {
                let (cluster, server) = (plan.name.clone(), access.server.clone());
                return Err(RemoteSecretError::Loopback { cluster, server }.into());
            }
        }
        Ok(Self { file, plans, access, authority, progress, limit: install::READINESS_LIMIT })
    }

    /// The plans of the clusters, in the order of the file.
    pub fn plans(&self) -> &[ClusterPlan] {
        &self.plans
    }

    fn access(&self, name: &str) -> Result<&Access, MeshError> {
        self.access.get(name).ok_or_else(|| MeshError::NoAccess(name.to_owned()))
    }

    fn cluster(&self, plan: &ClusterPlan) -> Result<&Cluster, MeshError> {
        Ok(&self.access(&plan.name)?.cluster)
    }

    /// Installs everything and removes what the file no longer asks for; returns what was removed,
    /// by cluster.
    ///
    /// # Errors
    /// At the first step that fails, naming cluster and object. What is done stays; running again
    /// goes on.
    pub async fn apply(&self) -> Result<BTreeMap<String, Vec<String>>, MeshError> {
        try_join_all(self.plans.iter().map(|plan| self.prepare(plan))).await?;
        let primaries = || self.plans.iter().filter(|plan| plan.is_primary());
        let remotes = || self.plans.iter().filter(|plan| !plan.is_primary());
        // What a remote's gateway address decides waits for that primary only, inside.
        let install = try_join_all(primaries().map(|plan| self.primary(plan)));
        let attach = try_join_all(remotes().map(|plan| self.base(plan)));
        try_join(install, attach).await?;
        try_join_all(remotes().map(|plan| self.remote(plan))).await?;
        try_join_all(self.plans.iter().map(|plan| self.watch_others(plan))).await?;
        try_join_all(remotes().map(|plan| self.remote_gateway(plan))).await?;
        let removed = try_join_all(self.plans.iter().map(|plan| self.tidy(plan))).await?;
        Ok(removed.into_iter().filter(|(_, removed)| !removed.is_empty()).collect())
    }

    /// Removes what a cluster has of this mesh and its file no longer asks for.
    async fn tidy(&self, plan: &ClusterPlan) -> Result<(String, Vec<String>), MeshError> {
        let cluster = self.cluster(plan)?;
        let wanted = crate::plan::objects(self.file, plan, &self.plans, self.access).await?;
        let wanted: BTreeSet<String> = wanted.iter().map(Object::reference).collect();
        let mut removed = Vec::new();
        for object in removal::superfluous(cluster, self.file, plan, &wanted).await? {
            let step = self.progress.step(&plan.name, &format!("remove {}", object.reference()));
            if cluster.delete(&object).await? {
                removed.push(object.reference());
            }
            step.done("");
        }
        Ok((plan.name.clone(), removed))
    }

    /// Namespace with its facts, and the signing material.
    async fn prepare(&self, plan: &ClusterPlan) -> Result<(), MeshError> {
        let step = self.progress.step(&plan.name, "prepare istio-system");
        let cluster = self.cluster(plan)?;
        removal::make_namespace(cluster, &self.file.name).await?;
        cluster.apply(&system_namespace(plan)).await?;
        if plan.plugged_in_ca
            && let Some(secret) = self.authority.cacerts(&plan.name)
        {
            cluster.apply(secret).await?;
        }
        step.done("");
        Ok(())
    }

    async fn primary(&self, plan: &ClusterPlan) -> Result<(), MeshError> {
        let cluster = self.cluster(plan)?;
        let operator = operator(self.file, plan, None)?;
        install::install(cluster, &operator, self.limit, self.progress).await?;
        if plan.gateway {
            self.gateway(plan).await?;
        }
        for manifest in exposures(plan) {
            for mut object in read_manifest(manifest)? {
                object.default_namespace(NAMESPACE);
                cluster.apply(&object).await?;
            }
        }
        Ok(())
    }

    /// Definitions and the reader's account: what attaching a cluster needs.
    async fn base(&self, plan: &ClusterPlan) -> Result<(), MeshError> {
        let cluster = self.cluster(plan)?;
        let step = self.progress.step(&plan.name, "install Istio's definitions");
        for component in
            render(&operator(self.file, plan, None)?).iter().filter(|c| c.name == "Base")
        {
            install::apply(cluster, component, self.limit).await?;
        }
        step.done("");
        Ok(())
    }

    /// A remote: the way to its primary's control plane, which is then given the remote's secret.
    async fn remote(&self, plan: &ClusterPlan) -> Result<(), MeshError> {
        let Role::Remote { primary } = &plan.role else { return Ok(()) };
        let cluster = self.cluster(plan)?;
        let address = wait::load_balancer_address(
            &self.access(primary)?.cluster,
            NAMESPACE,
            GATEWAY,
            self.limit,
            None,
        )
        .await?;
        let step = self
            .progress
            .step(&plan.name, &format!("use the control plane of {primary} at {address}"));
        let operator = operator(self.file, plan, Some(&address))?;
        let components: Vec<Component> =
            render(&operator).into_iter().filter(|c| c.name != "Base").collect();
        for component in &components {
            install::apply(cluster, component, self.limit).await?;
        }
        step.done("");
        Ok(())
    }

    /// Gives a primary the secrets of the clusters it watches.
    async fn watch_others(&self, plan: &ClusterPlan) -> Result<(), MeshError> {
        let cluster = self.cluster(plan)?;
        for other in &plan.watches {
            let step = self.progress.step(&plan.name, &format!("watch {other}"));
            let Access { cluster: watched, server } = self.access(other)?;
            let secret = remote_secret::create(watched, &link(other, server)).await?;
            cluster.apply(&secret).await?;
            step.done("");
        }
        Ok(())
    }

    /// A remote's gateway needs the primary's injection webhook, so it comes after the secret.
    async fn remote_gateway(&self, plan: &ClusterPlan) -> Result<(), MeshError> {
        let Role::Remote { primary } = &plan.role else { return Ok(()) };
        let cluster = self.cluster(plan)?;
        let step = self.progress.step(&plan.name, &format!("wait for {primary} to take the lead"));
        install::injection_ready(cluster, &operator(self.file, plan, None)?, self.limit).await?;
        step.done("");
        if plan.gateway {
            self.gateway(plan).await?;
        }
        Ok(())
    }

    async fn gateway(&self, plan: &ClusterPlan) -> Result<(), MeshError> {
        let cluster = self.cluster(plan)?;
        let operator = gateway_operator(plan)?;
        install::install(cluster, &operator, self.limit, self.progress).await?;
        wait::load_balancer_address(cluster, NAMESPACE, GATEWAY, self.limit, None).await?;
        Ok(())
    }
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

/// The manifests by which gateways let others in.
pub(crate) const EXPOSURES: [&str; 2] = [EXPOSE_ISTIOD, EXPOSE_SERVICES];

/// The manifests by which a cluster's gateway lets others in.
pub(crate) fn exposures(plan: &ClusterPlan) -> impl Iterator<Item = &'static str> {
    [(plan.expose_istiod, EXPOSE_ISTIOD), (plan.expose_services, EXPOSE_SERVICES)]
        .into_iter()
        .filter_map(|(wanted, manifest)| wanted.then_some(manifest))
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
pub fn operator(
    file: &MeshFile,
    plan: &ClusterPlan,
    discovery: Option<&str>,
) -> Result<Operator, OperatorError> {
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
    Operator::from_spec("tombolo".to_owned(), spec)
}

/// The east-west gateway's installation.
///
/// # Errors
/// Never: the document is our own.
pub fn gateway_operator(plan: &ClusterPlan) -> Result<Operator, OperatorError> {
    let text = EastWest { network: Some(plan.network.clone()), revision: None }.document();
    Operator::merge(&[Source { name: "the east-west gateway's document".to_owned(), text }], &[])
}
