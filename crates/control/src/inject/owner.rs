//! Which workload a pod belongs to: the Deployment behind its ReplicaSet, and so on.

use serde_json::Value;

/// The workload that made a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub name: String,
    /// `kubernetes://apis/apps/v1/namespaces/ns/deployments/name`.
    pub uri: String,
}

impl Owner {
    pub(crate) fn of(pod: &Value, namespace: &str) -> Self {
        let (version, kind, name) = workload(pod);
        let uri = format!(
            "kubernetes://apis/{version}/namespaces/{namespace}/{}s/{name}",
            kind.to_ascii_lowercase()
        );
        Self { name, uri }
    }
}

fn workload(pod: &Value) -> (String, String, String) {
    let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let is_controller = |owner: &&Value| owner.get("controller") == Some(&Value::Bool(true));
    let text = |value: &Value, key: &str| {
        value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let Some(owner) = owners.and_then(|owners| owners.iter().find(is_controller)) else {
        return ("v1".into(), "Pod".into(), pod_name(pod));
    };
    let (version, kind, name) =
        (text(owner, "apiVersion"), text(owner, "kind"), text(owner, "name"));
    match kind.as_str() {
        "ReplicaSet" => {
            // A Deployment's ReplicaSet is named after it and the hash its pods carry.
            let hash = pod.pointer("/metadata/labels/pod-template-hash").and_then(Value::as_str);
            let suffix = hash.map(|hash| format!("-{hash}"));
            match suffix.as_deref().and_then(|suffix| name.strip_suffix(suffix)) {
                Some(deployment) => (version, "Deployment".into(), deployment.to_owned()),
                None => (version, kind, name),
            }
        }
        "Job" => {
            // A CronJob's jobs are named after it and the minute of their start.
            let cron = name.rsplit_once('-').filter(|(_, minute)| {
                minute.len() >= 8 && minute.chars().all(|c| c.is_ascii_digit())
            });
            match cron {
                Some((cron, _)) => (version, "CronJob".into(), cron.to_owned()),
                None => (version, kind, name),
            }
        }
        _ => (version, kind, name),
    }
}

fn pod_name(pod: &Value) -> String {
    let text = |key: &str| pod.pointer(&format!("/metadata/{key}")).and_then(Value::as_str);
    text("name")
        .map(str::to_owned)
        .or_else(|| text("generateName").map(|name| name.trim_end_matches('-').to_owned()))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_workload_behind_a_pod_is_found() {
        let pod = |version: &str, kind: &str, name: &str| {
            json!({"metadata": {
                "labels": {"pod-template-hash": "5d8f"},
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": "n"},
                    {"apiVersion": version, "kind": kind, "name": name, "controller": true},
                ],
            }})
        };
        let owner = |pod: &Value| {
            let Owner { name, uri } = Owner::of(pod, "sample");
            (name, uri.trim_start_matches("kubernetes://apis/").to_owned())
        };
        let want = |name: &str, uri: &str| (name.to_owned(), uri.to_owned());
        assert_eq!(
            owner(&pod("apps/v1", "ReplicaSet", "hello-5d8f")),
            want("hello", "apps/v1/namespaces/sample/deployments/hello")
        );
        assert_eq!(
            owner(&pod("apps/v1", "ReplicaSet", "own")),
            want("own", "apps/v1/namespaces/sample/replicasets/own")
        );
        assert_eq!(
            owner(&pod("batch/v1", "Job", "nightly-28012345")),
            want("nightly", "batch/v1/namespaces/sample/cronjobs/nightly")
        );
        assert_eq!(
            owner(&json!({"metadata": {"generateName": "lone-"}})),
            want("lone", "v1/namespaces/sample/pods/lone")
        );
    }
}
