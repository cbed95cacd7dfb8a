//! The signing authority of a control plane.
//!
//! *Guarantees*
//! * What [`Authority::from_files`] accepts can sign: the key belongs to the certificate, and the
//!   chain leads to one of the roots by signatures.
//! * A certificate never outlives the authority that issued it.
//! * Nothing is issued while the clock says that the authority does not count.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};
use tombolo_tls::key::{KeyKind, PrivateKey};
use tombolo_tls::roots::{self, Roots};
use tombolo_tls::spiffe::{SpiffeId, TrustDomain};
use tombolo_tls::x509::{self, Facts, fingerprint};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::bundle::Files;
use crate::offline::belongs;
use crate::profile::{self, CLOCK_SKEW};
use crate::request::{self, ProvenKey, Refused};

/// How long workload certificates live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// When the workload asks for nothing in particular.
    pub default: Duration,
    /// The most it may ask for.
    pub longest: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { default: Duration::hours(24), longest: Duration::days(90) }
    }
}

/// A certificate authority that signs online.
#[expect(missing_debug_implementations, reason = "holds a private key")]
pub struct Authority {
    certificate: CertificateDer<'static>,
    facts: Facts,
    key: PrivateKey,
    chain: Vec<CertificateDer<'static>>,
    roots: Roots,
    /// When the first certificate on the way to the root stops to count.
    ends: OffsetDateTime,
}

/// Why files are no signing authority.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("read the signing certificate or its chain")]
    Read(#[from] x509::Error),
    #[error("read the trusted roots")]
    Roots(#[from] roots::Error),
    #[error("use the signing key")]
    Key(#[from] tombolo_tls::key::Error),
    #[error("the signing certificate {0} is no certificate authority")]
    NotAuthority(String),
    #[error("the signing key does not belong to the signing certificate {0}")]
    Mismatch(String),
    #[error(
        "the signing certificate was issued under another root: its chain ends with {theirs}, root-cert.pem holds {ours:?}; every cluster of a mesh needs an intermediate under the same root"
    )]
    OtherRoot { theirs: String, ours: Vec<String> },
    #[error("make a self-signed authority")]
    Make(#[source] rcgen::Error),
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum Unsigned {
    #[error(transparent)]
    Request(#[from] Refused),
    #[error("a lifetime of {asked} seconds is more than the {most} seconds that are allowed")]
    Lifetime { asked: i64, most: i64 },
    #[error("the signing certificate {0} has expired; nothing is signed with it")]
    Expired(String),
    #[error("the clock is before the signing certificate {0} begins to count; set the clock")]
    NotYet(String),
    #[error("sign a certificate for {0}")]
    Sign(String, #[source] rcgen::Error),
    #[error("make a key")]
    Key(#[from] tombolo_tls::key::Error),
}

impl Authority {
    /// Takes the files of a plugged-in or stored authority, after checking them.
    ///
    /// # Errors
    /// When they cannot sign; a mismatch of roots names both fingerprints.
    pub fn from_files(files: &Files) -> Result<Self, Unusable> {
        let certificate = x509::certificates(&files.certificate)?.swap_remove(0);
        let chain = match files.chain.trim() {
            "" => Vec::new(),
            text => x509::certificates(text)?,
        };
        let roots = Roots::from_pem(&files.root)?;
        let key = PrivateKey::from_pem(&files.key)?;
        let facts = Facts::read(&certificate)?;
        if !facts.is_ca || !facts.may_sign {
            return Err(Unusable::NotAuthority(fingerprint(&certificate)));
        }
        if !belongs(&key, &facts) {
            return Err(Unusable::Mismatch(fingerprint(&certificate)));
        }
        let ends = path_end(&certificate, &chain, &roots)?;
        Ok(Self { certificate, facts, key, chain, roots, ends })
    }

    /// Makes an authority that is its own root, named after the trust domain.
    ///
    /// # Errors
    /// When key or certificate cannot be made.
    pub fn self_signed(
        trust_domain: &TrustDomain,
        key: KeyKind,
        lifetime: Duration,
    ) -> Result<Self, Unusable> {
        let key = PrivateKey::generate(key)?;
        let subject = [(DnType::OrganizationName, trust_domain.as_str())];
        let mut params = profile::authority(
            OffsetDateTime::now_utc() - CLOCK_SKEW,
            lifetime + CLOCK_SKEW,
            &subject,
            BasicConstraints::Unconstrained,
        );
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.key_identifier_method = profile::key_identifier(key.pair());
        let certificate = params.self_signed(key.pair()).map_err(Unusable::Make)?.pem();
        Self::from_files(&Files {
            root: certificate.clone(),
            certificate,
            key: key.to_pem(),
            chain: String::new(),
            crl: None,
        })
    }

    /// The signing certificate in PEM.
    pub fn certificate_pem(&self) -> String {
        x509::to_pem(&self.certificate)
    }

    /// The signing key in PEM, for the secret that keeps a self-signed authority.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    /// The roots that everybody who trusts this authority must trust.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// What the signing certificate says about itself.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// When nothing can be signed any more.
    pub fn ends(&self) -> OffsetDateTime {
        self.ends
    }

    /// Issues a workload's certificate for the key of `csr` (PEM), valid for `seconds`, or the
    /// default lifetime when that is not positive. The answer is the leaf, each certificate of
    /// the chain, and the roots as one text.
    ///
    /// # Errors
    /// When the request is not acceptable or the authority cannot sign now.
    pub fn sign(
        &self,
        csr: &str,
        id: &SpiffeId,
        seconds: i64,
        lifetimes: Lifetimes,
    ) -> Result<Vec<String>, Unsigned> {
        let lifetime = lifetimes.choose(seconds)?;
        let ProvenKey(key) = request::check(csr)?;
        let mut params = self.leaf(lifetime)?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let failed = |error| Unsigned::Sign(id.to_string(), error);
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into().map_err(failed)?)];
        let leaf = self.issue(&params, &key).map_err(failed)?;
        let mut answer = vec![leaf];
        answer.extend(self.chain.iter().map(x509::to_pem));
        answer.push(self.roots.pem().to_owned());
        Ok(answer)
    }

    /// Issues a server certificate for DNS names and makes its key. The chain is in PEM, leaf
    /// first.
    ///
    /// # Errors
    /// When a name is no DNS name or the authority cannot sign now.
    pub fn serve(
        &self,
        names: &[String],
        lifetime: Duration,
    ) -> Result<(String, PrivateKey), Unsigned> {
        let what = || names.join(", ");
        let failed = |error| Unsigned::Sign(what(), error);
        let mut params = self.leaf(lifetime)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = names
            .iter()
            .map(|name| name.clone().try_into().map(SanType::DnsName))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        let key = PrivateKey::generate(KeyKind::P256)?;
        let leaf = self.issue(&params, key.pair()).map_err(failed)?;
        let chain = self.chain.iter().map(x509::to_pem);
        Ok((leaf + &chain.collect::<String>(), key))
    }

    /// A leaf's profile that ends with the authority at the latest.
    fn leaf(&self, lifetime: Duration) -> Result<CertificateParams, Unsigned> {
        let now = OffsetDateTime::now_utc();
        if now >= self.ends {
            return Err(Unsigned::Expired(fingerprint(&self.certificate)));
        }
        if now < OffsetDateTime::from(self.facts.not_before) {
            return Err(Unsigned::NotYet(fingerprint(&self.certificate)));
        }
        let mut params = profile::blank(now - CLOCK_SKEW, Duration::ZERO);
        params.not_after = now.saturating_add(lifetime).min(self.ends);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    fn issue(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<String, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_der(&self.certificate, self.key.pair())?;
        let leaf = params.signed_by(key, &issuer)?;
        Ok(x509::to_pem(leaf.der()))
    }
}

impl Lifetimes {
    fn choose(self, seconds: i64) -> Result<Duration, Unsigned> {
        let most = self.longest.whole_seconds();
        match seconds {
            ..=0 => Ok(self.default),
            asked if asked > most => Err(Unsigned::Lifetime { asked, most }),
            asked => Ok(Duration::seconds(asked)),
        }
    }
}

/// Walks from the signing certificate to a root by signatures; returns when the first
/// certificate on the way, the root included, stops to count.
fn path_end(
    signing: &CertificateDer<'static>,
    chain: &[CertificateDer<'static>],
    roots: &Roots,
) -> Result<OffsetDateTime, Unusable> {
    let mut current = signing;
    let mut ends = OffsetDateTime::from(Facts::read(signing)?.not_after);
    // Each step takes another certificate of the chain, so a cycle ends too.
    for _ in 0..=chain.len() + 1 {
        if roots.certificates().any(|root| root == current) {
            return Ok(ends);
        }
        let above = roots.certificates().chain(chain);
        let Some(issuer) = above.filter(|other| *other != current).find(|up| issued(current, up))
        else {
            break;
        };
        ends = ends.min(Facts::read(issuer)?.not_after.into());
        current = issuer;
    }
    let issuer = Facts::read(current)?.issuer;
    Err(Unusable::OtherRoot {
        theirs: format!("{} (issued by `{issuer}`)", fingerprint(current)),
        ours: roots.fingerprints(),
    })
}

/// Whether `issuer` signed `certificate`.
fn issued(certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
    let (Ok((_, certificate)), Ok((_, issuer))) =
        (X509Certificate::from_der(certificate), X509Certificate::from_der(issuer))
    else {
        return false;
    };
    issuer.is_ca()
        && certificate.issuer() == issuer.subject()
        && certificate.verify_signature(Some(issuer.public_key())).is_ok()
}
