//! The tutorial's sample: `helloworld` in one version per cluster, and `sleep` as the client.

use std::time::Duration;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::install::InstallError;
use crate::object::{ManifestError, Object, read_manifest};
use crate::progress::Progress;
use crate::wait;

const HELLOWORLD: &str = include_str!("../../../samples/helloworld/helloworld.yaml");
const SLEEP: &str = include_str!("../../../samples/sleep/sleep.yaml");

/// The sample's namespace.
pub const NAMESPACE: &str = "sample";

/// The service account of `helloworld`.
const ACCOUNT: &str = "helloworld";

/// The versions that the manifest has, given to clusters in turn.
const VERSIONS: [&str; 2] = ["v1", "v2"];

/// The sample's objects for the cluster at `index`, as `kubectl apply -l` would select them.
///
/// # Errors
/// When the built-in manifests do not parse.
pub fn objects(index: usize) -> Result<Vec<Object>, ManifestError> {
    let version = VERSIONS[index % VERSIONS.len()];
    let mut objects = vec![Object::new(serde_json::json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"istio-injection": "enabled"}},
    }))];
    let selected = |object: &Object| {
        object.label("service") == Some("helloworld") || object.label("version") == Some(version)
    };
    objects.push(Object::new(serde_json::json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": ACCOUNT, "labels": {"service": "helloworld"}},
    })));
    let helloworld = read_manifest(HELLOWORLD)?.into_iter().filter(selected);
    objects.extend(helloworld.map(with_account));
    objects.extend(read_manifest(SLEEP)?);
    for object in &mut objects {
        object.default_namespace(NAMESPACE);
    }
    Ok(objects)
}

/// The manifest is Istio's and runs as the namespace's default account. Here it gets one of its
/// own, so that verification can tell its identity from others.
fn with_account(object: Object) -> Object {
    let mut value = object.value().clone();
    if let Some(pod) = value.pointer_mut("/spec/template/spec").and_then(Value::as_object_mut) {
        pod.insert("serviceAccountName".to_owned(), ACCOUNT.into());
    }
    Object::new(value)
}

/// Deploys the sample and waits until its pods are ready.
///
/// # Errors
/// When an object is refused, or the pods do not become ready within `limit`.
pub async fn deploy(
    cluster: &Cluster,
    index: usize,
    limit: Duration,
    progress: &Progress,
) -> Result<(), DeployError> {
    let step = progress.step(cluster.name(), "deploy the sample");
    let objects = objects(index)?;
    for object in &objects {
        cluster.apply(object).await.map_err(InstallError::from)?;
    }
    for object in objects.iter().filter(|object| object.kind() == "Deployment") {
        wait::rolled_out(cluster, NAMESPACE, object.name(), limit, Some(&step))
            .await
            .map_err(InstallError::from)?;
    }
    step.done("");
    Ok(())
}

/// Why the sample is not there.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    #[error("read the built-in sample")]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Install(#[from] InstallError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cluster_gets_one_version_and_the_client() {
        let references = |index| -> Vec<String> {
            objects(index).unwrap().iter().map(Object::reference).collect()
        };
        assert!(references(0).contains(&"Deployment/sample/helloworld-v1".to_owned()));
        assert!(!references(0).contains(&"Deployment/sample/helloworld-v2".to_owned()));
        assert!(references(1).contains(&"Deployment/sample/helloworld-v2".to_owned()));
        for index in [0, 1] {
            for object in
                ["Namespace/sample", "Service/sample/helloworld", "Deployment/sample/sleep"]
            {
                assert!(references(index).contains(&object.to_owned()), "{object}");
            }
            assert!(references(index).contains(&"ServiceAccount/sample/helloworld".to_owned()));
            let account = "/spec/template/spec/serviceAccountName";
            for object in objects(index).unwrap() {
                if object.name().starts_with("helloworld-") {
                    assert_eq!(object.value().pointer(account).unwrap(), "helloworld");
                }
            }
        }
    }
}
