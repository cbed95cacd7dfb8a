//! The roles and bindings that every cluster starts with.
//!
//! The table `data/rbac-policy.txt` names them as Kubernetes does: a line per role or binding,
//! indented below it a line per rule (`verbs groups resources [names]` or `verbs paths URLS`) or
//! subject. `into=X` labels a role as part of the aggregated role X, `from=X` makes it that role.

use futures::future::try_join_all;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::store::{Expect, Key, Store, WriteError};

const TABLE: &str = include_str!("../../data/rbac-policy.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// The objects to create where they do not exist, bindings last.
pub fn objects() -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if !line.starts_with(' ') {
            objects.push(head(&words));
        } else if let Some(last) = objects.last_mut() {
            detail(last, &words);
        }
    }
    objects
}

/// Creates those of the objects that do not exist. What users changed stays as it is.
///
/// # Errors
/// When the store cannot write.
pub async fn create(store: &Store) -> Result<(), WriteError> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let writes = objects().into_iter().filter_map(|mut object| {
        let plural = format!("{}s", object["kind"].as_str()?.to_lowercase());
        let metadata = object["metadata"].as_object_mut()?;
        metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
        metadata.insert("creationTimestamp".into(), now.clone().into());
        let text = |name: &str| metadata.get(name).and_then(Value::as_str).unwrap_or_default();
        let key = Key::new(&format!("{GROUP}/{plural}"), text("namespace"), text("name"));
        store.newest(&key).is_none().then(|| store.put(key, Expect::Absent, object))
    });
    try_join_all(writes).await?;
    Ok(())
}

fn head(words: &[&str]) -> Value {
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    let kind = word(0);
    let mut metadata = json!({
        "name": word(1),
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    });
    if let Some((namespace, name)) = word(1).split_once('/') {
        metadata["namespace"] = namespace.into();
        metadata["name"] = name.into();
    }
    let mut object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind});
    for option in words.iter().skip(2) {
        if let Some(target) = option.strip_prefix("into=") {
            metadata["labels"][aggregation_label(target)] = "true".into();
        } else if let Some(source) = option.strip_prefix("from=") {
            let mut labels = Map::new();
            labels.insert(aggregation_label(source), "true".into());
            object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
        }
    }
    if kind.ends_with("Binding") {
        object["roleRef"] = json!({"apiGroup": GROUP, "kind": word(2), "name": word(3)});
    } else {
        // An aggregated role has no rules until its parts are known.
        let aggregated = object.get("aggregationRule").is_some();
        object["rules"] = if aggregated { Value::Null } else { json!([]) };
    }
    object["metadata"] = metadata;
    object
}

fn aggregation_label(role: &str) -> String {
    format!("{GROUP}/aggregate-to-{role}")
}

fn detail(object: &mut Value, words: &[&str]) {
    let is_binding = object["kind"].as_str().is_some_and(|kind| kind.ends_with("Binding"));
    let (field, entry) = match words {
        [kind, name] if is_binding => ("subjects", subject(kind, name)),
        [verbs, "paths", urls] => {
            ("rules", json!({"nonResourceURLs": list(urls), "verbs": list(verbs)}))
        }
        [verbs, groups, resources, names @ ..] => {
            let mut rule = json!({
                "verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources),
            });
            if let Some(names) = names.first() {
                rule["resourceNames"] = json!(list(names));
            }
            ("rules", rule)
        }
        _ => return,
    };
    match object.get_mut(field).and_then(Value::as_array_mut) {
        Some(entries) => entries.push(entry),
        None => object[field] = json!([entry]),
    }
}

fn subject(kind: &str, name: &str) -> Value {
    match name.split_once('/') {
        Some((namespace, name)) => json!({"kind": kind, "namespace": namespace, "name": name}),
        None => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
    }
}

/// A comma-separated list; `""` stands for the empty string (the core group).
fn list(text: &str) -> Vec<&str> {
    text.split(',').map(|part| if part == "\"\"" { "" } else { part }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_becomes_part_of_an_object() {
        let lines = TABLE.lines().filter(|line| line.starts_with(' ')).count();
        let objects = objects();
        let entries: usize = objects
            .iter()
            .flat_map(|object| [&object["rules"], &object["subjects"]])
            .filter_map(Value::as_array)
            .map(Vec::len)
            .sum();
        assert_eq!(entries, lines);
        let admin = objects.iter().find(|o| o["metadata"]["name"] == "cluster-admin").unwrap();
        assert_eq!(
            admin["rules"],
            json!([
                {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
                {"verbs": ["*"], "nonResourceURLs": ["*"]},
            ])
        );
    }
}
