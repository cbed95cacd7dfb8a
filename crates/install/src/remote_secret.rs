//! Remote secrets: what lets the control plane of one cluster read the API server of another.
//!
//! The object is Istio's own, field by field: a Secret labelled `istio/multiCluster=true` whose
//! data key is the cluster's name and whose value is a kubeconfig with one bearer token.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::cluster::{CallError, Cluster};
use crate::object::Object;
use crate::operator::{Operator, OperatorError};
use crate::render::{READER, reader};
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
    /// The name that the API server's certificate is checked for, where it is not the URL's host.
    pub tls_server_name: Option<String>,
    /// The secret that holds the account's token; by default one that is there, or a new one.
    pub secret_name: Option<String>,
    /// Whether an account that is missing is made, with the reader's role.
    pub create_service_account: bool,
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
        "cluster {cluster}: service account {namespace}/{account} does not exist; install the `base` component first (`install` does, with any profile but `empty`), or let this command make it (--create-service-account)"
    )]
    NoAccount { cluster: String, namespace: String, account: String },
    #[error(
        "cluster {cluster}: secret {namespace}/{secret} is not a token of service account {account}; name one of type kubernetes.io/service-account-token with the annotation kubernetes.io/service-account.name={account}"
    )]
    NotAToken { cluster: String, namespace: String, account: String, secret: String },
    #[error(
        "service account {0} is not one this command can make: only istio-reader-service-account is; make it yourself, or name another with --service-account"
    )]
    NotOurAccount(String),
    #[error("cluster name `{0}` must be lower-case letters, digits, dashes and dots (RFC 1123)")]
    BadName(String),
    #[error("cluster {cluster}: token secret {secret} has no {field}")]
    Incomplete { cluster: String, secret: String, field: &'static str },
    #[error(transparent)]
    Operator(#[from] OperatorError),
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
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edges = request.name.starts_with(['-', '.']) || request.name.ends_with(['-', '.']);
    if request.name.is_empty() || edges || !request.name.chars().all(plain) {
        return Err(RemoteSecretError::BadName(request.name.clone()));
    }
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
    let Request { namespace, .. } = request;
    account(cluster, request).await?;
    let secrets: Api<Secret> = cluster.namespaced(namespace);
    let name = token_holder(cluster, request, &secrets).await?;
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

/// Makes sure that the account is there.
async fn account(cluster: &Cluster, request: &Request) -> Result<(), RemoteSecretError> {
    let Request { namespace, service_account, .. } = request;
    let accounts: Api<ServiceAccount> = cluster.namespaced(namespace);
    let found = accounts.get_opt(service_account).await.map_err(|e| {
        cluster.failed("get", format!("ServiceAccount/{namespace}/{service_account}"), e)
    })?;
    if found.is_some() {
        return Ok(());
    }
    if !request.create_service_account {
        return Err(RemoteSecretError::NoAccount {
            cluster: request.name.clone(),
            namespace: namespace.clone(),
            account: service_account.clone(),
        });
    }
    if service_account != READER {
        return Err(RemoteSecretError::NotOurAccount(service_account.clone()));
    }
    let spec = json!({"profile": "empty", "values": {"global": {"istioNamespace": namespace}}});
    let operator = Operator::from_spec("installed-state".to_owned(), spec)?;
    let system = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    let system = Object::new(system);
    if cluster.get(&system).await?.is_none() {
        cluster.apply(&system).await?;
    }
    for object in reader(&operator) {
        cluster.apply(&object).await?;
    }
    Ok(())
}

/// The name of the secret that holds the account's token, made where there is none.
async fn token_holder(
    cluster: &Cluster,
    request: &Request,
    secrets: &Api<Secret>,
) -> Result<String, RemoteSecretError> {
    let Request { namespace, service_account, .. } = request;
    let is_token = |secret: &Secret| {
        let named = secret.annotations().get("kubernetes.io/service-account.name");
        secret.type_.as_deref() == Some("kubernetes.io/service-account-token")
            && named == Some(service_account)
    };
    let what = format!("Secret/{namespace}");
    if let Some(name) = &request.secret_name {
        let found = secrets.get_opt(name).await;
        let found = found.map_err(|e| cluster.failed("get", format!("{what}/{name}"), e))?;
        return match found {
            Some(secret) if is_token(&secret) => Ok(name.clone()),
            _ => Err(RemoteSecretError::NotAToken {
                cluster: request.name.clone(),
                namespace: namespace.clone(),
                account: service_account.clone(),
                secret: name.clone(),
            }),
        };
    }
    let list = secrets.list(&ListParams::default()).await;
    let list = list.map_err(|e| cluster.failed("list", what, e))?;
    if let Some(secret) = list.items.iter().find(|secret| is_token(secret)) {
        return Ok(secret.name_any());
    }
    let name = format!("{service_account}-istio-remote-secret-token");
    cluster
        .apply(&Object::new(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/service-account-token",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "annotations": {"kubernetes.io/service-account.name": service_account},
            },
        })))
        .await?;
    Ok(name)
}

fn render(request: &Request, ca: &[u8], token: &str) -> Object {
    let name = request.name.as_str();
    let mut server =
        json!({"certificate-authority-data": BASE64.encode(ca), "server": request.server});
    if let (Some(host), Some(server)) = (&request.tls_server_name, server.as_object_mut()) {
        server.insert("tls-server-name".to_owned(), host.as_str().into());
    }
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "clusters": [{"name": name, "cluster": server}],
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
            tls_server_name: None,
            secret_name: None,
            create_service_account: true,
            kind: Type::Remote,
        };
        let text = crate::object::write_manifest(&[render(&request, b"CA", "TOKEN")]).unwrap();
        insta::assert_snapshot!(text);
        let request = Request {
            tls_server_name: Some("api.cluster02.example".to_owned()),
            kind: Type::Config,
            ..request
        };
        let text = crate::object::write_manifest(&[render(&request, b"CA", "TOKEN")]).unwrap();
        insta::assert_snapshot!("the_secret_of_a_configuration_cluster", text);
    }
}
