//! The subset of Kubernetes' JSONPath that printer columns use: fields, indexes, `[*]`, `['a.b']`,
//! and filters `[?(@.type=="Ready")]`.

use serde_json::Value;

/// A path through a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Filter { path: Path, equal: bool, value: Value },
}

impl Path {
    /// Reads a path, with or without the braces of templates.
    ///
    /// # Errors
    /// Says what is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let step;
            (step, rest) = if let Some(inside) = rest.strip_prefix('[') {
                bracket(inside)?
            } else if let Some(name) = rest.strip_prefix('.') {
                if name.starts_with('[') {
                    rest = name;
                    continue;
                }
                field(name)?
            } else {
                return Err(format!("unexpected `{rest}`"));
            };
            steps.push(step);
        }
        Ok(Self(steps))
    }

    /// The first value that the path leads to.
    pub fn first<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.all(document).into_iter().next()
    }

    fn all<'a>(&self, document: &'a Value) -> Vec<&'a Value> {
        self.0.iter().fold(vec![document], |values, step| {
            values.into_iter().flat_map(|value| step.apply(value)).collect()
        })
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Self::Field(name), Value::Object(object)) => object.get(name).into_iter().collect(),
            (Self::Index(index), Value::Array(list)) => {
                let at = if *index < 0 {
                    index
                        .unsigned_abs()
                        .try_into()
                        .ok()
                        .and_then(|back| list.len().checked_sub(back))
                } else {
                    usize::try_from(*index).ok()
                };
                at.and_then(|at| list.get(at)).into_iter().collect()
            }
            (Self::All, Value::Array(list)) => list.iter().collect(),
            (Self::All, Value::Object(object)) => object.values().collect(),
            (Self::Filter { path, equal, value: wanted }, Value::Array(list)) => list
                .iter()
                .filter(|entry| path.first(entry).is_some_and(|own| (own == wanted) == *equal))
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// A field's name after a dot; `\.` stands for a dot in the name.
fn field(text: &str) -> Result<(Step, &str), String> {
    let mut name = String::new();
    let mut chars = text.char_indices().peekable();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                if let Some((_, escaped)) = chars.next() {
                    name.push(escaped);
                }
            }
            '.' | '[' => {
                end = at;
                break;
            }
            _ => name.push(c),
        }
    }
    match name.as_str() {
        "" => Err("a name is missing after `.`".to_owned()),
        "*" => Ok((Step::All, &text[end..])),
        _ => Ok((Step::Field(name), &text[end..])),
    }
}

/// What stands in brackets, without the opening one.
fn bracket(text: &str) -> Result<(Step, &str), String> {
    if let Some(filter) = text.strip_prefix("?(") {
        let (inside, rest) = filter.split_once(")]").ok_or("a filter is not closed")?;
        return Ok((comparison(inside)?, rest));
    }
    for quote in ['\'', '"'] {
        if let Some(name) = text.strip_prefix(quote) {
            let (name, rest) =
                name.split_once(&format!("{quote}]")[..]).ok_or("a name is not closed")?;
            return Ok((Step::Field(name.replace("\\.", ".")), rest));
        }
    }
    let (inside, rest) = text.split_once(']').ok_or("a bracket is not closed")?;
    match inside.trim() {
        "*" => Ok((Step::All, rest)),
        number => number
            .parse()
            .map(|index| (Step::Index(index), rest))
            .map_err(|_| format!("`[{number}]` is not supported")),
    }
}

fn comparison(text: &str) -> Result<Step, String> {
    let (equal, split) = match text.split_once("==") {
        Some(split) => (true, split),
        None => (false, text.split_once("!=").ok_or("only == and != compare")?),
    };
    let path = split.0.trim().strip_prefix('@').ok_or("a filter begins with `@`")?;
    let wanted = split.1.trim();
    let unquoted =
        ['"', '\''].into_iter().find_map(|quote| wanted.strip_prefix(quote)?.strip_suffix(quote));
    let value = match unquoted {
        Some(text) => text.into(),
        None => serde_json::from_str(wanted).map_err(|_| format!("`{wanted}` is no value"))?,
    };
    Ok(Step::Filter { path: Path::parse(path)?, equal, value })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_values() {
        let document = json!({
            "spec": {"hosts": ["a", "b"], "example.com/x": 1},
            "status": {"conditions": [
                {"type": "Synced", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        let cases = [
            (".spec.hosts", Some(json!(["a", "b"]))),
            (".spec.hosts[1]", Some(json!("b"))),
            (".spec.hosts[-1]", Some(json!("b"))),
            ("{.spec.hosts[*]}", Some(json!("a"))),
            (".spec['example.com/x']", Some(json!(1))),
            (".spec.example\\.com/x", Some(json!(1))),
            (".status.conditions[?(@.type==\"Ready\")].status", Some(json!("True"))),
            (".status.conditions[?(@.type=='Gone')].status", None),
            (".spec.none.deeper", None),
        ];
        for (path, want) in cases {
            assert_eq!(Path::parse(path).unwrap().first(&document), want.as_ref(), "{path}");
        }
        assert!(Path::parse(".a[1:2]").is_err());
    }
}
