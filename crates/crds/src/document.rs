//! Reading a document into a type, and saying which of its fields the type has no place for.
//!
//! A field that is not understood is never dropped silently: [`read`] returns its path, and the
//! caller reports it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A document that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Read<T> {
    /// What was understood.
    pub value: T,
    /// The paths of the fields that were not, in order.
    pub unknown: Vec<String>,
}

/// Why a document could not be read.
#[derive(Debug, thiserror::Error)]
#[error("field `{path}`: {problem}")]
pub struct ReadError {
    /// Where in the document.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

/// Reads `document`, keeping count of what the type has no place for.
///
/// # Errors
/// When a field has a value that its type does not allow.
pub fn read<T: Serialize + DeserializeOwned>(document: &Value) -> Result<Read<T>, ReadError> {
    let value: T = serde_path_to_error::deserialize(document).map_err(|error| ReadError {
        path: error.path().to_string(),
        problem: error.inner().to_string(),
    })?;
    let kept = serde_json::to_value(&value)
        .map_err(|error| ReadError { path: String::from("."), problem: error.to_string() })?;
    let mut unknown = Vec::new();
    lost("", document, &kept, &mut unknown);
    unknown.sort();
    Ok(Read { value, unknown })
}

/// Collects the paths of what is in `document` but not in `kept`.
fn lost(path: &str, document: &Value, kept: &Value, found: &mut Vec<String>) {
    match (document, kept) {
        (Value::Object(fields), Value::Object(kept)) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match kept.get(name) {
                    Some(kept) => lost(&path, value, kept, found),
                    None if value.is_null() => (),
                    None => found.push(path),
                }
            }
        }
        (Value::Array(items), Value::Array(kept)) => {
            for (at, (item, kept)) in items.iter().zip(kept).enumerate() {
                lost(&format!("{path}[{at}]"), item, kept, found);
            }
        }
        _ => (),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Outer {
        list: Vec<Inner>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Inner {
        known: Option<u8>,
    }

    #[test]
    fn fields_without_a_place_are_named_by_their_path() {
        let document = json!({"list": [{"known": 1}, {"other": {"x": 1}, "nothing": null}]});
        assert_eq!(
            read::<Outer>(&document).unwrap(),
            Read {
                value: Outer { list: vec![Inner { known: Some(1) }, Inner { known: None }] },
                unknown: vec![String::from("list[1].other")],
            }
        );
    }

    #[test]
    fn a_wrong_value_is_an_error_that_says_where() {
        let error = read::<Outer>(&json!({"list": [{"known": "x"}]})).unwrap_err();
        assert_eq!(error.path, "list[0].known");
    }
}
