//! `--set` arguments: where they point, and which type their values get.
//!
//! Both follow istioctl: dots in keys are escaped by `\`, list entries are named `[0]`,
//! `.[0]` or `[name:eastwest]`, and an unquoted value is a number or a boolean where it reads as
//! one, unless the setting is a text.

use serde_json::{Number, Value, json};

use super::settings::{self, Shape};

/// Why a `--set` argument could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum SetPathError {
    #[error("--set {0}: write PATH=VALUE, for example values.global.network=network1")]
    NoValue(String),
    #[error(
        "--set {0}: `{1}` is not a list index; write it like components.ingressGateways[0].enabled=true"
    )]
    BadIndex(String, String),
    #[error("--set {0}: there is no entry whose {1} is `{2}`")]
    NoEntry(String, String, String),
    #[error("--set {0}: {1} is a list; name an entry of it, like {1}[0]")]
    IsAList(String, String),
}

/// One argument, taken apart.
#[derive(Debug)]
pub(super) struct Set<'a> {
    argument: &'a str,
    steps: Vec<Step>,
    text: &'a str,
}

#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
    /// The entry whose field has a value.
    Entry(String, String),
}

impl<'a> Set<'a> {
    pub(super) fn parse(argument: &'a str) -> Result<Self, SetPathError> {
        let (path, text) = argument
            .split_once('=')
            .map(|(path, text)| (path.trim(), text))
            .filter(|(path, _)| !path.is_empty())
            .ok_or_else(|| SetPathError::NoValue(argument.to_owned()))?;
        let path = path.strip_prefix("spec.").unwrap_or(path);
        Ok(Self { argument, steps: steps(argument, path)?, text })
    }

    /// The value, where the argument sets exactly this top-level key.
    pub(super) fn of(&self, key: &str) -> Option<&'a str> {
        match self.steps.as_slice() {
            [Step::Key(only)] if only == key => Some(self.text),
            _ => None,
        }
    }

    /// Writes the value into a spec. Returns the keys of the path and the value.
    pub(super) fn apply(&self, spec: &mut Value) -> Result<(Vec<String>, Value), SetPathError> {
        let mut path = Vec::new();
        let mut place = spec;
        for step in &self.steps {
            place = self.walk(step, place, &mut path)?;
        }
        let value = match settings::shape_of(&path) {
            Some(Shape::Text | Shape::Texts) => Value::String(self.text.replace("\\,", ",")),
            _ => typed(self.text),
        };
        *place = value.clone();
        Ok((path, value))
    }

    fn walk<'v>(
        &self,
        step: &Step,
        place: &'v mut Value,
        path: &mut Vec<String>,
    ) -> Result<&'v mut Value, SetPathError> {
        let index = match step {
            Step::Key(key) => {
                if place.is_array() {
                    let list = path.join(".");
                    return Err(SetPathError::IsAList(self.argument.to_owned(), list));
                }
                if !place.is_object() {
                    *place = json!({});
                }
                path.push(key.clone());
                let map = place.as_object_mut().expect("made a mapping above");
                return Ok(map.entry(key).or_insert(Value::Null));
            }
            Step::Index(index) => *index,
            Step::Entry(key, value) => {
                let list = place.as_array().map_or(&[][..], Vec::as_slice);
                let is_it = |entry: &Value| {
                    entry.get(key).is_some_and(|found| settings::plain_text(found) == *value)
                };
                list.iter().position(is_it).ok_or_else(|| {
                    let argument = self.argument.to_owned();
                    SetPathError::NoEntry(argument, key.clone(), value.clone())
                })?
            }
        };
        if !place.is_array() {
            *place = json!([]);
        }
        let list = place.as_array_mut().expect("made a list above");
        if list.len() <= index {
            list.resize(index + 1, Value::Null);
        }
        path.push(format!("[{index}]"));
        Ok(list.get_mut(index).expect("made long enough above"))
    }
}

/// Splits at dots that are not escaped by `\`, and takes `[…]` off the end of a key.
fn steps(argument: &str, path: &str) -> Result<Vec<Step>, SetPathError> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    let mut inside = false;
    for c in path.chars() {
        match c {
            '\\' if !escaped => escaped = true,
            '.' if !escaped && !inside => parts.push(String::new()),
            c => {
                inside = match c {
                    '[' => true,
                    ']' => false,
                    _ => inside,
                };
                escaped = false;
                parts.last_mut().expect("starts with one part").push(c);
            }
        }
    }
    let mut steps = Vec::new();
    for part in parts {
        let mut rest = part.as_str();
        let key = rest.find('[').map_or(rest, |at| &rest[..at]);
        if !key.is_empty() {
            steps.push(Step::Key(key.to_owned()));
        }
        rest = &rest[key.len()..];
        while let Some(inner) = rest.strip_prefix('[') {
            let bad = || SetPathError::BadIndex(argument.to_owned(), part.clone());
            let (index, after) = inner.split_once(']').ok_or_else(bad)?;
            if let Some((key, value)) = index.split_once(':') {
                steps.push(Step::Entry(key.to_owned(), value.to_owned()));
            } else {
                // Bounded, so that a typing mistake does not ask for all memory.
                let index = index.parse().ok().filter(|index| *index < 1000).ok_or_else(bad)?;
                steps.push(Step::Index(index));
            }
            rest = after;
        }
    }
    Ok(steps)
}

/// A value by how it reads: integer, number, boolean, `null`, `{a,b}` as a list, else text.
fn typed(text: &str) -> Value {
    if let Ok(number) = text.parse::<i64>() {
        return number.into();
    }
    let is_decimal = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    if let Some(number) = text.parse().ok().filter(|_| is_decimal).and_then(Number::from_f64) {
        return Value::Number(number);
    }
    match text {
        "true" | "TRUE" | "True" | "t" | "T" => Value::Bool(true),
        "false" | "FALSE" | "False" | "f" | "F" => Value::Bool(false),
        "null" => Value::Null,
        _ => match text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some("") => json!([]),
            Some(items) if !items.contains(':') => items.split(',').map(typed).collect(),
            _ => Value::String(text.replace("\\,", ",")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_get_the_type_they_read_as() {
        for (text, want) in [
            ("3", json!(3)),
            ("-3", json!(-3)),
            ("0.5", json!(0.5)),
            ("true", json!(true)),
            ("False", json!(false)),
            ("null", Value::Null),
            ("{a,2}", json!(["a", 2])),
            ("1.2.3", json!("1.2.3")),
            ("nan", json!("nan")),
            (r"a\,b", json!("a,b")),
            ("a,b", json!("a,b")),
            ("", json!("")),
        ] {
            assert_eq!(typed(text), want, "{text}");
        }
    }

    #[test]
    fn entries_of_lists_are_named_in_three_ways() {
        let spec = json!({"list": [{"name": "a", "on": true}, {"name": "b.c", "on": true}]});
        for path in ["list[1].on", "list.[1].on", "list[name:b.c].on"] {
            let mut spec = spec.clone();
            let argument = format!("{path}=false");
            let (keys, _) = Set::parse(&argument).unwrap().apply(&mut spec).unwrap();
            assert_eq!(keys, ["list", "[1]", "on"]);
            assert_eq!(spec.pointer("/list/1/on"), Some(&json!(false)), "{path}");
            assert_eq!(spec.pointer("/list/0/on"), Some(&json!(true)), "{path}");
        }
        let error = |argument: &str| {
            Set::parse(argument).unwrap().apply(&mut spec.clone()).unwrap_err().to_string()
        };
        assert_eq!(
            error("list[name:x].on=1"),
            "--set list[name:x].on=1: there is no entry whose name is `x`"
        );
        assert_eq!(
            error("list.on=1"),
            "--set list.on=1: list is a list; name an entry of it, like list[0]"
        );
    }
}
