//! Which certificate signing requests are acceptable, and the one thing taken from them.
//!
//! A request must be one PEM block of at most 32 KiB, signed by the key it carries (that proves
//! possession) with a hash that is not broken; the key must be ECDSA on P-256 or P-384, or RSA
//! with 2048 to 8192 bits. Everything else in it, names and extensions included, is ignored.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// The largest request in bytes.
const LARGEST: usize = 32 * 1024;
const SMALLEST_RSA: usize = 2048;
const LARGEST_RSA: usize = 8192;
const CURVE_SIZES: [usize; 2] = [256, 384];

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the signing request has {0} bytes, at most {LARGEST} are allowed")]
    Large(usize),
    #[error("the signing request is not one PEM block `CERTIFICATE REQUEST`")]
    Pem,
    #[error("the signing request is malformed: {0}")]
    Malformed(String),
    #[error("the signing request is signed with {0}, which is not accepted")]
    SignatureAlgorithm(String),
    #[error("the signing request is not signed by the key it carries")]
    Possession,
    #[error("the key of the signing request is not accepted: {0}")]
    Key(String),
}

/// A public key that was proved to belong to whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenKey(pub(crate) SubjectPublicKeyInfo);

/// Checks a request in PEM and takes its public key.
///
/// # Errors
/// When the request is not acceptable; the text says why.
pub fn check(text: &str) -> Result<ProvenKey, Refused> {
    if text.len() > LARGEST {
        return Err(Refused::Large(text.len()));
    }
    let blocks = pem::parse_many(text).map_err(|_| Refused::Pem)?;
    let [block] = blocks.as_slice() else { return Err(Refused::Pem) };
    if !matches!(block.tag(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") {
        return Err(Refused::Pem);
    }
    let (rest, request) = X509CertificationRequest::from_der(block.contents())
        .map_err(|error| Refused::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(Refused::Malformed("there are bytes after its end".into()));
    }
    let algorithm = &request.signature_algorithm.algorithm;
    let accepted = [
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ECDSA_WITH_SHA512,
    ];
    if !accepted.contains(algorithm) {
        return Err(Refused::SignatureAlgorithm(algorithm.to_string()));
    }
    let info = &request.certification_request_info.subject_pki;
    check_key(&info.parsed().map_err(|error| Refused::Key(error.to_string()))?)?;
    request.verify_signature().map_err(|_| Refused::Possession)?;
    SubjectPublicKeyInfo::from_der(info.raw)
        .map(ProvenKey)
        .map_err(|error| Refused::Key(error.to_string()))
}

fn check_key(key: &PublicKey<'_>) -> Result<(), Refused> {
    match key {
        PublicKey::EC(point) if CURVE_SIZES.contains(&point.key_size()) => Ok(()),
        PublicKey::EC(point) => {
            Err(Refused::Key(format!("an elliptic curve of {} bits", point.key_size())))
        }
        PublicKey::RSA(rsa) => {
            let bits = rsa.key_size();
            if !(SMALLEST_RSA..=LARGEST_RSA).contains(&bits) {
                return Err(Refused::Key(format!("RSA with {bits} bits")));
            }
            match rsa.try_exponent() {
                Ok(exponent) if exponent >= 65_537 && exponent % 2 == 1 => Ok(()),
                _ => Err(Refused::Key("RSA with an unsafe exponent".into())),
            }
        }
        _ => Err(Refused::Key("neither ECDSA nor RSA".into())),
    }
}
