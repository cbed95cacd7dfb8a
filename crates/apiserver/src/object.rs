//! Reading and changing the metadata every object has.

use jiff::Timestamp;
use serde_json::{Map, Value};

/// A string below `metadata`, or "".
pub fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

pub fn name(object: &Value) -> &str {
    meta(object, "name")
}

pub fn namespace(object: &Value) -> &str {
    meta(object, "namespace")
}

pub fn uid(object: &Value) -> &str {
    meta(object, "uid")
}

pub fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap_or_default()
}

/// Whether deletion has begun.
pub fn is_deleting(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

pub fn finalizers(object: &Value) -> Vec<String> {
    strings(&object["metadata"]["finalizers"])
}

/// The strings of a list, in order.
pub fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// A string in a map below `metadata`: a label or annotation.
pub fn entry<'a>(object: &'a Value, map: &str, key: &str) -> Option<&'a str> {
    object["metadata"][map].get(key)?.as_str()
}

/// `metadata` as a map, made if absent.
pub fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    child(object, "metadata")
}

/// The map at `field`, made if absent or of another type.
pub fn child<'a>(object: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    let map = as_map(object);
    as_map(map.entry(field).or_insert(Value::Null))
}

/// The value as a map; anything else becomes an empty one.
pub fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made a map above"),
    }
}

/// Sets a field below `metadata`, or removes it when `value` is null.
pub fn set_meta(object: &mut Value, field: &str, value: impl Into<Value>) {
    let metadata = meta_mut(object);
    match value.into() {
        Value::Null => drop(metadata.remove(field)),
        value => drop(metadata.insert(field.to_owned(), value)),
    }
}

/// Sets `field` when it is absent or null.
pub fn default(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    let place = map.entry(field).or_insert(Value::Null);
    if place.is_null() {
        *place = value.into();
    }
}

/// Removes `field` from an object, if it is one.
pub fn remove(object: &mut Value, field: &str) -> Option<Value> {
    object.as_object_mut()?.remove(field)
}

/// The current time as Kubernetes prints it, in whole seconds.
pub fn now() -> String {
    time(Timestamp::now())
}

/// A time as Kubernetes prints it, in whole seconds.
pub fn time(timestamp: Timestamp) -> String {
    timestamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
