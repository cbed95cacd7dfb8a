//! Asks a cluster's API server whether it is ready, from inside the node's network.
//!
//! One question on one connection, so that nothing else of a Kubernetes client is needed here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use crate::directory::ClusterDirectory;
use crate::namespace::NetNamespace;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest status line that is read.
const STATUS_LINE: u64 = 256;

/// Returns once when the API server at `address` answers that it is ready.
pub(crate) async fn ask(
    namespace: &NetNamespace,
    address: SocketAddr,
    folder: &ClusterDirectory,
) -> io::Result<()> {
    let asked = tokio::time::timeout(PATIENCE, ask_once(namespace, address, folder)).await;
    asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn ask_once(
    namespace: &NetNamespace,
    address: SocketAddr,
    folder: &ClusterDirectory,
) -> io::Result<()> {
    let connector = TlsConnector::from(Arc::new(tls(folder)?));
    let stream = namespace.connect(address).await?;
    let name = ServerName::IpAddress(address.ip().into());
    let mut stream = connector.connect(name, stream).await?;
    let question = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(STATUS_LINE).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(io::Error::other(format!("it answers `{status}`"))),
    }
}

fn tls(folder: &ClusterDirectory) -> io::Result<ClientConfig> {
    let file = |name: &str| folder.pki().join(name);
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(file("ca.crt")).map_err(io::Error::other)?;
    roots.add(authority).map_err(io::Error::other)?;
    let own = CertificateDer::from_pem_file(file("admin.crt")).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(file("admin.key")).map_err(io::Error::other)?;
    ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![own], key)
        .map_err(io::Error::other)
}
