//! Between the version in which an object is kept and the one a client asked for.
//!
//! Almost all resources have one version. Events are kept in the core form and also shown in that
//! of `events.k8s.io`; autoscalers are kept in v2 and also shown in v1; custom resources change
//! only their `apiVersion` (conversion strategy `None`).

use serde_json::{Map, Value, json};

use crate::object::as_map;
use crate::resources::ResourceType;

/// Pairs of names: events.k8s.io/v1 and the core API.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// To the form in which objects of this resource are kept.
pub fn to_storage(resource: &ResourceType, object: &mut Value) {
    match (resource.group.as_str(), resource.version.as_str(), resource.plural.as_str()) {
        ("events.k8s.io", ..) => {
            rename(as_map(object), EVENT_FIELDS.iter().map(|(new, old)| (*new, *old)));
            object["apiVersion"] = "v1".into();
        }
        ("autoscaling", "v1", _) => autoscaler_to_v2(object),
        _ => (),
    }
}

/// From the form in which objects are kept to the resource's own version.
pub fn from_storage(resource: &ResourceType, object: &mut Value) {
    match (resource.group.as_str(), resource.version.as_str(), resource.plural.as_str()) {
        ("events.k8s.io", ..) => {
            let map = as_map(object);
            rename(map, EVENT_FIELDS.iter().map(|(new, old)| (*old, *new)));
            for field in ["reportingController", "reportingInstance"] {
                if map.get(field).is_some_and(|text| *text == "") {
                    map.remove(field);
                }
            }
        }
        ("autoscaling", "v1", _) => autoscaler_to_v1(object),
        _ => (),
    }
    let map = as_map(object);
    map.insert("apiVersion".to_owned(), resource.api_version().into());
    map.insert("kind".to_owned(), resource.kind.clone().into());
}

fn rename<'a>(map: &mut Map<String, Value>, names: impl Iterator<Item = (&'a str, &'a str)>) {
    for (from, to) in names {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

fn autoscaler_to_v2(object: &mut Value) {
    object["apiVersion"] = "autoscaling/v2".into();
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if let Some(percent) = spec.remove("targetCPUUtilizationPercentage") {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        spec.insert("metrics".to_owned(), json!([metric]));
    }
}

fn autoscaler_to_v1(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let metrics = spec.remove("metrics");
    let percent = metrics
        .iter()
        .flat_map(|list| list.as_array().into_iter().flatten())
        .find(|metric| metric["resource"]["name"] == "cpu")
        .map(|metric| metric["resource"]["target"]["averageUtilization"].clone());
    if let Some(percent) = percent.filter(|percent| !percent.is_null()) {
        spec.insert("targetCPUUtilizationPercentage".to_owned(), percent);
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("currentMetrics");
        status.remove("conditions");
        status.entry("currentReplicas").or_insert(json!(0));
    }
}
