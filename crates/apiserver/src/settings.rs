//! What the server is told at its start.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::store::Flush;

/// What the server is told. Names follow kube-apiserver's flags.
#[derive(Debug, Clone)]
pub struct Settings {
    pub bind_address: IpAddr,
    /// 0 picks a free port.
    pub secure_port: u16,
    /// The address that the `kubernetes` Service leads to.
    pub advertise_address: IpAddr,
    pub tls_cert_file: PathBuf,
    pub tls_private_key_file: PathBuf,
    pub client_ca_file: PathBuf,
    pub service_cluster_ip_range: IpNet,
    pub service_account_issuer: String,
    pub service_account_key_file: PathBuf,
    pub service_account_signing_key_file: PathBuf,
    pub kubelet_client_certificate: Option<PathBuf>,
    pub kubelet_client_key: Option<PathBuf>,
    pub kubelet_certificate_authority: Option<PathBuf>,
    pub data_dir: PathBuf,
    /// Whether writes are forced to the disk before they are acknowledged.
    pub flush: Flush,
}
