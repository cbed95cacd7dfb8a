//! Long-lived tokens: Secrets of type `kubernetes.io/service-account-token`, filled for the
//! ServiceAccount that they name and removed with it.
//!
//! Pods do not use these; clusters that read each other's API do. The token carries the claims of
//! Kubernetes' legacy tokens, signed with the cluster's key for service accounts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::failure::{Doing, Failure, unless_gone};
use crate::controllers::queue::{Key, Queue};
use crate::controllers::work::Controller;

const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// Signs tokens.
pub(crate) struct Signer(EncodingKey);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// A signer with an RSA key in PEM.
    ///
    /// # Errors
    /// When the text is no such key.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, jsonwebtoken::errors::Error> {
        EncodingKey::from_rsa_pem(pem).map(Self)
    }

    fn sign(&self, secret: &Secret, account: &ServiceAccount) -> Result<String, Failure> {
        let namespace = account.namespace().unwrap_or_default();
        let name = account.name_any();
        let claims = json!({
            "iss": "kubernetes/serviceaccount",
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": secret.name_any(),
            "kubernetes.io/serviceaccount/service-account.name": name,
            "kubernetes.io/serviceaccount/service-account.uid": account.uid(),
        });
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &self.0).map_err(|error| {
            Failure::Object(format!("sign the token of {namespace}/{name}: {error}"))
        })
    }
}

/// The controller.
pub(crate) struct Tokens {
    client: Client,
    queue: Arc<Queue>,
    secrets: Arc<Cache<Secret>>,
    signer: Signer,
    root_ca: Arc<str>,
}

impl Tokens {
    /// Follows token Secrets and ServiceAccounts.
    pub(crate) fn new(caches: &Caches, signer: Signer, root_ca: Arc<str>) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let secrets = caches.filtered::<Secret>("type=kubernetes.io/service-account-token");
        let to = queue.clone();
        secrets.on_change(move |change| {
            change.new.into_iter().for_each(|secret| to.add(Key::of(&**secret)));
        });
        let (to, known) = (queue.clone(), secrets.clone());
        caches.all::<ServiceAccount>().on_change(move |change| {
            let Some(account) = change.states().next() else { return };
            let name = account.name_any();
            for secret in known.in_namespace(&account.namespace().unwrap_or_default()) {
                if secret.annotations().get(ACCOUNT) == Some(&name) {
                    to.add(Key::of(&*secret));
                }
            }
        });
        Self { client: caches.client(), queue, secrets, signer, root_ca }
    }

    async fn fill(&self, secret: &Secret, account: &ServiceAccount) -> Result<(), Failure> {
        let data = secret.data.clone().unwrap_or_default();
        let held = |name: &str| data.get(name).map(|value| value.0.as_slice()).unwrap_or_default();
        let namespace = secret.namespace().unwrap_or_default();
        let mut missing: BTreeMap<&str, String> = BTreeMap::new();
        if held("ca.crt") != self.root_ca.as_bytes() {
            missing.insert("ca.crt", STANDARD.encode(self.root_ca.as_bytes()));
        }
        if held("namespace") != namespace.as_bytes() {
            missing.insert("namespace", STANDARD.encode(&namespace));
        }
        if held("token").is_empty() {
            missing.insert("token", STANDARD.encode(self.signer.sign(secret, account)?));
        }
        let known_uid = secret.annotations().get(ACCOUNT_UID) == account.metadata.uid.as_ref();
        if missing.is_empty() && known_uid {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"annotations": {ACCOUNT_UID: account.uid()}, "uid": secret.uid()},
            "data": missing,
        });
        let name = secret.name_any();
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let written = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        let written = unless_gone(written).doing(|| format!("fill Secret {namespace}/{name}"))?;
        written.iter().for_each(|secret| self.secrets.wrote(secret));
        Ok(())
    }
}

impl Controller for Tokens {
    const NAME: &'static str = "serviceaccount-token";

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let Some(secret) = self.secrets.get(key) else { return Ok(()) };
        let Some(name) = secret.annotations().get(ACCOUNT) else { return Ok(()) };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.namespace);
        // Asked live: a token must never be signed for an account that is gone.
        let account = unless_gone(accounts.get(name).await)
            .doing(|| format!("look for ServiceAccount {}/{name}", key.namespace))?;
        let bound = secret.annotations().get(ACCOUNT_UID);
        let account =
            account.filter(|found| bound.is_none() || bound == found.metadata.uid.as_ref());
        match account {
            Some(account) => self.fill(&secret, &account).await,
            None => {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
                unless_gone(api.delete(&key.name, &DeleteParams::default()).await)
                    .doing(|| format!("delete Secret {key}, whose ServiceAccount is gone"))?;
                Ok(())
            }
        }
    }
}
