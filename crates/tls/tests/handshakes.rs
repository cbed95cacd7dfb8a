//! Real handshakes over an in-memory stream: who is let in, who is not, and what rotation does.

#![cfg(test)]

use std::collections::BTreeSet;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::ServerName;
use time::{Duration, OffsetDateTime};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tombolo_tls::identity::Identity;
use tombolo_tls::key::{KeyKind, PrivateKey};
use tombolo_tls::mesh::{ClientCertificate, Credentials, Version, peer_identity};
use tombolo_tls::peer::Rule;
use tombolo_tls::roots::{Bundle, Roots};
use tombolo_tls::rustls::{ALL_VERSIONS, ClientConfig, ServerConfig, SupportedProtocolVersion};
use tombolo_tls::serving::{self, Serving};
use tombolo_tls::spiffe::TrustDomain;

const SLEEP: &str = "spiffe://cluster.local/ns/sample/sa/sleep";
const HELLO: &str = "spiffe://cluster.local/ns/sample/sa/helloworld";
/// The name that Istio sends to gateways: labels with underscores.
const SNI: &str = "outbound_.5000_._.helloworld.sample.svc.cluster.local";

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        Self::valid(OffsetDateTime::now_utc() + Duration::days(1))
    }

    fn valid(until: OffsetDateTime) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Root CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_after = until;
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn roots(&self) -> Roots {
        Roots::from_pem(&self.pem).unwrap()
    }

    /// Chain and key in PEM of a leaf that `change` has made special.
    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        (leaf.pem() + &self.pem, key.serialize_pem())
    }

    fn workload(&self, id: &str) -> Identity {
        let (chain, key) = self.issue(|params| params.subject_alt_names = vec![uri(id)]);
        Identity::from_pem(&chain, &key).unwrap()
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn credentials(identity: Identity, bundle: Bundle) -> Arc<Credentials> {
    let credentials = Arc::new(Credentials::default());
    credentials.set_identity(identity);
    credentials.set_bundle(bundle);
    credentials
}

fn only(id: &str) -> Rule {
    Rule::Ids(BTreeSet::from([id.to_owned()]))
}

/// What each side saw of the other, or why it stopped.
type Seen = Result<(Option<String>, Option<String>), String>;

/// One handshake; both sides also exchange a byte, since TLS 1.3 clients learn late of a refusal.
async fn handshake(server: Arc<ServerConfig>, client: Arc<ClientConfig>, name: &str) -> Seen {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (near, far) = tokio::io::duplex(16 * 1024);
    let accept = async {
        let mut stream = TlsAcceptor::from(server).accept(near).await?;
        stream.write_all(b"x").await?;
        stream.flush().await?;
        std::io::Result::Ok(stream)
    };
    let connect = async {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream = TlsConnector::from(client).connect(name, far).await?;
        stream.read_exact(&mut [0]).await?;
        std::io::Result::Ok(stream)
    };
    match tokio::join!(accept, connect) {
        (Ok(server), Ok(client)) => {
            let seen =
                |certificates| peer_identity(certificates).ok().flatten().map(|id| id.to_string());
            Ok((
                seen(server.get_ref().1.peer_certificates()),
                seen(client.get_ref().1.peer_certificates()),
            ))
        }
        (Err(server), Ok(_)) => Err(format!("server: {server}")),
        (Ok(_), Err(client)) => Err(format!("client: {client}")),
        (Err(server), Err(client)) => Err(format!("server: {server}; client: {client}")),
    }
}

#[tokio::test]
async fn two_workloads_of_one_mesh_see_each_others_identity() {
    let root = Authority::new();
    let server = credentials(root.workload(HELLO), Bundle::for_any(root.roots()));
    let client = credentials(root.workload(SLEEP), Bundle::for_any(root.roots()));
    let seen = handshake(
        server.server(Rule::Any, ClientCertificate::Required, Version::Tls12, &[b"istio", b"h2"]),
        client.client(only(HELLO), &[b"istio"]),
        SNI,
    )
    .await;
    assert_eq!(seen, Ok((Some(SLEEP.into()), Some(HELLO.into()))));
}

#[tokio::test]
async fn a_server_that_is_somebody_else_is_refused() {
    let root = Authority::new();
    let server = credentials(root.workload(SLEEP), Bundle::for_any(root.roots()));
    let client = credentials(root.workload(SLEEP), Bundle::for_any(root.roots()));
    let server = server.server(Rule::Any, ClientCertificate::Required, Version::Tls12, &[]);
    let error = handshake(server, client.client(only(HELLO), &[]), SNI).await.unwrap_err();
    assert!(
        error.contains(&format!("the peer is {SLEEP}, expected one of [\"{HELLO}\"]")),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_demands_the_newest_version_serves_no_other() {
    use tombolo_tls::rustls::version::{TLS12, TLS13};
    let root = Authority::new();
    let server = credentials(root.workload(HELLO), Bundle::for_any(root.roots()));
    let (chain, key) = root.issue(|params| params.subject_alt_names = vec![uri(SLEEP)]);
    for (lowest, client, works) in [
        (Version::Tls12, &TLS12, true),
        (Version::Tls12, &TLS13, true),
        (Version::Tls13, &TLS12, false),
        (Version::Tls13, &TLS13, true),
    ] {
        let server = server.server(Rule::Any, ClientCertificate::Required, lowest, &[]);
        let seen = handshake(server, showing(&chain, &key, &[client]), SNI).await;
        assert_eq!(seen.is_ok(), works, "{lowest:?}, {client:?}: {seen:?}");
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_unless_it_is_optional() {
    let root = Authority::new();
    let server = credentials(root.workload(HELLO), Bundle::for_any(root.roots()));
    let anonymous = Arc::new(Credentials::default());
    anonymous.set_bundle(Bundle::for_any(root.roots()));
    let required = server.server(Rule::Any, ClientCertificate::Required, Version::Tls12, &[]);
    assert!(handshake(required, anonymous.client(Rule::Any, &[]), SNI).await.is_err());
    let optional = server.server(Rule::Any, ClientCertificate::Optional, Version::Tls12, &[]);
    let seen = handshake(optional, anonymous.client(Rule::Any, &[]), SNI).await;
    assert_eq!(seen, Ok((None, Some(HELLO.into()))));
}

#[tokio::test]
async fn bad_client_certificates_are_refused_and_the_reason_is_named() {
    let (root, other) = (Authority::new(), Authority::new());
    let now = OffsetDateTime::now_utc();
    let cases: Vec<(&str, (String, String), &str)> = vec![
        (
            "expired",
            root.issue(|p| {
                p.subject_alt_names = vec![uri(SLEEP)];
                p.not_after = now - Duration::minutes(1);
            }),
            "CertExpired",
        ),
        (
            "not yet valid",
            root.issue(|p| {
                p.subject_alt_names = vec![uri(SLEEP)];
                p.not_before = now + Duration::minutes(1);
            }),
            "CertNotValidYet",
        ),
        ("other root", other.issue(|p| p.subject_alt_names = vec![uri(SLEEP)]), "another root"),
        ("no name", root.issue(|_| ()), "0 URI names"),
        (
            "a DNS name only",
            root.issue(|p| {
                p.subject_alt_names = vec![SanType::DnsName("sleep".try_into().unwrap())];
            }),
            "0 URI names",
        ),
        (
            "two URI names",
            root.issue(|p| p.subject_alt_names = vec![uri(SLEEP), uri(HELLO)]),
            "2 URI names",
        ),
        (
            "another trust domain",
            root.issue(|p| p.subject_alt_names = vec![uri("spiffe://evil/ns/a/sa/b")]),
            "no trusted root for trust domain `evil`",
        ),
        (
            "not a workload",
            root.issue(|p| p.subject_alt_names = vec![uri("spiffe://cluster.local/admin")]),
            "is not a workload identity",
        ),
        (
            "an authority",
            root.issue(|p| {
                p.subject_alt_names = vec![uri(SLEEP)];
                p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }),
            "certificate authority's certificate as its own",
        ),
        (
            "for servers only",
            root.issue(|p| {
                p.subject_alt_names = vec![uri(SLEEP)];
                p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            "RequiredEkuNotFound",
        ),
    ];
    let domain = TrustDomain::new("cluster.local").unwrap();
    let server = credentials(root.workload(HELLO), Bundle::for_domain(domain, root.roots()));
    for (what, (chain, key), want) in cases {
        let config = server.server(Rule::Any, ClientCertificate::Required, Version::Tls12, &[]);
        let error = handshake(config, showing(&chain, &key, ALL_VERSIONS), SNI).await.unwrap_err();
        assert!(error.to_lowercase().contains(&want.to_lowercase()), "{what}: {error}");
    }
}

/// A client that shows any chain, however wrong, and accepts every server.
fn showing(
    chain: &str,
    key: &str,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    use tombolo_tls::rustls::client::danger::{
        HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
    };
    use tombolo_tls::rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    struct Trusting;
    impl ServerCertVerifier for Trusting {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: rustls_pki_types::UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            tombolo_tls::provider().signature_verification_algorithms.supported_schemes()
        }
    }
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ClientConfig::builder_with_provider(tombolo_tls::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_client_auth_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

#[tokio::test]
async fn a_root_mismatch_names_both_fingerprints() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = credentials(ours.workload(HELLO), Bundle::for_any(ours.roots()));
    let client = credentials(theirs.workload(SLEEP), Bundle::for_any(ours.roots()));
    let server = server.server(Rule::Any, ClientCertificate::Required, Version::Tls12, &[]);
    let error = handshake(server, client.client(Rule::Any, &[]), SNI).await.unwrap_err();
    for print in [ours.roots().fingerprints(), theirs.roots().fingerprints()].concat() {
        assert!(error.contains(&print), "{print} is not in: {error}");
    }
}

#[tokio::test]
async fn an_expired_root_vouches_for_nobody() {
    let root = Authority::valid(OffsetDateTime::now_utc() - Duration::minutes(1));
    let server = credentials(root.workload(HELLO), Bundle::for_any(root.roots()));
    let client = credentials(root.workload(SLEEP), Bundle::for_any(root.roots()));
    let server = server.server(Rule::Any, ClientCertificate::Required, Version::Tls12, &[]);
    assert!(handshake(server, client.client(Rule::Any, &[]), SNI).await.is_err());
}

#[tokio::test]
async fn clients_of_another_trust_domain_need_a_rule_that_allows_it() {
    let root = Authority::new();
    let id = "spiffe://partner/ns/a/sa/b";
    let server = credentials(root.workload(HELLO), Bundle::for_any(root.roots()));
    let client = credentials(root.workload(id), Bundle::for_any(root.roots()));
    let domains = |names: &[&str]| {
        Rule::TrustDomains(names.iter().map(|name| TrustDomain::new(name).unwrap()).collect())
    };
    for (rule, allowed) in [
        (domains(&["cluster.local"]), false),
        (domains(&["cluster.local", "partner"]), true),
        (domains(&[]), false),
    ] {
        let config = server.server(rule.clone(), ClientCertificate::Required, Version::Tls12, &[]);
        let seen = handshake(config, client.client(Rule::Any, &[]), SNI).await;
        assert_eq!(seen.is_ok(), allowed, "{rule:?}: {seen:?}");
    }
}

#[tokio::test]
async fn a_new_identity_and_a_new_bundle_count_from_the_next_handshake() {
    let (old, new) = (Authority::new(), Authority::new());
    let server = credentials(old.workload(HELLO), Bundle::for_any(old.roots()));
    let client = credentials(old.workload(SLEEP), Bundle::for_any(old.roots()));
    let accepting = server.server(Rule::Any, ClientCertificate::Required, Version::Tls12, &[]);
    let connecting = client.client(Rule::Any, &[]);
    let meet = || handshake(accepting.clone(), connecting.clone(), SNI);
    assert!(meet().await.is_ok());

    // The server trusts the new root only: the old client is out, at once, ticket or not.
    server.set_bundle(Bundle::for_any(new.roots()));
    assert!(meet().await.is_err());
    client.set_identity(new.workload(SLEEP));
    assert!(meet().await.is_ok());
    server.set_identity(new.workload(HELLO));
    assert!(meet().await.is_err());
    client.set_bundle(Bundle::for_any(new.roots()));
    assert_eq!(meet().await, Ok((Some(SLEEP.into()), Some(HELLO.into()))));
}

#[tokio::test]
async fn without_a_bundle_nobody_is_trusted() {
    let root = Authority::new();
    let server = Arc::new(Credentials::default());
    server.set_identity(root.workload(HELLO));
    let client = credentials(root.workload(SLEEP), Bundle::for_any(root.roots()));
    let server = server.server(Rule::Any, ClientCertificate::Required, Version::Tls12, &[]);
    let error = handshake(server, client.client(Rule::Any, &[]), SNI).await.unwrap_err();
    assert!(error.contains("no trust bundle yet"), "{error}");
}

#[tokio::test]
async fn the_control_plane_is_checked_by_host_name_and_sees_an_optional_client() {
    let root = Authority::new();
    let host = "istiod.istio-system.svc";
    let (chain, key) = root.issue(|p| {
        p.subject_alt_names = vec![SanType::DnsName(host.try_into().unwrap())];
    });
    let serving = Arc::new(Serving::default());
    serving.set(&chain, &PrivateKey::from_pem(&key).unwrap()).unwrap();
    let trust = credentials(root.workload(HELLO), Bundle::for_any(root.roots()));
    let server = serving.server_with_clients(&trust, &[b"h2"]);
    let anonymous = serving::client(&root.roots(), None, &[b"h2"]).unwrap();
    assert_eq!(handshake(server.clone(), anonymous.clone(), host).await, Ok((None, None)));
    let wrong = handshake(server.clone(), anonymous, "istiod.other.svc").await.unwrap_err();
    assert!(wrong.contains("not valid for name"), "{wrong}");
    let workload = credentials(root.workload(SLEEP), Bundle::for_any(root.roots()));
    let named = serving::client(&root.roots(), Some(&workload), &[b"h2"]).unwrap();
    assert_eq!(handshake(server.clone(), named, host).await, Ok((Some(SLEEP.into()), None)));

    let other = Authority::new();
    let stranger = serving::client(&other.roots(), None, &[b"h2"]).unwrap();
    assert!(handshake(server.clone(), stranger, host).await.is_err());
    let forged = credentials(other.workload(SLEEP), Bundle::for_any(root.roots()));
    let forged = serving::client(&root.roots(), Some(&forged), &[b"h2"]).unwrap();
    assert!(handshake(server, forged, host).await.is_err());
}

#[test]
fn an_identity_needs_the_key_its_certificate_was_issued_for() {
    let root = Authority::new();
    let (chain, _) = root.issue(|p| p.subject_alt_names = vec![uri(SLEEP)]);
    let stranger = PrivateKey::generate(KeyKind::P256).unwrap();
    let error = Identity::new(&chain, stranger).unwrap_err();
    assert!(error.to_string().contains("issued for another key"), "{error}");
}
