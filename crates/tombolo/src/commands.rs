//! One module per command, and what all of them need.

pub mod analyze;
pub mod api_server;
pub mod certs;
pub mod control_plane;
pub mod controllers;
pub mod install;
pub mod istioctl;
pub mod kind;
pub mod kube_inject;
pub mod lab;
mod lab_mesh;
pub mod mesh;
pub mod metallb;
pub mod node;
pub mod pilot;
pub mod proxy;
pub mod proxy_config;
pub mod proxy_status;
pub mod remote_secret;
mod reporting;
pub mod sample;
pub mod up;
pub mod verify_install;
pub mod version;

use std::future::Future;

use anyhow::Context as _;

/// Runs `future` on a multi-threaded runtime made for it.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    choose_tls_provider();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?
        .block_on(future)
}

/// Chooses the TLS provider of the process; a second choice only says so.
pub fn choose_tls_provider() {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("the TLS provider was installed before");
    }
}
