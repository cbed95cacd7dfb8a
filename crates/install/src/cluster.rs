//! One cluster as the installer sees it: a client, and errors that say which object in which
//! cluster.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, PropagationPolicy,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::{Client, Config, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::object::Object;

/// The name under which this program owns fields.
pub const FIELD_MANAGER: &str = "tombolo";

/// How long one call to an API server may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A cluster that can be called. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    name: String,
    server: String,
    client: Client,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.name)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// A cluster that can be called, and its API server as the other clusters reach it.
#[derive(Clone, Debug)]
pub struct Access {
    pub cluster: Cluster,
    pub server: String,
}

/// Why a cluster could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cluster {cluster}: read kubeconfig")]
    Kubeconfig { cluster: String, source: kube::config::KubeconfigError },
    #[error("cluster {cluster}: make a client")]
    Client { cluster: String, source: kube::Error },
}

/// What was being done to which object when a call failed.
#[derive(Debug, thiserror::Error)]
#[error("cluster {cluster}: {verb} {object}")]
pub struct CallError {
    pub cluster: String,
    pub verb: &'static str,
    pub object: String,
    pub source: kube::Error,
}

impl CallError {
    /// Whether the API server said that the object, or its kind, does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(&self.source, kube::Error::Api(status) if status.code == 404)
    }

    /// Whether the API server said that this user may not.
    pub fn is_forbidden(&self) -> bool {
        matches!(&self.source, kube::Error::Api(status) if status.code == 403)
    }

    /// Whether trying again may help: the server was not reached, or said so.
    fn is_passing(&self) -> bool {
        match &self.source {
            kube::Error::Api(status) => {
                status.code >= 500 || status.code == 429 || status.code == 409
            }
            kube::Error::HyperError(_) | kube::Error::Service(_) => true,
            _ => false,
        }
    }
}

/// Why the clusters of a mesh are not as many as they are said to be.
#[derive(Debug, thiserror::Error)]
pub enum DistinctError {
    #[error(
        "clusters {first} and {second} of the mesh file are one Kubernetes cluster: namespace kube-system has UID {uid} in both; give each its own cluster, or remove one of the two"
    )]
    Same { first: String, second: String, uid: String },
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Makes sure that no cluster is there under two names. One that does not tell who it is passes.
///
/// # Errors
/// When two are the same, or one cannot be asked.
pub async fn distinct(clusters: &BTreeMap<String, Access>) -> Result<(), DistinctError> {
    let asked = clusters.iter().map(|(name, access)| async move {
        Ok::<_, CallError>(access.cluster.uid().await?.map(|uid| (uid, name)))
    });
    let mut seen: BTreeMap<String, &String> = BTreeMap::new();
    for (uid, name) in try_join_all(asked).await?.into_iter().flatten() {
        if let Some(first) = seen.get(&uid) {
            let (first, second) = ((*first).clone(), name.clone());
            return Err(DistinctError::Same { first, second, uid });
        }
        seen.insert(uid, name);
    }
    Ok(())
}

impl Cluster {
    /// Opens the cluster that `context` of a kubeconfig names.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read or has no such context.
    pub async fn open(
        name: &str,
        file: Option<&Path>,
        context: Option<&str>,
    ) -> Result<Self, OpenError> {
        let kubeconfig = |source| OpenError::Kubeconfig { cluster: name.to_owned(), source };
        let read = match file {
            Some(file) => Kubeconfig::read_from(file),
            None => Kubeconfig::read(),
        };
        Self::connect(name, read.map_err(kubeconfig)?, context).await
    }

    /// Opens the cluster that a kubeconfig's current context names.
    ///
    /// # Errors
    /// When the text is not a kubeconfig.
    pub async fn from_kubeconfig(name: &str, text: &str) -> Result<Self, OpenError> {
        let kubeconfig = |source| OpenError::Kubeconfig { cluster: name.to_owned(), source };
        Self::connect(name, Kubeconfig::from_yaml(text).map_err(kubeconfig)?, None).await
    }

    async fn connect(
        name: &str,
        read: Kubeconfig,
        context: Option<&str>,
    ) -> Result<Self, OpenError> {
        let kubeconfig = |source| OpenError::Kubeconfig { cluster: name.to_owned(), source };
        let options = KubeConfigOptions {
            context: context.map(str::to_owned),
            ..KubeConfigOptions::default()
        };
        let mut config =
            Config::from_custom_kubeconfig(read, &options).await.map_err(kubeconfig)?;
        config.connect_timeout = Some(CALL_TIMEOUT);
        config.read_timeout = Some(CALL_TIMEOUT);
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config)
            .map_err(|source| OpenError::Client { cluster: name.to_owned(), source })?;
        Ok(Self { name: name.to_owned(), server, client })
    }

    /// A cluster that a client was made for elsewhere.
    pub fn from_client(name: &str, client: Client) -> Self {
        Self { name: name.to_owned(), server: String::new(), client }
    }

    /// The cluster's name in the mesh, or the context it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The API server's URL as the kubeconfig has it.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// What tells a cluster from all others: the UID of its namespace `kube-system`. Nothing where
    /// this user may not read that.
    async fn uid(&self) -> Result<Option<String>, CallError> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        match api.get_opt("kube-system").await {
            Ok(found) => Ok(found.and_then(|namespace| namespace.metadata.uid)),
            Err(error) => {
                let error = self.failed("get", "Namespace/kube-system", error);
                if error.is_forbidden() { Ok(None) } else { Err(error) }
            }
        }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Objects of a built-in kind in a namespace.
    pub fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn api(&self, object: &Object) -> Api<DynamicObject> {
        let resource = object.resource();
        match object.namespace().filter(|_| object.is_namespaced()) {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None if object.is_namespaced() => {
                Api::default_namespaced_with(self.client.clone(), &resource)
            }
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// Names the call that failed.
    pub fn failed(
        &self,
        verb: &'static str,
        object: impl Into<String>,
        source: kube::Error,
    ) -> CallError {
        CallError { cluster: self.name.clone(), verb, object: object.into(), source }
    }

    /// Applies an object server-side, taking its fields over from whoever had them. What passes
    /// (a server that restarts, a webhook that is not up yet) is tried again for a while.
    ///
    /// # Errors
    /// When the API server refuses the object, or cannot be reached for long.
    pub async fn apply(&self, object: &Object) -> Result<DynamicObject, CallError> {
        self.patch(object, &PatchParams::apply(FIELD_MANAGER).force()).await
    }

    /// Applies an object as [`Cluster::apply`] does, under another field manager's name.
    ///
    /// # Errors
    /// As [`Cluster::apply`].
    pub async fn apply_as(
        &self,
        manager: &str,
        object: &Object,
    ) -> Result<DynamicObject, CallError> {
        self.patch(object, &PatchParams::apply(manager).force()).await
    }

    /// What applying an object would make of it.
    ///
    /// # Errors
    /// As [`Cluster::apply`].
    pub async fn dry_run(&self, object: &Object) -> Result<DynamicObject, CallError> {
        self.patch(object, &PatchParams::apply(FIELD_MANAGER).force().dry_run()).await
    }

    async fn patch(
        &self,
        object: &Object,
        params: &PatchParams,
    ) -> Result<DynamicObject, CallError> {
        let api = self.api(object);
        let mut backoff = tombolo_runtime::backoff::Backoff::new(
            Duration::from_millis(100),
            Duration::from_secs(2),
        );
        let mut attempts = 0;
        loop {
            let error = match api.patch(object.name(), params, &Patch::Apply(object.value())).await
            {
                Ok(applied) => return Ok(applied),
                Err(error) => self.failed("apply", object.reference(), error),
            };
            attempts += 1;
            if !error.is_passing() || attempts == 20 {
                return Err(error);
            }
            tokio::time::sleep(backoff.delay()).await;
        }
    }

    /// The object as it is in the cluster, if it is there.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn get(&self, object: &Object) -> Result<Option<DynamicObject>, CallError> {
        match self.api(object).get_opt(object.name()).await {
            Ok(found) => Ok(found),
            Err(error) => {
                let error = self.failed("get", object.reference(), error);
                // A kind that is not there yet has no objects.
                if error.is_not_found() { Ok(None) } else { Err(error) }
            }
        }
    }

    /// Creates an object that must not exist yet.
    ///
    /// # Errors
    /// When it exists, or the API server refuses it.
    pub async fn create<K>(&self, api: &Api<K>, object: &K) -> Result<K, CallError>
    where
        K: Resource + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let name = object.meta().name.clone().unwrap_or_default();
        let reference = format!("{}/{name}", K::kind(&K::DynamicType::default()));
        api.create(&PostParams::default(), object)
            .await
            .map_err(|error| self.failed("create", reference, error))
    }

    /// Deletes an object and what it owns. That it is not there is no error.
    ///
    /// # Errors
    /// When the API server refuses or cannot be reached.
    pub async fn delete(&self, object: &Object) -> Result<bool, CallError> {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        match self.api(object).delete(object.name(), &params).await {
            Ok(_) => Ok(true),
            Err(error) => {
                let error = self.failed("delete", object.reference(), error);
                if error.is_not_found() { Ok(false) } else { Err(error) }
            }
        }
    }

    /// All objects of a kind with the given labels, in all namespaces.
    ///
    /// # Errors
    /// When the API server cannot be asked. A kind that does not exist has no objects.
    pub async fn list_labelled(
        &self,
        like: &Object,
        selector: &str,
    ) -> Result<Vec<DynamicObject>, CallError> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &like.resource());
        match api.list(&ListParams::default().labels(selector)).await {
            Ok(list) => Ok(list.items),
            Err(error) => {
                let error = self.failed("list", like.kind(), error);
                if error.is_not_found() { Ok(Vec::new()) } else { Err(error) }
            }
        }
    }
}
