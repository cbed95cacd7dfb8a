//! Takes out of answers what differs from run to run, and says where two answers differ.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

static UUID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap());
static TIME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z").unwrap());
static JWT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"eyJ[\w-]+\.[\w-]+\.[\w-]+").unwrap());
static ADDRESS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"10\.11\.\d+\.\d+").unwrap());
static DIGEST: LazyLock<Regex> = LazyLock::new(|| Regex::new("X509SHA256=[0-9a-f]+").unwrap());
static AGE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\d+s$").unwrap());
static NODE_PORT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r":3\d{4}/").unwrap());
static VOLUME: LazyLock<Regex> = LazyLock::new(|| Regex::new("kube-api-access-[a-z0-9]+").unwrap());
static SERVER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"127\.0\.0\.1:\d+").unwrap());

/// The answer without what differs from run to run.
pub fn normal(value: Value) -> Value {
    match value {
        Value::Object(object) => object
            .into_iter()
            .filter(|(key, _)| key != "storageVersionHash")
            .map(|(key, value)| {
                let value = match (key.as_str(), value) {
                    ("resourceVersion", Value::String(text)) if !text.is_empty() => "<rv>".into(),
                    ("continue", Value::String(text)) if !text.is_empty() => "<continue>".into(),
                    ("nodePort", Value::Number(_)) => "<port>".into(),
                    // Their order depends on the clock's second, or on nothing at all.
                    (
                        "managedFields" | "nonResourceRules" | "resourceRules",
                        Value::Array(list),
                    ) => {
                        let mut list: Vec<Value> = list.into_iter().map(normal).collect();
                        list.sort_by_key(Value::to_string);
                        list.into()
                    }
                    ("cells", Value::Array(cells)) => cells.into_iter().map(cell).collect(),
                    // What columns mean is told in other words.
                    ("columnDefinitions", Value::Array(columns)) => {
                        columns.into_iter().map(column).collect()
                    }
                    (_, value) => normal(value),
                };
                (UUID.replace_all(&key, "<uid>").into_owned(), value)
            })
            .collect(),
        Value::Array(list) => list.into_iter().map(normal).collect(),
        Value::String(text) => {
            let text = UUID.replace_all(&text, "<uid>");
            let text = TIME.replace_all(&text, "<time>");
            let text = JWT.replace_all(&text, "<token>");
            let text = ADDRESS.replace_all(&text, "<address>");
            let text = DIGEST.replace_all(&text, "<digest>");
            let text = VOLUME.replace_all(&text, "kube-api-access-<random>");
            SERVER.replace_all(&text, "<server>").into_owned().into()
        }
        other => other,
    }
}

/// A cell; node ports are random, ages are a second more or less.
fn cell(cell: Value) -> Value {
    match cell {
        Value::String(text) if NODE_PORT.is_match(&text) => {
            NODE_PORT.replace_all(&text, ":<port>/").into_owned().into()
        }
        Value::String(text) if AGE.is_match(&text) => "<age>".into(),
        other => normal(other),
    }
}

fn column(mut column: Value) -> Value {
    column["description"] = Value::Null;
    column
}

/// Adds a line for every place where the two differ.
pub fn differences(place: &str, ours: &Value, real: &Value, found: &mut Vec<String>) {
    match (ours, real) {
        (Value::Object(own), Value::Object(other)) => {
            let mut keys: Vec<&String> = own.keys().chain(other.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let place = format!("{place}.{key}");
                match (own.get(key), other.get(key)) {
                    (Some(own), Some(other)) => differences(&place, own, other, found),
                    (Some(own), None) => found.push(format!("{place}: only ours {own}")),
                    (None, Some(other)) => found.push(format!("{place}: only real {other}")),
                    (None, None) => {}
                }
            }
        }
        (Value::Array(own), Value::Array(other)) if own.len() == other.len() => {
            for (at, (own, other)) in own.iter().zip(other).enumerate() {
                differences(&format!("{place}[{at}]"), own, other, found);
            }
        }
        _ if ours == real => {}
        _ => found.push(format!("{place}:\n        ours {ours}\n        real {real}")),
    }
}
