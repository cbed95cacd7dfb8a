//! The authority this control plane signs with, and everything that follows from it: the roots
//! that are handed out, the serving certificate, the bundle that clients are verified with.
//!
//! A plugged-in authority in the `cacerts` directory wins. Without one, the authority is
//! self-signed and kept in the Secret `istio-ca-secret`, so that every replica signs under the
//! same root.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tombolo_ca::authority::{Authority, Unsigned, Unusable};
use tombolo_ca::bundle::{self, Files};
use tombolo_runtime::backoff::Backoff;
use tombolo_runtime::errors::chain;
use tombolo_runtime::shutdown::Shutdown;
use tombolo_tls::key::KeyKind;
use tombolo_tls::mesh::Credentials;
use tombolo_tls::roots::{self, Bundle};
use tombolo_tls::serving::{self, Serving};
use tombolo_tls::spiffe::TrustDomain;
use zeroize::Zeroizing;

use crate::serve::settings::Settings;

const SECRET: &str = "istio-ca-secret";
const SECRET_TYPE: &str = "istio.io/ca-root";
/// Self-signed authorities and serving certificates live ten years, the latter no longer than
/// the authority.
const TEN_YEARS: time::Duration = time::Duration::days(3650);
/// How often a plugged-in authority's files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often the self-signed authority's secret is looked at.
const LOOK_AT_SECRET: Duration = Duration::from_secs(60);

/// The current authority. Cheap to share.
pub struct Trust {
    settings: Arc<Settings>,
    client: Client,
    authority: ArcSwap<Authority>,
    plugged: bool,
    names: Vec<String>,
    serving: Arc<Serving>,
    credentials: Arc<Credentials>,
    roots: watch::Sender<Arc<str>>,
    revocations: watch::Sender<Arc<str>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("plugged", &self.plugged).finish_non_exhaustive()
    }
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("load the plugged-in certificate authority")]
    Files(#[from] bundle::Error),
    #[error("use the certificate authority {from}")]
    Unusable {
        from: String,
        #[source]
        error: Unusable,
    },
    #[error("secret {SECRET} in namespace {namespace} holds no `{key}`")]
    Incomplete { namespace: String, key: &'static str },
    #[error("{doing} secret {SECRET} in namespace {namespace}")]
    Kubernetes {
        doing: &'static str,
        namespace: String,
        #[source]
        error: Box<kube::Error>,
    },
    #[error("use the revocation lists in {}", .0.join(bundle::REVOCATIONS).display())]
    Revocations(PathBuf, #[source] roots::Error),
    #[error("issue the serving certificate")]
    Serving(#[from] Unsigned),
    #[error("use the serving certificate")]
    Use(#[from] serving::Error),
}

impl Trust {
    /// Loads or makes the authority and issues the serving certificate for `names`.
    ///
    /// # Errors
    /// When a plugged-in authority cannot be used, or the secret can be neither read nor made.
    pub async fn load(
        settings: Arc<Settings>,
        client: Client,
        trust_domain: &TrustDomain,
        names: Vec<String>,
    ) -> Result<Arc<Self>, Error> {
        let plugged = bundle::read(&settings.cacerts)?;
        let revocations = plugged.as_ref().and_then(|files| files.crl.clone());
        let (authority, is_plugged) = match plugged {
            Some(files) => {
                let from = settings.cacerts.display().to_string();
                let loaded = Authority::from_files(&files);
                (loaded.map_err(|error| Error::Unusable { from, error })?, true)
            }
            None => (self_signed(&settings, &client, trust_domain).await?, false),
        };
        tracing::info!(
            plugged = is_plugged,
            signing = %authority.facts().subject,
            roots = ?authority.roots().fingerprints(),
            ends = %authority.ends(),
            "certificate authority loaded"
        );
        let roots = watch::Sender::new(authority.roots().pem().into());
        let trust = Arc::new(Self {
            settings,
            client,
            plugged: is_plugged,
            names,
            serving: Arc::default(),
            credentials: Arc::default(),
            roots,
            revocations: watch::Sender::new("".into()),
            authority: ArcSwap::from_pointee(authority),
        });
        trust.follow_from_authority()?;
        if let Err(error) = trust.revoke(revocations.as_deref()) {
            tracing::error!(error = %chain(&error), "nothing is revoked");
        }
        Ok(trust)
    }

    /// The authority of the moment.
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.load_full()
    }

    /// The certificate that this control plane serves.
    pub fn serving(&self) -> &Arc<Serving> {
        &self.serving
    }

    /// What client certificates are verified with.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// The roots in PEM, and a way to wait for others.
    pub fn roots(&self) -> watch::Receiver<Arc<str>> {
        self.roots.subscribe()
    }

    /// The lists of revoked certificates in PEM, and a way to wait for others; empty when there are
    /// none.
    pub fn revocations(&self) -> watch::Receiver<Arc<str>> {
        self.revocations.subscribe()
    }

    /// Takes up revocation lists that can be read. What was revoked stays so when they are gone.
    fn revoke(&self, pem: Option<&str>) -> Result<(), Error> {
        let Some(pem) = pem.filter(|pem| !pem.trim().is_empty()) else { return Ok(()) };
        if *pem == **self.revocations.borrow() {
            return Ok(());
        }
        let bundle = self.bundle(pem)?;
        self.credentials.set_bundle(bundle);
        self.revocations.send_replace(pem.into());
        tracing::info!(file = bundle::REVOCATIONS, "certificates revoked");
        Ok(())
    }

    /// The current roots, and what they took back.
    fn bundle(&self, revocations: &str) -> Result<Bundle, Error> {
        let bundle = Bundle::for_any(self.authority().roots().clone());
        bundle
            .with_revocations(revocations)
            .map_err(|error| Error::Revocations(self.settings.cacerts.clone(), error))
    }

    fn follow_from_authority(&self) -> Result<(), Error> {
        let authority = self.authority();
        let (chain, key) = authority.serve(&self.names, TEN_YEARS)?;
        self.serving.set(&chain, &key)?;
        let revocations = self.revocations.borrow().clone();
        self.credentials.set_bundle(self.bundle(&revocations)?);
        let pem: Arc<str> = authority.roots().pem().into();
        self.roots.send_if_modified(|roots| {
            let changed = *roots != pem;
            *roots = pem;
            changed
        });
        Ok(())
    }

    /// Follows changes of the files or the secret until the process drains.
    pub async fn follow(self: Arc<Self>, shutdown: Shutdown) {
        let every = if self.plugged { LOOK } else { LOOK_AT_SECRET };
        let mut complained = String::new();
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                () = tokio::time::sleep(every) => (),
            }
            match self.look().await {
                Ok(()) => complained.clear(),
                Err(error) => {
                    let text = chain(&error).to_string();
                    if text != complained {
                        tracing::error!(error = %text, "what is new of the certificate authority cannot be used, the old one stays");
                    }
                    complained = text;
                }
            }
        }
    }

    /// Looks at the files or the secret once, and takes up what is new there.
    pub(crate) async fn look(&self) -> Result<(), Error> {
        let files = if self.plugged {
            bundle::read(&self.settings.cacerts)?
        } else {
            let secret = read_secret(&self.settings, &self.client).await?;
            secret.as_ref().map(|secret| files_of(&self.settings, secret)).transpose()?
        };
        let Some(files) = files else { return Ok(()) };
        self.revoke(files.crl.as_deref())?;
        let current = self.authority();
        let same = |pem: &str, of: &str| pem.trim() == of.trim();
        if same(&files.certificate, &current.certificate_pem())
            && same(&files.root, current.roots().pem())
        {
            return Ok(());
        }
        let from = if self.plugged { "that was plugged in" } else { "in the secret" };
        let next = Authority::from_files(&files)
            .map_err(|error| Error::Unusable { from: from.into(), error })?;
        // A root may be replaced only by way of both, or workloads with the old one are cut off.
        let (old, new) = (current.roots().fingerprints(), next.roots().fingerprints());
        let overlap =
            old.iter().all(|root| new.contains(root)) || new.iter().all(|root| old.contains(root));
        if self.plugged && !overlap {
            return Err(Error::Unusable {
                from: "whose root is another: publish old and new root together first, then switch"
                    .into(),
                error: Unusable::OtherRoot { theirs: format!("{new:?}"), ours: old },
            });
        }
        tracing::info!(roots = ?new, signing = %next.facts().subject, "certificate authority replaced");
        self.authority.store(Arc::new(next));
        self.follow_from_authority()
    }
}

async fn read_secret(settings: &Settings, client: &Client) -> Result<Option<Secret>, Error> {
    let api = Api::<Secret>::namespaced(client.clone(), &settings.namespace);
    api.get_opt(SECRET).await.map_err(|error| Error::Kubernetes {
        doing: "read",
        namespace: settings.namespace.clone(),
        error: Box::new(error),
    })
}

fn files_of(settings: &Settings, secret: &Secret) -> Result<Files, Error> {
    let text = |key: &'static str| {
        let data = secret.data.as_ref().and_then(|data| data.get(key));
        let text = data.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        text.filter(|text| !text.is_empty())
    };
    let need = |key: &'static str| {
        text(key).ok_or_else(|| Error::Incomplete { namespace: settings.namespace.clone(), key })
    };
    let certificate = need("ca-cert.pem")?;
    Ok(Files {
        key: Zeroizing::new(need("ca-key.pem")?),
        chain: text("cert-chain.pem").unwrap_or_default(),
        root: text("root-cert.pem").unwrap_or_else(|| certificate.clone()),
        certificate,
        crl: None,
    })
}

/// Reads the authority that replicas share, or makes it. Retries for as long as the API server
/// does not answer, since nothing works without an authority.
async fn self_signed(
    settings: &Settings,
    client: &Client,
    trust_domain: &TrustDomain,
) -> Result<Authority, Error> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let error = match read_secret(settings, client).await {
            Ok(Some(secret)) => {
                let from = format!("in secret {SECRET}");
                return Authority::from_files(&files_of(settings, &secret)?)
                    .map_err(|error| Error::Unusable { from, error });
            }
            Ok(None) => match create_secret(settings, client, trust_domain).await? {
                Ok(authority) => return Ok(authority),
                // Another replica was first; its authority counts.
                Err(kube::Error::Api(status)) if status.code == 409 => continue,
                Err(error) => error.to_string(),
            },
            Err(error) => chain(&error).to_string(),
        };
        let delay = backoff.delay();
        tracing::warn!(%error, ?delay, "no certificate authority yet, trying again");
        tokio::time::sleep(delay).await;
    }
}

async fn create_secret(
    settings: &Settings,
    client: &Client,
    trust_domain: &TrustDomain,
) -> Result<Result<Authority, kube::Error>, Error> {
    let authority = Authority::self_signed(trust_domain, KeyKind::Rsa2048, TEN_YEARS)
        .map_err(|error| Error::Unusable { from: "to be made".into(), error })?;
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let certificate = authority.certificate_pem();
    let data = BTreeMap::from([
        ("ca-cert.pem".to_owned(), bytes(&certificate)),
        ("ca-key.pem".to_owned(), bytes(&authority.key_pem())),
        ("cert-chain.pem".to_owned(), bytes("")),
        ("key.pem".to_owned(), bytes("")),
        ("root-cert.pem".to_owned(), bytes(&certificate)),
    ]);
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.into()),
            namespace: Some(settings.namespace.clone()),
            ..ObjectMeta::default()
        },
        type_: Some(SECRET_TYPE.into()),
        data: Some(data),
        ..Secret::default()
    };
    let api = Api::<Secret>::namespaced(client.clone(), &settings.namespace);
    Ok(api.create(&PostParams::default(), &secret).await.map(|_| authority))
}
