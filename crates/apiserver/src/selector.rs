//! Label and field selectors, as strings in URLs and as objects in specs.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::status::Status;

pub mod fields;

/// A label selector: all requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    rule: Rule,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

impl Labels {
    /// Reads `a=b,c!=d,e in (f,g),h,!i`.
    ///
    /// # Errors
    /// 400 in Kubernetes' words.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let wrong =
            |why: String| Status::bad_request(format!("unable to parse requirement: {why}"));
        let mut requirements = Vec::new();
        if let Some(operator) = text.trim_start().chars().next().filter(|c| "=,()".contains(*c)) {
            return Err(Status::bad_request(format!(
                "found '{operator}', expected: !, identifier, or 'end of string'"
            )));
        }
        for part in split_top(text) {
            let part = part.trim();
            if part.is_empty() {
                if text.trim().is_empty() {
                    continue;
                }
                return Err(wrong("found '', expected: identifier after ','".to_owned()));
            }
            requirements.push(requirement(part).map_err(wrong)?);
        }
        Ok(Self(requirements))
    }

    /// Reads a `LabelSelector` object. None selects nothing; an empty one everything.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_object(selector: &Value) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement { key: key.clone(), rule: Rule::In(vec![value]) });
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            let values = crate::object::strings(&expression["values"]);
            let rule = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Rule::In(values),
                "NotIn" => Rule::NotIn(values),
                "Exists" => Rule::Exists,
                "DoesNotExist" => Rule::Absent,
                other => return Err(format!("\"{other}\" is not a valid label selector operator")),
            };
            requirements.push(Requirement { key, rule });
        }
        Ok(Self(requirements))
    }

    /// Exactly these labels, as a Service selects.
    pub fn from_map(labels: &Value) -> Self {
        let requirements = labels.as_object().into_iter().flatten().map(|(key, value)| {
            let value = value.as_str().unwrap_or_default().to_owned();
            Requirement { key: key.clone(), rule: Rule::In(vec![value]) }
        });
        Self(requirements.collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a map of labels (or null) is selected.
    pub fn matches(&self, labels: &Value) -> bool {
        static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
        let labels = labels.as_object().unwrap_or(&NONE);
        self.0.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &Map<String, Value>) -> bool {
        let value = labels.get(&self.key).and_then(Value::as_str);
        let number = || value.and_then(|text| text.parse::<i64>().ok());
        match &self.rule {
            Rule::In(values) => value.is_some_and(|have| values.iter().any(|v| v == have)),
            Rule::NotIn(values) => value.is_none_or(|have| values.iter().all(|v| v != have)),
            Rule::Exists => value.is_some(),
            Rule::Absent => value.is_none(),
            Rule::Greater(than) => number().is_some_and(|have| have > *than),
            Rule::Less(than) => number().is_some_and(|have| have < *than),
        }
    }
}

/// Splits at commas outside parentheses.
fn split_top(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => (),
        }
    }
    parts.push(&text[start..]);
    parts
}

fn requirement(text: &str) -> Result<Requirement, String> {
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement { key: label_key(key)?, rule: Rule::Absent });
    }
    for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = text.split_once(operator) {
            let values = vec![label_value(value.trim())?];
            let rule = if negated { Rule::NotIn(values) } else { Rule::In(values) };
            return Ok(Requirement { key: label_key(key)?, rule });
        }
    }
    for operator in ['>', '<'] {
        if let Some((key, value)) = text.split_once(operator) {
            let number = value.trim().parse().map_err(|_| {
                format!("values[0][{}]: Invalid value: \"{value}\": for 'Gt', 'Lt' operators, the value must be an integer", key.trim())
            })?;
            let rule = if operator == '>' { Rule::Greater(number) } else { Rule::Less(number) };
            return Ok(Requirement { key: label_key(key)?, rule });
        }
    }
    let mut words = text.splitn(2, char::is_whitespace);
    let key = words.next().unwrap_or_default();
    let Some(rest) = words.next() else {
        return Ok(Requirement { key: label_key(key)?, rule: Rule::Exists });
    };
    let rest = rest.trim();
    let (negated, list) = match (rest.strip_prefix("notin"), rest.strip_prefix("in")) {
        (Some(list), _) => (true, list),
        (None, Some(list)) => (false, list),
        _ => {
            let word = rest.split_whitespace().next().unwrap_or_default();
            return Err(format!("found '{word}', expected: in, notin, =, ==, !=, gt, lt"));
        }
    };
    let list = list
        .trim()
        .strip_prefix('(')
        .and_then(|list| list.strip_suffix(')'))
        .ok_or_else(|| format!("found '{list}', expected: '('"))?;
    let values: Vec<String> =
        list.split(',').map(|value| label_value(value.trim())).collect::<Result<_, _>>()?;
    let rule = if negated { Rule::NotIn(values) } else { Rule::In(values) };
    Ok(Requirement { key: label_key(key)?, rule })
}

fn label_key(key: &str) -> Result<String, String> {
    let key = key.trim();
    let errors = crate::names::qualified_name(key);
    match errors.first() {
        None => Ok(key.to_owned()),
        Some(error) => Err(format!("<nil>: Invalid value: \"{key}\": {error}")),
    }
}

fn label_value(value: &str) -> Result<String, String> {
    let errors = crate::names::label_value(value);
    match errors.first() {
        None => Ok(value.to_owned()),
        Some(error) => Err(format!("values[0][]: Invalid value: \"{value}\": {error}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_operator_selects_as_documented() {
        let labels = json!({"app": "web", "tier": "front", "n": "5"});
        let cases = [
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app!=web", false),
            ("app in (web,api),tier notin (back)", true),
            ("missing notin (a)", true),
            ("missing", false),
            ("!missing", true),
            ("app", true),
            ("n>4", true),
            ("n<5", false),
            ("", true),
        ];
        for (text, expected) in cases {
            assert_eq!(Labels::parse(text).unwrap().matches(&labels), expected, "{text}");
        }
        assert!(Labels::parse("a b c").is_err());
        assert!(Labels::parse("_=1").is_err());
    }
}
