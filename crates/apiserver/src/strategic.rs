//! Strategic merge patch: a merge patch that knows which lists are maps in disguise.
//!
//! Lists with the patch strategy `merge` merge by key (objects) or as sets (scalars). Directives:
//! `$patch` (replace, delete, merge), `$retainKeys`, `$deleteFromPrimitiveList/<field>`,
//! `$setElementOrder/<field>`.

use serde_json::{Map, Value};

use crate::object::strings;
use crate::schema::Schema;

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

/// Applies a patch to an object.
///
/// # Errors
/// What is wrong with the patch.
pub fn apply(schema: Option<&Schema>, object: &mut Value, patch: &Value) -> Result<(), String> {
    let Value::Object(patch) = patch else {
        return Err(
            "json: cannot unmarshal into Go value of type map[string]interface {}".to_owned()
        );
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    if let Value::Object(map) = object {
        merge_map(schema, map, patch)?;
    }
    Ok(())
}

fn merge_map(
    schema: Option<&Schema>,
    object: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), String> {
    match patch.get(PATCH).and_then(Value::as_str) {
        Some("replace") => {
            *object = without_directives(patch);
            return Ok(());
        }
        Some("delete") => {
            object.clear();
            return Ok(());
        }
        None | Some("merge") => (),
        Some(other) => {
            return Err(format!("unrecognized type or value of $patch directive: {other}"));
        }
    }
    if patch.get(PATCH).is_some_and(|value| !value.is_string()) {
        return Err("invalid value for $patch directive".to_owned());
    }
    if let Some(keys) = patch.get(RETAIN) {
        let keys = strings(keys);
        object.retain(|key, _| keys.contains(key));
    }
    delete_scalars(object, patch);
    for (key, value) in patch {
        if key.starts_with('$') {
            continue;
        }
        let field = schema.and_then(|schema| schema.field(key));
        merge_field(field, object, key, value, patch)?;
    }
    order_only(schema, object, patch);
    Ok(())
}

fn merge_field(
    field: Option<&Schema>,
    object: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    patch: &Map<String, Value>,
) -> Result<(), String> {
    match value {
        Value::Null => drop(object.remove(key)),
        Value::Object(inner) => {
            let replaces = inner.get(PATCH).is_some_and(|directive| directive == "replace");
            match object.get_mut(key) {
                Some(Value::Object(existing)) if !replaces => merge_map(field, existing, inner)?,
                _ => {
                    let mut fresh = Map::new();
                    merge_map(field, &mut fresh, inner)?;
                    if inner.get(PATCH).is_some_and(|directive| directive == "delete") {
                        object.remove(key);
                    } else {
                        object.insert(key.to_owned(), Value::Object(fresh));
                    }
                }
            }
            if inner.get(PATCH).is_some_and(|directive| directive == "delete") {
                object.remove(key);
            }
        }
        Value::Array(items) => {
            let merges = field.is_some_and(|field| field.patch.merge);
            let order = patch.get(&format!("{ORDER_PREFIX}{key}")).and_then(Value::as_array);
            match object.get_mut(key) {
                Some(Value::Array(existing)) if merges => {
                    let before = existing.clone();
                    merge_list(field, existing, items)?;
                    reorder(field, existing, order.unwrap_or(items), &before);
                }
                _ => drop(object.insert(key.to_owned(), Value::Array(fresh_list(field, items)?))),
            }
        }
        scalar => drop(object.insert(key.to_owned(), scalar.clone())),
    }
    Ok(())
}

/// A list that was not there: directives only make sense against something.
fn fresh_list(field: Option<&Schema>, items: &[Value]) -> Result<Vec<Value>, String> {
    let element = field.and_then(Schema::element);
    let mut list = Vec::new();
    for item in items {
        match item {
            Value::Object(map)
                if map.get(PATCH).is_some_and(|d| d == "delete" || d == "replace") => {}
            Value::Object(map) => {
                let mut fresh = Map::new();
                merge_map(element, &mut fresh, map)?;
                list.push(Value::Object(fresh));
            }
            other => list.push(other.clone()),
        }
    }
    Ok(list)
}

fn merge_list(
    field: Option<&Schema>,
    existing: &mut Vec<Value>,
    items: &[Value],
) -> Result<(), String> {
    let key = field.and_then(|field| field.patch.key.as_deref());
    let element = field.and_then(Schema::element);
    let is_objects = items.iter().all(Value::is_object);
    let Some(key) = key.filter(|_| is_objects) else {
        for item in items {
            if !existing.contains(item) {
                existing.push(item.clone());
            }
        }
        return Ok(());
    };
    if items.iter().any(|item| item[PATCH] == "replace") {
        *existing = items.iter().filter(|item| item.get(PATCH).is_none()).cloned().collect();
        return Ok(());
    }
    for item in items {
        let Value::Object(map) = item else { continue };
        let Some(wanted) = map.get(key) else {
            return Err(format!("map: {item} does not contain declared merge key: {key}"));
        };
        if map.get(PATCH).is_some_and(|directive| directive == "delete") {
            existing.retain(|have| have.get(key) != Some(wanted));
            continue;
        }
        match existing.iter_mut().find(|have| have.get(key) == Some(wanted)) {
            Some(Value::Object(have)) => merge_map(element, have, map)?,
            _ => {
                let mut fresh = Map::new();
                merge_map(element, &mut fresh, map)?;
                existing.push(Value::Object(fresh));
            }
        }
    }
    Ok(())
}

fn delete_scalars(object: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        let Some(name) = key.strip_prefix(DELETE_PREFIX) else { continue };
        let gone = value.as_array().map_or(&[][..], Vec::as_slice);
        if let Some(Value::Array(list)) = object.get_mut(name) {
            list.retain(|item| !gone.contains(item));
        }
    }
}

/// An order without a list of its own still sorts the list that is there.
fn order_only(
    schema: Option<&Schema>,
    object: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) {
    for (key, order) in patch {
        let Some(name) = key.strip_prefix(ORDER_PREFIX) else { continue };
        if patch.contains_key(name) {
            continue;
        }
        let field = schema.and_then(|schema| schema.field(name));
        if let (Some(Value::Array(list)), Some(order)) = (object.get_mut(name), order.as_array()) {
            let before = list.clone();
            reorder(field, list, order, &before);
        }
    }
}

/// Sorts the elements that `order` names as it says. The others are put between them so that they
/// stand before the first element that followed them in `before`, the list as it was.
fn reorder(field: Option<&Schema>, list: &mut Vec<Value>, order: &[Value], before: &[Value]) {
    let key = field.and_then(|field| field.patch.key.as_deref());
    let same = |a: &Value, b: &Value| match key {
        Some(key) if a.is_object() => a.get(key) == b.get(key),
        _ => a == b,
    };
    let rank = |item: &Value| order.iter().position(|wanted| same(wanted, item));
    let place = |item: &Value| before.iter().position(|have| same(have, item));
    let (mut sorted, others): (Vec<Value>, Vec<Value>) =
        list.drain(..).partition(|item| rank(item).is_some());
    sorted.sort_by_key(|item| rank(item).unwrap_or(usize::MAX));
    let mut from = 0;
    for item in others {
        let own = place(&item);
        let follows =
            |have: &Value| matches!((own, place(have)), (Some(own), Some(at)) if at > own);
        while from < sorted.len() && !follows(&sorted[from]) {
            from += 1;
        }
        sorted.insert(from, item);
        from += 1;
    }
    *list = sorted;
}

fn without_directives(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter()
        .filter(|(key, _)| !key.starts_with('$'))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(mut object: Value, patch: &Value) -> Value {
        let schema = crate::schema::builtin("", "v1", "Pod").unwrap();
        apply(Some(&schema), &mut object, patch).unwrap();
        object
    }

    #[test]
    fn lists_merge_by_key_and_directives_remove() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}});
        let merged = patched(
            pod.clone(),
            &json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c"}]}}),
        );
        let expected = json!({"spec": {"containers": [
            {"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c"},
        ]}});
        assert_eq!(merged, expected);
        let removed = patched(
            pod.clone(),
            &json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
        );
        assert_eq!(removed, json!({"spec": {"containers": [{"name": "b", "image": "1"}]}}));
        let ordered = patched(
            pod,
            &json!({"spec": {
                "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
                "containers": [{"name": "a", "image": "9"}],
            }}),
        );
        let expected = json!({"spec": {"containers": [{"name": "b", "image": "1"}, {"name": "a", "image": "9"}]}});
        assert_eq!(ordered, expected);
    }

    #[test]
    fn scalar_sets_and_retained_keys() {
        let merged = patched(
            json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            &json!({
                "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]},
                "spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]},
            }),
        );
        let expected = json!({
            "metadata": {"finalizers": ["c", "b"]},
            "spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]},
        });
        assert_eq!(merged, expected);
    }
}
