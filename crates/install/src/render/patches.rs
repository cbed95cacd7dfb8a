//! `k8s.overlays`: patches by path on rendered objects, with the path grammar of Istio's operator.
//!
//! `spec.template.spec.containers.[name:discovery].args.[30m]`: keys are separated by dots that
//! are not escaped, `[3]` is an index (`[-1]` the last), `[key:value]` an entry of a list,
//! `[value]` a text in a list. No value deletes; a path whose last step is not there adds.

use serde_json::Value;

use crate::object::Object;

/// Why an overlay cannot be applied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatchError {
    #[error("the overlay names no `{0}`")]
    Missing(&'static str),
    #[error("no object {kind}/{name} is rendered by this component")]
    NoObject { kind: String, name: String },
    #[error("path `{path}` of {kind}/{name}: there is no `{step}`")]
    NoPlace { path: String, kind: String, name: String, step: String },
}

/// Applies one entry of `overlays`.
///
/// # Errors
/// When it names an object or a place that is not there.
pub(super) fn patch(objects: &mut Vec<Object>, entry: &Value) -> Result<(), PatchError> {
    let text =
        |key: &'static str| entry.get(key).and_then(Value::as_str).ok_or(PatchError::Missing(key));
    let (kind, name) = (text("kind")?, text("name")?);
    let version = entry.get("apiVersion").and_then(Value::as_str);
    let fits = |object: &Object| {
        object.kind() == kind
            && object.name() == name
            && version.is_none_or(|version| object.api_version() == version)
    };
    let Some(index) = objects.iter().position(fits) else {
        return Err(PatchError::NoObject { kind: kind.to_owned(), name: name.to_owned() });
    };
    for one in entry.get("patches").and_then(Value::as_array).into_iter().flatten() {
        let path = one.get("path").and_then(Value::as_str).ok_or(PatchError::Missing("path"))?;
        // A path of nothing is the object itself: without a value, it is not rendered.
        let value = one.get("value").filter(|value| !value.is_null());
        let steps = steps(path);
        match objects.get_mut(index) {
            Some(_) if steps.is_empty() && value.is_none() => {
                objects.remove(index);
                return Ok(());
            }
            Some(object) => set(object.value_mut(), &steps, value).map_err(|step| {
                let (kind, name) = (kind.to_owned(), name.to_owned());
                PatchError::NoPlace { path: path.to_owned(), kind, name, step }
            })?,
            None => (),
        }
    }
    Ok(())
}

fn steps(path: &str) -> Vec<String> {
    let mut steps = vec![String::new()];
    let (mut escaped, mut inside) = (false, false);
    for c in path.chars() {
        match c {
            '\\' if !escaped => escaped = true,
            '.' if !escaped && !inside => steps.push(String::new()),
            c => {
                // `key[0]` is written by some instead of `key.[0]`.
                if c == '[' && !escaped && steps.last().is_some_and(|it| !it.is_empty()) {
                    steps.push(String::new());
                }
                if !escaped {
                    inside = c == '[' || (inside && c != ']');
                }
                escaped = false;
                steps.last_mut().expect("starts with one step").push(c);
            }
        }
    }
    steps.retain(|step| !step.is_empty());
    steps
}

/// Sets or deletes what the steps lead to; the error is the step that leads nowhere.
fn set(place: &mut Value, steps: &[String], value: Option<&Value>) -> Result<(), String> {
    let Some((step, rest)) = steps.split_first() else {
        *place = value.cloned().unwrap_or(Value::Null);
        return Ok(());
    };
    match step.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => {
            let Some(list) = place.as_array_mut() else { return Err(step.clone()) };
            match (index_of(list, inner), rest.is_empty(), value) {
                (Some(index), true, None) => drop(list.remove(index)),
                (Some(index), ..) => match list.get_mut(index) {
                    Some(entry) => set(entry, rest, value)?,
                    None => return Err(step.clone()),
                },
                (None, true, Some(value)) => list.push(value.clone()),
                (None, ..) => return Err(step.clone()),
            }
        }
        None => {
            if place.is_null() {
                *place = serde_json::json!({});
            }
            let Some(map) = place.as_object_mut() else { return Err(step.clone()) };
            match (rest.is_empty(), value) {
                (true, None) => drop(map.remove(step)),
                (false, None) => match map.get_mut(step) {
                    Some(place) => set(place, rest, None)?,
                    None => return Err(step.clone()),
                },
                (_, Some(_)) => {
                    let next_is_list = rest.first().is_some_and(|next| next.starts_with('['));
                    let fresh = if next_is_list { serde_json::json!([]) } else { Value::Null };
                    set(map.entry(step.clone()).or_insert(fresh), rest, value)?;
                }
            }
        }
    }
    Ok(())
}

fn index_of(list: &[Value], inner: &str) -> Option<usize> {
    if let Ok(number) = inner.parse::<i64>() {
        let length = i64::try_from(list.len()).ok()?;
        let index = if number < 0 { length + number } else { number };
        return usize::try_from(index).ok().filter(|index| *index < list.len());
    }
    if let Some((key, value)) = inner.split_once(':')
        && let Some(found) = list.iter().position(|entry| {
            entry.get(key).is_some_and(|it| {
                // A number or a boolean is compared as it is written.
                it.as_str().map_or_else(|| it.to_string(), str::to_owned) == value
            })
        })
    {
        return Some(found);
    }
    list.iter().position(|entry| entry.as_str() == Some(inner))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(patches: Value) -> Result<Value, String> {
        let mut objects = vec![Object::new(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "istiod"},
            "spec": {"containers": [{"name": "discovery", "args": ["a", "--age", "30m"]}]},
        }))];
        let entry = json!({"kind": "Deployment", "name": "istiod", "patches": patches});
        patch(&mut objects, &entry).map_err(|error| error.to_string())?;
        Ok(objects.first().map_or(Value::Null, |object| object.value()["spec"].clone()))
    }

    #[test]
    fn paths_reach_keys_indexes_entries_and_texts() {
        for (path, value, want) in [
            (
                "spec.containers.[name:discovery].args.[30m]",
                json!("60m"),
                json!({"containers": [{"name": "discovery", "args": ["a", "--age", "60m"]}]}),
            ),
            (
                "spec.containers[0].args[-1]",
                json!(null),
                json!({"containers": [{"name": "discovery", "args": ["a", "--age"]}]}),
            ),
            (
                "spec.containers.[name:discovery].args.[9]",
                json!("b"),
                json!({"containers": [{"name": "discovery", "args": ["a", "--age", "30m", "b"]}]}),
            ),
            (
                r"spec.labels.a\.b/c",
                json!("d"),
                json!({"containers": [{"name": "discovery", "args": ["a", "--age", "30m"]}], "labels": {"a.b/c": "d"}}),
            ),
            ("spec.containers", json!(null), json!({})),
        ] {
            assert_eq!(patched(json!([{"path": path, "value": value}])), Ok(want), "{path}");
        }
    }

    #[test]
    fn a_path_that_leads_nowhere_is_said() {
        assert_eq!(
            patched(json!([{"path": "spec.containers.[name:other].args", "value": 1}])),
            Err("path `spec.containers.[name:other].args` of Deployment/istiod: there is no `[name:other]`".to_owned())
        );
    }
}
