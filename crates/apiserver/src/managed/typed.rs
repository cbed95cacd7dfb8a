//! Field sets of values: what a value says, how two differ, and their merge.
//!
//! All functions walk a value along its schema. Maps and structs are granular unless they are
//! atomic; lists are atomic unless they are sets or maps by key.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::set::Set;
use crate::schema::{Kind, ListType, Schema};

/// How a value is looked into.
enum Shape<'a> {
    Leaf,
    Fields(&'a Map<String, Value>),
    Items(Vec<(String, &'a Value)>),
}

/// Where fields of unknown objects lead.
fn child<'a>(schema: &'a Schema, name: &str) -> Option<&'a Schema> {
    match schema.resolve().kind {
        Kind::Any => Some(schema),
        _ => schema.field(name),
    }
}

fn shape<'a>(schema: &Schema, value: &'a Value) -> Shape<'a> {
    match value {
        Value::Object(map) if !schema.is_atomic() && !is_scalar(schema) => Shape::Fields(map),
        Value::Array(items) => match &schema.list {
            ListType::Atomic => Shape::Leaf,
            ListType::Set => {
                Shape::Items(items.iter().map(|item| (format!("v:{item}"), item)).collect())
            }
            ListType::Map(keys) => Shape::Items(
                items.iter().map(|item| (item_key(schema, keys, item), item)).collect(),
            ),
        },
        _ => Shape::Leaf,
    }
}

fn is_scalar(schema: &Schema) -> bool {
    !matches!(schema.resolve().kind, Kind::Any | Kind::Map(_) | Kind::Object(_))
}

/// `k:{"name":"a"}`; keys with defaults may be absent from the item.
fn item_key(schema: &Schema, keys: &[String], item: &Value) -> String {
    let mut parts = Map::new();
    for key in keys {
        let default = schema
            .element()
            .and_then(|element| element.field(key))
            .and_then(|field| field.default.clone());
        if let Some(value) = item.get(key).filter(|value| !value.is_null()).cloned().or(default) {
            parts.insert(key.clone(), value);
        }
    }
    format!("k:{}", Value::Object(parts))
}

/// All paths that a value sets.
pub fn field_set(schema: &Schema, value: &Value) -> Set {
    let mut set = Set::default();
    collect(schema, value, &mut set);
    set.member = false;
    set
}

fn collect(schema: &Schema, value: &Value, set: &mut Set) {
    match shape(schema, value) {
        Shape::Leaf => set.member = true,
        Shape::Fields(map) => {
            for (name, item) in map {
                let Some(field) = child(schema, name) else { continue };
                let node = set.at(&format!("f:{name}"));
                collect(field, item, node);
                let is_empty = item.is_null() || item.as_object().is_some_and(Map::is_empty);
                let is_entry = matches!(schema.resolve().kind, Kind::Map(_) | Kind::Any);
                node.member |= is_empty || is_entry;
            }
        }
        Shape::Items(items) => {
            for (key, item) in items {
                let node = set.at(&key);
                if let Some(element) = schema.element() {
                    collect(element, item, node);
                }
                node.member = true;
            }
        }
    }
}

/// How a new value differs from an old one.
#[derive(Debug, Default)]
pub struct Difference {
    pub removed: Set,
    pub modified: Set,
    pub added: Set,
}

impl Difference {
    /// What the writer of the new value has set.
    pub fn set(&self) -> Set {
        let mut set = self.added.clone();
        set.add(&self.modified);
        set
    }
}

/// Compares two values.
pub fn compare(schema: &Schema, old: &Value, new: &Value) -> Difference {
    let mut difference = Difference::default();
    differ(schema, old, new, &mut Vec::new(), &mut difference);
    difference
}

fn differ(schema: &Schema, old: &Value, new: &Value, path: &mut Vec<String>, out: &mut Difference) {
    let nothing = Map::new();
    let (before, after) = match (shape(schema, old), shape(schema, new)) {
        // An absent list or map is an empty one.
        (Shape::Leaf, after @ Shape::Fields(_)) if old.is_null() => {
            (Shape::Fields(&nothing), after)
        }
        (Shape::Leaf, after @ Shape::Items(_)) if old.is_null() => {
            (Shape::Items(Vec::new()), after)
        }
        both => both,
    };
    match (before, after) {
        (Shape::Fields(before), Shape::Fields(after)) => {
            for (name, was) in before {
                let Some(field) = child(schema, name) else { continue };
                path.push(format!("f:{name}"));
                match after.get(name) {
                    Some(is) => differ(field, was, is, path, out),
                    None => whole(field, was, path, &mut out.removed),
                }
                path.pop();
            }
            for (name, is) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
                let Some(field) = child(schema, name) else { continue };
                path.push(format!("f:{name}"));
                whole(field, is, path, &mut out.added);
                path.pop();
            }
        }
        (Shape::Items(before), Shape::Items(after)) => {
            let Some(element) = schema.element() else { return };
            let known: HashMap<&str, &Value> =
                before.iter().map(|(key, item)| (key.as_str(), *item)).collect();
            let wanted: HashMap<&str, &Value> =
                after.iter().map(|(key, item)| (key.as_str(), *item)).collect();
            for (key, was) in &before {
                path.push(key.clone());
                match wanted.get(key.as_str()) {
                    Some(is) => differ(element, was, is, path, out),
                    None => whole(element, was, path, &mut out.removed),
                }
                path.pop();
            }
            for (key, is) in after.iter().filter(|(key, _)| !known.contains_key(key.as_str())) {
                path.push(key.clone());
                whole(element, is, path, &mut out.added);
                path.pop();
            }
        }
        _ if old == new => (),
        _ => node(&mut out.modified, path).member = true,
    }
}

fn node<'a>(set: &'a mut Set, path: &[String]) -> &'a mut Set {
    path.iter().fold(set, |set, element| set.at(element))
}

/// Records a value that is only on one side: every node of it.
fn whole(schema: &Schema, value: &Value, path: &[String], set: &mut Set) {
    fn every(schema: &Schema, value: &Value, node: &mut Set) {
        node.member = true;
        match shape(schema, value) {
            Shape::Leaf => (),
            Shape::Fields(map) => {
                for (name, item) in map {
                    if let Some(field) = child(schema, name) {
                        every(field, item, node.at(&format!("f:{name}")));
                    }
                }
            }
            Shape::Items(items) => {
                for (key, item) in items {
                    if let Some(element) = schema.element() {
                        every(element, item, node.at(&key));
                    }
                }
            }
        }
    }
    every(schema, value, node(set, path));
}

/// Merges a configuration into a live value.
pub fn merge(schema: &Schema, live: &Value, config: &Value) -> Value {
    match (shape(schema, live), shape(schema, config)) {
        (Shape::Fields(have), Shape::Fields(wanted)) => {
            let mut merged = have.clone();
            for (name, value) in wanted {
                let value = match (have.get(name), child(schema, name)) {
                    (Some(old), Some(field)) => merge(field, old, value),
                    _ => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Shape::Items(have), Shape::Items(wanted)) => {
            Value::Array(merge_items(schema, &have, &wanted))
        }
        _ => config.clone(),
    }
}

/// Items of both lists. Shared items come in the configuration's order; what only the live list
/// has stays where it was between them, before what only the configuration has.
fn merge_items(
    schema: &Schema,
    live: &[(String, &Value)],
    config: &[(String, &Value)],
) -> Vec<Value> {
    let known: HashMap<&str, &Value> = live.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    let wanted: HashMap<&str, &Value> = config.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    let element = schema.element();
    let joined = |key: &str| match (known.get(key), wanted.get(key), element) {
        (Some(old), Some(new), Some(element)) => merge(element, old, new),
        (_, Some(new), _) => (*new).clone(),
        (Some(old), None, _) => (*old).clone(),
        (None, None, _) => Value::Null,
    };
    let mut merged = Vec::with_capacity(live.len() + config.len());
    let mut done = HashSet::new();
    let mut shared =
        config.iter().map(|(key, _)| key).filter(|key| known.contains_key(key.as_str())).peekable();
    let (mut left, mut right) = (0, 0);
    while left < live.len() || right < config.len() {
        if let (Some((have, _)), Some((want, _))) = (live.get(left), config.get(right)) {
            if have == want {
                merged.push(joined(have));
                done.insert(have.as_str());
                shared.next();
                left += 1;
                right += 1;
                continue;
            }
            if wanted.contains_key(have.as_str()) && shared.peek().is_some_and(|next| *next != have)
            {
                left += 1;
                continue;
            }
        }
        if let Some((have, _)) = live.get(left) {
            if !wanted.contains_key(have.as_str()) {
                merged.push(joined(have));
                left += 1;
                continue;
            }
            if done.contains(have.as_str()) {
                left += 1;
            }
        }
        match config.get(right) {
            Some((want, _)) => {
                merged.push(joined(want));
                done.insert(want.as_str());
                if shared.peek().is_some_and(|next| *next == want) {
                    shared.next();
                }
                right += 1;
            }
            // Only shared items that were merged already are left.
            None => left += 1,
        }
    }
    merged
}

/// Removes what `last` holds and `keep` does not, from a merged value.
pub fn prune(schema: &Schema, value: &mut Value, last: &Set, keep: &Set) {
    let gone = |element: &str| {
        last.get(element).is_some_and(|node| !node.is_empty())
            && keep.get(element).is_none_or(Set::is_empty)
    };
    let none = Set::default();
    let keys: Vec<String> = match shape(schema, value) {
        Shape::Leaf => return,
        Shape::Fields(map) => map.keys().map(|name| format!("f:{name}")).collect(),
        Shape::Items(items) => items.into_iter().map(|(key, _)| key).collect(),
    };
    match value {
        Value::Object(map) => {
            map.retain(|name, item| {
                let element = format!("f:{name}");
                let (Some(inner), gone) = (last.get(&element), gone(&element)) else {
                    return true;
                };
                if gone && (inner.member || inner.children.is_empty()) {
                    return false;
                }
                // Of a field that was owned in parts, what nobody's set names stays, such as names.
                if let Some(field) = child(schema, name) {
                    prune(field, item, inner, keep.get(&element).unwrap_or(&none));
                }
                !(gone && is_hollow(item))
            });
        }
        Value::Array(items) => {
            let mut at = keys.iter();
            items.retain(|_| at.next().is_none_or(|key| !gone(key)));
            for (item, key) in items.iter_mut().zip(keys.iter().filter(|key| !gone(key))) {
                if let (Some(inner), Some(element)) = (last.get(key), schema.element()) {
                    prune(element, item, inner, keep.get(key).unwrap_or(&none));
                }
            }
        }
        _ => (),
    }
}

fn is_hollow(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// Paths of fields that the schema does not know, and list items given twice.
pub fn check(schema: &Schema, value: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    check_at(schema, value, "", &mut errors);
    errors
}

fn check_at(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<String>) {
    match shape(schema, value) {
        Shape::Leaf => {
            // Atomic lists and maps are still made of known fields.
            if let (Value::Array(items), Some(element)) = (value, schema.element()) {
                for (index, item) in items.iter().enumerate() {
                    check_at(element, item, &format!("{path}[{index}]"), errors);
                }
            }
        }
        Shape::Fields(map) => {
            for (name, item) in map {
                match child(schema, name) {
                    Some(field) => check_at(field, item, &format!("{path}.{name}"), errors),
                    None => errors.push(format!("{path}.{name}: field not declared in schema")),
                }
            }
        }
        Shape::Items(items) => {
            let mut seen = HashSet::new();
            for (key, item) in items {
                let shown = key.split_once(':').map_or(key.as_str(), |(_, rest)| rest).to_owned();
                if !seen.insert(key) {
                    errors.push(format!("{path}: duplicate entries for key [{shown}]"));
                }
                if let Some(element) = schema.element() {
                    check_at(element, item, &format!("{path}[{shown}]"), errors);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_merge_and_lose_what_is_no_longer_applied() {
        let schema = crate::schema::builtin("", "v1", "Pod").unwrap();
        let live = json!({"spec": {"containers": [
            {"name": "a", "image": "1", "ports": [{"containerPort": 80, "protocol": "TCP"}]},
            {"name": "b", "image": "1"},
        ]}});
        let config = json!({"spec": {"containers": [{"name": "a", "image": "2"}]}});
        let mut merged = merge(&schema, &live, &config);
        let last = field_set(&schema, &live);
        prune(&schema, &mut merged, &last, &field_set(&schema, &config));
        assert_eq!(merged, json!({"spec": {"containers": [{"name": "a", "image": "2"}]}}));
        let difference = compare(&schema, &live, &merged);
        assert_eq!(difference.modified.paths(), [".spec.containers[name=\"a\"].image"]);
        assert!(difference.removed.paths().contains(&".spec.containers[name=\"b\"]".to_owned()));
        let port = "[containerPort=80,protocol=\"TCP\"]";
        assert!(difference.removed.paths().iter().any(|path| path.contains(port)));
    }

    #[test]
    fn what_no_set_names_stays_when_the_rest_of_a_field_goes() {
        let schema = crate::schema::builtin("", "v1", "Namespace").unwrap();
        let live = json!({"metadata": {"name": "a", "labels": {"x": "1"}}, "spec": {}});
        let config = json!({"metadata": {"name": "a"}});
        let mut last = Set::default();
        last.at("f:metadata").at("f:labels").at("f:x").member = true;
        let mut merged = merge(&schema, &live, &config);
        prune(&schema, &mut merged, &last, &Set::default());
        assert_eq!(merged, json!({"metadata": {"name": "a"}, "spec": {}}));
    }

    #[test]
    fn unknown_fields_and_duplicates_are_found() {
        let schema = crate::schema::builtin("", "v1", "Pod").unwrap();
        let value = json!({"spec": {"x": 1, "containers": [{"name": "a"}, {"name": "a"}]}});
        let errors = check(&schema, &value);
        assert_eq!(
            errors,
            [
                ".spec.containers: duplicate entries for key [{\"name\":\"a\"}]",
                ".spec.x: field not declared in schema",
            ]
        );
    }
}
