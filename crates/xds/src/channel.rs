//! Opens the gRPC connection to a control plane: TCP, TLS with a given configuration, HTTP/2.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

/// How long connecting, TLS included, may take.
const CONNECT: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE_WAIT: Duration = Duration::from_secs(10);

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not `host:port`.
    #[error("`{0}` is not an address of the form host:port")]
    Address(String),
    /// The name cannot be sent as server name.
    #[error("`{0}` is not a server name")]
    ServerName(String),
    /// The server could not be reached or was not trusted.
    #[error("connect to {0}")]
    Connect(String, #[source] tonic::transport::Error),
}

/// How a control plane is reached.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`, for example `istiod.istio-system.svc:15012`.
    pub address: String,
    /// The TLS configuration; plain text when there is none.
    pub tls: Option<Arc<ClientConfig>>,
    /// The name that the server's certificate must have; the address's host by default.
    pub server_name: Option<String>,
}

impl Target {
    fn host(&self) -> Result<&str, Error> {
        let (host, port) =
            self.address.rsplit_once(':').ok_or_else(|| Error::Address(self.address.clone()))?;
        port.parse::<u16>().map_err(|_| Error::Address(self.address.clone()))?;
        Ok(host.trim_start_matches('[').trim_end_matches(']'))
    }

    /// Connects once. The channel does not outlive the connection: when that breaks, calls fail
    /// and the caller connects again with fresh credentials.
    ///
    /// # Errors
    /// When the target is malformed, not reachable or not trusted.
    pub async fn connect(&self) -> Result<Channel, Error> {
        let host = self.host()?;
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        let server_name =
            ServerName::try_from(name.clone()).map_err(|_| Error::ServerName(name.clone()))?;
        let uri =
            format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.address);
        let endpoint = Endpoint::from_shared(uri)
            .map_err(|_| Error::Address(self.address.clone()))?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_WAIT)
            .keep_alive_while_idle(true);
        let tls = self.tls.clone().map(TlsConnector::from);
        let address = self.address.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let (tls, address, server_name) = (tls.clone(), address.clone(), server_name.clone());
            async move { dial(tls, &address, server_name).await }
        });
        endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|error| Error::Connect(self.address.clone(), error))
    }
}

async fn dial(
    tls: Option<TlsConnector>,
    address: &str,
    server_name: ServerName<'static>,
) -> io::Result<TokioIo<Either>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(TokioIo::new(match tls {
        None => Either::Left(tcp),
        Some(tls) => Either::Right(tls.connect(server_name, tcp).await?),
    }))
}

type Either = tokio_util::either::Either<TcpStream, tokio_rustls::client::TlsStream<TcpStream>>;
