//! Injection into manifests: workloads' pod templates get a proxy, everything else stays as it
//! is written, comments and order included.

use serde_json::{Value, json};

use crate::inject::{Injector, Place, Refused, Request};

/// Why a manifest could not be injected.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("document {0} of the manifest is not YAML")]
    Yaml(usize, #[source] serde_saphyr::Error),
    #[error("document {0} cannot be written as YAML")]
    Write(usize, #[source] serde_saphyr::ser::Error),
    #[error("inject {object}")]
    Refused { object: String, source: Refused },
}

/// What a manifest is injected for.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The namespace of objects that leave it open.
    pub namespace: &'a str,
    pub place: &'a Place,
    /// Whether the cluster's nodes know native sidecars.
    pub native: bool,
}

impl Injector<'_> {
    /// The manifest with proxies injected.
    ///
    /// # Errors
    /// When a document is not YAML, or a workload asks for something that cannot be.
    pub fn inject_manifest(
        &self,
        text: &str,
        setting: &Setting<'_>,
    ) -> Result<String, ManifestError> {
        let mut out = String::new();
        for (i, document) in documents(text).into_iter().enumerate() {
            let value: Value = serde_saphyr::from_str(document)
                .map_err(|error| ManifestError::Yaml(i + 1, error))?;
            if i > 0 {
                out.push_str("---\n");
            }
            match self.inject_object(&value, setting)? {
                None => out.push_str(document),
                Some(injected) => {
                    let text = serde_saphyr::to_string(&injected)
                        .map_err(|error| ManifestError::Write(i + 1, error))?;
                    out.push_str(&text);
                }
            }
            if !out.ends_with('\n') && !out.is_empty() {
                out.push('\n');
            }
        }
        Ok(out)
    }

    /// The object with proxies in its pods; none when nothing changes.
    ///
    /// # Errors
    /// When a workload asks for something that cannot be.
    pub fn inject_object(
        &self,
        object: &Value,
        setting: &Setting<'_>,
    ) -> Result<Option<Value>, ManifestError> {
        let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default();
        let kind = text("/kind");
        if kind == "List" {
            return self.inject_list(object, setting);
        }
        let Some(at) = template(text("/apiVersion"), kind) else { return Ok(None) };
        let Some(found) = object.pointer(at).filter(|it| it.get("spec").is_some()) else {
            return Ok(None);
        };
        let namespace = match text("/metadata/namespace") {
            "" => setting.namespace,
            given => given,
        };
        let mut pod = found.clone();
        if !at.is_empty() {
            // Of a template, the proxy has to know whose pods it makes.
            let owner = json!([{
                "apiVersion": text("/apiVersion"), "kind": kind, "name": text("/metadata/name"),
                "controller": true,
            }]);
            crate::inject::object(&mut pod, "metadata").insert("ownerReferences".into(), owner);
        }
        let request =
            Request { pod: &pod, namespace, place: setting.place, native: setting.native };
        let injected = self.inject(&request).map_err(|source| ManifestError::Refused {
            object: format!("{kind} {namespace}/{}", text("/metadata/name")),
            source,
        })?;
        let Some(mut injected) = injected else { return Ok(None) };
        if !at.is_empty() {
            crate::inject::object(&mut injected, "metadata").remove("ownerReferences");
        }
        let mut object = object.clone();
        if let Some(place) = object.pointer_mut(at) {
            *place = injected;
        }
        Ok(Some(object))
    }

    fn inject_list(
        &self,
        list: &Value,
        setting: &Setting<'_>,
    ) -> Result<Option<Value>, ManifestError> {
        let mut changed = list.clone();
        let mut any = false;
        let items = changed.get_mut("items").and_then(Value::as_array_mut);
        for item in items.into_iter().flatten() {
            if let Some(injected) = self.inject_object(item, setting)? {
                *item = injected;
                any = true;
            }
        }
        Ok(any.then_some(changed))
    }
}

/// Where the pod is in an object of a kind.
fn template(version: &str, kind: &str) -> Option<&'static str> {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Pod") => Some(""),
        ("", "ReplicationController")
        | ("apps" | "extensions", "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet")
        | ("batch", "Job")
        | ("apps.openshift.io", "DeploymentConfig") => Some("/spec/template"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// The documents of a YAML stream, as they are written.
fn documents(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        let is_border = line.trim_end() == "---" || line.starts_with("--- ");
        if is_border {
            documents.push(&text[start..at]);
            start = at + line.len();
        }
        at += line.len();
    }
    documents.push(&text[start..]);
    let is_empty = |it: &&str| {
        it.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    };
    documents.retain(is_empty);
    documents
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tombolo_crds::mesh_config::MeshConfig;

    use super::*;
    use crate::inject::InjectorConfig;

    const MANIFEST: &str = "\
# what everybody calls
apiVersion: v1
kind: Service
metadata: {name: helloworld}   # kept
spec:
  ports: [{name: http, port: 5000}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: helloworld-v1, namespace: sample}
spec:
  template:
    metadata: {labels: {app: helloworld}}
    spec: {containers: [{name: helloworld, image: hello}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  jobTemplate:
    spec: {template: {spec: {containers: [{name: job, image: job}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: out}
spec:
  template:
    metadata: {labels: {sidecar.istio.io/inject: 'false'}}
    spec: {containers: [{name: out, image: out}]}
";

    fn injected(text: &str) -> Result<String, ManifestError> {
        let data = BTreeMap::from([
            ("config".to_owned(), "policy: enabled\n".to_owned()),
            ("values".to_owned(), json!({"global": {"tomboloImage": "tombolo"}}).to_string()),
        ]);
        let config = InjectorConfig::read(&data).unwrap();
        let mesh = MeshConfig::default();
        let injector = Injector { config: &config, mesh: &mesh, revision: "default" };
        let place = Place::default();
        let setting = Setting { namespace: "default", place: &place, native: false };
        injector.inject_manifest(text, &setting)
    }

    #[test]
    fn templates_get_a_proxy_and_the_rest_stays_as_written() {
        let text = injected(MANIFEST).unwrap();
        let before = documents(MANIFEST);
        let after = documents(&text);
        assert_eq!(after.len(), 4);
        assert_eq!(after[0], before[0], "comments and form of what is not injected are kept");
        assert_eq!(after[3], before[3]);
        let read = |text: &str| -> Value { serde_saphyr::from_str(text).unwrap() };
        let names = |template: &Value| -> Vec<String> {
            let all = template.pointer("/spec/containers").and_then(Value::as_array).unwrap();
            all.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
        };
        let deployment = read(after[1]);
        assert!(names(&deployment["spec"]["template"]).contains(&"istio-proxy".to_owned()));
        assert!(deployment.pointer("/spec/template/metadata/ownerReferences").is_none());
        let proxy = serde_json::to_string(&deployment).unwrap();
        assert!(proxy.contains("apis/apps/v1/namespaces/sample/deployments/helloworld-v1"));
        let cron = read(after[2]);
        let template = &cron["spec"]["jobTemplate"]["spec"]["template"];
        assert!(names(template).contains(&"istio-proxy".to_owned()));
        assert_eq!(injected(&text).unwrap(), text, "a second run changes nothing");
    }

    #[test]
    fn lists_are_injected_inside_and_mistakes_are_named() {
        let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a}]}}\n- {apiVersion: v1, kind: Namespace, metadata: {name: n}}\n";
        assert!(injected(list).unwrap().contains("istio-proxy"));
        let broken = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {status.sidecar.istio.io/port: many}}\nspec: {containers: [{name: a}]}\n";
        assert_eq!(injected(broken).unwrap_err().to_string(), "inject Pod default/a");
        assert_eq!(
            injected("a: [").unwrap_err().to_string(),
            "document 1 of the manifest is not YAML"
        );
    }
}
