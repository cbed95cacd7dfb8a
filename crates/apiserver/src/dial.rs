//! Connections to kubelets: TLS with the server's client certificate, HTTP/1.1.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tombolo_runtime::shutdown::Shutdown;

use crate::settings::Settings;
use crate::status::Status;

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Why the client for kubelets cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("read {path}")]
    Read { path: String, source: rustls_pki_types::pem::Error },
    #[error("use the client certificate and authorities for kubelets")]
    Tls(#[from] rustls::Error),
}

/// Dials kubelets. Without certificates in the settings it refuses to.
#[derive(Clone)]
pub struct Client {
    tls: Option<TlsConnector>,
    shutdown: Shutdown,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("configured", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Client {
    /// Reads certificate, key and authorities.
    ///
    /// # Errors
    /// When a file that is named cannot be used.
    pub fn new(settings: &Settings, shutdown: Shutdown) -> Result<Self, ClientError> {
        let (Some(certificate), Some(key), Some(authority)) = (
            &settings.kubelet_client_certificate,
            &settings.kubelet_client_key,
            &settings.kubelet_certificate_authority,
        ) else {
            return Ok(Self { tls: None, shutdown });
        };
        let mut roots = rustls::RootCertStore::empty();
        for root in certificates(authority)? {
            roots.add(root)?;
        }
        let key_der =
            PrivateKeyDer::from_pem_file(key).map_err(|source| read_error(key, source))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(certificate)?, key_der)?;
        Ok(Self { tls: Some(TlsConnector::from(Arc::new(config))), shutdown })
    }

    /// Sends a request to the kubelet at an address. The body of the answer is a stream; an
    /// upgraded connection is taken from the answer by the caller.
    ///
    /// # Errors
    /// 500 when the kubelet cannot be reached or does not answer, with the reason.
    pub async fn send(
        &self,
        (host, port): (&str, u16),
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, Status> {
        let tls = self.tls.as_ref().ok_or_else(|| {
            Status::not_implemented(
                "this API server was started without --kubelet-client-certificate, \
                 --kubelet-client-key and --kubelet-certificate-authority, so it cannot reach \
                 kubelets",
            )
        })?;
        let fail = |what: &str, error: &(dyn std::error::Error + 'static)| {
            let chain = tombolo_runtime::errors::chain(error).to_string();
            Status::internal(format!("error dialing backend: {what} {host}:{port}: {chain}"))
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|e| fail("name", &e))?;
        let connect = async {
            let stream =
                TcpStream::connect((host, port)).await.map_err(|e| fail("dial tcp", &e))?;
            tls.connect(name, stream).await.map_err(|e| fail("tls", &e))
        };
        let stream = tokio::time::timeout(CONNECT_LIMIT, connect)
            .await
            .map_err(|error| fail("dial tcp", &error))??;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| fail("http", &e))?;
        self.shutdown.spawn("kubelet connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a kubelet ended");
            }
        });
        sender.send_request(request).await.map_err(|e| fail("http", &e))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| read_error(path, source))
}

fn read_error(path: &Path, source: rustls_pki_types::pem::Error) -> ClientError {
    ClientError::Read { path: path.display().to_string(), source }
}
