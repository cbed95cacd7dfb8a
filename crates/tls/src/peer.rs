//! Decides who a TLS peer is, and whether it may be that.
//!
//! [`verify`] is the only place: mesh servers, mesh clients and the control plane all use it.
//! It checks, in this order: exactly one URI name in the leaf and that it is a workload
//! identity; the leaf may not sign; roots exist for its trust domain; the chain leads to one of
//! these roots with every certificate valid now, the root included, and the leaf allowed for the
//! use; nothing revoked; the identity fits the rule.

use std::collections::BTreeSet;
use std::fmt;

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder};

use crate::provider;
use crate::roots::Bundle;
use crate::spiffe::{self, SpiffeId, TrustDomain};
use crate::x509::{self, Facts, fingerprint};

/// Which identities a peer may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Any workload that the trust bundle vouches for.
    Any,
    /// Workloads of these trust domains.
    TrustDomains(BTreeSet<TrustDomain>),
    /// Exactly these identities, as URIs.
    Ids(BTreeSet<String>),
}

/// What the peer uses its certificate for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The peer connected to us.
    Client,
    /// We connected to the peer.
    Server,
}

/// Why a peer is refused.
///
/// Its `Debug` form is its text, since rustls shows causes of its own errors in that form.
#[derive(thiserror::Error)]
pub enum Refused {
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    Nothing,
    /// The certificate cannot be read.
    #[error("read the peer's certificate: {0}")]
    Read(#[from] x509::Error),
    /// The certificate has not exactly one URI name.
    #[error("the peer's certificate has {0} URI names, a SPIFFE certificate has exactly one")]
    Names(usize),
    /// The URI name is not a workload identity.
    #[error("the peer's identity: {0}")]
    Id(#[from] spiffe::Error),
    /// The certificate may sign other certificates.
    #[error("the peer {0} showed a certificate authority's certificate as its own")]
    Authority(SpiffeId),
    /// No root vouches for the trust domain.
    #[error("no trusted root for trust domain `{0}` of peer {1}")]
    TrustDomain(TrustDomain, SpiffeId),
    /// The chain ends at a root that is not ours.
    #[error(
        "the certificate of peer {id} was issued under another root: its chain ends with {theirs}, trusted are {ours:?}"
    )]
    OtherRoot {
        /// Who the peer claims to be.
        id: SpiffeId,
        /// Fingerprint and issuer of the last certificate that the peer showed.
        theirs: String,
        /// Fingerprints of the roots that vouch for its trust domain.
        ours: Vec<String>,
    },
    /// The chain is not valid.
    #[error("the certificate of peer {id} is not valid: {error}")]
    Chain {
        /// Who the peer claims to be.
        id: SpiffeId,
        /// What is wrong.
        error: Box<webpki::Error>,
    },
    /// The peer is somebody else than expected.
    #[error("the peer is {id}, expected {expected}")]
    Rule {
        /// Who the peer is.
        id: SpiffeId,
        /// Who it should be.
        expected: String,
    },
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Rule {
    fn check(&self, id: &SpiffeId) -> Result<(), Refused> {
        let expected = match self {
            Self::Any => return Ok(()),
            Self::TrustDomains(domains) => {
                if domains.contains(id.trust_domain()) {
                    return Ok(());
                }
                domains.iter().map(|domain| format!("{domain}/…")).collect::<Vec<_>>()
            }
            Self::Ids(ids) => {
                if ids.contains(&id.to_string()) {
                    return Ok(());
                }
                ids.iter().cloned().collect()
            }
        };
        Err(Refused::Rule { id: id.clone(), expected: format!("one of {expected:?}") })
    }
}

/// The identity in a leaf certificate. It proves nothing unless the chain was verified before, as
/// it was when a handshake of this crate's configurations is complete.
///
/// # Errors
/// When the certificate does not name exactly one workload.
pub fn identity(leaf: &CertificateDer<'_>) -> Result<SpiffeId, Refused> {
    Ok(named(leaf)?.0)
}

fn named(leaf: &CertificateDer<'_>) -> Result<(SpiffeId, Facts), Refused> {
    let facts = Facts::read(leaf)?;
    let [uri] = facts.uris.as_slice() else {
        return Err(Refused::Names(facts.uris.len()));
    };
    Ok((uri.parse()?, facts))
}

/// Verifies the chain that a peer showed, leaf first, and returns who it is.
///
/// # Errors
/// When the peer must be refused; the text says why and names the roots if those differ.
pub fn verify(
    chain: &[CertificateDer<'_>],
    bundle: &Bundle,
    rule: &Rule,
    usage: Use,
    now: UnixTime,
) -> Result<SpiffeId, Refused> {
    let (leaf, intermediates) = chain.split_first().ok_or(Refused::Nothing)?;
    let (id, facts) = named(leaf)?;
    if facts.is_ca {
        return Err(Refused::Authority(id));
    }
    let domain = id.trust_domain();
    let Some(roots) = bundle.roots(domain) else {
        return Err(Refused::TrustDomain(domain.clone(), id));
    };
    let anchors = roots.anchors(now);
    let revocations = bundle.revocations();
    let revocation = RevocationOptionsBuilder::new(&revocations).ok().map(|options| {
        options
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(webpki::UnknownStatusPolicy::Allow)
            .build()
    });
    let usage = match usage {
        Use::Client => KeyUsage::client_auth(),
        Use::Server => KeyUsage::server_auth(),
    };
    let verified = EndEntityCert::try_from(leaf).and_then(|leaf| {
        leaf.verify_for_usage(
            provider().signature_verification_algorithms.all,
            &anchors,
            intermediates,
            now,
            usage,
            revocation,
            None,
        )
        .map(drop)
    });
    match verified {
        Ok(()) => rule.check(&id).map(|()| id),
        // Roots made by the same tool have the same subject, so that only the signature differs.
        Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {
            Err(Refused::OtherRoot {
                theirs: chain.last().map_or_else(String::new, top),
                ours: roots.fingerprints(),
                id,
            })
        }
        Err(error) => Err(Refused::Chain { id, error: Box::new(error) }),
    }
}

/// How the last certificate of a foreign chain is named.
fn top(certificate: &CertificateDer<'_>) -> String {
    let issuer =
        Facts::read(certificate).map_or_else(|error| error.to_string(), |facts| facts.issuer);
    format!("{} (issued by `{issuer}`)", fingerprint(certificate))
}

/// A store of `anchors` for rustls's own verifier, which checks host names.
pub(crate) fn store(roots: &crate::roots::Roots) -> Result<RootCertStore, rustls::Error> {
    let mut store = RootCertStore::empty();
    for root in roots.certificates() {
        store.add(root.clone())?;
    }
    Ok(store)
}
