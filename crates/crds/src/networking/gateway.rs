//! Ports that gateways open: `Gateway`.
//!
//! Fields that are not here are reported by [`crate::document::read`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Ports that gateways open.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gateway {
    /// Labels of the gateways.
    pub selector: BTreeMap<String, String>,
    /// The ports.
    pub servers: Vec<Server>,
}

/// A port that gateways open.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Server {
    /// The port.
    pub port: ServerPort,
    /// The address; all unless said.
    pub bind: String,
    /// The hosts served, with the namespaces that may.
    pub hosts: Vec<String>,
    /// How TLS is served.
    pub tls: Option<ServerTls>,
    /// Its name.
    pub name: String,
}

/// The number and protocol of a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerPort {
    /// The number.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// What is spoken.
    pub protocol: String,
}

/// How TLS is served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerTls {
    /// Whether plain requests are sent to HTTPS.
    pub https_redirect: bool,
    /// Which kind.
    pub mode: ServerTlsMode,
    /// File with the chain.
    pub server_certificate: String,
    /// File with the key.
    pub private_key: String,
    /// File with the clients' roots.
    pub ca_certificates: String,
    /// The secret with all of them.
    pub credential_name: String,
    /// Names that clients may have.
    pub subject_alt_names: Vec<String>,
    /// The lowest version.
    pub min_protocol_version: TlsVersion,
    /// The highest version.
    pub max_protocol_version: TlsVersion,
    /// The ciphers.
    pub cipher_suites: Vec<String>,
}

/// Kinds of TLS that are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerTlsMode {
    /// The backend serves it; routed by SNI.
    #[default]
    Passthrough,
    /// The gateway serves it.
    Simple,
    /// The same, and the client shows a certificate.
    Mutual,
    /// The backend serves it; the SNI is the service.
    AutoPassthrough,
    /// Mutual TLS with the mesh's certificates.
    IstioMutual,
    /// The client may show a certificate.
    OptionalMutual,
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// As the proxy does by default.
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    /// 1.0.
    #[serde(rename = "TLSV1_0")]
    V1_0,
    /// 1.1.
    #[serde(rename = "TLSV1_1")]
    V1_1,
    /// 1.2.
    #[serde(rename = "TLSV1_2")]
    V1_2,
    /// 1.3.
    #[serde(rename = "TLSV1_3")]
    V1_3,
}
