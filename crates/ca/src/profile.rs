//! The X.509 fields that all our certificates share.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyIdMethod,
    KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// Certificates count this long before they are issued, for peers whose clocks are behind.
pub(crate) const CLOCK_SKEW: Duration = Duration::minutes(2);

/// An empty profile: no subject, a random serial number, valid from now for `lifetime`.
pub(crate) fn blank(now: OffsetDateTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(serial());
    params.not_before = now;
    params.not_after = now + lifetime;
    params
}

/// A certificate authority's profile; `below` limits how many authorities may follow under it.
pub(crate) fn authority(
    now: OffsetDateTime,
    lifetime: Duration,
    subject: &[(DnType, &str)],
    below: BasicConstraints,
) -> CertificateParams {
    let mut params = blank(now, lifetime);
    for (kind, text) in subject {
        params.distinguished_name.push(kind.clone(), *text);
    }
    params.is_ca = IsCa::Ca(below);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::ContentCommitment,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    params
}

/// The subject key identifier as OpenSSL computes it: SHA-1 of the public key's bits.
pub(crate) fn key_identifier(key: &impl PublicKeyData) -> KeyIdMethod {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, key.der_bytes());
    KeyIdMethod::PreSpecified(hash.as_ref().to_vec())
}

/// A random, positive serial number of 16 bytes.
fn serial() -> SerialNumber {
    let mut bytes = [0u8; 16];
    rand::fill(&mut bytes).expect("the provider's random numbers do not run out");
    bytes[0] &= 0x7f;
    // A leading zero byte would be stripped and could leave an encoding that is not minimal.
    bytes[0] |= 0x40;
    SerialNumber::from_slice(&bytes)
}
