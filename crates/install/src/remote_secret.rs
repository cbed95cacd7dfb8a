//! Remote secrets: what lets the control plane of one cluster read the API server of another.
//!
//! The object is Istio's own, field by field: a Secret labelled `istio/multiCluster=true` whose
//! data key is the cluster's name and whose value is a kubeconfig with one bearer token.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::Api;
use serde_json::json;

use crate::cluster::{CallError, Cluster};
use crate::object::Object;
use crate::wait::{self, Look, WaitError};

/// How long the token controller may take to fill a token secret.
const TOKEN_LIMIT: Duration = Duration::from_secs(30);

/// What kind of secret is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Another control plane reads this cluster.
    Remote,
    /// A control plane elsewhere uses this cluster as its configuration cluster.
    Config,
}

/// What a remote secret is made from.
#[derive(Clone, Debug)]
pub struct Request {
    /// The cluster's name in the mesh: data key and kubeconfig entries.
    pub name: String,
    pub namespace: String,
    pub service_account: String,
    /// The API server's URL as the other cluster reaches it.
    pub server: String,
    pub kind: Type,
}

/// Why there is no remote secret.
#[derive(Debug, thiserror::Error)]
pub enum RemoteSecretError {
    #[error(
        "cluster {cluster}: its API server is {server}, which is a loopback address that no other cluster can reach; name a reachable one with --server, or set it in the kubeconfig (`kubectl config set-cluster`)"
    )]
    Loopback { cluster: String, server: String },
    #[error(
        "cluster {cluster}: service account {namespace}/{account} does not exist; install the `base` component first (`install` does, with any profile but `empty`)"
    )]
    NoAccount { cluster: String, namespace: String, account: String },
    #[error("cluster {cluster}: token secret {secret} has no {field}")]
    Incomplete { cluster: String, secret: String, field: &'static str },
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Wait(#[from] WaitError),
}

/// Whether a server URL's host is a loopback address.
pub fn is_loopback(server: &str) -> bool {
    let Ok(uri) = server.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The name a cluster has without being given one: the UID of its `kube-system` namespace.
///
/// # Errors
/// When the namespace cannot be read.
pub async fn default_name(cluster: &Cluster) -> Result<String, CallError> {
    let namespaces: Api<Namespace> = Api::all(cluster.client().clone());
    let found = namespaces
        .get("kube-system")
        .await
        .map_err(|e| cluster.failed("get", "Namespace/kube-system", e))?;
    Ok(found.metadata.uid.unwrap_or_default())
}

/// Makes the secret for `cluster`, issuing a token for its service account if there is none yet.
///
/// # Errors
/// When the server is on loopback, the account does not exist, or its token is not issued in time.
pub async fn create(cluster: &Cluster, request: &Request) -> Result<Object, RemoteSecretError> {
    if is_loopback(&request.server) {
        let (cluster, server) = (request.name.clone(), request.server.clone());
        return Err(RemoteSecretError::Loopback { cluster, server });
    }
    let (ca, token) = token(cluster, request).await?;
    Ok(render(request, &ca, &token))
}

/// The name of the secret that holds a service account's token, as Istio names it.
pub fn token_secret(service_account: &str) -> String {
    format!("{service_account}-istio-remote-secret-token")
}

/// The secret as [`create`] would make it of the token that is there; none where there is none.
/// Nothing is written.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn existing(cluster: &Cluster, request: &Request) -> Result<Option<Object>, CallError> {
    let secrets: Api<Secret> = cluster.namespaced(&request.namespace);
    let name = token_secret(&request.service_account);
    let found = secrets.get_opt(&name).await;
    let found = found.map_err(|e| cluster.failed("get", format!("Secret/{name}"), e))?;
    let data = found.and_then(|secret| secret.data).unwrap_or_default();
    let text = |field: &str| data.get(field).and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
    let (Some(ca), Some(token)) = (text("ca.crt"), text("token")) else { return Ok(None) };
    Ok(Some(render(request, ca.as_bytes(), token)))
}

/// The service account's CA bundle and token.
async fn token(
    cluster: &Cluster,
    request: &Request,
) -> Result<(Vec<u8>, String), RemoteSecretError> {
    let Request { namespace, service_account, .. } = request;
    let accounts: Api<ServiceAccount> = cluster.namespaced(namespace);
    let account = accounts.get_opt(service_account).await.map_err(|e| {
        cluster.failed("get", format!("ServiceAccount/{namespace}/{service_account}"), e)
    })?;
    if account.is_none() {
        return Err(RemoteSecretError::NoAccount {
            cluster: request.name.clone(),
            namespace: namespace.clone(),
            account: service_account.clone(),
        });
    }
    let name = token_secret(service_account);
    let secret = Object::new(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/service-account-token",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {"kubernetes.io/service-account.name": service_account},
        },
    }));
    cluster.apply(&secret).await?;
    let secrets: Api<Secret> = cluster.namespaced(namespace);
    let what = format!("Secret/{namespace}/{name} to hold a token");
    let data = wait::until(cluster, &what, TOKEN_LIMIT, None, || async {
        let found = secrets
            .get_opt(&name)
            .await
            .map_err(|e| cluster.failed("get", format!("Secret/{name}"), e))?;
        let data = found.and_then(|secret| secret.data).unwrap_or_default();
        let complete = data.contains_key("token") && data.contains_key("ca.crt");
        Ok(if complete { Look::Holds(data) } else { Look::Missing("no token yet".to_owned()) })
    })
    .await?;
    let field = |field: &'static str| {
        data.get(field).map(|bytes| bytes.0.clone()).ok_or_else(|| RemoteSecretError::Incomplete {
            cluster: request.name.clone(),
            secret: name.clone(),
            field,
        })
    };
    let token = String::from_utf8(field("token")?).map_err(|_| RemoteSecretError::Incomplete {
        cluster: request.name.clone(),
        secret: name.clone(),
        field: "readable token",
    })?;
    Ok((field("ca.crt")?, token))
}

fn render(request: &Request, ca: &[u8], token: &str) -> Object {
    let name = request.name.as_str();
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "clusters": [{"name": name, "cluster": {"certificate-authority-data": BASE64.encode(ca), "server": request.server}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
        "users": [{"name": name, "user": {"token": token}}],
    });
    let kubeconfig =
        serde_saphyr::to_string(&kubeconfig).expect("JSON values can be written as YAML");
    let (secret, key) = match request.kind {
        Type::Remote => (format!("istio-remote-secret-{name}"), name),
        Type::Config => ("istio-kubeconfig".to_owned(), "config"),
    };
    Object::new(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret,
            "namespace": request.namespace,
            "labels": {"istio/multiCluster": "true"},
            "annotations": {"networking.istio.io/cluster": name},
        },
        "stringData": {key: kubeconfig},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_servers_are_recognised_in_every_form() {
        for server in [
            "https://127.0.0.1:6443",
            "https://localhost:6443",
            "https://[::1]:6443",
            "https://127.9.9.9",
        ] {
            assert!(is_loopback(server), "{server}");
        }
        for server in
            ["https://172.18.0.2:6443", "https://api.example.org", "https://localhost.example.org"]
        {
            assert!(!is_loopback(server), "{server}");
        }
    }

    #[test]
    fn the_secret_is_istios_own() {
        let request = Request {
            name: "cluster02".to_owned(),
            namespace: "istio-system".to_owned(),
            service_account: "istio-reader-service-account".to_owned(),
            server: "https://172.18.0.3:6443".to_owned(),
            kind: Type::Remote,
        };
        let text = crate::object::write_manifest(&[render(&request, b"CA", "TOKEN")]).unwrap();
        insta::assert_snapshot!(text);
    }
}
