//! The mesh's root of trust and the intermediates of its primaries.
//!
//! A root that Tombolo makes is made once and kept in the mesh's state folder, readable by its
//! owner only; primaries get an intermediate each, as the secret `cacerts`. A cluster that already
//! has one keeps it, if it is of the same root; another root is an error that names both, and so
//! is a control plane that signs under a root of its own already.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::{Map, Value, json};
use tombolo_ca::folder::{self, Folder};
use tombolo_ca::offline::{self, Intermediate, Root, Settings};
use tombolo_tls::x509;

use crate::cluster::{Access, CallError, Cluster};
use crate::mesh_file::{MeshFile, RootCa};
use crate::object::Object;
use crate::progress::Progress;
use crate::topology::{ClusterPlan, NAMESPACE};

/// Intermediates that clusters still need.
#[derive(Debug, Default)]
pub struct Authority {
    secrets: BTreeMap<String, Object>,
}

/// Why there is no common trust.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("{verb} {path}")]
    File { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("make the root of trust")]
    NewRoot(#[from] folder::Error),
    #[error("root of trust in {path}")]
    Root { path: PathBuf, source: offline::Error },
    #[error("issue the intermediate certificate of cluster {cluster}")]
    Intermediate { cluster: String, source: offline::Error },
    #[error(
        "cluster {cluster}: Secret/{NAMESPACE}/cacerts is of root {found}, but the mesh's root is {expected}; one mesh needs one root: delete the secret to get an intermediate of the mesh's root, or name that cluster's root in the mesh file (`trust.rootCA.Files`)"
    )]
    OtherRoot { cluster: String, found: String, expected: String },
    #[error(
        "cluster {cluster}: its control plane signs under a root of its own, {found} (Secret/{NAMESPACE}/istio-ca-secret), but the mesh's root is {expected}, and it would go on to; one mesh needs one root: either make that root the mesh's (`tombolo certs fetch-root-ca` gets it with its key; name both in the mesh file, `trust.rootCA.Files`), or give it up: delete the secret, apply again, and restart Deployment/{NAMESPACE}/istiod, and after it the workloads that have certificates of the old root"
    )]
    OwnRoot { cluster: String, found: String, expected: String },
    #[error(
        "cluster {cluster}: Secret/{NAMESPACE}/{secret} has no readable root certificate; complete the secret or delete it"
    )]
    NoRoot { cluster: String, secret: &'static str },
    #[error("certificates were not made: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
    #[error(transparent)]
    Call(#[from] CallError),
}

impl Authority {
    /// Finds or makes the mesh's root and issues the intermediates that are missing. With a single
    /// primary nothing is needed: its own CA serves every cluster.
    ///
    /// # Errors
    /// When a cluster has an intermediate of another root, or a root of its own, or keys cannot be
    /// read or written.
    pub async fn prepare(
        file: &MeshFile,
        plans: &[ClusterPlan],
        access: &BTreeMap<String, Access>,
        folder: &Path,
        progress: &Progress,
    ) -> Result<Self, TrustError> {
        let signing: Vec<&ClusterPlan> = plans.iter().filter(|plan| plan.plugged_in_ca).collect();
        if signing.is_empty() {
            return Ok(Self::default());
        }
        let step =
            progress.step("", "prepare the root of trust and an intermediate for each primary");
        let (source, folder) = (file.root_ca.clone(), folder.to_owned());
        let root = tokio::task::spawn_blocking(move || root(&source, &folder)).await??;
        let expected = root.fingerprint();
        let installed = try_join_all(signing.iter().map(|plan| async {
            match access.get(&plan.name) {
                Some(access) => installed_root(&access.cluster).await,
                None => Ok(None),
            }
        }))
        .await?;
        let mut missing = Vec::new();
        for (plan, installed) in signing.into_iter().zip(installed) {
            match installed {
                Some(Installed::PluggedIn(found)) if found != expected => {
                    let cluster = plan.name.clone();
                    return Err(TrustError::OtherRoot { cluster, found, expected });
                }
                Some(Installed::Own(found)) if found != expected => {
                    let cluster = plan.name.clone();
                    return Err(TrustError::OwnRoot { cluster, found, expected });
                }
                Some(Installed::PluggedIn(_)) => (),
                Some(Installed::Own(_)) | None => missing.push(plan.name.clone()),
            }
        }
        let secrets = tokio::task::spawn_blocking(move || issue(&root, missing)).await??;
        step.done(&format!("root {expected}"));
        Ok(Self { secrets })
    }

    /// The secret that a cluster still needs.
    pub fn cacerts(&self, cluster: &str) -> Option<&Object> {
        self.secrets.get(cluster)
    }
}

/// Checks that a root which the mesh file names can be used, before anything is touched.
///
/// # Errors
/// When a file cannot be read, or the two are no certificate and key of an authority.
pub fn check(source: &RootCa) -> Result<(), TrustError> {
    match source {
        RootCa::SelfSigned => Ok(()),
        RootCa::Files { .. } => root(source, Path::new("")).map(drop),
    }
}

/// The mesh's root: from the files that the mesh file names, or the one made before, or a new one.
fn root(source: &RootCa, folder: &Path) -> Result<Root, TrustError> {
    let (certificate, key) = match source {
        RootCa::Files { certificate, key } => (certificate.clone(), key.clone()),
        RootCa::SelfSigned => (folder.join("root-cert.pem"), folder.join("root-key.pem")),
    };
    // A root whose key is gone must not be followed by another one in silence.
    if *source == RootCa::SelfSigned && !certificate.exists() {
        return Ok(Folder::new(folder).root(&Settings::root())?);
    }
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|source| TrustError::File {
            verb: "read",
            path: path.to_owned(),
            source,
        })
    };
    let (certificate_pem, key_pem) = (read(&certificate)?, read(&key)?);
    Root::from_pem(&certificate_pem, &key_pem)
        .map_err(|source| TrustError::Root { path: certificate, source })
}

/// Makes all intermediates at once: RSA keys take their time.
fn issue(root: &Root, clusters: Vec<String>) -> Result<BTreeMap<String, Object>, TrustError> {
    std::thread::scope(|scope| {
        let issuing: Vec<_> = clusters
            .iter()
            .map(|cluster| scope.spawn(|| root.intermediate(cluster, &Settings::intermediate())))
            .collect();
        clusters
            .iter()
            .zip(issuing)
            .map(|(cluster, thread)| {
                let made = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                let made = made.map_err(|source| TrustError::Intermediate {
                    cluster: cluster.clone(),
                    source,
                })?;
                Ok((cluster.clone(), secret(&made)))
            })
            .collect()
    })
}

fn secret(intermediate: &Intermediate) -> Object {
    let data: Map<String, Value> = intermediate
        .cacerts()
        .iter()
        .map(|(name, pem)| ((*name).to_owned(), Value::String(pem.as_str().to_owned())))
        .collect();
    Object::new(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "cacerts", "namespace": NAMESPACE},
        "stringData": data,
    }))
}

/// The fingerprint of the root that a cluster's control plane signs under, by where it is from.
enum Installed {
    /// Of `cacerts`, which wins.
    PluggedIn(String),
    /// Of the authority that the control plane made for itself, as one without `cacerts` does. It
    /// looks for `cacerts` only when it starts.
    Own(String),
}

/// What a cluster's control plane signs with, if there is anything yet.
async fn installed_root(cluster: &Cluster) -> Result<Option<Installed>, TrustError> {
    if let Some(root) = root_of(cluster, "cacerts", &["root-cert.pem", "ca.crt"]).await? {
        return Ok(Some(Installed::PluggedIn(root)));
    }
    let own = root_of(cluster, "istio-ca-secret", &["root-cert.pem", "ca-cert.pem"]).await?;
    Ok(own.map(Installed::Own))
}

/// The fingerprint of the root in a secret's first field that is not empty.
async fn root_of(
    cluster: &Cluster,
    secret: &'static str,
    fields: &[&str],
) -> Result<Option<String>, TrustError> {
    let api: Api<Secret> = cluster.namespaced(NAMESPACE);
    let found = api
        .get_opt(secret)
        .await
        .map_err(|error| cluster.failed("get", format!("Secret/{NAMESPACE}/{secret}"), error))?;
    let Some(found) = found else { return Ok(None) };
    let missing = || TrustError::NoRoot { cluster: cluster.name().to_owned(), secret };
    let data = found.data.unwrap_or_default();
    let texts = fields.iter().filter_map(|field| std::str::from_utf8(&data.get(*field)?.0).ok());
    let pem = texts.into_iter().find(|text| !text.is_empty()).ok_or_else(missing)?;
    let certificates = x509::certificates(pem).map_err(|_| missing())?;
    certificates.first().map(|root| Some(x509::fingerprint(root))).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let first = root(&RootCa::SelfSigned, folder.path()).unwrap();
        let again = root(&RootCa::SelfSigned, folder.path()).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        let named = RootCa::Files {
            certificate: folder.path().join("root-cert.pem"),
            key: folder.path().join("root-key.pem"),
        };
        assert_eq!(
            root(&named, Path::new("/nonexistent")).unwrap().fingerprint(),
            first.fingerprint()
        );
    }
}
