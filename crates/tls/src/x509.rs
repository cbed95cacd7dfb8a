//! Reads the few fields of certificates that decisions need: names, validity, fingerprint.

use std::time::{Duration, SystemTime};

use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a certificate says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The subject, as text.
    pub subject: String,
    /// The issuer, as text.
    pub issuer: String,
    /// The serial number in hexadecimal.
    pub serial: String,
    /// When the certificate starts to count.
    pub not_before: SystemTime,
    /// When it stops to count.
    pub not_after: SystemTime,
    /// Whether it may sign certificates by its basic constraints.
    pub is_ca: bool,
    /// How many authorities may follow under it, if that is limited.
    pub path_length: Option<u32>,
    /// Whether its key usage, when there is one, allows signing certificates.
    pub may_sign: bool,
    /// URI names.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// The DER form of the public key.
    pub public_key: Vec<u8>,
}

/// Why certificates could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The PEM text is broken.
    #[error("read PEM certificates: {0}")]
    Pem(PemError),
    /// There is no certificate in the text.
    #[error("no certificate in the PEM text")]
    Empty,
    /// The certificate is not X.509.
    #[error("read certificate: {0}")]
    Der(String),
}

impl Facts {
    /// Reads `certificate`.
    ///
    /// # Errors
    /// When it is not a well-formed X.509 certificate.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let (rest, parsed) = X509Certificate::from_der(certificate.as_ref())
            .map_err(|error| Error::Der(error.to_string()))?;
        if !rest.is_empty() {
            return Err(Error::Der("there are bytes after its end".into()));
        }
        let mut facts = Self {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            serial: hex(parsed.raw_serial()),
            not_before: system_time(parsed.validity().not_before.timestamp()),
            not_after: system_time(parsed.validity().not_after.timestamp()),
            is_ca: false,
            path_length: None,
            may_sign: true,
            uris: Vec::new(),
            dns_names: Vec::new(),
            public_key: parsed.public_key().raw.to_vec(),
        };
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(basic) => {
                    facts.is_ca = basic.ca;
                    facts.path_length = basic.path_len_constraint;
                }
                ParsedExtension::KeyUsage(usage) => facts.may_sign = usage.key_cert_sign(),
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        match name {
                            GeneralName::URI(uri) => facts.uris.push((*uri).to_owned()),
                            GeneralName::DNSName(dns) => facts.dns_names.push((*dns).to_owned()),
                            _ => (),
                        }
                    }
                }
                ParsedExtension::ParseError { error } => {
                    return Err(Error::Der(format!("extension {}: {error}", extension.oid)));
                }
                _ => (),
            }
        }
        Ok(facts)
    }

    /// Whether the certificate counts at `now`.
    pub fn is_valid_at(&self, now: UnixTime) -> bool {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        self.not_before <= now && now <= self.not_after
    }
}

/// All certificates of a PEM text, in order.
///
/// # Errors
/// When the text is broken or holds no certificate.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(Error::Pem)?;
    if found.is_empty() { Err(Error::Empty) } else { Ok(found) }
}

/// The SHA-256 fingerprint in the form `AB:CD:…`, as `openssl x509 -fingerprint -sha256` prints.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = Sha256::digest(certificate.as_ref());
    digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// The PEM form of a certificate, with a newline at its end.
pub fn to_pem(certificate: &CertificateDer<'_>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", certificate.as_ref()), config)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Kubernetes and X.509 times before 1970 do not occur in practice; they count as 1970.
fn system_time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
