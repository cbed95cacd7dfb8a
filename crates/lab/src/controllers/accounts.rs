//! What every namespace has from the start: the ServiceAccount `default` and the ConfigMap
//! `kube-root-ca.crt`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::failure::{Doing, Failure, already_exists};
use crate::controllers::queue::{Key, Queue};
use crate::controllers::work::Controller;

const ACCOUNT: &str = "default";
const BUNDLE: &str = "kube-root-ca.crt";

/// The controller.
pub struct Accounts {
    client: Client,
    queue: Arc<Queue>,
    namespaces: Arc<Cache<Namespace>>,
    accounts: Arc<Cache<ServiceAccount>>,
    bundles: Arc<Cache<ConfigMap>>,
    root_ca: Arc<str>,
}

/// Whether objects can still be made in the namespace.
pub(crate) fn is_alive(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

impl Accounts {
    /// Follows namespaces and the two objects. `root_ca` is the PEM that goes into the ConfigMap.
    pub fn new(caches: &Caches, root_ca: Arc<str>) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let namespaces = caches.all::<Namespace>();
        let accounts = caches.all::<ServiceAccount>();
        let bundles = caches.filtered::<ConfigMap>("metadata.name=kube-root-ca.crt");
        let to = queue.clone();
        namespaces.on_change(move |change| {
            change.new.into_iter().for_each(|namespace| to.add(Key::of(&**namespace)));
        });
        let to = queue.clone();
        accounts.on_change(move |change| {
            let gone = change.old.filter(|a| change.new.is_none() && a.name_any() == ACCOUNT);
            gone.and_then(|a| a.namespace()).into_iter().for_each(|ns| to.add(Key::new("", &ns)));
        });
        let to = queue.clone();
        bundles.on_change(move |change| {
            let namespace = change.states().next().and_then(|bundle| bundle.namespace());
            namespace.into_iter().for_each(|namespace| to.add(Key::new("", &namespace)));
        });
        Self { client: caches.client(), queue, namespaces, accounts, bundles, root_ca }
    }

    async fn account(&self, namespace: &str) -> Result<(), Failure> {
        if self.accounts.get(&Key::new(namespace, ACCOUNT)).is_some() {
            return Ok(());
        }
        let account = ServiceAccount { metadata: meta(namespace, ACCOUNT), ..Default::default() };
        create(&self.client, &self.accounts, namespace, &account).await
    }

    async fn bundle(&self, namespace: &str) -> Result<(), Failure> {
        let data = BTreeMap::from([("ca.crt".to_owned(), self.root_ca.to_string())]);
        match self.bundles.get(&Key::new(namespace, BUNDLE)) {
            Some(held) if held.data.as_ref() == Some(&data) => Ok(()),
            Some(_) => {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
                let patch = Patch::Merge(json!({"data": data}));
                let written = api
                    .patch(BUNDLE, &PatchParams::default(), &patch)
                    .await
                    .doing(|| format!("write ConfigMap {namespace}/{BUNDLE}"))?;
                self.bundles.wrote(&written);
                Ok(())
            }
            None => {
                let mut metadata = meta(namespace, BUNDLE);
                let note = "Certificates by which pods verify the API server.";
                let annotations = [("kubernetes.io/description".to_owned(), note.to_owned())];
                metadata.annotations = Some(annotations.into());
                let bundle = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
                create(&self.client, &self.bundles, namespace, &bundle).await
            }
        }
    }
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    }
}

async fn create<K>(
    client: &Client,
    cache: &Cache<K>,
    namespace: &str,
    object: &K,
) -> Result<(), Failure>
where
    K: crate::controllers::cache::Kind
        + serde::Serialize
        + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    match api.create(&PostParams::default(), object).await {
        Ok(made) => {
            cache.wrote(&made);
            Ok(())
        }
        Err(error) if already_exists(&error) => Ok(()),
        Err(error) => {
            let name = object.name_any();
            Err(error).doing(|| format!("create {} {namespace}/{name}", K::kind(&())))
        }
    }
}

impl Controller for Accounts {
    const NAME: &'static str = "serviceaccount";

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let alive = self.namespaces.get(key).is_some_and(|namespace| is_alive(&namespace));
        if !alive {
            return Ok(());
        }
        self.account(&key.name).await?;
        self.bundle(&key.name).await
    }
}
