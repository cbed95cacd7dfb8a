//! Lays the owner's own `istio-proxy` container over ours, the way a strategic merge patch does:
//! named lists item by item, everything else field by field.

use serde_json::Value;

/// The field that tells the items of a list apart.
fn key_of(field: &str) -> Option<&'static str> {
    match field {
        "env" | "volumeDevices" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        "ports" => Some("containerPort"),
        _ => None,
    }
}

/// Lays `over` over `base`.
pub(crate) fn lay_over(base: &mut Value, over: &Value) {
    let (Value::Object(base), Value::Object(over)) = (&mut *base, over) else {
        *base = over.clone();
        return;
    };
    for (field, value) in over {
        match (base.get_mut(field), value) {
            (_, Value::Null) => {
                base.remove(field);
            }
            (None, value) => {
                base.insert(field.clone(), value.clone());
            }
            (Some(Value::Array(mine)), Value::Array(theirs)) => match key_of(field) {
                Some(key) => by_key(mine, theirs, key),
                None => mine.clone_from(theirs),
            },
            (Some(mine), value) => lay_over(mine, value),
        }
    }
}

fn by_key(mine: &mut Vec<Value>, theirs: &[Value], key: &str) {
    for item in theirs {
        match mine.iter_mut().find(|own| own.get(key) == item.get(key)) {
            // A variable is either a value or taken from somewhere, never both.
            Some(own) if key == "name" => own.clone_from(item),
            Some(own) => lay_over(own, item),
            None => mine.push(item.clone()),
        }
    }
}
