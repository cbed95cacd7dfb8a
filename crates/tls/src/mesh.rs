//! Mutual TLS between workloads.
//!
//! [`Credentials`] hold the current identity and trust bundle of a workload. Configurations made
//! from them follow every later change: both are read at each handshake.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::sync::watch;

use crate::identity::Identity;
use crate::peer::{self, Refused, Rule, Use};
use crate::provider;
use crate::roots::Bundle;
use crate::spiffe::SpiffeId;

/// The identity and the trust of one workload, which change while it runs. Cheap to share.
#[derive(Debug)]
pub struct Credentials {
    identity: ArcSwapOption<Identity>,
    bundle: ArcSwapOption<Bundle>,
    identity_since: ArcSwapOption<SystemTime>,
    bundle_since: ArcSwapOption<SystemTime>,
    changed: watch::Sender<u64>,
}

impl Default for Credentials {
    fn default() -> Self {
        Self {
            identity: ArcSwapOption::empty(),
            bundle: ArcSwapOption::empty(),
            identity_since: ArcSwapOption::empty(),
            bundle_since: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
        }
    }
}

/// The lowest version of TLS that a server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2, and 1.3 where the client speaks it.
    #[default]
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

/// Whether a server asks its clients for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// A client without a certificate is refused.
    Required,
    /// A client may stay anonymous; a certificate that is shown must be valid.
    Optional,
}

impl Credentials {
    /// Uses `identity` from the next handshake on.
    pub fn set_identity(&self, identity: Identity) {
        self.identity.store(Some(Arc::new(identity)));
        self.identity_since.store(Some(Arc::new(SystemTime::now())));
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// Trusts `bundle` from the next handshake on.
    pub fn set_bundle(&self, bundle: Bundle) {
        self.bundle.store(Some(Arc::new(bundle)));
        self.bundle_since.store(Some(Arc::new(SystemTime::now())));
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// The current identity.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.load_full()
    }

    /// Since when the current identity is used.
    pub fn identity_since(&self) -> Option<SystemTime> {
        self.identity_since.load().as_deref().copied()
    }

    /// Since when the current trust bundle is used.
    pub fn bundle_since(&self) -> Option<SystemTime> {
        self.bundle_since.load().as_deref().copied()
    }

    /// The current trust bundle.
    pub fn bundle(&self) -> Option<Arc<Bundle>> {
        self.bundle.load_full()
    }

    /// Whether both an identity and a trust bundle are there.
    pub fn is_complete(&self) -> bool {
        self.identity.load().is_some() && self.bundle.load().is_some()
    }

    /// Follows changes: a generation that grows with each.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The configuration of a server whose clients must fit `rule`, offering `alpn` in order of
    /// preference. A client that offers application protocols, but none of these, is refused.
    pub fn server(
        self: &Arc<Self>,
        rule: Rule,
        certificate: ClientCertificate,
        lowest: Version,
        alpn: &[&[u8]],
    ) -> Arc<ServerConfig> {
        let verifier = client_verifier(self, rule, certificate);
        let versions = match lowest {
            Version::Tls12 => rustls::ALL_VERSIONS,
            Version::Tls13 => &[&rustls::version::TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("the provider supports TLS 1.2 and 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.clone());
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        without_resumption(&mut config);
        Arc::new(config)
    }

    /// The configuration of a client whose server must fit `rule`, offering `alpn`. The name given
    /// to each connection is only sent (SNI), never compared with the server's certificate.
    pub fn client(self: &Arc<Self>, rule: Rule, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let verifier = Arc::new(Verifier { credentials: self.clone(), rule, mandatory: true });
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .expect("the provider supports TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(self.clone());
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.identity.load().as_ref().map(|identity| identity.certified())
    }
}

/// A verifier of clients under the trust bundle of `credentials`.
pub(crate) fn client_verifier(
    credentials: &Arc<Credentials>,
    rule: Rule,
    certificate: ClientCertificate,
) -> Arc<dyn ClientCertVerifier> {
    let mandatory = certificate == ClientCertificate::Required;
    Arc::new(Verifier { credentials: credentials.clone(), rule, mandatory })
}

/// Makes every connection a full handshake: trust that ended must not live on in a ticket.
pub(crate) fn without_resumption(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
}

/// Who the other end of a finished handshake is; none when it showed no certificate.
///
/// # Errors
/// When the certificate names no workload. After a handshake of this module this cannot happen.
pub fn peer_identity(
    certificates: Option<&[CertificateDer<'_>]>,
) -> Result<Option<SpiffeId>, Refused> {
    certificates.and_then(|chain| chain.first()).map(peer::identity).transpose()
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        self.identity.load().is_some()
    }
}

/// Applies [`peer::verify`] with the credentials' bundle of the moment.
struct Verifier {
    credentials: Arc<Credentials>,
    rule: Rule,
    mandatory: bool,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("rule", &self.rule).finish_non_exhaustive()
    }
}

impl Verifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Use,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let Some(bundle) = self.credentials.bundle.load_full() else {
            return Err(rustls::Error::General(
                "no trust bundle yet, so no peer is trusted".into(),
            ));
        };
        let mut chain = Vec::with_capacity(1 + intermediates.len());
        chain.push(leaf.clone());
        chain.extend_from_slice(intermediates);
        match peer::verify(&chain, &bundle, &self.rule, usage, now) {
            Ok(_) => Ok(()),
            Err(refused) => {
                tracing::debug!(error = %refused, ?usage, "peer refused");
                Err(alert(refused))
            }
        }
    }
}

/// The error that makes rustls send the fitting alert and keep our text.
pub(crate) fn alert(refused: Refused) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = provider().signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = provider().signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // The roots change while the configuration lives, and clients have one identity anyway.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, Use::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _sni: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, Use::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}
