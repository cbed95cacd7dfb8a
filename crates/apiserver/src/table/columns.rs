//! A column of a built-in kind, and small readers that cells are made of.

use serde_json::Value;

use super::age;

/// How a cell is made from an object.
pub type Cell = fn(&Value) -> Value;

/// A column after the name.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer` or `boolean`.
    pub kind: &'static str,
    /// Shown only by `-o wide`.
    pub wide: bool,
    pub cell: Cell,
}

/// A column of text.
pub const fn text(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "string", wide: false, cell }
}

/// A column of whole numbers.
pub const fn number(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "integer", wide: false, cell }
}

/// A column of `true` and `false`.
pub const fn truth(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "boolean", wide: false, cell }
}

/// A column of text for `-o wide`.
pub const fn wide(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "string", wide: true, cell }
}

/// The column that almost every kind has.
pub const AGE: Column =
    text("Age", |object| age::since(object.pointer("/metadata/creationTimestamp")).into());

/// The column of kinds without columns of their own.
pub const CREATED: Column = Column {
    name: "Created At",
    kind: "date",
    wide: false,
    cell: |object| object.pointer("/metadata/creationTimestamp").cloned().unwrap_or_default(),
};

/// Text at a place in the object, empty if there is none.
pub fn str_at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number at a place in the object, 0 if there is none.
pub fn int_at(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// The entries of a list in the object.
pub fn list_at<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Text, or `<none>`.
pub fn or_none(text: &str) -> Value {
    or(text, "<none>")
}

/// Text, or what stands for nothing.
pub fn or(text: &str, nothing: &str) -> Value {
    if text.is_empty() { nothing.into() } else { text.into() }
}

/// `a=b,c=d` in order of keys, or `<none>`.
pub fn labels(map: Option<&Value>) -> Value {
    or_none(&pairs(map).join(","))
}

fn pairs(map: Option<&Value>) -> Vec<String> {
    let map = map.and_then(Value::as_object);
    let mut pairs: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    pairs
}

/// A label selector as text: `a=b,c in (d,e),!f`.
pub fn selector(selector: Option<&Value>, nothing: &str) -> Value {
    let Some(selector) = selector else { return nothing.into() };
    let mut parts = pairs(selector.get("matchLabels"));
    for expression in list_at(selector, "/matchExpressions") {
        let key = str_at(expression, "/key");
        let mut values: Vec<&str> =
            list_at(expression, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        parts.push(match str_at(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    or(&parts.join(","), nothing)
}

/// The first three entries and how many more there are.
pub fn few(entries: &[String], nothing: &str) -> Value {
    const MOST: usize = 3;
    let shown = entries.iter().take(MOST).cloned().collect::<Vec<_>>().join(",");
    if entries.len() > MOST {
        return format!("{shown} + {} more...", entries.len() - MOST).into();
    }
    or(&shown, nothing)
}

/// A condition of the object's status.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list_at(object, "/status/conditions").iter().find(|condition| condition["type"] == kind)
}
