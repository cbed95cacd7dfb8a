//! What a workload shows to its peers: a certificate chain and the key that belongs to it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use crate::key::{self, PrivateKey};
use crate::spiffe::{self, SpiffeId};
use crate::x509::{self, Facts};

/// A workload's SPIFFE identity with its certificate chain and key.
#[derive(Clone)]
pub struct Identity {
    id: SpiffeId,
    facts: Arc<Facts>,
    certified: Arc<CertifiedKey>,
    key: Arc<PrivateKey>,
}

/// Why a chain and key are no identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chain cannot be read.
    #[error("read certificate chain")]
    Chain(#[from] x509::Error),
    /// The key cannot be used.
    #[error("use private key")]
    Key(#[from] key::Error),
    /// The certificate's URI names are not exactly one.
    #[error("the certificate has {0} URI names, a SPIFFE certificate has exactly one")]
    Names(usize),
    /// The certificate's name is not a workload identity.
    #[error("read the certificate's identity")]
    Id(#[from] spiffe::Error),
    /// The certificate was made for another key.
    #[error("the certificate was issued for another key: {0}")]
    Mismatch(rustls::Error),
}

impl Identity {
    /// Joins a chain in PEM, leaf first, with the key its leaf was issued for.
    ///
    /// # Errors
    /// When either cannot be read, they do not belong together, or the leaf names no workload.
    pub fn new(chain_pem: &str, key: PrivateKey) -> Result<Self, Error> {
        let chain = x509::certificates(chain_pem)?;
        let facts = Facts::read(&chain[0])?;
        let [uri] = facts.uris.as_slice() else {
            return Err(Error::Names(facts.uris.len()));
        };
        let id = uri.parse()?;
        let certified = CertifiedKey::new(chain, key.signer()?);
        certified.keys_match().map_err(Error::Mismatch)?;
        let (facts, certified, key) = (Arc::new(facts), Arc::new(certified), Arc::new(key));
        Ok(Self { id, facts, certified, key })
    }

    /// Reads chain and key from PEM texts.
    ///
    /// # Errors
    /// As [`Identity::new`].
    pub fn from_pem(chain_pem: &str, key_pem: &str) -> Result<Self, Error> {
        Self::new(chain_pem, PrivateKey::from_pem(key_pem)?)
    }

    /// Who the workload is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// What the leaf says about itself.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The chain as one PEM text, leaf first.
    pub fn chain_pem(&self) -> String {
        self.chain().iter().map(x509::to_pem).collect()
    }

    /// The key, for a data plane that holds its own copy.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// When to ask for the next certificate: after `ratio` of the lifetime has passed.
    pub fn rotate_at(&self, ratio: f64) -> SystemTime {
        let (start, end) = (self.facts.not_before, self.facts.not_after);
        let lifetime = end.duration_since(start).unwrap_or(Duration::ZERO);
        start + lifetime.mul_f64(ratio.clamp(0.0, 1.0))
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.id.to_string())
            .field("serial", &self.facts.serial)
            .field("not_after", &self.facts.not_after)
            .finish_non_exhaustive()
    }
}
