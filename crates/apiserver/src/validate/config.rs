//! Validation of ConfigMaps and Secrets.

use serde_json::{Value, json};

use super::{Errors, names};

/// What a Secret of a type has to hold.
const NEEDED: &[(&str, &[&str])] = &[
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
];
/// The largest sum of the sizes of all values.
const MOST: usize = 1024 * 1024;

/// Checks a ConfigMap.
pub fn config_map(value: &Value, errors: &mut Errors) {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        for (key, content) in value[field].as_object().into_iter().flatten() {
            for why in names::config_key(key) {
                errors.invalid(format!("{field}[{key}]"), &json!(key), why);
            }
            size += content.as_str().unwrap_or_default().len();
            if field == "data" && !value["binaryData"][key].is_null() {
                let why = "duplicate of key present in binaryData";
                errors.invalid(format!("data[{key}]"), &json!(key), why);
            }
        }
    }
    if size > MOST {
        errors.too_long("", MOST);
    }
}

/// Checks a Secret.
pub fn secret(value: &Value, errors: &mut Errors) {
    let mut size = 0;
    for (key, content) in value["data"].as_object().into_iter().flatten() {
        for why in names::config_key(key) {
            errors.invalid(format!("data[{key}]"), &json!(key), why);
        }
        size += content.as_str().unwrap_or_default().len() / 4 * 3;
    }
    if size > MOST {
        errors.too_long("data", MOST);
    }
    let kind = value["type"].as_str().unwrap_or_default();
    if kind == "kubernetes.io/service-account-token"
        && value
            .pointer("/metadata/annotations/kubernetes.io~1service-account.name")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
    {
        errors.required("metadata.annotations[kubernetes.io/service-account.name]", "");
    }
    let needed = NEEDED.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, keys)| keys);
    for key in needed {
        if value["data"].get(key).is_none() {
            errors.required(format!("data[{key}]"), "");
        }
    }
    let basic = ["username", "password"];
    if kind == "kubernetes.io/basic-auth"
        && basic.iter().all(|key| value["data"].get(key).is_none())
    {
        for key in basic {
            errors.required(format!("data[{key}]"), "");
        }
    }
}

/// What may not change: immutable content, and a Secret's type.
pub fn change(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    if fields.contains(&"type") && new["type"] != old["type"] {
        errors.invalid("type", &new["type"], "field is immutable");
    }
    if old["immutable"] != true {
        return;
    }
    let why = "field is immutable when `immutable` is set";
    if new["immutable"] != true {
        errors.forbidden("immutable", why);
    }
    for field in fields.iter().filter(|field| **field != "type") {
        if new[*field] != old[*field] {
            errors.forbidden(*field, why);
        }
    }
}
