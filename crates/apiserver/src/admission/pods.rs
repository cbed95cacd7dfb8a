//! What the server adds to new pods: service account and token, tolerations, priority.

use serde_json::{Value, json};

use crate::names::random_suffix;
use crate::object::{self, child, default};
use crate::operation::Operation;
use crate::status::Status;
use crate::store::Key;

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What the name of a token's volume starts with.
const VOLUME: &str = "kube-api-access-";
/// How long a pod's token lasts, as kube-apiserver asks for.
const TOKEN_SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";
const EVICTION_SECONDS: i64 = 300;

/// Admits a new pod.
///
/// # Errors
/// 403 when its service account or priority class does not exist.
pub fn admit(operation: &Operation, pod: &mut Value) -> Result<(), Status> {
    if object::entry(pod, "annotations", MIRROR).is_none() {
        service_account(operation, pod)?;
    }
    priority(operation, pod)?;
    tolerations(pod);
    Ok(())
}

fn service_account(operation: &Operation, pod: &mut Value) -> Result<(), Status> {
    let name = object::name(pod).to_owned();
    let namespace = operation.call.info.namespace.clone();
    let spec = child(pod, "spec");
    let account = spec.get("serviceAccountName").and_then(Value::as_str).unwrap_or_default();
    let account = if account.is_empty() { "default" } else { account }.to_owned();
    spec.insert("serviceAccountName".to_owned(), account.clone().into());
    spec.insert("serviceAccount".to_owned(), account.clone().into());
    let key = Key::new("/serviceaccounts", &namespace, &account);
    let Some(stored) = operation.api.store.get(&key) else {
        let why = format!(
            "error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found"
        );
        return Err(operation.forbidden(&name, why));
    };
    let automount = spec
        .get("automountServiceAccountToken")
        .and_then(Value::as_bool)
        .or_else(|| stored.value["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if automount {
        mount_token(spec);
    }
    let pull_secrets = stored.value["imagePullSecrets"].clone();
    if spec.get("imagePullSecrets").is_none() && !pull_secrets.is_null() {
        spec.insert("imagePullSecrets".to_owned(), pull_secrets);
    }
    Ok(())
}

fn mount_token(spec: &mut serde_json::Map<String, Value>) {
    // Asked again after webhooks added containers: the volume is there then.
    let known = spec
        .get("volumes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|volume| volume["name"].as_str())
        .find(|name| name.starts_with(VOLUME))
        .map(str::to_owned);
    let is_new = known.is_none();
    let volume = known.unwrap_or_else(|| format!("{VOLUME}{}", random_suffix()));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().any(|mount| mount["mountPath"] == TOKEN_PATH) {
                continue;
            }
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}));
            used = true;
        }
    }
    if !used || !is_new {
        return;
    }
    let projected = json!({
        "defaultMode": 420,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {
                "name": "kube-root-ca.crt",
                "items": [{"key": "ca.crt", "path": "ca.crt"}],
            }},
            {"downwardAPI": {"items": [{
                "path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
            }]}},
        ],
    });
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.push(json!({"name": volume, "projected": projected}));
    }
}

fn priority(operation: &Operation, pod: &mut Value) -> Result<(), Status> {
    let name = object::name(pod).to_owned();
    let spec = child(pod, "spec");
    let class =
        spec.get("priorityClassName").and_then(Value::as_str).unwrap_or_default().to_owned();
    const CLASSES: &str = "scheduling.k8s.io/priorityclasses";
    let store = &operation.api.store;
    let found = if class.is_empty() {
        let list = store.list(CLASSES, None);
        list.objects.into_iter().find(|stored| stored.value["globalDefault"] == true)
    } else {
        let stored = store.get(&Key::new(CLASSES, "", &class));
        if stored.is_none() {
            let why = format!("no PriorityClass with name {class} was found");
            return Err(operation.forbidden(&name, why));
        }
        stored
    };
    let (value, policy) = match &found {
        Some(stored) => {
            if class.is_empty() {
                spec.insert("priorityClassName".to_owned(), stored.key.name.clone().into());
            }
            (stored.value["value"].clone(), stored.value["preemptionPolicy"].clone())
        }
        None => (json!(0), Value::Null),
    };
    if let Some(wanted) = spec.get("priority").filter(|wanted| **wanted != value) {
        let why = format!(
            "the integer value of priority ({wanted}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(operation.forbidden(&name, why));
    }
    spec.insert("priority".to_owned(), value);
    let policy = if policy.is_null() { json!("PreemptLowerPriority") } else { policy };
    default(spec, "preemptionPolicy", policy);
    Ok(())
}

/// Pods stay a while on a node that is not ready or cannot be reached.
fn tolerations(pod: &mut Value) {
    let spec = child(pod, "spec");
    let list = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = list.iter().any(|have| {
            let is_key = have["key"] == key || have["key"].as_str().unwrap_or_default().is_empty();
            let is_effect = have["effect"] == "NoExecute"
                || have["effect"].as_str().unwrap_or_default().is_empty();
            is_key && is_effect
        });
        if !tolerated {
            list.push(json!({
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": EVICTION_SECONDS,
            }));
        }
    }
}
