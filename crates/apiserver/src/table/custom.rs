//! Columns of custom kinds: what their definitions say, or the age alone.

use serde_json::{Value, json};

use super::age;
use super::jsonpath::Path;
use crate::resources::Custom;

/// A column after the name.
#[derive(Debug)]
pub struct Column {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
    /// Nothing for a path that cannot be read: its cells stay empty.
    path: Option<Path>,
}

/// The columns of a custom kind.
pub fn columns(custom: &Custom) -> Vec<Column> {
    if custom.printer_columns.is_empty() {
        return vec![Column {
            name: "Age".to_owned(),
            kind: "date".to_owned(),
            format: String::new(),
            description: "When the object was made".to_owned(),
            priority: 0,
            path: Path::parse(".metadata.creationTimestamp").ok(),
        }];
    }
    custom.printer_columns.iter().map(read).collect()
}

fn read(column: &Value) -> Column {
    let text = |name: &str| column[name].as_str().unwrap_or_default().to_owned();
    let path = text("jsonPath");
    let description = text("description");
    let description = if description.is_empty() {
        format!("Custom resource definition column (in JSONPath format): {path}")
    } else {
        description
    };
    Column {
        name: text("name"),
        kind: text("type"),
        format: text("format"),
        description,
        priority: column["priority"].as_i64().unwrap_or_default(),
        path: Path::parse(&path)
            .inspect_err(|error| tracing::warn!(path, error, "printer column cannot be read"))
            .ok(),
    }
}

/// What is said about the column.
pub fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

/// The cell of an object: null where the path leads nowhere or to another type.
pub fn cell(column: &Column, object: &Value) -> Value {
    let Some(value) = column.path.as_ref().and_then(|path| path.first(object)) else {
        return Value::Null;
    };
    match column.kind.as_str() {
        "integer" => match (value.as_i64(), value.as_f64()) {
            (Some(number), _) => number.into(),
            #[expect(clippy::cast_possible_truncation, reason = "as Kubernetes rounds")]
            (None, Some(number)) => (number as i64).into(),
            _ => Value::Null,
        },
        "number" if value.is_number() => value.clone(),
        "boolean" if value.is_boolean() => value.clone(),
        "date" => match value.as_str() {
            Some(_) => age::since(Some(value)).into(),
            None => Value::Null,
        },
        "string" => match value {
            Value::String(text) => text.clone().into(),
            Value::Null => Value::Null,
            other => other.to_string().into(),
        },
        _ => Value::Null,
    }
}
