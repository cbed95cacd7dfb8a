//! Serves an API server on loopback with keys made for it. Usage: `serve FOLDER PORT`.
//!
//! The folder gets the keys, the store and a kubeconfig of an administrator.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use tombolo_apiserver::server::Server;
use tombolo_apiserver::settings::Settings;
use tombolo_apiserver::store::Flush;
use tombolo_runtime::shutdown::Shutdown;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tombolo_runtime::logs::init(tombolo_runtime::logs::Format::Text, "info");
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().context("name a folder")?);
    let port = arguments.next().context("name a port")?.parse()?;
    std::fs::create_dir_all(&folder)?;
    if !folder.join("ca.crt").exists() {
        keys(&folder, port)?;
    }
    let shutdown = Shutdown::default();
    let server = Server::build(settings(&folder, port)?, shutdown.clone()).await?;
    shutdown.spawn_essential("api server", server.run());
    shutdown.run_until_asked(Duration::from_secs(1)).await?;
    Ok(())
}

fn settings(folder: &Path, port: u16) -> anyhow::Result<Settings> {
    Ok(Settings {
        bind_address: "127.0.0.1".parse()?,
        secure_port: port,
        advertise_address: "127.0.0.1".parse()?,
        tls_cert_file: folder.join("apiserver.crt"),
        tls_private_key_file: folder.join("apiserver.key"),
        client_ca_file: folder.join("ca.crt"),
        service_cluster_ip_range: "10.11.0.0/16".parse()?,
        service_account_issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        service_account_key_file: folder.join("sa.pub"),
        service_account_signing_key_file: folder.join("sa.key"),
        kubelet_client_certificate: None,
        kubelet_client_key: None,
        kubelet_certificate_authority: None,
        data_dir: folder.join("data"),
        flush: Flush::Always,
    })
}

fn keys(folder: &Path, port: u16) -> anyhow::Result<()> {
    let mut root = CertificateParams::new(Vec::new())?;
    root.distinguished_name.push(DnType::CommonName, "kubernetes");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate()?;
    let root_certificate = root.self_signed(&root_key)?;
    std::fs::write(folder.join("ca.crt"), root_certificate.pem())?;
    let issuer = Issuer::new(root, root_key);
    let write = |name: &str, params: CertificateParams| -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        std::fs::write(folder.join(format!("{name}.crt")), certificate.pem())?;
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
        Ok(())
    };
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut server = CertificateParams::new(names)?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    write("apiserver", server)?;
    let mut admin = CertificateParams::new(Vec::new())?;
    admin.distinguished_name.push(DnType::CommonName, "kubernetes-admin");
    admin.distinguished_name.push(DnType::OrganizationName, "system:masters");
    admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    write("admin", admin)?;
    let tokens = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?;
    std::fs::write(folder.join("sa.key"), tokens.serialize_pem())?;
    std::fs::write(folder.join("sa.pub"), tokens.public_key_pem())?;
    let at = |name: &str| folder.join(name).display().to_string();
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "a", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": at("ca.crt"),
        }}],
        "users": [{"name": "a", "user": {
            "client-certificate": at("admin.crt"),
            "client-key": at("admin.key"),
        }}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "current-context": "a",
    });
    std::fs::write(folder.join("kubeconfig"), kubeconfig.to_string())?;
    Ok(())
}
