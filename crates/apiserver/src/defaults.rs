//! Default values of built-in kinds. Applied to every body that is read, as Kubernetes does, so
//! that nothing stored lacks them.

use serde_json::{Map, Value, json};

use crate::object::{self, child, default};
use crate::resources::ResourceType;

pub mod pods;

/// Where `DaemonSets` count changes of their template.
pub const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// Fills in what a client left out.
pub fn apply(resource: &ResourceType, value: &mut Value) {
    match resource.storage.as_str() {
        "/pods" => {
            pods::pod(value);
            child(value, "status");
        }
        "/podtemplates" => pods::template(value),
        "/services" => service(value),
        "/secrets" => {
            merge_string_data(value);
            default(object::as_map(value), "type", "Opaque");
        }
        "/namespaces" => namespace(value),
        "/endpoints" => endpoints(value),
        "/nodes" | "/persistentvolumes" | "/persistentvolumeclaims" => volumes(resource, value),
        "/events" => event(value),
        "apps/deployments" => deployment(value),
        "apps/daemonsets" => daemon_set(value),
        "apps/statefulsets" => stateful_set(value),
        "apps/replicasets" => replica_set(value),
        "/replicationcontrollers" => replication_controller(value),
        "batch/jobs" => {
            job_labels(value);
            job(child(value, "spec"));
        }
        "batch/cronjobs" => cron_job(value),
        "autoscaling/horizontalpodautoscalers" => {
            default(child(value, "spec"), "minReplicas", 1);
        }
        "rbac.authorization.k8s.io/rolebindings"
        | "rbac.authorization.k8s.io/clusterrolebindings" => binding(value),
        "discovery.k8s.io/endpointslices" => slice(value),
        "/limitranges" => limits(value),
        "networking.k8s.io/networkpolicies" => network_policy(value),
        "admissionregistration.k8s.io/mutatingwebhookconfigurations" => webhooks(value, true),
        "admissionregistration.k8s.io/validatingwebhookconfigurations" => webhooks(value, false),
        "scheduling.k8s.io/priorityclasses" => {
            default(object::as_map(value), "preemptionPolicy", "PreemptLowerPriority");
        }
        "storage.k8s.io/storageclasses" => {
            default(object::as_map(value), "reclaimPolicy", "Delete");
            default(object::as_map(value), "volumeBindingMode", "Immediate");
        }
        "apiextensions.k8s.io/customresourcedefinitions" => crate::crd::definition::defaults(value),
        _ => (),
    }
}

/// `stringData` is a way to write `data`; it is never shown.
fn merge_string_data(value: &mut Value) {
    use base64::Engine as _;
    let Some(Value::Object(texts)) = object::remove(value, "stringData") else { return };
    let data = child(value, "data");
    for (key, text) in texts {
        let encoded = base64::engine::general_purpose::STANDARD
            .encode(text.as_str().unwrap_or_default().as_bytes());
        data.insert(key, encoded.into());
    }
}

/// The elements of a list, as maps.
pub fn elements<'a>(
    map: &'a mut Map<String, Value>,
    field: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(field)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// The map in a field, if there is one.
pub fn existing<'a>(
    map: &'a mut Map<String, Value>,
    field: &str,
) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(field)?.as_object_mut()
}

/// Like [`default`], where the empty string counts as absent.
pub fn default_text(map: &mut Map<String, Value>, field: &str, value: &str) {
    if map.get(field).is_some_and(|have| have == "") {
        map.remove(field);
    }
    default(map, field, value);
}

fn service(value: &mut Value) {
    let spec = child(value, "spec");
    default_text(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        default(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    } else {
        spec.remove("sessionAffinityConfig");
    }
    default_text(spec, "type", "ClusterIP");
    for port in elements(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let target = port.get("targetPort");
        if target.is_none_or(|target| *target == 0 || *target == "" || target.is_null())
            && let Some(number) = port.get("port").cloned()
        {
            port.insert("targetPort".to_owned(), number);
        }
        if port.get("nodePort").is_some_and(|number| *number == 0) {
            port.remove("nodePort");
        }
    }
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    let external = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external) {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    let status = child(value, "status");
    let balancer = object::as_map(status.entry("loadBalancer").or_insert_with(|| json!({})));
    if kind == "LoadBalancer" {
        for ingress in elements(balancer, "ingress").filter(|ingress| ingress.contains_key("ip")) {
            default(ingress, "ipMode", "VIP");
        }
    }
}

fn namespace(value: &mut Value) {
    let name = object::name(value).to_owned();
    if !name.is_empty() {
        child(child_value(value, "metadata"), "labels")
            .insert("kubernetes.io/metadata.name".to_owned(), name.into());
    }
    child(value, "spec");
    default_text(child(value, "status"), "phase", "Active");
}

fn child_value<'a>(value: &'a mut Value, field: &str) -> &'a mut Value {
    object::as_map(value).entry(field).or_insert_with(|| json!({}))
}

fn endpoints(value: &mut Value) {
    for subset in elements(object::as_map(value), "subsets") {
        for port in elements(subset, "ports") {
            default_text(port, "protocol", "TCP");
        }
    }
}

fn volumes(resource: &ResourceType, value: &mut Value) {
    match resource.storage.as_str() {
        "/nodes" => {
            child(value, "spec");
            let status = child(value, "status");
            if status.get("allocatable").is_none()
                && let Some(capacity) = status.get("capacity").cloned()
            {
                status.insert("allocatable".to_owned(), capacity);
            }
            let ports =
                object::as_map(status.entry("daemonEndpoints").or_insert_with(|| json!({})));
            default(ports, "kubeletEndpoint", json!({"Port": 0}));
        }
        _ => {
            default(child(value, "spec"), "volumeMode", "Filesystem");
            default_text(child(value, "status"), "phase", "Pending");
            if resource.storage == "/persistentvolumes" {
                default(child(value, "spec"), "persistentVolumeReclaimPolicy", "Retain");
            }
        }
    }
}

fn event(value: &mut Value) {
    let map = object::as_map(value);
    for field in ["firstTimestamp", "lastTimestamp", "eventTime"] {
        map.entry(field).or_insert(Value::Null);
    }
    default(map, "source", json!({}));
    default(map, "reportingComponent", "");
    default(map, "reportingInstance", "");
}

fn deployment(value: &mut Value) {
    let spec = child(value, "spec");
    default(spec, "replicas", 1);
    let strategy = object::as_map(spec.entry("strategy").or_insert_with(|| json!({})));
    default_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = object::as_map(strategy.entry("rollingUpdate").or_insert_with(|| json!({})));
        default(rolling, "maxUnavailable", "25%");
        default(rolling, "maxSurge", "25%");
    }
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    pods::template_in(spec);
    child(value, "status");
}

fn daemon_set(value: &mut Value) {
    let metadata = child(value, "metadata");
    let annotations = object::as_map(metadata.entry("annotations").or_insert_with(|| json!({})));
    default(annotations, TEMPLATE_GENERATION, "1");
    let spec = child(value, "spec");
    let strategy = object::as_map(spec.entry("updateStrategy").or_insert_with(|| json!({})));
    default_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = object::as_map(strategy.entry("rollingUpdate").or_insert_with(|| json!({})));
        default(rolling, "maxUnavailable", 1);
        default(rolling, "maxSurge", 0);
    }
    default(spec, "revisionHistoryLimit", 10);
    pods::template_in(spec);
    let status = child(value, "status");
    for field in
        ["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"]
    {
        default(status, field, 0);
    }
}

fn stateful_set(value: &mut Value) {
    let spec = child(value, "spec");
    default_text(spec, "podManagementPolicy", "OrderedReady");
    let strategy = object::as_map(spec.entry("updateStrategy").or_insert_with(|| json!({})));
    if strategy.get("type").is_none() {
        strategy.insert("type".to_owned(), "RollingUpdate".into());
        strategy.entry("rollingUpdate").or_insert_with(|| json!({}));
    }
    if let Some(rolling) = existing(strategy, "rollingUpdate") {
        default(rolling, "partition", 0);
    }
    let retention = spec.entry("persistentVolumeClaimRetentionPolicy").or_insert_with(|| json!({}));
    default(object::as_map(retention), "whenDeleted", "Retain");
    default(object::as_map(retention), "whenScaled", "Retain");
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    for claim in elements(spec, "volumeClaimTemplates") {
        default(claim, "kind", "PersistentVolumeClaim");
        default(claim, "apiVersion", "v1");
        let mut claim_spec = claim.remove("spec").unwrap_or_else(|| json!({}));
        default(object::as_map(&mut claim_spec), "volumeMode", "Filesystem");
        claim.insert("spec".to_owned(), claim_spec);
        let mut status = claim.remove("status").unwrap_or_else(|| json!({}));
        default(object::as_map(&mut status), "phase", "Pending");
        claim.insert("status".to_owned(), status);
    }
    pods::template_in(spec);
    let status = child(value, "status");
    default(status, "replicas", 0);
    default(status, "availableReplicas", 0);
}

fn replica_set(value: &mut Value) {
    let spec = child(value, "spec");
    default(spec, "replicas", 1);
    pods::template_in(spec);
    default(child(value, "status"), "replicas", 0);
}

fn replication_controller(value: &mut Value) {
    let spec = child(value, "spec");
    default(spec, "replicas", 1);
    let labels =
        spec.get("template").map_or(Value::Null, |template| template["metadata"]["labels"].clone());
    if !labels.is_null() {
        default(spec, "selector", labels);
    }
    pods::template_in(spec);
    default(child(value, "status"), "replicas", 0);
}

/// A Job without a selector of its own is told apart by labels that the server adds.
fn job_labels(value: &mut Value) {
    let (uid, name) = (object::uid(value).to_owned(), object::name(value).to_owned());
    let spec = child(value, "spec");
    if uid.is_empty() || spec.get("manualSelector").is_some_and(|manual| *manual == true) {
        return;
    }
    let template = object::as_map(spec.entry("template").or_insert_with(|| json!({})));
    let metadata = object::as_map(template.entry("metadata").or_insert_with(|| json!({})));
    let labels = object::as_map(metadata.entry("labels").or_insert_with(|| json!({})));
    for (key, text) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        default(labels, key, text.clone());
    }
    let labels = labels.clone();
    default(spec, "selector", json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
    let metadata = child(value, "metadata");
    default(metadata, "labels", Value::Object(labels));
}

fn job(spec: &mut Map<String, Value>) {
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        spec.insert("completions".to_owned(), 1.into());
        spec.insert("parallelism".to_owned(), 1.into());
    }
    default(spec, "parallelism", 1);
    default(spec, "backoffLimit", 6);
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "podReplacementPolicy", "TerminatingOrFailed");
    default(spec, "manualSelector", false);
    pods::template_in(spec);
}

fn cron_job(value: &mut Value) {
    let spec = child(value, "spec");
    default_text(spec, "concurrencyPolicy", "Allow");
    default(spec, "suspend", false);
    default(spec, "successfulJobsHistoryLimit", 3);
    default(spec, "failedJobsHistoryLimit", 1);
    if let Some(template) = existing(spec, "jobTemplate")
        && let Some(inner) = existing(template, "spec")
    {
        pods::template_in(inner);
    }
}

fn binding(value: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let map = object::as_map(value);
    if let Some(role) = existing(map, "roleRef") {
        default_text(role, "apiGroup", GROUP);
    }
    for subject in elements(map, "subjects") {
        let is_account = subject.get("kind").is_some_and(|kind| kind == "ServiceAccount");
        if !is_account {
            default_text(subject, "apiGroup", GROUP);
        }
    }
}

fn limits(value: &mut Value) {
    for item in elements(child(value, "spec"), "limits") {
        if item.get("type").is_some_and(|kind| *kind == "Container")
            && let Some(Value::Object(amounts)) = item.get("default").cloned()
        {
            let requests =
                object::as_map(item.entry("defaultRequest").or_insert_with(|| json!({})));
            amounts.into_iter().for_each(|(name, amount)| default(requests, &name, amount));
        }
    }
}

fn slice(value: &mut Value) {
    for port in elements(object::as_map(value), "ports") {
        default(port, "name", "");
        default(port, "protocol", "TCP");
    }
}

fn network_policy(value: &mut Value) {
    let spec = child(value, "spec");
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in elements(spec, direction) {
            for port in elements(rule, "ports") {
                default(port, "protocol", "TCP");
            }
            if rule.get(peers).is_some_and(Value::is_null) {
                rule.remove(peers);
            }
        }
    }
    if spec.get("policyTypes").is_none() {
        let has_egress =
            spec.get("egress").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
        let types = if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".to_owned(), types);
    }
}

fn webhooks(value: &mut Value, mutating: bool) {
    for hook in elements(object::as_map(value), "webhooks") {
        default(hook, "failurePolicy", "Fail");
        default(hook, "matchPolicy", "Equivalent");
        default(hook, "namespaceSelector", json!({}));
        default(hook, "objectSelector", json!({}));
        default(hook, "timeoutSeconds", 10);
        if mutating {
            default(hook, "reinvocationPolicy", "Never");
        }
        for rule in elements(hook, "rules") {
            default(rule, "scope", "*");
        }
        if let Some(client) = existing(hook, "clientConfig")
            && let Some(service) = existing(client, "service")
        {
            default(service, "port", 443);
        }
    }
}
