//! Roots and intermediates made before there is a control plane: subjects, extensions, file
//! names and chain order are those of Istio's certificate tooling, so that either can go on
//! where the other stopped.
//!
//! ```text
//! root-key.pem root-ca.conf root-cert.csr root-cert.pem
//! <cluster>/ca-key.pem intermediate.conf cluster-ca.csr ca-cert.pem cert-chain.pem root-cert.pem
//! ```

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};
use tombolo_tls::key::{KeyKind, PrivateKey};
use tombolo_tls::spiffe::SpiffeId;
use tombolo_tls::x509::{self, Facts, fingerprint};
use zeroize::Zeroizing;

use crate::profile;

/// What a root or intermediate is made with; the defaults are the tooling's.
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
}

/// Why certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("make a key")]
    Key(#[from] tombolo_tls::key::Error),
    #[error("read certificate")]
    Read(#[from] x509::Error),
    #[error("make the certificate of {0}")]
    Make(String, #[source] rcgen::Error),
    #[error("the key does not belong to root certificate {0}")]
    Mismatch(String),
    #[error("root certificate {0} may not sign: it is no certificate authority")]
    NotAuthority(String),
    #[error("`{0}` cannot be a cluster's name here: use letters, digits, `-`, `.` and `_`")]
    Name(String),
    #[error("{0} exists already; remove it to make new certificates")]
    Exists(PathBuf),
    #[error("write {0}")]
    Write(PathBuf, #[source] io::Error),
}

/// A root certificate with its key.
#[expect(missing_debug_implementations, reason = "holds a private key")]
pub struct Root {
    certificate: CertificateDer<'static>,
    key: PrivateKey,
    files: Option<Paperwork>,
}

/// An intermediate certificate with its key, and the chain up to the root.
#[expect(missing_debug_implementations, reason = "holds a private key")]
pub struct Intermediate {
    cluster: String,
    certificate: CertificateDer<'static>,
    root: CertificateDer<'static>,
    key: PrivateKey,
    files: Paperwork,
}

/// A workload's certificate with its key, and the chain up to the root.
#[expect(missing_debug_implementations, reason = "holds a private key")]
pub struct Workload {
    certificate: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    files: Paperwork,
}

/// The request and the settings a certificate was made from.
struct Paperwork {
    request: String,
    configuration: String,
}

impl Root {
    /// Makes a self-signed root.
    ///
    /// # Errors
    /// When key or certificate cannot be made.
    pub fn generate(settings: &Settings) -> Result<Self, Error> {
        let key = PrivateKey::generate(settings.key)?;
        let subject = subject(settings, None);
        let mut params = profile::authority(
            OffsetDateTime::now_utc(),
            settings.lifetime(),
            &subject,
            BasicConstraints::Unconstrained,
        );
        params.key_identifier_method = profile::key_identifier(key.pair());
        let failed = |error| Error::Make(settings.common_name.clone(), error);
        let request = request(&params, &key);
        let certificate = params.self_signed(key.pair()).map_err(failed)?;
        let files = Some(Paperwork {
            request: request.map_err(failed)?,
            configuration: configuration(&subject, &params, None),
        });
        Ok(Self { certificate: certificate.der().clone(), key, files })
    }

    /// Takes an existing root.
    ///
    /// # Errors
    /// When certificate and key do not belong together, or the certificate may not sign.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, Error> {
        let certificate = x509::certificates(certificate)?.swap_remove(0);
        let facts = Facts::read(&certificate)?;
        if !facts.is_ca || !facts.may_sign {
            return Err(Error::NotAuthority(fingerprint(&certificate)));
        }
        let key = PrivateKey::from_pem(key)?;
        if !belongs(&key, &facts) {
            return Err(Error::Mismatch(fingerprint(&certificate)));
        }
        Ok(Self { certificate, key, files: None })
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
    /// When key or certificate cannot be made.
    pub fn intermediate(&self, cluster: &str, settings: &Settings) -> Result<Intermediate, Error> {
        self.intermediate_for(cluster, settings, "istiod.istio-system.svc")
    }

    /// As [`Root::intermediate`], with another DNS name.
    ///
    /// # Errors
    /// When key or certificate cannot be made.
    pub fn intermediate_for(
        &self,
        cluster: &str,
        settings: &Settings,
        dns_name: &str,
    ) -> Result<Intermediate, Error> {
        if !is_plain(cluster) {
            return Err(Error::Name(cluster.to_owned()));
        }
        let failed = |error| Error::Make(format!("cluster {cluster}"), error);
        let key = PrivateKey::generate(settings.key)?;
        let subject = subject(settings, Some(cluster));
        let mut params = profile::authority(
            OffsetDateTime::now_utc(),
            settings.lifetime(),
            &subject,
            BasicConstraints::Constrained(0),
        );
        params.subject_alt_names =
            vec![SanType::DnsName(dns_name.to_owned().try_into().map_err(failed)?)];
        params.key_identifier_method = profile::key_identifier(key.pair());
        let (certificate, files) =
            self.sign(&mut params, &key, &format!("DNS:{dns_name}"), &subject).map_err(failed)?;
        let (cluster, root) = (cluster.to_owned(), self.certificate.clone());
        Ok(Intermediate { cluster, certificate, root, key, files })
    }

    fn sign(
        &self,
        params: &mut CertificateParams,
        key: &PrivateKey,
        san: &str,
        subject: &[(DnType, &str)],
    ) -> Result<(CertificateDer<'static>, Paperwork), rcgen::Error> {
        issue(params, key, &self.certificate, &self.key, san, subject)
    }
}

impl Intermediate {
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
    /// When key or certificate cannot be made.
    pub fn workload(&self, id: &SpiffeId, key: KeyKind, days: u32) -> Result<Workload, Error> {
        let failed = |error| Error::Make(id.to_string(), error);
        let key = PrivateKey::generate(key)?;
        let subject = [
            (DnType::OrganizationName, "Istio"),
            (DnType::CommonName, "Workload"),
            (DnType::LocalityName, id.namespace()),
        ];
        let mut params = profile::blank(OffsetDateTime::now_utc(), Duration::days(days.into()));
        for (kind, text) in &subject {
            params.distinguished_name.push(kind.clone(), *text);
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into().map_err(failed)?)];
        params.key_identifier_method = profile::key_identifier(key.pair());
        let san = format!("URI:{id}");
        let (certificate, files) =
            issue(&mut params, &key, &self.certificate, &self.key, &san, &subject)
                .map_err(failed)?;
        let chain = vec![self.certificate.clone(), self.root.clone()];
        Ok(Workload { certificate, chain, key, files })
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
}

fn issue(
    params: &mut CertificateParams,
    key: &PrivateKey,
    issuer: &CertificateDer<'static>,
    issuer_key: &PrivateKey,
    san: &str,
    subject: &[(DnType, &str)],
) -> Result<(CertificateDer<'static>, Paperwork), rcgen::Error> {
    let request = request(params, key)?;
    let configuration = configuration(subject, params, Some(san));
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_der(issuer, issuer_key.pair())?;
    let certificate = params.signed_by(key.pair(), &issuer)?.der().clone();
    Ok((certificate, Paperwork { request, configuration }))
}

/// The request that a certificate like this would be asked for with. It has no serial number.
fn request(params: &CertificateParams, key: &PrivateKey) -> Result<String, rcgen::Error> {
    let mut asked = params.clone();
    asked.serial_number = None;
    asked.serialize_request(key.pair())?.pem()
}

/// Whether the key is the one in the certificate.
pub(crate) fn belongs(key: &PrivateKey, facts: &Facts) -> bool {
    use rcgen::PublicKeyData;
    key.pair().subject_public_key_info() == facts.public_key
}

fn subject<'a>(settings: &'a Settings, cluster: Option<&'a str>) -> Vec<(DnType, &'a str)> {
    let mut subject = vec![
        (DnType::OrganizationName, settings.organization.as_str()),
        (DnType::CommonName, settings.common_name.as_str()),
    ];
    subject.extend(cluster.map(|cluster| (DnType::LocalityName, cluster)));
    subject
}

/// OpenSSL settings that make the same request.
fn configuration(
    subject: &[(DnType, &str)],
    params: &CertificateParams,
    san: Option<&str>,
) -> String {
    let constraints = match params.is_ca {
        IsCa::Ca(BasicConstraints::Constrained(below)) => {
            format!("critical, CA:true, pathlen:{below}")
        }
        IsCa::Ca(BasicConstraints::Unconstrained) => "critical, CA:true".to_owned(),
        IsCa::NoCa | IsCa::ExplicitNoCa => "critical, CA:false".to_owned(),
    };
    let mut text = String::from(
        "[ req ]\nencrypt_key = no\nprompt = no\nutf8 = yes\ndefault_md = sha256\n\
         req_extensions = req_ext\nx509_extensions = req_ext\ndistinguished_name = req_dn\n\
         [ req_ext ]\nsubjectKeyIdentifier = hash\n",
    );
    text += &format!("basicConstraints = {constraints}\n");
    if params.extended_key_usages.is_empty() {
        text +=
            "keyUsage = critical, digitalSignature, nonRepudiation, keyEncipherment, keyCertSign\n";
    } else {
        text += "keyUsage = digitalSignature, keyEncipherment\n";
        text += "extendedKeyUsage = serverAuth, clientAuth\n";
    }
    if let Some(san) = san {
        text += &format!("subjectAltName = {san}\n");
    }
    text += "[ req_dn ]\n";
    for (kind, value) in subject {
        let field = match kind {
            DnType::OrganizationName => "O",
            DnType::LocalityName => "L",
            _ => "CN",
        };
        text += &format!("{field} = {value}\n");
    }
    text
}

/// Letters, digits, `-`, `.`, `_`, not starting with a dot: safe as a directory and in a subject.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.chars().all(plain)
}

/// Writes a root's files into `directory`, which is made if needed. Keys are readable by their
/// owner only. Returns the paths.
///
/// # Errors
/// When a file exists already or cannot be written; what was written before stays.
pub fn write_root(directory: &Path, root: &Root) -> Result<Vec<PathBuf>, Error> {
    let (key, certificate) = (root.key_pem(), root.certificate_pem());
    let mut files = vec![("root-key.pem", key.as_str(), SECRET)];
    if let Some(paperwork) = &root.files {
        files.push(("root-ca.conf", &paperwork.configuration, PUBLIC));
        files.push(("root-cert.csr", &paperwork.request, PUBLIC));
    }
    files.push(("root-cert.pem", &certificate, PUBLIC));
    write_all(directory, &files)
}

/// Writes an intermediate's files into `directory/<cluster>`. Returns the paths.
///
/// # Errors
/// As [`write_root`].
pub fn write_intermediate(
    directory: &Path,
    intermediate: &Intermediate,
) -> Result<Vec<PathBuf>, Error> {
    let (key, certificate) = (intermediate.key_pem(), intermediate.certificate_pem());
    write_all(
        &directory.join(&intermediate.cluster),
        &[
            ("ca-key.pem", key.as_str(), SECRET),
            ("intermediate.conf", &intermediate.files.configuration, PUBLIC),
            ("cluster-ca.csr", &intermediate.files.request, PUBLIC),
            ("ca-cert.pem", &certificate, PUBLIC),
            ("cert-chain.pem", &intermediate.chain_pem(), PUBLIC),
            ("root-cert.pem", &intermediate.root_pem(), PUBLIC),
        ],
    )
}

/// Writes a workload's files into `directory/<namespace>`. Returns the paths.
///
/// # Errors
/// As [`write_root`].
pub fn write_workload(
    directory: &Path,
    namespace: &str,
    workload: &Workload,
) -> Result<Vec<PathBuf>, Error> {
    if !is_plain(namespace) {
        return Err(Error::Name(namespace.to_owned()));
    }
    let (key, certificate) = (workload.key_pem(), workload.certificate_pem());
    let root = workload.chain.last().map(x509::to_pem).unwrap_or_default();
    let authority = workload.chain.first().map(x509::to_pem).unwrap_or_default();
    write_all(
        &directory.join(namespace),
        &[
            ("key.pem", key.as_str(), SECRET),
            ("workload.conf", &workload.files.configuration, PUBLIC),
            ("workload.csr", &workload.files.request, PUBLIC),
            ("workload-cert.pem", &certificate, PUBLIC),
            ("workload-cert-chain.pem", &workload.chain_pem(), PUBLIC),
            ("ca-cert.pem", &authority, PUBLIC),
            ("root-cert.pem", &root, PUBLIC),
        ],
    )
}

const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

fn write_all(directory: &Path, files: &[(&str, &str, u32)]) -> Result<Vec<PathBuf>, Error> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
    made.map_err(|error| Error::Write(directory.to_owned(), error))?;
    // Nothing is half replaced: a file that is there stops us before anything is written.
    for (name, ..) in files {
        let path = directory.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(Error::Exists(path));
        }
    }
    let mut paths = Vec::new();
    for (name, content, mode) in files {
        let path = directory.join(name);
        // `create_new` follows no symbolic link and overwrites nothing.
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(*mode)
            .open(&path)
            .and_then(|mut file| file.write_all(content.as_bytes()).and_then(|()| file.sync_all()))
            .map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Error::Exists(path.clone()),
                _ => Error::Write(path.clone(), error),
            })?;
        paths.push(path);
    }
    Ok(paths)
}
