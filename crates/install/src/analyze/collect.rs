//! Reads what is analyzed: objects of clusters, remote secrets, files.
//!
//! Remote kubeconfigs are only found here; who opens them decides what of them is allowed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::analyze::world::{ClusterObjects, World};
use crate::cluster::{CallError, Cluster};
use crate::object::{ManifestError, Object, read_manifest};

/// The label of secrets that link clusters.
const LINK: &str = "istio/multiCluster=true";

/// The kinds that analyzers look at.
const KINDS: &[(&str, &str)] = &[
    ("v1", "Namespace"),
    ("v1", "Service"),
    ("v1", "Pod"),
    ("v1", "Secret"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "DaemonSet"),
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
    ("networking.istio.io/v1", "VirtualService"),
    ("networking.istio.io/v1", "DestinationRule"),
    ("networking.istio.io/v1", "Gateway"),
    ("networking.istio.io/v1", "ServiceEntry"),
    ("networking.istio.io/v1", "Sidecar"),
    ("networking.istio.io/v1", "WorkloadEntry"),
    ("networking.istio.io/v1alpha3", "EnvoyFilter"),
    ("networking.istio.io/v1beta1", "ProxyConfig"),
    ("security.istio.io/v1", "AuthorizationPolicy"),
    ("security.istio.io/v1", "PeerAuthentication"),
    ("security.istio.io/v1", "RequestAuthentication"),
    ("telemetry.istio.io/v1alpha1", "Telemetry"),
    ("extensions.istio.io/v1alpha1", "WasmPlugin"),
];

/// Why files could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is a directory; say -R to read what is below it")]
    Directory { path: PathBuf },
    #[error("read {path}")]
    Manifest { path: PathBuf, source: ManifestError },
}

/// A kubeconfig that a remote secret holds, unread.
#[derive(Clone)]
pub struct Link {
    /// The cluster's name: the key in the secret.
    pub cluster: String,
    pub secret: String,
    pub kubeconfig: Vec<u8>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The kubeconfig holds a token.
        f.debug_struct("Link")
            .field("cluster", &self.cluster)
            .field("secret", &self.secret)
            .finish_non_exhaustive()
    }
}

/// The clusters that remote secrets link, by name.
///
/// # Errors
/// When the secrets cannot be listed.
pub async fn links(cluster: &Cluster, namespace: &str) -> Result<Vec<Link>, CallError> {
    let secrets: Api<Secret> = cluster.namespaced(namespace);
    let list = secrets.list(&ListParams::default().labels(LINK)).await;
    let list =
        list.map_err(|error| cluster.failed("list", format!("Secret/{namespace}"), error))?;
    let mut links = BTreeMap::new();
    for secret in list.items {
        let name = secret.name_any();
        for (cluster, bytes) in secret.data.unwrap_or_default() {
            let link = Link {
                cluster: cluster.clone(),
                secret: format!("{namespace}/{name}"),
                kubeconfig: bytes.0,
            };
            links.entry(cluster).or_insert(link);
        }
    }
    Ok(links.into_values().collect())
}

/// The objects of a cluster. Of Secrets only the names are kept. Kinds that the cluster does not
/// have are empty; kinds that may not be listed are named in `unread`.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn objects(cluster: &Cluster, name: &str) -> Result<ClusterObjects, CallError> {
    let lists = KINDS.iter().map(|(version, kind)| list(cluster, version, kind));
    let mut all = ClusterObjects { name: name.to_owned(), ..ClusterObjects::default() };
    for (found, (_, kind)) in try_join_all(lists).await?.into_iter().zip(KINDS) {
        match found {
            Some(found) => all.objects.extend(found),
            None => all.unread.push((*kind).to_owned()),
        }
    }
    Ok(all)
}

/// The objects of a kind; none where they may not be listed.
async fn list(
    cluster: &Cluster,
    version: &str,
    kind: &str,
) -> Result<Option<Vec<Object>>, CallError> {
    let like = Object::new(json!({"apiVersion": version, "kind": kind}));
    let found = match cluster.list_labelled(&like, "").await {
        Ok(found) => found,
        Err(error) if error.is_forbidden() => return Ok(None),
        Err(error) => return Err(error),
    };
    let object = |object: kube::api::DynamicObject| {
        if kind == "Secret" {
            // What is inside is nobody's business here.
            return Object::new(json!({"apiVersion": version, "kind": kind, "metadata": {
                "name": object.name_any(), "namespace": object.namespace(),
            }}));
        }
        let mut value = serde_json::to_value(&object).unwrap_or_default();
        if let Some(value) = value.as_object_mut() {
            value.insert("apiVersion".to_owned(), version.into());
            value.insert("kind".to_owned(), kind.into());
        }
        Object::new(value)
    };
    Ok(Some(found.into_iter().map(object).collect()))
}

/// The mesh's configuration and its networks, as the control plane's ConfigMap has them; null
/// where there is none.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn mesh(
    cluster: &Cluster,
    namespace: &str,
    revision: &str,
) -> Result<(Value, Value), CallError> {
    let maps: Api<ConfigMap> = cluster.namespaced(namespace);
    let name = if revision.is_empty() || revision == "default" {
        "istio".to_owned()
    } else {
        format!("istio-{revision}")
    };
    let found = maps.get_opt(&name).await;
    let found = found
        .map_err(|error| cluster.failed("get", format!("ConfigMap/{namespace}/{name}"), error))?;
    let data = found.and_then(|map| map.data).unwrap_or_default();
    let read = |key: &str| {
        let text = data.get(key).map(String::as_str).unwrap_or_default();
        serde_saphyr::from_str(text).unwrap_or(Value::Null)
    };
    Ok((read("mesh"), read("meshNetworks")))
}

/// Objects of files, each with the place it was read at.
///
/// # Errors
/// When a file cannot be read, is no manifest, or is a directory and `recursive` is not asked.
pub fn files(paths: &[PathBuf], recursive: bool) -> Result<Vec<(Object, String)>, FilesError> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            read_directory(path, recursive, &mut found)?;
        } else {
            read_file(path, &mut found)?;
        }
    }
    Ok(found)
}

fn read_directory(
    path: &Path,
    recursive: bool,
    found: &mut Vec<(Object, String)>,
) -> Result<(), FilesError> {
    let failed = |source| FilesError::Read { path: path.to_owned(), source };
    let entries = std::fs::read_dir(path).map_err(failed)?;
    let mut entries =
        entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    entries.sort();
    for entry in entries {
        let is_manifest =
            entry.extension().is_some_and(|it| it == "yaml" || it == "yml" || it == "json");
        if entry.is_dir() && recursive {
            read_directory(&entry, recursive, found)?;
        } else if entry.is_file() && is_manifest {
            read_file(&entry, found)?;
        }
    }
    Ok(())
}

fn read_file(path: &Path, found: &mut Vec<(Object, String)>) -> Result<(), FilesError> {
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    let text = text.map_err(|source| FilesError::Read { path: path.to_owned(), source })?;
    let objects = read_manifest(&text)
        .map_err(|source| FilesError::Manifest { path: path.to_owned(), source })?;
    for object in objects {
        let place = format!("{}:{}", path.display(), line_of(&text, &object));
        found.push((object, place));
    }
    Ok(())
}

/// The line at which an object's name stands; 1 where it is written in an unusual way.
fn line_of(text: &str, object: &Object) -> usize {
    let name = format!("name: {}", object.name());
    let named = |line: &str| {
        let line = line.replace(['"', '\''], "");
        line.split_once(&name).is_some_and(|(_, rest)| {
            rest.chars().next().is_none_or(|c| matches!(c, ',' | '}' | ' '))
        })
    };
    let mut is_kind = false;
    for (i, line) in text.lines().enumerate() {
        if line.trim_end() == "---" {
            is_kind = false;
        }
        is_kind |= line.contains(&format!("kind: {}", object.kind()));
        if is_kind && named(line) {
            return i + 1;
        }
    }
    1
}

/// Lays objects of files over those of the first cluster: what has the same name is replaced.
/// Returns where each object was read.
pub fn lay_over(
    world: &mut World,
    files: Vec<(Object, String)>,
    namespace: &str,
) -> BTreeMap<String, String> {
    if world.clusters.is_empty() {
        world.clusters.push(ClusterObjects::default());
    }
    let mut places = BTreeMap::new();
    for (mut object, place) in files {
        object.default_namespace(namespace);
        places.insert(object.reference(), place);
        let reference = object.reference();
        if let Some(own) = world.clusters.first_mut() {
            own.objects.retain(|known| known.reference() != reference);
            own.objects.push(object);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_found_at_the_line_of_its_name() {
        let text = "kind: Service\nmetadata:\n  name: lost-2\n---\nkind: Gateway\nmetadata: {name: lost}\n";
        let objects = |kind, name| Object::new(json!({"kind": kind, "metadata": {"name": name}}));
        assert_eq!(line_of(text, &objects("Service", "lost-2")), 3);
        assert_eq!(line_of(text, &objects("Gateway", "lost")), 6);
        assert_eq!(line_of(text, &objects("Gateway", "other")), 1);
    }
}
