//! The root of a cluster's own certificate authority, read from where its control plane keeps it,
//! so that intermediates of the same root can be made for other clusters.

use std::path::Path;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::config::{Kubeconfig, KubeconfigError};
use zeroize::Zeroizing;

use crate::cluster::{CallError, Cluster, OpenError};

/// Where a control plane keeps an authority: what it made itself, and what was plugged in.
const SECRETS: &[&str] = &["istio-ca-secret", "cacerts"];

/// An authority with its key.
#[expect(missing_debug_implementations, reason = "holds a private key")]
pub struct Fetched {
    /// The secret that held it.
    pub secret: &'static str,
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: Zeroizing<String>,
}

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("read kubeconfig")]
    Kubeconfig(#[from] KubeconfigError),
    #[error("the kubeconfig has no current context; choose one with --context")]
    NoContext,
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(
        "cluster {cluster}: neither Secret/{namespace}/istio-ca-secret nor Secret/{namespace}/cacerts exists; install a control plane there, or name its namespace (ISTIO_NAMESPACE)"
    )]
    Missing { cluster: String, namespace: String },
    #[error("cluster {cluster}: Secret/{namespace}/{secret} has no text {field}")]
    Field { cluster: String, namespace: String, secret: &'static str, field: &'static str },
}

/// The context that is meant: the one given, else the kubeconfig's current one.
///
/// # Errors
/// When the kubeconfig cannot be read or has no current context.
pub fn context(kubeconfig: Option<&Path>, given: Option<&str>) -> Result<String, FetchError> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let read = match kubeconfig {
        Some(file) => Kubeconfig::read_from(file)?,
        None => Kubeconfig::read()?,
    };
    read.current_context.filter(|name| !name.is_empty()).ok_or(FetchError::NoContext)
}

/// Reads the authority of the control plane in `namespace` of the cluster that `context` names.
///
/// # Errors
/// When there is no such context, the cluster does not answer, or has no such secret.
pub async fn fetch(
    kubeconfig: Option<&Path>,
    context: &str,
    namespace: &str,
) -> Result<Fetched, FetchError> {
    let cluster = Cluster::open(context, kubeconfig, Some(context)).await?;
    let secrets: Api<Secret> = cluster.namespaced(namespace);
    for secret in SECRETS {
        let found = secrets
            .get_opt(secret)
            .await
            .map_err(|e| cluster.failed("get", format!("Secret/{namespace}/{secret}"), e))?;
        let Some(found) = found else { continue };
        let mut data = found.data.unwrap_or_default();
        let mut field = |field: &'static str| {
            let text = data.remove(field).and_then(|bytes| String::from_utf8(bytes.0).ok());
            text.filter(|text| !text.is_empty()).ok_or_else(|| FetchError::Field {
                cluster: context.to_owned(),
                namespace: namespace.to_owned(),
                secret,
                field,
            })
        };
        let (certificate, key) = (field("ca-cert.pem")?, Zeroizing::new(field("ca-key.pem")?));
        return Ok(Fetched { secret, certificate, key });
    }
    Err(FetchError::Missing { cluster: context.to_owned(), namespace: namespace.to_owned() })
}
