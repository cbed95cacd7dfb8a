//! One-sided TLS by host name: the control plane's endpoints and their clients.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};

use crate::key::{self, PrivateKey};
use crate::mesh::{ClientCertificate, Credentials, without_resumption};
use crate::peer::{self, Rule};
use crate::roots::Roots;
use crate::x509::{self, Facts};
use crate::{mesh, provider};

/// A server certificate that can be exchanged while connections are accepted.
#[derive(Default)]
pub struct Serving {
    certified: ArcSwapOption<CertifiedKey>,
}

/// Why a serving certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chain cannot be read.
    #[error("read the serving certificate")]
    Chain(#[from] x509::Error),
    /// The key cannot be used.
    #[error("use the serving certificate's key")]
    Key(#[from] key::Error),
    /// Certificate and key do not belong together.
    #[error("the serving certificate was issued for another key: {0}")]
    Mismatch(rustls::Error),
    /// The roots cannot be used.
    #[error("use the trusted roots: {0}")]
    Roots(String),
}

impl Serving {
    /// Serves this chain (PEM, leaf first) from the next handshake on.
    ///
    /// # Errors
    /// When chain or key cannot be read, or do not belong together. The old ones stay in use.
    pub fn set(&self, chain_pem: &str, key: &PrivateKey) -> Result<Facts, Error> {
        let chain = x509::certificates(chain_pem)?;
        let facts = Facts::read(&chain[0])?;
        let certified = CertifiedKey::new(chain, key.signer()?);
        certified.keys_match().map_err(Error::Mismatch)?;
        self.certified.store(Some(Arc::new(certified)));
        Ok(facts)
    }

    /// Whether there is a certificate to serve.
    pub fn is_set(&self) -> bool {
        self.certified.load().is_some()
    }

    /// A server that asks no client for a certificate.
    pub fn server(self: &Arc<Self>, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .expect("the provider supports TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        finish(config, alpn)
    }

    /// A server that serves this certificate and lets clients show a mesh certificate, which is
    /// verified with the trust bundle of `trust`.
    pub fn server_with_clients(
        self: &Arc<Self>,
        trust: &Arc<Credentials>,
        alpn: &[&[u8]],
    ) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .expect("the provider supports TLS 1.2 and 1.3")
            .with_client_cert_verifier(mesh::client_verifier(
                trust,
                Rule::Any,
                ClientCertificate::Optional,
            ))
            .with_cert_resolver(self.clone());
        finish(config, alpn)
    }
}

fn finish(mut config: ServerConfig, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    without_resumption(&mut config);
    Arc::new(config)
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified.load_full()
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("set", &self.is_set()).finish()
    }
}

/// A client that trusts only `roots` and checks that the server's certificate names the host
/// it connects to. With `identity` it shows a mesh certificate when the server asks for one.
///
/// # Errors
/// When the roots cannot be used.
pub fn client(
    roots: &Roots,
    identity: Option<&Arc<Credentials>>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, Error> {
    let store = peer::store(roots).map_err(|error| Error::Roots(error.to_string()))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
        .build()
        .map_err(|error| Error::Roots(error.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("the provider supports TLS 1.2 and 1.3")
        .with_webpki_verifier(verifier);
    let mut config = match identity {
        Some(credentials) => builder.with_client_cert_resolver(credentials.clone()),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
