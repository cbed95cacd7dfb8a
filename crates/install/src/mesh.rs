//! Makes a mesh out of clusters: applies what follows from the mesh file, in an order that real
//! conditions drive.
//!
//! Every step can be repeated: an interrupted run is finished by running it again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::{try_join, try_join_all};

use crate::cluster::{Access, CallError, Cluster};
use crate::documents::{self, DocumentError};
use crate::install::{self, InstallError};
use crate::mesh_file::{MeshFile, Role};
use crate::object::Object;
use crate::progress::Progress;
use crate::remote_secret::{self, RemoteSecretError};
use crate::removal::{self, RemovalError};
use crate::render::{Component, render};
use crate::topology::{ClusterPlan, GATEWAY, NAMESPACE, plans};
use crate::trust::{Authority, TrustError};
use crate::wait::{self, WaitError};

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
    Document(#[from] DocumentError),
    #[error(transparent)]
    Removal(#[from] RemovalError),
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
        let wanted = documents::wanted(self.file, plan, &self.plans, self.access).await?;
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
        cluster.apply(&documents::system_namespace(plan)).await?;
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
        let operator = documents::operator(self.file, plan, None)?;
        install::install(cluster, &operator, self.limit, self.progress).await?;
        if plan.gateway {
            self.gateway(plan).await?;
        }
        for object in documents::exposures(plan.expose_istiod, plan.expose_services)? {
            cluster.apply(&object).await?;
        }
        Ok(())
    }

    /// Definitions and the reader's account: what attaching a cluster needs.
    async fn base(&self, plan: &ClusterPlan) -> Result<(), MeshError> {
        let cluster = self.cluster(plan)?;
        let step = self.progress.step(&plan.name, "install Istio's definitions");
        for component in
            render(&documents::operator(self.file, plan, None)?).iter().filter(|c| c.name == "Base")
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
        let operator = documents::operator(self.file, plan, Some(&address))?;
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
            let secret = remote_secret::create(watched, &documents::link(other, server)).await?;
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
        install::injection_ready(cluster, &documents::operator(self.file, plan, None)?, self.limit)
            .await?;
        step.done("");
        if plan.gateway {
            self.gateway(plan).await?;
        }
        Ok(())
    }

    async fn gateway(&self, plan: &ClusterPlan) -> Result<(), MeshError> {
        let cluster = self.cluster(plan)?;
        let operator = documents::gateway_operator(plan)?;
        install::install(cluster, &operator, self.limit, self.progress).await?;
        wait::load_balancer_address(cluster, NAMESPACE, GATEWAY, self.limit, None).await?;
        Ok(())
    }
}
