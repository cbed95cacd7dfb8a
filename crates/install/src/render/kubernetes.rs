//! The `k8s` settings of a component, laid over its rendered objects, as Istio's operator does.

use serde_json::{Value, json};

use super::object;
use super::patches::{self, PatchError};
use crate::object::Object;
use crate::operator::overlay;

/// What the settings apply to.
pub(super) struct Target<'a> {
    /// The name of the component's Deployment, Service and autoscaler.
    pub name: &'a str,
    pub namespace: &'a str,
    /// The container that environment, resources and the like are for.
    pub container: &'a str,
    pub component: &'static str,
    /// Labels that select the component's pods.
    pub selector: Value,
}

/// Lays `k8s` over the objects of a component.
pub(super) fn apply(
    objects: &mut Vec<Object>,
    k8s: &Value,
    target: &Target<'_>,
    problems: &mut Vec<PatchError>,
) {
    if let Some(deployment) = find(objects, "Deployment", target.name) {
        let spec = section(deployment, "spec");
        workload(spec, k8s, target.container);
    }
    let autoscaled = find(objects, "HorizontalPodAutoscaler", target.name).is_some();
    // Where an autoscaler owns the number, it is not ours to set.
    if let (Some(replicas), false) = (k8s.get("replicaCount"), autoscaled)
        && let Some(deployment) = find(objects, "Deployment", target.name)
    {
        section(deployment, "spec").insert("replicas".to_owned(), number(replicas));
    }
    if let Some(service) = find(objects, "Service", target.name) {
        if let Some(annotations) = k8s.get("serviceAnnotations") {
            overlay(service, &json!({"metadata": {"annotations": annotations}}));
        }
        if let Some(given) = k8s.get("service") {
            service_spec(service, given, target.component == "Pilot");
        }
    }
    if let Some(given) = k8s.get("hpaSpec")
        && let Some(autoscaler) = find(objects, "HorizontalPodAutoscaler", target.name)
    {
        overlay(autoscaler, &json!({"spec": given}));
    }
    if let Some(given) = k8s.get("podDisruptionBudget") {
        budget(objects, given, target);
    }
    patch(objects, k8s, problems);
}

/// Applies the `overlays` of a component's settings, the only ones that one without pods has.
pub(super) fn patch(objects: &mut Vec<Object>, k8s: &Value, problems: &mut Vec<PatchError>) {
    for entry in k8s.get("overlays").and_then(Value::as_array).into_iter().flatten() {
        problems.extend(patches::patch(objects, entry).err());
    }
}

/// A disruption budget for the component's pods.
fn budget(objects: &mut Vec<Object>, given: &Value, target: &Target<'_>) {
    let name = target.name;
    if find(objects, "PodDisruptionBudget", name).is_none() {
        let metadata =
            json!({"name": name, "namespace": target.namespace, "labels": target.selector});
        let spec = json!({"spec": {"selector": {"matchLabels": target.selector}}});
        objects.push(object("policy/v1", "PodDisruptionBudget", metadata, spec));
    }
    if let Some(budget) = find(objects, "PodDisruptionBudget", name) {
        let spec = section(budget, "spec");
        // The two exclude each other.
        if given.get("maxUnavailable").is_some() || given.get("minAvailable").is_some() {
            spec.remove("minAvailable");
            spec.remove("maxUnavailable");
        }
        for (key, value) in given.as_object().into_iter().flatten() {
            spec.insert(key.clone(), value.clone());
        }
    }
}

fn workload(spec: &mut serde_json::Map<String, Value>, k8s: &Value, container: &str) {
    if let Some(strategy) = k8s.get("strategy") {
        // Parameters of rolling updates do not fit another type.
        let replaces = strategy.get("type").is_some_and(|it| it != "RollingUpdate");
        let place = spec.entry("strategy").or_insert_with(|| json!({}));
        if replaces {
            *place = json!({});
        }
        overlay(place, strategy);
    }
    let template = spec.entry("template").or_insert_with(|| json!({}));
    if let Some(annotations) = k8s.get("podAnnotations") {
        overlay(template, &json!({"metadata": {"annotations": annotations}}));
    }
    for key in ["nodeSelector", "affinity", "priorityClassName", "securityContext", "volumes"] {
        if let Some(given) = k8s.get(key) {
            overlay(template, &json!({"spec": {key: given}}));
        }
    }
    if let Some(given) = k8s.get("tolerations").and_then(Value::as_array)
        && let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut)
    {
        let all = pod.entry("tolerations").or_insert_with(|| json!([]));
        if let Some(all) = all.as_array_mut() {
            all.extend(given.iter().filter(|it| !all.contains(it)).cloned().collect::<Vec<_>>());
        }
    }
    let containers = template.pointer_mut("/spec/containers").and_then(Value::as_array_mut);
    let is_it = |it: &&mut Value| it.get("name").is_some_and(|name| name == container);
    let Some(place) = containers.into_iter().flatten().find(is_it) else { return };
    for key in ["env", "imagePullPolicy", "volumeMounts"] {
        if let Some(given) = k8s.get(key) {
            overlay(place, &json!({key: given}));
        }
    }
    // A probe of one kind excludes the others, and resources are given as a whole.
    for key in ["readinessProbe", "resources"] {
        if let (Some(given), Some(place)) = (k8s.get(key), place.as_object_mut()) {
            place.insert(key.to_owned(), given.clone());
        }
    }
}

/// Lays settings over a Service. Ports of the control plane are added to its own, which proxies
/// need; those of a gateway are all that it has.
fn service_spec(service: &mut Value, given: &Value, add_ports: bool) {
    let mut given = given.clone();
    let ports = given.as_object_mut().and_then(|given| given.remove("ports"));
    overlay(service, &json!({"spec": given}));
    let Some(Value::Array(ports)) = ports else { return };
    let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let own = spec.entry("ports").or_insert_with(|| json!([]));
    let Some(own) = own.as_array_mut() else { return };
    if !add_ports {
        own.clear();
    }
    for mut port in ports {
        if let Some(port) = port.as_object_mut() {
            port.entry("protocol").or_insert_with(|| "TCP".into());
        }
        match own.iter_mut().find(|known| known.get("name") == port.get("name")) {
            Some(known) => overlay(known, &port),
            None => own.push(port),
        }
    }
}

fn find<'a>(objects: &'a mut [Object], kind: &str, name: &str) -> Option<&'a mut Value> {
    let object = objects.iter_mut().find(|it| it.kind() == kind && it.name() == name)?;
    Some(object.value_mut())
}

fn section<'a>(object: &'a mut Value, key: &str) -> &'a mut serde_json::Map<String, Value> {
    if !object.get(key).is_some_and(Value::is_object)
        && let Some(object) = object.as_object_mut()
    {
        object.insert(key.to_owned(), json!({}));
    }
    object.get_mut(key).and_then(Value::as_object_mut).expect("rendered objects are mappings")
}

/// A number that may have been written as a text.
pub(super) fn number(value: &Value) -> Value {
    match value.as_str().and_then(|text| text.parse::<u64>().ok()) {
        Some(number) => number.into(),
        None => value.clone(),
    }
}
