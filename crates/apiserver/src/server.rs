//! The server: what is built from its settings, and the accept loop.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tombolo_runtime::listen::accept;
use tombolo_runtime::shutdown::Shutdown;

use crate::api::Api;
use crate::auth::jwt::{KeyError, Keys};
use crate::auth::tokens::Tokens;
use crate::auth::{Authenticator, Authorizer, Peer};
use crate::request::{Call, Query, RequestInfo};
use crate::resources::Catalog;
use crate::respond::{self, Response};
use crate::route;
use crate::settings::Settings;
use crate::status::Status;
use crate::store::{OpenError, Store, WriteError};
use crate::verbs::definitions;
use crate::{bootstrap, dial, rbac};

/// How long a client may take for its TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Why the server could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("read {path}")]
    Read { path: String, source: rustls_pki_types::pem::Error },
    #[error("{path} holds no certificate")]
    Empty { path: String },
    #[error("use the serving certificate {path}")]
    Certificate { path: String, source: rustls::Error },
    #[error("use the client certificate authority {path}")]
    ClientCa { path: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("read {path}")]
    File { path: String, source: std::io::Error },
    #[error("use the keys of service-account tokens")]
    Keys(#[from] KeyError),
    #[error("create the objects that every cluster starts with")]
    Roles(#[source] WriteError),
    #[error("prepare connections to kubelets")]
    Kubelet(#[from] dial::ClientError),
    #[error("open the store")]
    Store(#[from] OpenError),
}

/// A server that is ready to run: everything is open, nothing is served yet.
#[derive(Debug)]
pub struct Server {
    api: Arc<Api>,
    listener: TcpListener,
    acceptor: Tls,
}

struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Server {
    /// Opens store, keys and listener.
    ///
    /// # Errors
    /// When any of them cannot be used.
    pub async fn build(settings: Settings, shutdown: Shutdown) -> Result<Self, BuildError> {
        let acceptor = Tls(TlsAcceptor::from(Arc::new(tls(&settings)?)));
        let store = Store::open_with(&settings.data_dir, settings.flush)?;
        rbac::bootstrap::create(&store).await.map_err(BuildError::Roles)?;
        let tokens = Tokens::new(Arc::new(token_keys(&settings)?), store.clone());
        let authorizer = Authorizer::new(store.clone());
        let kubelet = dial::Client::new(&settings, shutdown.clone())?;
        let address = SocketAddr::new(settings.bind_address, settings.secure_port);
        let listen = |source| BuildError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let port = listener.local_addr().map_err(listen)?.port();
        bootstrap::create(&store, &settings, port).await.map_err(BuildError::Roles)?;
        let api = Arc::new(Api {
            settings,
            store,
            catalog: ArcSwap::from_pointee(Catalog::new([])),
            authenticator: Authenticator::new(tokens, authorizer.clone()),
            authorizer,
            kubelet,
            shutdown,
            services: Arc::default(),
            definitions: tokio::sync::Mutex::default(),
            cleanups: Mutex::default(),
            port,
        });
        definitions::follow(&api).await;
        Ok(Self { api, listener, acceptor })
    }

    /// What requests work with.
    pub fn api(&self) -> &Arc<Api> {
        &self.api
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.api.settings.bind_address, self.api.port)
    }

    /// Serves until the process drains.
    pub async fn run(self) {
        let shutdown = self.api.shutdown.clone();
        tracing::info!(address = %self.address(), "serving the Kubernetes API");
        while let Some((stream, peer)) = accept(&self.listener, "api", &shutdown).await {
            let (api, acceptor) = (Arc::clone(&self.api), self.acceptor.0.clone());
            shutdown.spawn("api connection", serve(api, acceptor, stream, peer));
        }
    }
}

async fn serve(api: Arc<Api>, acceptor: TlsAcceptor, stream: TcpStream, address: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "cannot turn off Nagle's algorithm");
    }
    let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%address, "TLS handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificates = certificates.iter().map(|c| c.clone().into_owned()).collect();
    let peer = Peer { address, certificates: Arc::new(certificates) };
    let shutdown = api.shutdown.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let api = Arc::clone(&api);
        async move { Ok::<_, std::convert::Infallible>(handle(&api, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1000);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::select! {
        served = connection => if let Err(error) = served {
            tracing::debug!(%address, error, "connection ended");
        },
        () = shutdown.draining() => (),
    }
}

/// Answers one request: parse, authenticate, authorize, route.
async fn handle(api: &Arc<Api>, request: Request<Incoming>) -> Response {
    let accept = request.headers().get(header::ACCEPT).cloned();
    let mut response = match answer(api, request).await {
        Ok(response) => response,
        Err(status) => respond::failure(&status, accept.as_ref()),
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
        headers.insert(HeaderName::from_static("audit-id"), id);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

async fn answer(api: &Arc<Api>, request: Request<Incoming>) -> Result<Response, Status> {
    let (mut parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
    let user = api.authenticator.authenticate(&parts)?;
    api.authorizer.authorize(&user, &info)?;
    parts.extensions.insert(user.clone());
    Box::pin(route::route(api, Call { parts, info, query, user }, body)).await
}

fn tls(settings: &Settings) -> Result<rustls::ServerConfig, BuildError> {
    let chain = certificates(&settings.tls_cert_file)?;
    let key_path = &settings.tls_private_key_file;
    let key =
        PrivateKeyDer::from_pem_file(key_path).map_err(|source| read_error(key_path, source))?;
    let mut roots = rustls::RootCertStore::empty();
    let ca_path = settings.client_ca_file.display().to_string();
    for root in certificates(&settings.client_ca_file)? {
        roots.add(root).map_err(|error| BuildError::ClientCa {
            path: ca_path.clone(),
            source: error.into(),
        })?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| BuildError::ClientCa { path: ca_path, source: error.into() })?;
    let path = settings.tls_cert_file.display().to_string();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| BuildError::Certificate { path: path.clone(), source })?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|source| BuildError::Certificate { path, source })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn token_keys(settings: &Settings) -> Result<Keys, BuildError> {
    let read = |path: &Path| {
        std::fs::read(path)
            .map_err(|source| BuildError::File { path: path.display().to_string(), source })
    };
    let signing = read(&settings.service_account_signing_key_file)?;
    let public = read(&settings.service_account_key_file)?;
    Ok(Keys::read(&settings.service_account_issuer, &signing, &public)?)
}

/// All certificates of a PEM file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| read_error(path, source))?;
    if chain.is_empty() {
        return Err(BuildError::Empty { path: path.display().to_string() });
    }
    Ok(chain)
}

fn read_error(path: &Path, source: rustls_pki_types::pem::Error) -> BuildError {
    BuildError::Read { path: path.display().to_string(), source }
}
