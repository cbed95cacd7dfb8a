//! Private keys and the requests made with them.
//!
//! A [`PrivateKey`] cannot be printed or cloned and wipes its encoded form when dropped. The only
//! ways out are [`PrivateKey::to_pem`], for files and secrets that must hold the key, and the
//! signing handles that TLS uses.

use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, RsaKeySize, SanType};
use rustls::sign::SigningKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::{Zeroize, Zeroizing};

use crate::provider;
use crate::spiffe::SpiffeId;

/// The kind and size of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KeyKind {
    /// ECDSA on P-256: small and fast, the default for workloads.
    #[default]
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA with 2048 bits.
    Rsa2048,
    /// RSA with 3072 bits.
    Rsa3072,
    /// RSA with 4096 bits.
    Rsa4096,
}

impl KeyKind {
    /// The RSA key of a size in bits, if such keys can be made.
    pub fn rsa(bits: u32) -> Option<Self> {
        [Self::Rsa2048, Self::Rsa3072, Self::Rsa4096]
            .into_iter()
            .find(|kind| kind.rsa_bits() == Some(bits))
    }

    /// The size in bits, of RSA keys.
    pub fn rsa_bits(self) -> Option<u32> {
        match self {
            Self::P256 | Self::P384 => None,
            Self::Rsa2048 => Some(2048),
            Self::Rsa3072 => Some(3072),
            Self::Rsa4096 => Some(4096),
        }
    }
}

/// Why a key cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key could not be generated.
    #[error("generate a {0:?} key: {1}")]
    Generate(KeyKind, rcgen::Error),
    /// The PEM text holds no private key.
    #[error("read private key: {0}")]
    Pem(rustls_pki_types::pem::Error),
    /// The key is damaged or of an unknown kind.
    #[error("use private key: {0}")]
    Unusable(String),
    /// The signing request could not be made.
    #[error("make a certificate signing request for {0}: {1}")]
    Request(String, rcgen::Error),
}

/// A private key.
#[expect(missing_debug_implementations, reason = "a private key must not be printable")]
pub struct PrivateKey {
    pair: KeyPair,
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.pair.zeroize();
    }
}

impl PrivateKey {
    /// Generates a key.
    ///
    /// # Errors
    /// When the provider cannot.
    pub fn generate(kind: KeyKind) -> Result<Self, Error> {
        let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
        let pair = match kind {
            KeyKind::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyKind::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            KeyKind::Rsa2048 => rsa(RsaKeySize::_2048),
            KeyKind::Rsa3072 => rsa(RsaKeySize::_3072),
            KeyKind::Rsa4096 => rsa(RsaKeySize::_4096),
        };
        Ok(Self { pair: pair.map_err(|error| Error::Generate(kind, error))? })
    }

    /// Reads a key in PKCS#8, PKCS#1 (RSA) or SEC1 (EC) form.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let mut der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(Error::Pem)?;
        let pair = KeyPair::try_from(&der).map_err(|error| Error::Unusable(error.to_string()));
        der.zeroize();
        Ok(Self { pair: pair? })
    }

    /// The key as PEM, for a file or a secret. Wiped when dropped.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.pair.serialize_pem())
    }

    /// The key pair for signing certificates.
    pub fn pair(&self) -> &KeyPair {
        &self.pair
    }

    /// The handle TLS signs with.
    ///
    /// # Errors
    /// When the provider cannot use the key.
    pub fn signer(&self) -> Result<Arc<dyn SigningKey>, Error> {
        let der = PrivateKeyDer::try_from(self.pair.serialized_der().to_vec())
            .map_err(|error| Error::Unusable(error.to_owned()))?;
        provider()
            .key_provider
            .load_private_key(der)
            .map_err(|error| Error::Unusable(error.to_string()))
    }

    /// A certificate signing request in PEM whose only name is `id`, proving possession of the key.
    ///
    /// # Errors
    /// When the request cannot be encoded or signed.
    pub fn request(&self, id: &SpiffeId) -> Result<String, Error> {
        let failed = |error| Error::Request(id.to_string(), error);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into().map_err(failed)?)];
        params.serialize_request(&self.pair).and_then(|request| request.pem()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_a_round_trip_through_pem() {
        for kind in [KeyKind::P256, KeyKind::P384, KeyKind::Rsa2048] {
            let key = PrivateKey::generate(kind).unwrap();
            let read = PrivateKey::from_pem(&key.to_pem()).unwrap();
            assert_eq!(key.pair().public_key_raw(), read.pair().public_key_raw(), "{kind:?}");
        }
    }

    #[test]
    fn a_text_without_a_key_is_refused() {
        assert!(matches!(PrivateKey::from_pem("hello"), Err(Error::Pem(_))));
    }
}
