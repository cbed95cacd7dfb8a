//! A cluster's certificates and keys, and the kubeconfig of each of its processes.
//!
//! One authority signs everything: the API server's and the kubelets' serving certificates and
//! the client certificates whose subjects are the users that Kubernetes' own roles name. Keys are
//! written 0600 into the cluster's folder and nowhere else; they live as long as the lab does.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::directory::{ClusterDirectory, private_folder, write_private};
use crate::kubeconfig;
use crate::spec::{API_SERVER_PORT, ClusterSpec};

/// How long certificates last: a lab does not outlive the machine's uptime.
const LIFETIME: Duration = Duration::days(365);

/// Clocks of two machines may differ by this much.
const SLACK: Duration = Duration::hours(1);

/// A user that Kubernetes knows by the subject of its client certificate.
struct Client<'a> {
    /// The name of its files.
    file: &'a str,
    common_name: String,
    organization: Option<&'a str>,
}

/// Why a cluster's certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A certificate or key could not be made.
    #[error("make the certificate `{name}`")]
    Make { name: String, source: rcgen::Error },
    /// A file could not be written.
    #[error("write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Makes all certificates, keys and kubeconfigs of a cluster whose nodes have these names and
/// addresses; the first is the control plane.
///
/// # Errors
/// When a file cannot be written.
pub fn make(
    folder: &ClusterDirectory,
    spec: &ClusterSpec,
    nodes: &[(String, Ipv4Addr)],
) -> Result<(), PkiError> {
    let pki = Pki::new(folder)?;
    let Some((first_name, first_address)) = nodes.first() else { return Ok(()) };
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        first_name,
    ];
    let addresses = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        spec.api_server_address,
        IpAddr::V4(*first_address),
        IpAddr::V4(spec.service_address(1)),
    ];
    pki.serving("apiserver", "kube-apiserver", &names, &addresses)?;
    pki.service_account_keys()?;
    let server = format!("https://{first_address}:{API_SERVER_PORT}");
    let masters = Some("system:masters");
    for client in [
        Client { file: "admin", common_name: "kubernetes-admin".into(), organization: masters },
        Client {
            file: "controllers",
            common_name: "system:kube-controller-manager".into(),
            organization: masters,
        },
        Client {
            file: "controller-manager",
            common_name: "system:kube-controller-manager".into(),
            organization: None,
        },
        Client {
            file: "scheduler",
            common_name: "system:kube-scheduler".into(),
            organization: None,
        },
        Client {
            file: "apiserver-kubelet-client",
            common_name: "kube-apiserver-kubelet-client".into(),
            organization: masters,
        },
    ] {
        pki.client(&client, &spec.name.context(), &server)?;
    }
    for (node, address) in nodes {
        let client = Client {
            file: node,
            common_name: format!("system:node:{node}"),
            organization: Some("system:nodes"),
        };
        pki.client(&client, &spec.name.context(), &server)?;
        let kubelet = format!("{node}-kubelet");
        pki.serving(&kubelet, &format!("system:node:{node}"), &[node], &[IpAddr::V4(*address)])?;
    }
    Ok(())
}

/// The authority of one cluster.
struct Pki<'a> {
    folder: &'a ClusterDirectory,
    authority: Issuer<'static, KeyPair>,
    authority_pem: String,
}

impl<'a> Pki<'a> {
    fn new(folder: &'a ClusterDirectory) -> Result<Self, PkiError> {
        let path = folder.pki();
        private_folder(&path).map_err(|source| PkiError::Write { path, source })?;
        let made = || {
            let key = KeyPair::generate()?;
            let mut params = subject("kubernetes", None);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
            ];
            let certificate = params.self_signed(&key)?;
            Ok((params, key, certificate.pem()))
        };
        let (params, key, authority_pem) = made().map_err(failed("ca"))?;
        write(&folder.pki().join("ca.crt"), &authority_pem)?;
        write(&folder.pki().join("ca.key"), &key.serialize_pem())?;
        Ok(Self { folder, authority: Issuer::new(params, key), authority_pem })
    }

    fn serving(
        &self,
        file: &str,
        common_name: &str,
        names: &[&str],
        addresses: &[IpAddr],
    ) -> Result<(), PkiError> {
        let mut params = subject(common_name, None);
        for name in names {
            let name = (*name).try_into().map_err(failed(file))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let mut seen = Vec::new();
        for address in addresses {
            if !seen.contains(address) {
                seen.push(*address);
                params.subject_alt_names.push(SanType::IpAddress(*address));
            }
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(file, params).map(|_| ())
    }

    fn client(&self, client: &Client<'_>, context: &str, server: &str) -> Result<(), PkiError> {
        let mut params = subject(&client.common_name, client.organization);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = self.sign(client.file, params)?;
        let access = kubeconfig::Access {
            context: context.to_owned(),
            server: server.to_owned(),
            authority: self.authority_pem.clone(),
            certificate,
            key,
        };
        write(&self.folder.kubeconfig(client.file), &access.document())
    }

    fn sign(
        &self,
        file: &str,
        mut params: CertificateParams,
    ) -> Result<(String, String), PkiError> {
        params.use_authority_key_identifier_extension = true;
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let signed = || {
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &self.authority)?;
            Ok((certificate.pem(), key.serialize_pem()))
        };
        let (certificate, key) = signed().map_err(failed(file))?;
        write(&self.folder.pki().join(format!("{file}.crt")), &certificate)?;
        write(&self.folder.pki().join(format!("{file}.key")), &key)?;
        Ok((certificate, key))
    }

    /// The key pair that signs service-account tokens: RSA, as what reads such tokens expects.
    fn service_account_keys(&self) -> Result<(), PkiError> {
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
            .map_err(failed("sa"))?;
        write(&self.folder.pki().join("sa.key"), &key.serialize_pem())?;
        write(&self.folder.pki().join("sa.pub"), &key.public_key_pem())
    }
}

fn subject(common_name: &str, organization: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - SLACK;
    params.not_after = now + LIFETIME;
    params
}

fn failed(name: &str) -> impl Fn(rcgen::Error) -> PkiError {
    let name = name.to_owned();
    move |source| PkiError::Make { name: name.clone(), source }
}

fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    write_private(path, text).map_err(|source| PkiError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use x509_parser::prelude::*;

    use super::*;

    #[test]
    fn every_user_has_the_subject_that_kubernetes_roles_name() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = ClusterDirectory::new(folder.path().to_owned());
        let spec = ClusterSpec::new("c1".parse().unwrap());
        let node = ("c1-control-plane".to_owned(), Ipv4Addr::new(172, 18, 0, 2));
        make(&cluster, &spec, &[node]).unwrap();
        let subject = |file: &str| {
            let pem = std::fs::read(cluster.pki().join(format!("{file}.crt"))).unwrap();
            let (_, pem) = parse_x509_pem(&pem).unwrap();
            let certificate = pem.parse_x509().unwrap();
            let names = certificate.subject_alternative_name().unwrap();
            let names = names.map_or(0, |names| names.value.general_names.len());
            format!("{} / {names} names", certificate.subject())
        };
        assert_eq!(
            [
                "ca",
                "admin",
                "controllers",
                "apiserver",
                "c1-control-plane",
                "c1-control-plane-kubelet"
            ]
            .map(subject),
            [
                "CN=kubernetes / 0 names",
                "O=system:masters, CN=kubernetes-admin / 0 names",
                "O=system:masters, CN=system:kube-controller-manager / 0 names",
                "CN=kube-apiserver / 9 names",
                "O=system:nodes, CN=system:node:c1-control-plane / 0 names",
                "CN=system:node:c1-control-plane / 2 names",
            ]
        );
        let mode = |file: &str| {
            std::fs::metadata(cluster.path().join(file)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!(
            [mode("pki/ca.key"), mode("admin.kubeconfig"), mode("pki")],
            [0o600, 0o600, 0o700]
        );
    }
}
