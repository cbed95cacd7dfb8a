//! Trust: the root certificates that vouch for trust domains.
//!
//! [`Roots`] is one PEM bundle. [`Bundle`] says which roots vouch for which trust domain.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{BorrowedCertRevocationList, CertRevocationList, OwnedCertRevocationList};

use crate::spiffe::TrustDomain;
use crate::x509::{self, Facts, fingerprint};

/// Root certificates from one PEM bundle.
#[derive(Clone)]
pub struct Roots {
    inner: Arc<Inner>,
}

struct Inner {
    pem: String,
    roots: Vec<Root>,
}

struct Root {
    certificate: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    facts: Facts,
}

/// Why roots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The PEM text holds no readable certificates.
    #[error("read root certificates")]
    Read(#[from] x509::Error),
    /// A certificate cannot be a trust anchor.
    #[error("root certificate {fingerprint} ({subject}) cannot be a trust anchor: {reason}")]
    Anchor {
        /// Its SHA-256 fingerprint.
        fingerprint: String,
        /// Its subject.
        subject: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A revocation list cannot be read.
    #[error("read certificate revocation list: {0}")]
    Crl(String),
}

impl Roots {
    /// Reads every certificate of `pem`. Comments between certificates are allowed.
    ///
    /// # Errors
    /// When the text is broken, empty, or a certificate is no certificate authority.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let mut roots: Vec<Root> = Vec::new();
        for certificate in x509::certificates(pem)? {
            if roots.iter().any(|root| root.certificate == certificate) {
                continue;
            }
            roots.push(Root::new(certificate)?);
        }
        Ok(Self { inner: Arc::new(Inner { pem: pem.to_owned(), roots }) })
    }

    /// The PEM text the roots were read from.
    pub fn pem(&self) -> &str {
        &self.inner.pem
    }

    /// The root certificates.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.inner.roots.iter().map(|root| &root.certificate)
    }

    /// What the root certificates say about themselves.
    pub fn facts(&self) -> impl Iterator<Item = &Facts> {
        self.inner.roots.iter().map(|root| &root.facts)
    }

    /// SHA-256 fingerprints of all roots, sorted.
    pub fn fingerprints(&self) -> Vec<String> {
        let mut all: Vec<_> = self.certificates().map(fingerprint).collect();
        all.sort();
        all
    }

    /// The roots that count at `now`. An expired root vouches for nobody.
    pub(crate) fn anchors(&self, now: UnixTime) -> Vec<TrustAnchor<'_>> {
        self.inner
            .roots
            .iter()
            .filter(|root| root.facts.is_valid_at(now))
            .map(|root| root.anchor.clone())
            .collect()
    }
}

impl Root {
    fn new(certificate: CertificateDer<'static>) -> Result<Self, Error> {
        let facts = Facts::read(&certificate)?;
        let problem = |reason: String| Error::Anchor {
            fingerprint: fingerprint(&certificate),
            subject: facts.subject.clone(),
            reason,
        };
        if !facts.is_ca || !facts.may_sign {
            return Err(problem("it may not sign certificates".into()));
        }
        let anchor = webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|error| problem(error.to_string()))?
            .to_owned();
        Ok(Self { anchor, facts, certificate })
    }
}

impl PartialEq for Roots {
    /// Two bundles are equal when they hold the same certificates, in any order.
    fn eq(&self, other: &Self) -> bool {
        self.fingerprints() == other.fingerprints()
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Roots").field(&self.fingerprints()).finish()
    }
}

/// Which roots vouch for which trust domain, and which certificates they took back.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    any: Option<Roots>,
    domains: BTreeMap<TrustDomain, Roots>,
    revocations: Vec<Arc<CertRevocationList<'static>>>,
}

impl Bundle {
    /// `roots` vouch for every trust domain. The caller restricts trust domains by the peer rule,
    /// as Envoy configuration does.
    pub fn for_any(roots: Roots) -> Self {
        Self { any: Some(roots), ..Self::default() }
    }

    /// `roots` vouch for `trust_domain` only; add others with [`Bundle::with`].
    pub fn for_domain(trust_domain: TrustDomain, roots: Roots) -> Self {
        Self::default().with(trust_domain, roots)
    }

    /// Adds the roots of another trust domain, or replaces them.
    #[must_use]
    pub fn with(mut self, trust_domain: TrustDomain, roots: Roots) -> Self {
        self.domains.insert(trust_domain, roots);
        self
    }

    /// Adds the revocation lists of a text, which may be empty. Once there are any, a certificate
    /// whose issuer has none is still accepted, but one that a list names is not.
    ///
    /// # Errors
    /// When a list cannot be read, or a text that is not empty has none.
    pub fn with_revocations(mut self, pem: &str) -> Result<Self, Error> {
        use rustls_pki_types::CertificateRevocationListDer;
        use rustls_pki_types::pem::PemObject;
        let before = self.revocations.len();
        for der in CertificateRevocationListDer::pem_slice_iter(pem.as_bytes()) {
            let der = der.map_err(|error| Error::Crl(error.to_string()))?;
            let list: OwnedCertRevocationList = BorrowedCertRevocationList::from_der(&der)
                .and_then(|list| list.to_owned())
                .map_err(|error| Error::Crl(error.to_string()))?;
            self.revocations.push(Arc::new(list.into()));
        }
        if self.revocations.len() == before && !pem.trim().is_empty() {
            return Err(Error::Crl("there is none in the text".into()));
        }
        Ok(self)
    }

    /// The roots that vouch for `trust_domain`.
    pub fn roots(&self, trust_domain: &TrustDomain) -> Option<&Roots> {
        self.domains.get(trust_domain).or(self.any.as_ref())
    }

    /// The fingerprints of every root, sorted.
    pub fn fingerprints(&self) -> Vec<String> {
        let mut all: Vec<_> =
            self.any.iter().chain(self.domains.values()).flat_map(Roots::fingerprints).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Every root once, as one PEM text.
    pub fn pem(&self) -> String {
        self.each().map(|root| x509::to_pem(&root.certificate)).collect()
    }

    /// What every root says about itself.
    pub fn facts(&self) -> Vec<Facts> {
        self.each().map(|root| root.facts.clone()).collect()
    }

    fn each(&self) -> impl Iterator<Item = &Root> {
        let mut seen = BTreeSet::new();
        let all = self.any.iter().chain(self.domains.values());
        all.flat_map(|roots| &roots.inner.roots)
            .filter(move |root| seen.insert(fingerprint(&root.certificate)))
    }

    pub(crate) fn revocations(&self) -> Vec<&CertRevocationList<'static>> {
        self.revocations.iter().map(AsRef::as_ref).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_a_revocation_list_is_not_taken_for_one() {
        assert!(Bundle::default().with_revocations("\n").is_ok());
        let certificate = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        for text in ["nonsense", certificate] {
            let error = Bundle::default().with_revocations(text).unwrap_err();
            assert!(matches!(error, Error::Crl(_)), "{error}");
        }
    }
}
