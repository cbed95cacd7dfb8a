//! Kubeconfigs from remote secrets, which whoever may write a secret can choose.
//!
//! **Invariant:** nothing in them makes the control plane run a program, read a file, speak
//! without TLS, skip a check or act as somebody else. The reader knows only what is allowed;
//! every other field is refused by name.

use std::net::IpAddr;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use serde::{Deserialize, Serialize};

/// Why a kubeconfig is not used.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is not a kubeconfig, or holds a field that is not allowed.
    #[error(
        "the kubeconfig is refused ({0}); it may hold servers with their certificate \
             authority, and users with a token or an inline client certificate, nothing else"
    )]
    Shape(String),
    /// Its server is not one to talk to.
    #[error("server `{server}` is refused: {why}")]
    Server {
        /// The server.
        server: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It is complete in shape, but its parts do not fit.
    #[error("the kubeconfig cannot be used")]
    Parts(#[source] Box<KubeconfigError>),
    /// No client can be made of it.
    #[error("no client can be made of the kubeconfig")]
    Client(#[source] Box<kube::Error>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Allowed {
    #[serde(rename = "apiVersion", default)]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preferences: Option<Nothing>,
    current_context: String,
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    users: Vec<NamedUser>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedCluster {
    name: String,
    cluster: Server,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Server {
    server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_authority_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_server_name: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    cluster: String,
    user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedUser {
    name: String,
    user: User,
}

impl std::fmt::Debug for NamedUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What is inside is secret.
        f.debug_struct("NamedUser").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct User {
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_certificate_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_key_data: Option<String>,
}

/// Whether servers on loopback are talked to: only where the control plane is not in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    /// They are.
    Allowed,
    /// They are not: loopback is the control plane itself.
    Refused,
}

/// A client for the cluster that a remote secret describes.
///
/// # Errors
/// When the kubeconfig holds anything that is not allowed, or its parts do not fit.
pub async fn client(bytes: &[u8], loopback: Loopback) -> Result<kube::Client, Refused> {
    let allowed = read(bytes)?;
    for server in &allowed.clusters {
        check(&server.cluster.server, loopback)?;
    }
    let clean =
        serde_json::to_value(&allowed).map_err(|error| Refused::Shape(error.to_string()))?;
    let clean: Kubeconfig =
        serde_json::from_value(clean).map_err(|error| Refused::Shape(error.to_string()))?;
    let config = kube::Config::from_custom_kubeconfig(clean, &KubeConfigOptions::default())
        .await
        .map_err(|error| Refused::Parts(Box::new(error)))?;
    // The client does not follow redirects, so the token goes nowhere else.
    kube::Client::try_from(config).map_err(|error| Refused::Client(Box::new(error)))
}

fn read(bytes: &[u8]) -> Result<Allowed, Refused> {
    let text = std::str::from_utf8(bytes).map_err(|error| Refused::Shape(error.to_string()))?;
    let document: serde_json::Value = serde_saphyr::from_str(text)
        // The error may quote the document, which holds secrets.
        .map_err(|_| Refused::Shape(String::from("it is not YAML")))?;
    serde_json::from_value(document).map_err(|error| Refused::Shape(error.to_string()))
}

fn check(server: &str, loopback: Loopback) -> Result<(), Refused> {
    let refuse = |why| Err(Refused::Server { server: server.to_owned(), why });
    let Ok(uri) = server.parse::<http::Uri>() else { return refuse("it is not a URL") };
    if uri.scheme_str() != Some("https") {
        return refuse("only https is spoken");
    }
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if authority.contains('@') {
        return refuse("a URL with a user name is not allowed");
    }
    let host = uri.host().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    let ip = ip.map(|ip| ip.to_canonical());
    let is_local = host == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
    if is_local && loopback == Loopback::Refused {
        return refuse(
            "it is on loopback, which is the control plane itself; use an address at which the \
             cluster's API server is reached from the control plane's cluster",
        );
    }
    let (link_local, unspecified) = match ip {
        Some(IpAddr::V4(ip)) => (ip.is_link_local(), ip.is_unspecified()),
        Some(IpAddr::V6(ip)) => (ip.is_unicast_link_local(), ip.is_unspecified()),
        None => (false, false),
    };
    if link_local || unspecified {
        return refuse("it is not the address of another machine");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n\
        - name: c\n  cluster:\n    server: https://172.18.0.3:6443\n\
        contexts:\n- name: c\n  context: {cluster: c, user: c}\n\
        users:\n- name: c\n  user:\n    token: secret\n";

    fn why(text: &str) -> String {
        read(text.as_bytes())
            .and_then(|allowed| {
                allowed
                    .clusters
                    .iter()
                    .try_for_each(|it| check(&it.cluster.server, Loopback::Refused))
            })
            .map_or_else(|error| error.to_string(), |()| String::from("used"))
    }

    #[test]
    fn what_create_remote_secret_writes_is_used() {
        assert_eq!(why(GOOD), "used");
        assert_eq!(why(&GOOD.replace("kind: Config\n", "kind: Config\npreferences: {}\n")), "used");
    }

    #[test]
    fn whatever_could_harm_is_refused_by_name() {
        let user = |field: &str| GOOD.replace("token: secret", field);
        let cluster = |field: &str| GOOD.replace("6443\n", &format!("6443\n    {field}\n"));
        for (text, name) in [
            (user("exec: {command: touch}"), "exec"),
            (user("auth-provider: {name: gcp}"), "auth-provider"),
            (user("tokenFile: /etc/shadow"), "tokenFile"),
            (user("token-file: /etc/shadow"), "token-file"),
            (user("client-certificate: /a"), "client-certificate"),
            (user("client-key: /a"), "client-key"),
            (user("as: admin"), "as"),
            (user("as-groups: [system:masters]"), "as-groups"),
            (user("username: a"), "username"),
            (cluster("certificate-authority: /a"), "certificate-authority"),
            (cluster("insecure-skip-tls-verify: true"), "insecure-skip-tls-verify"),
            (cluster("proxy-url: http://evil"), "proxy-url"),
            (cluster("extensions: []"), "extensions"),
        ] {
            let why = why(&text);
            assert!(why.contains(&format!("unknown field `{name}`")), "{name}: {why}");
            assert!(!why.contains("secret"), "{why}");
        }
    }

    #[test]
    fn servers_that_are_not_other_machines_are_refused() {
        let server = |url: &str| why(&GOOD.replace("https://172.18.0.3:6443", url));
        assert!(server("http://172.18.0.3:6443").contains("only https"));
        assert!(server("file:///etc/passwd").contains("refused"));
        assert!(server("https://127.0.0.1:15014").contains("loopback"));
        assert!(server("https://[::1]:15014").contains("loopback"));
        assert!(server("https://[::ffff:127.0.0.1]").contains("loopback"));
        assert!(server("https://localhost").contains("loopback"));
        assert!(server("https://169.254.169.254").contains("another machine"));
        assert!(server("https://user@172.18.0.3").contains("user name"));
        assert_eq!(server("https://api.cluster02.example"), "used");
    }
}
