//! An API server of its own for every test, on loopback, with its own keys and folder; and the
//! programs that tests run against it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use tempfile::TempDir;
use tokio::process::Command;
use tombolo_apiserver::server::Server;
use tombolo_apiserver::settings::Settings;
use tombolo_runtime::shutdown::Shutdown;

/// The keys and certificates of one cluster.
pub struct Pki {
    folder: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

/// A running API server. Stops when dropped.
pub struct Cluster {
    pub pki: Pki,
    pub address: SocketAddr,
    shutdown: Shutdown,
}

impl Pki {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "test-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.path().join("ca.crt"), ca.pem()).unwrap();
        let pki = Self { folder, ca };
        pki.issue("apiserver", "kube-apiserver", &[], true);
        pki.issue("admin", "kubernetes-admin", &["system:masters"], false);
        pki.issue("jane", "jane", &["dev"], false);
        pki.issue("kubelet-client", "apiserver-kubelet-client", &["system:masters"], false);
        let pair =
            KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        std::fs::write(pki.path("sa.key"), pair.serialize_pem()).unwrap();
        std::fs::write(pki.path("sa.pub"), pair.public_key_pem()).unwrap();
        pki
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes `NAME.crt` and `NAME.key`.
    pub fn issue(&self, file: &str, name: &str, groups: &[&str], server: bool) {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        if server {
            params.subject_alt_names = vec![
                SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                SanType::DnsName("localhost".try_into().unwrap()),
            ];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        } else {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.path(&format!("{file}.crt")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    /// A kubeconfig file for a user with a certificate of this name, or with a token.
    pub fn kubeconfig(&self, user: &str, server: &str, token: Option<&str>) -> PathBuf {
        let ca = self.path("ca.crt");
        let credentials = match token {
            Some(token) => format!("token: {token}"),
            None => format!(
                "client-certificate: {}\n    client-key: {}",
                self.path(&format!("{user}.crt")).display(),
                self.path(&format!("{user}.key")).display(),
            ),
        };
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters:\n- name: test\n  cluster:\n    server: {server}\n    \
             certificate-authority: {}\n\
             users:\n- name: {user}\n  user:\n    {credentials}\n\
             contexts:\n- name: test\n  context:\n    cluster: test\n    user: {user}\n",
            ca.display(),
        );
        let path = self.path(&format!("{user}.kubeconfig"));
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Cluster {
    /// Builds and starts a server.
    pub async fn start() -> Self {
        let pki = Pki::new();
        let shutdown = Shutdown::default();
        let server = Server::build(settings(&pki), shutdown.clone()).await.unwrap();
        let address = server.address();
        shutdown.spawn("api server", server.run());
        let cluster = Self { pki, address, shutdown };
        cluster.pki.kubeconfig("admin", &cluster.url(), None);
        cluster.pki.kubeconfig("jane", &cluster.url(), None);
        cluster
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A client with the rights of `user`.
    pub async fn client(&self, user: &str) -> kube::Client {
        client(&self.pki.path(&format!("{user}.kubeconfig"))).await
    }

    /// Runs kubectl as the administrator; panics with its output if it fails.
    pub async fn kubectl(&self, arguments: &str) -> String {
        self.kubectl_with(arguments, "").await
    }

    /// The same, with standard input.
    pub async fn kubectl_with(&self, arguments: &str, input: &str) -> String {
        let (code, out, err) = self.try_kubectl("admin", arguments, input).await;
        assert_eq!(code, 0, "kubectl {arguments}\n{out}{err}");
        out
    }

    /// Runs kubectl as `user`: exit code, output, error output.
    pub async fn try_kubectl(
        &self,
        user: &str,
        arguments: &str,
        input: &str,
    ) -> (i32, String, String) {
        let config = self.pki.path(&format!("{user}.kubeconfig"));
        let mut command = Command::new(kubectl().expect("checked by needs_kubectl"));
        command
            .args(words(arguments))
            .env("KUBECONFIG", config)
            .env("KUBECACHEDIR", self.pki.path("cache"))
            .env("HOME", self.pki.path("home"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        run(command, input).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let shutdown = self.shutdown.clone();
        let handle = tokio::runtime::Handle::current();
        handle.spawn(async move { shutdown.stop(Duration::ZERO).await });
    }
}

/// Settings of a server with the given keys, on a free port of the loopback address.
pub fn settings(pki: &Pki) -> Settings {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Settings {
        bind_address: loopback,
        secure_port: 0,
        advertise_address: loopback,
        tls_cert_file: pki.path("apiserver.crt"),
        tls_private_key_file: pki.path("apiserver.key"),
        client_ca_file: pki.path("ca.crt"),
        service_cluster_ip_range: "10.11.0.0/16".parse().unwrap(),
        service_account_issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        service_account_key_file: pki.path("sa.pub"),
        service_account_signing_key_file: pki.path("sa.key"),
        kubelet_client_certificate: Some(pki.path("kubelet-client.crt")),
        kubelet_client_key: Some(pki.path("kubelet-client.key")),
        kubelet_certificate_authority: Some(pki.path("ca.crt")),
        data_dir: pki.path("data"),
        flush: tombolo_apiserver::store::Flush::Never,
    }
}

/// A client with the credentials of a kubeconfig file.
pub async fn client(path: &Path) -> kube::Client {
    let config = kube::config::Kubeconfig::read_from(path).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

/// Runs a program to its end, within a minute.
pub async fn run(mut command: Command, input: &str) -> (i32, String, String) {
    use tokio::io::AsyncWriteExt;
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output())
        .await
        .expect("the program ends within a minute")
        .unwrap();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Splits a command line at spaces; single quotes hold words together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                begun = true;
            }
            c if c.is_whitespace() && !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// Where a program of a Kubernetes release is, if it is on this machine.
pub fn program(name: &str) -> Option<PathBuf> {
    let folders = [
        std::env::var("KUBEBUILDER_ASSETS").ok().map(PathBuf::from),
        Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/kubernetes/bin")),
    ];
    folders.into_iter().flatten().map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn kubectl() -> Option<PathBuf> {
    program("kubectl")
}

/// Whether the programs are here. Their absence fails the test where all tests must run.
pub fn needs(names: &[&str]) -> bool {
    let missing: Vec<_> = names.iter().filter(|name| program(name).is_none()).collect();
    if missing.is_empty() {
        return true;
    }
    let must = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!must, "{missing:?} missing: set KUBEBUILDER_ASSETS or run tools/kubernetes/build");
    {
        eprintln!("left out: {missing:?} missing; set KUBEBUILDER_ASSETS");
    }
    false
}

/// Asks until the answer is true, for at most half a minute.
pub async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let limit = Duration::from_secs(30);
    let asking = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(limit, asking).await.is_ok(), "not within {limit:?}: {what}");
}
