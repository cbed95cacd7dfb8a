//! Roots and intermediates made before there is a control plane, and certificates for virtual
//! machines: subjects, extensions and chain order are those of Istio's certificate tooling
//! (`tools/certs`). Every certificate that another one signed names that one's key identifier
//! as well (RFC 5280, 4.2.1.1), which strict verifiers ask for.
//!
//! [`crate::folder`] keeps all of this as files.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};
use tombolo_tls::key::{KeyKind, PrivateKey};
use tombolo_tls::spiffe::SpiffeId;
use tombolo_tls::x509::{self, Facts, fingerprint};
use zeroize::Zeroizing;

use crate::profile;

pub(crate) mod paperwork;

pub(crate) use paperwork::Paperwork;

/// The DNS name in an intermediate when no other is given: where istiod is found.
pub const ISTIOD: &str = "istiod.istio-system.svc";

/// What a certificate is made with; the defaults are the tooling's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub key: KeyKind,
    pub days: u32,
    /// `O` of the subject.
    pub organization: String,
    /// `CN` of the subject.
    pub common_name: String,
}

impl Settings {
    /// RSA 4096, ten years, `O=Istio, CN=Root CA`.
    pub fn root() -> Self {
        Self::named("Root CA")
    }

    /// RSA 4096, ten years, `O=Istio, CN=Intermediate CA`.
    pub fn intermediate() -> Self {
        Self::named("Intermediate CA")
    }

    /// RSA 4096, one day, `O=Istio, CN=Workload`.
    pub fn workload() -> Self {
        Self { days: 1, ..Self::named("Workload") }
    }

    fn named(common_name: &str) -> Self {
        Self {
            key: KeyKind::Rsa4096,
            days: 3650,
            organization: "Istio".into(),
            common_name: common_name.into(),
        }
    }

    fn lifetime(&self) -> Duration {
        Duration::days(i64::from(self.days))
    }

    /// Whether a certificate can be made with these settings. The limits of names are those of
    /// RFC 5280, appendix A.1.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (field, value) in [("O", &self.organization), ("CN", &self.common_name)] {
            let fits = value.chars().count() <= 64 && !value.chars().any(char::is_control);
            if !fits || value.is_empty() || value.trim() != value {
                return Err(Error::Subject { field, value: value.clone() });
            }
        }
        if self.days == 0 || self.days > MAX_DAYS {
            return Err(Error::Days(self.days));
        }
        Ok(())
    }
}

/// `keyUsage` (RFC 5280, 4.2.1.3), a bit string.
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];

/// A century: longer is a mistake, and X.509 ends with the year 9999.
const MAX_DAYS: u32 = 36_500;

/// Why certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("make a key")]
    Key(#[from] tombolo_tls::key::Error),
    #[error("read certificate")]
    Read(#[from] x509::Error),
    #[error("make the certificate of {0}")]
    Make(String, #[source] rcgen::Error),
    #[error("the key does not belong to certificate {0}")]
    Mismatch(String),
    #[error("certificate {0} may not sign: it is no certificate authority")]
    NotAuthority(String),
    #[error(
        "`{0}` cannot be the name of a cluster or namespace here: use letters, digits, `-`, `.` and `_`"
    )]
    Name(String),
    #[error("`{value}` cannot be {field} of a subject: it must have 1 to 64 printable characters")]
    Subject { field: &'static str, value: String },
    #[error("a certificate cannot count for {0} days; give 1 to {MAX_DAYS}")]
    Days(u32),
    #[error("`{0}` is not a DNS name")]
    DnsName(String),
    #[error(
        "the authority {0} may sign workloads only (pathlen:0), so no intermediate under it would be accepted; use the root it is of"
    )]
    PathLength(String),
}

/// A root certificate with its key.
#[expect(missing_debug_implementations, reason = "holds a private key")]
pub struct Root {
    certificate: CertificateDer<'static>,
    key: PrivateKey,
    paperwork: Option<Paperwork>,
}

/// An intermediate certificate with its key, and the chain up to the root.
#[expect(missing_debug_implementations, reason = "holds a private key")]
pub struct Intermediate {
    cluster: String,
    certificate: CertificateDer<'static>,
    root: CertificateDer<'static>,
    key: PrivateKey,
    paperwork: Option<Paperwork>,
}

/// A workload's certificate with its key, and the chain up to the root.
#[expect(missing_debug_implementations, reason = "holds a private key")]
pub struct Workload {
    certificate: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    paperwork: Paperwork,
}

impl Root {
    /// Makes a self-signed root.
    ///
    /// # Errors
    /// When the settings are bad, or key or certificate cannot be made.
    pub fn generate(settings: &Settings) -> Result<Self, Error> {
        settings.check()?;
        Self::certify(PrivateKey::generate(settings.key)?, settings)
    }

    /// Makes a self-signed root of an existing key.
    ///
    /// # Errors
    /// When the settings are bad, or the certificate cannot be made.
    pub fn certify(key: PrivateKey, settings: &Settings) -> Result<Self, Error> {
        settings.check()?;
        let subject = subject(settings, None);
        let mut params = profile::authority(
            OffsetDateTime::now_utc(),
            settings.lifetime(),
            &subject,
            BasicConstraints::Unconstrained,
        );
        params.key_identifier_method = profile::key_identifier(key.pair());
        let failed = |error| Error::Make(settings.common_name.clone(), error);
        let paperwork = Paperwork::new(&params, &key, settings.key, &subject, None);
        let certificate = params.self_signed(key.pair()).map_err(failed)?.der().clone();
        Ok(Self { certificate, key, paperwork: Some(paperwork.map_err(failed)?) })
    }

    /// Takes an existing root.
    ///
    /// # Errors
    /// When certificate and key do not belong together, or the certificate may not sign.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, Error> {
        let (certificate, key) = authority(certificate, key)?;
        Ok(Self { certificate, key, paperwork: None })
    }

    /// `root-cert.pem`.
    pub fn certificate_pem(&self) -> String {
        x509::to_pem(&self.certificate)
    }

    /// `root-key.pem`.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    /// The SHA-256 fingerprint of the root certificate.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.certificate)
    }

    /// Makes the intermediate of one cluster, whose name becomes `L` of the subject.
    ///
    /// # Errors
    /// As [`Root::certify_intermediate`].
    pub fn intermediate(&self, cluster: &str, settings: &Settings) -> Result<Intermediate, Error> {
        plain(cluster)?;
        settings.check()?;
        let key = PrivateKey::generate(settings.key)?;
        self.certify_intermediate(cluster, key, settings, ISTIOD, None)
    }

    /// As [`Root::intermediate`], of an existing key, with another DNS name and serial number.
    ///
    /// # Errors
    /// When the name, the settings or the DNS name are bad, this authority may not sign another,
    /// or the certificate cannot be made.
    pub fn certify_intermediate(
        &self,
        cluster: &str,
        key: PrivateKey,
        settings: &Settings,
        dns_name: &str,
        serial: Option<SerialNumber>,
    ) -> Result<Intermediate, Error> {
        plain(cluster)?;
        settings.check()?;
        self.check()?;
        check_dns_name(dns_name)?;
        let failed = |error| Error::Make(format!("cluster {cluster}"), error);
        let subject = subject(settings, Some(cluster));
        let mut params = profile::authority(
            OffsetDateTime::now_utc(),
            settings.lifetime(),
            &subject,
            BasicConstraints::Constrained(0),
        );
        if serial.is_some() {
            params.serial_number = serial;
        }
        params.subject_alt_names =
            vec![SanType::DnsName(dns_name.to_owned().try_into().map_err(failed)?)];
        params.key_identifier_method = profile::key_identifier(key.pair());
        let san = format!("DNS.1 = {dns_name}");
        let paperwork = Paperwork::new(&params, &key, settings.key, &subject, Some(&san));
        let certificate = issue(params, &key, &self.certificate, &self.key).map_err(failed)?;
        Ok(Intermediate {
            cluster: cluster.to_owned(),
            certificate,
            root: self.certificate.clone(),
            key,
            paperwork: Some(paperwork.map_err(failed)?),
        })
    }

    /// Whether this authority may sign another one.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match Facts::read(&self.certificate)?.path_length {
            Some(0) => Err(Error::PathLength(self.fingerprint())),
            _ => Ok(()),
        }
    }

    pub(crate) fn paperwork(&self) -> Option<&Paperwork> {
        self.paperwork.as_ref()
    }
}

impl Intermediate {
    /// Takes an existing intermediate and the root it is of.
    ///
    /// # Errors
    /// When certificate and key do not belong together, or the certificate may not sign.
    pub fn from_pem(
        cluster: &str,
        certificate: &str,
        key: &str,
        root: &str,
    ) -> Result<Self, Error> {
        let (certificate, key) = authority(certificate, key)?;
        let root = x509::certificates(root)?.swap_remove(0);
        Ok(Self { cluster: cluster.to_owned(), certificate, root, key, paperwork: None })
    }

    /// The cluster it was made for.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// `ca-cert.pem`.
    pub fn certificate_pem(&self) -> String {
        x509::to_pem(&self.certificate)
    }

    /// `ca-key.pem`.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    /// `cert-chain.pem`: the intermediate, then the root.
    pub fn chain_pem(&self) -> String {
        self.certificate_pem() + &self.root_pem()
    }

    /// `root-cert.pem`.
    pub fn root_pem(&self) -> String {
        x509::to_pem(&self.root)
    }

    /// The four files of a `cacerts` secret: name and content.
    pub fn cacerts(&self) -> [(&'static str, Zeroizing<String>); 4] {
        [
            ("ca-cert.pem", Zeroizing::new(self.certificate_pem())),
            ("ca-key.pem", self.key_pem()),
            ("cert-chain.pem", Zeroizing::new(self.chain_pem())),
            ("root-cert.pem", Zeroizing::new(self.root_pem())),
        ]
    }

    /// Makes a workload's certificate, as for a virtual machine. `L` is its namespace.
    ///
    /// # Errors
    /// As [`Intermediate::certify_workload`], or when the key cannot be made.
    pub fn workload(&self, id: &SpiffeId, settings: &Settings) -> Result<Workload, Error> {
        settings.check()?;
        self.certify_workload(id, PrivateKey::generate(settings.key)?, settings)
    }

    /// As [`Intermediate::workload`], of an existing key.
    ///
    /// # Errors
    /// When the settings are bad or the certificate cannot be made.
    pub fn certify_workload(
        &self,
        id: &SpiffeId,
        key: PrivateKey,
        settings: &Settings,
    ) -> Result<Workload, Error> {
        settings.check()?;
        let failed = |error| Error::Make(id.to_string(), error);
        let subject = subject(settings, Some(id.namespace()));
        let mut params = profile::blank(OffsetDateTime::now_utc(), settings.lifetime());
        for (kind, text) in &subject {
            params.distinguished_name.push(kind.clone(), *text);
        }
        params.is_ca = IsCa::ExplicitNoCa;
        // digitalSignature and keyEncipherment, not critical, which rcgen's own field would be.
        let usage = CustomExtension::from_oid_content(KEY_USAGE, vec![0x03, 0x02, 0x05, 0xa0]);
        params.custom_extensions = vec![usage];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into().map_err(failed)?)];
        params.key_identifier_method = profile::key_identifier(key.pair());
        let san = format!("URI.1 = {id}");
        let paperwork =
            Paperwork::new(&params, &key, settings.key, &subject, Some(&san)).map_err(failed)?;
        let certificate = issue(params, &key, &self.certificate, &self.key).map_err(failed)?;
        let chain = vec![self.certificate.clone(), self.root.clone()];
        Ok(Workload { certificate, chain, key, paperwork })
    }

    pub(crate) fn paperwork(&self) -> Option<&Paperwork> {
        self.paperwork.as_ref()
    }
}

impl Workload {
    /// `workload-cert.pem`.
    pub fn certificate_pem(&self) -> String {
        x509::to_pem(&self.certificate)
    }

    /// `workload-cert-chain.pem`: the workload's certificate, the intermediate, the root.
    pub fn chain_pem(&self) -> String {
        self.certificate_pem() + &self.chain.iter().map(x509::to_pem).collect::<String>()
    }

    /// `key.pem`.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    pub(crate) fn paperwork(&self) -> &Paperwork {
        &self.paperwork
    }
}

fn issue(
    mut params: CertificateParams,
    key: &PrivateKey,
    issuer: &CertificateDer<'static>,
    issuer_key: &PrivateKey,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_der(issuer, issuer_key.pair())?;
    Ok(params.signed_by(key.pair(), &issuer)?.der().clone())
}

/// The first certificate of `certificate` and its key, if they can sign.
fn authority(certificate: &str, key: &str) -> Result<(CertificateDer<'static>, PrivateKey), Error> {
    let certificate = x509::certificates(certificate)?.swap_remove(0);
    let facts = Facts::read(&certificate)?;
    if !facts.is_ca || !facts.may_sign {
        return Err(Error::NotAuthority(fingerprint(&certificate)));
    }
    let key = PrivateKey::from_pem(key)?;
    if !belongs(&key, &facts) {
        return Err(Error::Mismatch(fingerprint(&certificate)));
    }
    Ok((certificate, key))
}

/// Whether the key is the one in the certificate.
pub(crate) fn belongs(key: &PrivateKey, facts: &Facts) -> bool {
    use rcgen::PublicKeyData;
    key.pair().subject_public_key_info() == facts.public_key
}

fn subject<'a>(settings: &'a Settings, location: Option<&'a str>) -> Vec<(DnType, &'a str)> {
    let mut subject = vec![
        (DnType::OrganizationName, settings.organization.as_str()),
        (DnType::CommonName, settings.common_name.as_str()),
    ];
    subject.extend(location.map(|location| (DnType::LocalityName, location)));
    subject
}

pub(crate) fn check_dns_name(name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '*');
    let fits = !name.is_empty() && name.len() <= 253 && name.chars().all(plain);
    if fits { Ok(()) } else { Err(Error::DnsName(name.to_owned())) }
}

/// Letters, digits, `-`, `.`, `_`, not starting with a dot: safe as a folder and in a subject.
pub(crate) fn plain(name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let fits = !name.is_empty() && name.len() <= 128 && !name.starts_with(['.', '-']);
    if fits && name.chars().all(plain) { Ok(()) } else { Err(Error::Name(name.to_owned())) }
}
