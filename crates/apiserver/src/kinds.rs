//! What is special about single kinds when they are written: what the server owns, when the
//! generation counts up, who may go when.

use serde_json::{Value, json};

use crate::defaults::TEMPLATE_GENERATION;
use crate::object;
use crate::operation::Operation;
use crate::resources::ResourceType;
use crate::status::Status;

pub mod services;

/// Kinds whose `metadata.generation` counts changes of the spec.
const COUNTED: &[&str] = &[
    "apps/daemonsets",
    "apps/deployments",
    "apps/replicasets",
    "apps/statefulsets",
    "batch/cronjobs",
    "batch/jobs",
    "policy/poddisruptionbudgets",
    "networking.k8s.io/ingresses",
    "networking.k8s.io/ingressclasses",
    "networking.k8s.io/networkpolicies",
    "/replicationcontrollers",
    "/pods",
    "/podtemplates",
    "discovery.k8s.io/endpointslices",
    "scheduling.k8s.io/priorityclasses",
    "apiextensions.k8s.io/customresourcedefinitions",
    "admissionregistration.k8s.io/mutatingwebhookconfigurations",
    "admissionregistration.k8s.io/validatingwebhookconfigurations",
];
/// Kinds whose deletion answers with the object instead of a `Status`.
const RETURN_DELETED: &[&str] = &[
    "/namespaces",
    "/persistentvolumeclaims",
    "/persistentvolumes",
    "/pods",
    "/podtemplates",
    "/resourcequotas",
    "/serviceaccounts",
    "/services",
    "node.k8s.io/runtimeclasses",
    "storage.k8s.io/csidrivers",
    "storage.k8s.io/csinodes",
    "storage.k8s.io/storageclasses",
    "storage.k8s.io/volumeattachments",
];
const CREATED_BY_UPDATE: &[&str] = &[
    "/endpoints",
    "/events",
    "/limitranges",
    "/services",
    "coordination.k8s.io/leases",
    "node.k8s.io/runtimeclasses",
    "rbac.authorization.k8s.io/clusterrolebindings",
    "rbac.authorization.k8s.io/clusterroles",
    "rbac.authorization.k8s.io/rolebindings",
    "rbac.authorization.k8s.io/roles",
];
const NEVER_UNCONDITIONAL: &[&str] = &[
    "admissionregistration.k8s.io/mutatingwebhookconfigurations",
    "admissionregistration.k8s.io/validatingwebhookconfigurations",
    "apiextensions.k8s.io/customresourcedefinitions",
    "apiregistration.k8s.io/apiservices",
    "coordination.k8s.io/leases",
    "node.k8s.io/runtimeclasses",
    "policy/poddisruptionbudgets",
    "storage.k8s.io/csidrivers",
    "storage.k8s.io/csinodes",
    "storage.k8s.io/csistoragecapacities",
    "storage.k8s.io/volumeattachments",
];
/// Grace period of pods that name none.
const POD_GRACE: i64 = 30;

/// Whether PUT of an absent object creates it.
pub fn may_create_by_update(resource: &ResourceType) -> bool {
    CREATED_BY_UPDATE.contains(&resource.storage.as_str())
}

/// Whether an update need not name the version it replaces.
pub fn may_update_unconditionally(resource: &ResourceType) -> bool {
    resource.custom.is_none() && !NEVER_UNCONDITIONAL.contains(&resource.storage.as_str())
}

/// Whether the answer to a deletion is the object itself.
pub fn returns_deleted(resource: &ResourceType) -> bool {
    RETURN_DELETED.contains(&resource.storage.as_str())
}

/// Whether the garbage collector's finalizers apply. Events are not collected.
pub fn is_garbage_collected(resource: &ResourceType) -> bool {
    resource.storage != "/events"
}

/// Whether dependents stay when a deletion does not say what becomes of them.
pub fn orphans_by_default(resource: &ResourceType) -> bool {
    matches!(resource.storage.as_str(), "batch/jobs" | "/replicationcontrollers")
}

fn has_generation(resource: &ResourceType) -> bool {
    resource.custom.is_some() || COUNTED.contains(&resource.storage.as_str())
}

fn has_status(resource: &ResourceType) -> bool {
    resource.subresource("status").is_some()
}

/// Settles what a client cannot choose for a new object.
pub fn prepare_create(resource: &ResourceType, value: &mut Value) {
    if has_generation(resource) {
        object::set_meta(value, "generation", 1);
    }
    if has_status(resource)
        && !matches!(resource.storage.as_str(), "/nodes" | "apiregistration.k8s.io/apiservices")
    {
        match first_status(resource, value) {
            Value::Null => drop(object::remove(value, "status")),
            status => value["status"] = status,
        }
    }
    match resource.storage.as_str() {
        "/namespaces" => prepare_namespace(value),
        "/nodes" => taint_new_node(value),
        _ => (),
    }
}

/// The status a new object starts with.
fn first_status(resource: &ResourceType, value: &Value) -> Value {
    match resource.storage.as_str() {
        crate::crd::definition::STORAGE => crate::crd::definition::first_status(value),
        "/pods" => json!({"phase": "Pending", "qosClass": crate::defaults::pods::qos_class(value)}),
        "/namespaces" => json!({"phase": "Active"}),
        "/services" => json!({"loadBalancer": {}}),
        "/persistentvolumeclaims" | "/persistentvolumes" => json!({"phase": "Pending"}),
        "apps/deployments"
        | "/resourcequotas"
        | "batch/jobs"
        | "batch/cronjobs"
        | "certificates.k8s.io/certificatesigningrequests" => json!({}),
        "networking.k8s.io/ingresses" => json!({"loadBalancer": {}}),
        "apps/replicasets" | "/replicationcontrollers" => json!({"replicas": 0}),
        "apps/statefulsets" => json!({"availableReplicas": 0, "replicas": 0}),
        "apps/daemonsets" => json!({
            "currentNumberScheduled": 0,
            "numberMisscheduled": 0,
            "desiredNumberScheduled": 0,
            "numberReady": 0,
        }),
        "policy/poddisruptionbudgets" => json!({
            "disruptionsAllowed": 0,
            "currentHealthy": 0,
            "desiredHealthy": 0,
            "expectedPods": 0,
        }),
        "autoscaling/horizontalpodautoscalers" => {
            json!({"currentMetrics": null, "desiredReplicas": 0})
        }
        _ => Value::Null,
    }
}

/// New nodes take no pods before they are known to be ready.
fn taint_new_node(value: &mut Value) {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let taints = object::child(value, "spec").entry("taints").or_insert_with(|| json!([]));
    if let Some(taints) = taints.as_array_mut()
        && !taints.iter().any(|h| h["key"] == taint["key"] && h["effect"] == taint["effect"])
    {
        taints.push(taint);
    }
}

fn prepare_namespace(value: &mut Value) {
    let spec = object::child(value, "spec");
    let list = spec.entry("finalizers").or_insert(json!([]));
    if let Some(list) = list.as_array_mut()
        && !list.iter().any(|have| have == "kubernetes")
    {
        list.push("kubernetes".into());
    }
}

/// `DaemonSets` still count changes of their template in an annotation.
fn count_templates(new: &mut Value, old: &Value) {
    let before = object::entry(old, "annotations", TEMPLATE_GENERATION);
    let mut count: i64 = before.and_then(|text| text.parse().ok()).unwrap_or(1);
    if new["spec"]["template"] != old["spec"]["template"] {
        count += 1;
    }
    let metadata = object::meta_mut(new);
    object::as_map(metadata.entry("annotations").or_insert_with(|| json!({})))
        .insert(TEMPLATE_GENERATION.to_owned(), count.to_string().into());
}

/// Settles what a client cannot change: the status through the object, the rest through the status.
pub fn prepare_update(resource: &ResourceType, sub: &str, new: &mut Value, old: &Value) {
    match sub {
        "" => prepare_main_update(resource, new, old),
        "status" => prepare_status_update(resource, new, old),
        "finalize" => prepare_finalize(new, old),
        "ephemeralcontainers" | "resize" => prepare_pod_part(sub, new, old),
        "approval" => prepare_approval(new, old),
        _ => (),
    }
    if has_generation(resource) && !matches!(sub, "status" | "binding" | "approval") {
        let mut generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        if counts(resource, new) != counts(resource, old) {
            generation += 1;
        }
        object::set_meta(new, "generation", generation);
    }
}

fn prepare_main_update(resource: &ResourceType, new: &mut Value, old: &Value) {
    let keeps_status =
        has_status(resource) && resource.storage != "apiregistration.k8s.io/apiservices";
    if keeps_status {
        copy(new, old, "status");
    }
    match resource.storage.as_str() {
        // Only `finalize` changes these.
        "/namespaces" => {
            let finalizers = old["spec"]["finalizers"].clone();
            object::child(new, "spec").insert("finalizers".to_owned(), finalizers);
        }
        "apps/daemonsets" => count_templates(new, old),
        "/secrets" if new["type"].as_str().unwrap_or_default().is_empty() => {
            new["type"] = old["type"].clone();
        }
        _ => (),
    }
}

fn prepare_status_update(resource: &ResourceType, new: &mut Value, old: &Value) {
    if resource.custom.is_some() {
        let status = new["status"].clone();
        let managed = new["metadata"]["managedFields"].clone();
        let version = new["metadata"]["resourceVersion"].clone();
        *new = old.clone();
        match status {
            Value::Null => drop(object::remove(new, "status")),
            status => new["status"] = status,
        }
        object::set_meta(new, "managedFields", managed);
        object::set_meta(new, "resourceVersion", version);
        return;
    }
    copy(new, old, "spec");
    match resource.storage.as_str() {
        "apps/deployments" | "apps/replicasets" | "apps/statefulsets" | "apps/daemonsets" => {
            let labels = old["metadata"]["labels"].clone();
            object::set_meta(new, "labels", labels);
        }
        "/pods" => {
            let owners = old["metadata"]["ownerReferences"].clone();
            object::set_meta(new, "ownerReferences", owners);
            if let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) {
                let class = old["status"]["qosClass"].clone();
                if !class.is_null() {
                    object::default(status, "qosClass", class);
                }
            }
        }
        _ => (),
    }
}

/// `finalize` changes only the finalizers in a namespace's spec.
fn prepare_finalize(new: &mut Value, old: &Value) {
    let finalizers = new["spec"]["finalizers"].clone();
    let managed = new["metadata"]["managedFields"].clone();
    *new = old.clone();
    let finalizers = if finalizers.is_null() { json!([]) } else { finalizers };
    let spec = object::child(new, "spec");
    if finalizers.as_array().is_some_and(Vec::is_empty) {
        spec.remove("finalizers");
    } else {
        spec.insert("finalizers".to_owned(), finalizers);
    }
    object::set_meta(new, "managedFields", managed);
}

/// Some subresources of pods change one part of the containers.
fn prepare_pod_part(sub: &str, new: &mut Value, old: &Value) {
    let wanted = new.clone();
    *new = old.clone();
    object::set_meta(new, "managedFields", wanted["metadata"]["managedFields"].clone());
    if sub == "ephemeralcontainers" {
        copy(&mut new["spec"], &wanted["spec"], "ephemeralContainers");
        return;
    }
    for list in ["containers", "initContainers"] {
        for container in
            new["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten()
        {
            let all = wanted["spec"][list].as_array().into_iter().flatten();
            if let Some(same) = all.into_iter().find(|have| have["name"] == container["name"]) {
                copy(container, same, "resources");
            }
        }
    }
}

/// `approval` changes only the conditions of a certificate request.
fn prepare_approval(new: &mut Value, old: &Value) {
    let wanted = new.clone();
    *new = old.clone();
    object::set_meta(new, "managedFields", wanted["metadata"]["managedFields"].clone());
    object::child(new, "status")
        .insert("conditions".to_owned(), wanted["status"]["conditions"].clone());
}

fn copy(new: &mut Value, old: &Value, field: &str) {
    match old.get(field) {
        None => drop(object::remove(new, field)),
        Some(value) => new[field] = value.clone(),
    }
}

/// The parts whose change counts the generation up.
fn counts(resource: &ResourceType, value: &Value) -> Value {
    if resource.custom.is_none() && value.get("spec").is_some() {
        return value["spec"].clone();
    }
    let mut rest = value.clone();
    object::remove(&mut rest, "metadata");
    // Without a status subresource the status of a custom resource is like any other field.
    if has_status(resource) {
        object::remove(&mut rest, "status");
    }
    rest
}

/// Whether an object that is being deleted has nothing left to wait for.
pub fn may_go(value: &Value) -> bool {
    let grace = value["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    object::is_deleting(value)
        && grace == 0
        && object::finalizers(value).is_empty()
        && (value["kind"] != "Namespace"
            || object::strings(&value["spec"]["finalizers"]).is_empty())
}

/// Whether a namespace still has its own kind of finalizers.
pub fn has_spec_finalizers(resource: &ResourceType, value: &Value) -> bool {
    resource.storage == "/namespaces" && !object::strings(&value["spec"]["finalizers"]).is_empty()
}

/// What else changes when an object begins to go.
pub fn mark_deleting(resource: &ResourceType, value: &mut Value) {
    if resource.storage == "/namespaces" {
        object::child(value, "status").insert("phase".to_owned(), "Terminating".into());
    }
}

/// The grace period of a deletion, for kinds that have one.
pub fn grace_period(resource: &ResourceType, value: &Value, asked: Option<i64>) -> Option<i64> {
    if resource.storage != "/pods" {
        return None;
    }
    let unscheduled = value["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let ended = matches!(value["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unscheduled || ended {
        return Some(0);
    }
    let own = value["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(POD_GRACE);
    Some(asked.unwrap_or(if own < 0 { 1 } else { own }))
}

/// What holds shared numbers reserved until an object that uses them is stored.
pub type Allocation = Option<tokio::sync::OwnedMutexGuard<()>>;

/// Gives an object what must be unique in the cluster, such as a Service's address.
///
/// # Errors
/// When a wanted value is taken or none is left.
pub async fn allocate(
    operation: &Operation,
    new: &mut Value,
    old: Option<&Value>,
) -> Result<Allocation, Status> {
    if operation.resource.storage != "/services" || !operation.subresource().is_empty() {
        return Ok(None);
    }
    let guard = std::sync::Arc::clone(&operation.api.services).lock_owned().await;
    services::allocate(operation, new, old)?;
    Ok(Some(guard))
}
