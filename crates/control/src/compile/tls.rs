//! Transport security: what a proxy offers and demands, as client and as server.

use tombolo_crds::mesh_config::MeshConfig;
use tombolo_crds::networking::destination_rule::{ClientTls, ClientTlsMode};
use tombolo_xds::proto::envoy::config::core::v3::TransportSocket;
use tombolo_xds::proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use tombolo_xds::proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext, common_tls_context,
    subject_alt_name_matcher::SanType, tls_parameters::TlsProtocol,
};
use tombolo_xds::proto::envoy::r#type::matcher::v3::StringMatcher;

use crate::compile::parts;

/// What proxies of the mesh say inside TLS, so that their connections are told from others'.
pub(crate) const MESH_ALPN: [&str; 5] =
    ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// The part of [`MESH_ALPN`] that says that it is HTTP inside.
pub(crate) const MESH_HTTP_ALPN: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// The part of [`MESH_ALPN`] that does not say what is inside.
pub(crate) const MESH_TCP_ALPN: [&str; 2] = ["istio-peer-exchange", "istio"];
/// What the first bytes of a plain connection show when it is HTTP.
pub(crate) const PLAIN_HTTP: [&str; 2] = ["http/1.1", "h2c"];

const CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];

pub(crate) fn names(of: &[&str]) -> Vec<String> {
    of.iter().map(|name| (*name).to_owned()).collect()
}

/// The mesh's certificate and root, and what the peer's names must be; `peers` empty for any.
fn mesh_context(peers: Vec<StringMatcher>, alpn: &[&str]) -> CommonTlsContext {
    let secret = |name: &str| SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(parts::from_agent()),
    };
    let of_uri = |matcher| SubjectAltNameMatcher {
        san_type: SanType::Uri.into(),
        matcher: Some(matcher),
        ..SubjectAltNameMatcher::default()
    };
    let combined = common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: peers.into_iter().map(of_uri).collect(),
            ..CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(secret("ROOTCA")),
        ..common_tls_context::CombinedCertificateValidationContext::default()
    };
    CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![secret("default")],
        alpn_protocols: names(alpn),
        validation_context_type: Some(
            common_tls_context::ValidationContextType::CombinedValidationContext(combined),
        ),
        ..CommonTlsContext::default()
    }
}

/// Mutual TLS towards the mesh, with a server that is one of `identities`.
pub(crate) fn to_mesh<'a>(
    sni: &str,
    identities: impl IntoIterator<Item = &'a str>,
    http2: bool,
) -> TransportSocket {
    let alpn: &[&str] = match http2 {
        true => &["istio-peer-exchange", "istio", "h2"],
        false => &["istio-peer-exchange", "istio"],
    };
    let mut common = mesh_context(identities.into_iter().map(parts::exact).collect(), alpn);
    common.tls_params = Some(TlsParameters {
        tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
        tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
        ..TlsParameters::default()
    });
    parts::transport(
        "envoy.transport_sockets.tls",
        &UpstreamTlsContext {
            common_tls_context: Some(common),
            sni: sni.to_owned(),
            ..UpstreamTlsContext::default()
        },
    )
}

/// Mutual TLS from the mesh, with a client of the mesh's trust domains.
pub(crate) fn from_mesh(mesh: &MeshConfig, http: bool) -> TransportSocket {
    let domains = std::iter::once(&mesh.trust_domain).chain(&mesh.trust_domain_aliases);
    let peers = domains.map(|domain| parts::prefix(&format!("spiffe://{domain}/")));
    let alpn: &[&str] = match http {
        true => &["h2", "http/1.1"],
        false => &["istio-peer-exchange", "h2", "http/1.1"],
    };
    let mut common = mesh_context(peers.collect(), alpn);
    let only_13 = mesh.mesh_mtls.as_ref().is_some_and(|it| it.min_protocol_version == "TLSV1_3");
    common.tls_params = Some(TlsParameters {
        tls_minimum_protocol_version: match only_13 {
            true => TlsProtocol::TlSv13.into(),
            false => TlsProtocol::TlSv12.into(),
        },
        tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
        cipher_suites: names(&CIPHERS),
        ..TlsParameters::default()
    });
    parts::transport(
        "envoy.transport_sockets.tls",
        &DownstreamTlsContext {
            common_tls_context: Some(common),
            require_client_certificate: parts::yes(),
            ..DownstreamTlsContext::default()
        },
    )
}

/// No TLS.
pub(crate) fn plain() -> TransportSocket {
    parts::transport("envoy.transport_sockets.raw_buffer", &RawBuffer {})
}

/// TLS towards a server outside of the mesh, as a DestinationRule asks for it.
///
/// Files are served by the agent under the names that Istio gives them. What cannot be done is an
/// error, since anything else would speak with a server that nobody checked.
pub(crate) fn to_outside(tls: &ClientTls, http2: bool) -> Result<TransportSocket, String> {
    let secret = |name: String| SdsSecretConfig { name, sds_config: Some(parts::from_agent()) };
    let mut common = CommonTlsContext {
        alpn_protocols: if http2 { names(&["h2"]) } else { Vec::new() },
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..TlsParameters::default()
        }),
        ..CommonTlsContext::default()
    };
    if tls.mode == ClientTlsMode::Mutual {
        if tls.client_certificate.is_empty() || tls.private_key.is_empty() {
            return Err(String::from(
                "tls.mode MUTUAL needs clientCertificate and privateKey: no endpoint is used",
            ));
        }
        let name = format!("file-cert:{}~{}", tls.client_certificate, tls.private_key);
        common.tls_certificate_sds_secret_configs = vec![secret(name)];
    }
    if tls.insecure_skip_verify != Some(true) {
        let root = match tls.ca_certificates.as_str() {
            "" | "system" => "file-root:system".to_owned(),
            file => format!("file-root:{file}"),
        };
        let names = match (tls.subject_alt_names.as_slice(), tls.sni.as_str()) {
            ([], "") => {
                return Err(String::from(
                    "tls.mode SIMPLE and MUTUAL need sni or subjectAltNames, so that the server \
                     can be checked: no endpoint is used",
                ));
            }
            ([], sni) => vec![sni.to_owned()],
            (names, _) => names.to_vec(),
        };
        let matcher = |name: &String| {
            let san_type = match name.contains("://") {
                true => SanType::Uri,
                false => SanType::Dns,
            };
            SubjectAltNameMatcher {
                san_type: san_type.into(),
                matcher: Some(parts::exact(name)),
                ..SubjectAltNameMatcher::default()
            }
        };
        let combined = common_tls_context::CombinedCertificateValidationContext {
            default_validation_context: Some(CertificateValidationContext {
                match_typed_subject_alt_names: names.iter().map(matcher).collect(),
                ..CertificateValidationContext::default()
            }),
            validation_context_sds_secret_config: Some(secret(root)),
            ..common_tls_context::CombinedCertificateValidationContext::default()
        };
        common.validation_context_type =
            Some(common_tls_context::ValidationContextType::CombinedValidationContext(combined));
    }
    Ok(parts::transport(
        "envoy.transport_sockets.tls",
        &UpstreamTlsContext {
            common_tls_context: Some(common),
            sni: tls.sni.clone(),
            ..UpstreamTlsContext::default()
        },
    ))
}
