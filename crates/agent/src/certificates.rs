//! The workload's certificate: asked for, renewed in time, never missing in between.
//!
//! *Guarantees*: the key never leaves the process; a certificate that works is kept until its
//! successor is there; the roots follow the mounted file and what the authority sends along.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::RngExt;
use tombolo_runtime::backoff::Backoff;
use tombolo_runtime::errors::chain;
use tombolo_runtime::ready::Blocker;
use tombolo_tls::identity::Identity;
use tombolo_tls::key::PrivateKey;
use tombolo_tls::mesh::Credentials;
use tombolo_tls::roots::{Bundle, Roots};
use tombolo_tls::serving;
use tombolo_xds::channel::Target;
use tombolo_xds::proto::istio::v1::auth::IstioCertificateRequest;
use tombolo_xds::proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::settings::Settings;

/// How often the mounted files are looked at. The kubelet itself takes up to a minute.
const FILES_EVERY: Duration = Duration::from_secs(5);
/// How long the authority may take.
const ANSWER: Duration = Duration::from_secs(10);
/// By how much of the lifetime the time of renewal varies, so that not all workloads come at once.
const JITTER: f64 = 0.01;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("use {path}")]
    Roots { path: String, source: tombolo_tls::roots::Error },
    #[error("use the roots for the connection to {0}")]
    Client(String, #[source] serving::Error),
    #[error("make a signing request for {0}")]
    Request(String, #[source] tombolo_tls::key::Error),
    #[error("the token in {0} is no bearer token")]
    Token(String),
    #[error("reach the certificate authority")]
    Connect(#[from] tombolo_xds::channel::Error),
    #[error("the certificate authority {address} refused: {status}")]
    Refused { address: String, status: tonic::Status },
    #[error("the certificate authority {0} did not answer in time")]
    Timeout(String),
    #[error("the certificate authority {address} sent a chain of {length} certificates")]
    Chain { address: String, length: usize },
    #[error("use the new certificate")]
    Identity(#[from] tombolo_tls::identity::Error),
}

/// Keeps a workload's credentials fresh.
#[derive(Debug)]
pub struct Keeper {
    settings: Arc<Settings>,
    credentials: Arc<Credentials>,
    /// Roots that came with the last certificate.
    sent_roots: String,
    files: Mounted,
}

/// What is mounted for the proxy to trust by.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mounted {
    roots: String,
    /// A mesh without revocations has none.
    revocations: Option<String>,
}

impl Keeper {
    /// A keeper that has nothing yet.
    pub fn new(settings: Arc<Settings>, credentials: Arc<Credentials>) -> Self {
        Self { settings, credentials, sent_roots: String::new(), files: Mounted::default() }
    }

    /// Asks and renews until the future is dropped. `blocker` goes with the first certificate.
    pub async fn run(mut self, blocker: Blocker) {
        let mut blocker = Some(blocker);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut renew_at = SystemTime::now();
        loop {
            if let Err(error) = self.read_files() {
                tracing::warn!(error = %chain(&error), "trust stays as it is");
            }
            if SystemTime::now() < renew_at {
                let left = renew_at.duration_since(SystemTime::now()).unwrap_or_default();
                tokio::time::sleep(left.min(FILES_EVERY)).await;
                continue;
            }
            match self.renew().await {
                Ok(identity) => {
                    let jitter = rand::rng().random_range(-JITTER..=JITTER);
                    renew_at = identity.rotate_at(self.settings.rotate_after + jitter);
                    let lasts = identity.facts().not_after.duration_since(SystemTime::now());
                    let lasts = lasts.unwrap_or_default();
                    tracing::info!(identity = %identity.id(), ?lasts, "certificate renewed");
                    self.credentials.set_identity(identity);
                    backoff.reset();
                    drop(blocker.take());
                }
                Err(error) => {
                    let delay = backoff.delay();
                    tracing::warn!(error = %chain(&error), ?delay, "no certificate, trying again");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// Trusts the mounted roots and those that the authority sent, but nothing that was revoked.
    fn read_files(&mut self) -> Result<(), Error> {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|source| Error::Read { path: path.display().to_string(), source })
        };
        let files = &self.settings.files;
        let roots = read(&files.root)?;
        let revocations = match read(&files.revocations) {
            Ok(text) => Some(text),
            Err(Error::Read { source, .. }) if source.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let files = Mounted { roots, revocations };
        if files == self.files && self.credentials.bundle().is_some() {
            return Ok(());
        }
        self.trust(&files)?;
        self.files = files;
        Ok(())
    }

    fn trust(&self, files: &Mounted) -> Result<(), Error> {
        let all = format!("{}\n{}", files.roots, self.sent_roots);
        let unusable = |path: &Path| {
            let path = path.display().to_string();
            move |source| Error::Roots { path, source }
        };
        let paths = &self.settings.files;
        let roots = Roots::from_pem(&all).map_err(unusable(&paths.root))?;
        let mut bundle = Bundle::for_any(roots);
        if let Some(revocations) = &files.revocations {
            bundle = bundle.with_revocations(revocations).map_err(unusable(&paths.revocations))?;
        }
        let fingerprints = bundle.fingerprints();
        self.credentials.set_bundle(bundle);
        tracing::info!(?fingerprints, revocations = files.revocations.is_some(), "trust changed");
        Ok(())
    }

    async fn renew(&mut self) -> Result<Identity, Error> {
        let address = self.settings.ca_address.clone();
        let id = &self.settings.identity;
        let failed = |error| Error::Request(id.to_string(), error);
        let key = PrivateKey::generate(self.settings.key_kind).map_err(failed)?;
        let csr = key.request(id).map_err(failed)?;
        let lifetime = self.settings.certificate_lifetime.as_secs();
        let target = control_plane(&self.settings, &address)?;
        let metadata = authorization(&self.settings)?;
        let asking = async {
            let channel = target.connect().await?;
            let request = IstioCertificateRequest {
                csr,
                validity_duration: i64::try_from(lifetime).unwrap_or(i64::MAX),
                metadata: None,
            };
            let request = Request::from_parts(metadata, tonic::Extensions::default(), request);
            let mut client = IstioCertificateServiceClient::new(channel);
            client
                .create_certificate(request)
                .await
                .map_err(|status| Error::Refused { address: address.clone(), status })
        };
        let answer = tokio::time::timeout(ANSWER, asking).await;
        let answer = answer.map_err(|_| Error::Timeout(address.clone()))??;
        let mut chain = answer.into_inner().cert_chain;
        // The last one is the root, which peers have; the others lead from the leaf to it.
        let root = chain.pop().filter(|_| !chain.is_empty());
        let Some(root) = root else { return Err(Error::Chain { address, length: chain.len() }) };
        let chain: String = chain.iter().map(|pem| format!("{}\n", pem.trim_end())).collect();
        let identity = Identity::new(&chain, key)?;
        if root != self.sent_roots {
            self.sent_roots = root;
            self.trust(&self.files)?;
        }
        Ok(identity)
    }
}

/// How to reach a service of the control plane: by TLS, under the mounted roots.
pub fn control_plane(settings: &Settings, address: &str) -> Result<Target, Error> {
    let path = settings.files.root.display().to_string();
    let pem = std::fs::read_to_string(&settings.files.root)
        .map_err(|source| Error::Read { path: path.clone(), source })?;
    let roots = Roots::from_pem(&pem).map_err(|source| Error::Roots { path, source })?;
    let tls = serving::client(&roots, None, &[b"h2"])
        .map_err(|error| Error::Client(address.to_owned(), error))?;
    Ok(Target { address: address.to_owned(), tls: Some(tls), server_name: None })
}

/// The token and cluster that say who calls. The token is read anew each time: it is renewed too.
pub fn authorization(settings: &Settings) -> Result<MetadataMap, Error> {
    let path = settings.files.token.display().to_string();
    let token = std::fs::read_to_string(&settings.files.token)
        .map_err(|source| Error::Read { path: path.clone(), source })?;
    let mut metadata = MetadataMap::new();
    let mut bearer = MetadataValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| Error::Token(path.clone()))?;
    bearer.set_sensitive(true);
    metadata.insert("authorization", bearer);
    if let Ok(cluster) = MetadataValue::try_from(settings.cluster.as_str()) {
        metadata.insert("clusterid", cluster);
    }
    Ok(metadata)
}
