//! Validation of custom resources against their schema, in kube-apiserver's words.

use kube_cel::{CompiledSchema, Validator};
use regex::Regex;
use serde_json::Value;

use super::formats;
use crate::status::Cause;

/// Errors that leave rules nothing to be checked against.
const BLOCKING: &[&str] =
    &["FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid"];

/// Everything wrong with a custom resource. `old` is its state before an update.
pub fn check(
    schema: &Value,
    rules: Option<&CompiledSchema>,
    value: &Value,
    old: Option<&Value>,
) -> Vec<Cause> {
    let mut checker = Checker { causes: Vec::new() };
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = value.get(name).filter(|_| name != "metadata") {
            checker.at(field, value, name);
        }
    }
    checker.required(schema, value, "");
    let mut causes = checker.causes;
    match rules {
        Some(rules) if !causes.iter().any(|cause| BLOCKING.contains(&cause.reason)) => {
            causes.extend(broken_rules(rules, value, old));
        }
        Some(_) => causes.push(Cause {
            reason: "FieldValueInvalid",
            message: "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation".to_owned(),
            field: "<nil>".to_owned(),
        }),
        None => (),
    }
    causes
}

fn broken_rules(rules: &CompiledSchema, value: &Value, old: Option<&Value>) -> Vec<Cause> {
    let Err(errors) = Validator::new().validate_compiled(rules, value, old) else {
        return Vec::new();
    };
    errors
        .into_vec()
        .into_iter()
        .map(|error| {
            let at = at(value, &error.field_path);
            let reason = match error.reason.as_deref() {
                Some("FieldValueForbidden") => "FieldValueForbidden",
                Some("FieldValueRequired") => "FieldValueRequired",
                Some("FieldValueDuplicate") => "FieldValueDuplicate",
                _ => "FieldValueInvalid",
            };
            let message = match reason {
                "FieldValueForbidden" => format!("Forbidden: {}", error.message),
                "FieldValueRequired" => format!("Required value: {}", error.message),
                "FieldValueDuplicate" => format!("Duplicate value: {}", shown(at)),
                _ => format!("Invalid value: {}: {}", shown(at), error.message),
            };
            let field =
                if error.field_path.is_empty() { "<nil>".to_owned() } else { error.field_path };
            Cause { reason, message, field }
        })
        .collect()
}

/// The value at a path such as `spec.list[0].name`.
fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split(['.', '[']).filter(|part| !part.is_empty()).fold(value, |value, part| {
        match part.strip_suffix(']').and_then(|index| index.parse::<usize>().ok()) {
            Some(index) => &value[index],
            None => &value[part],
        }
    })
}

fn shown(value: &Value) -> String {
    match value {
        // Rules fail for whole objects with their type only.
        Value::Object(_) => "\"object\"".to_owned(),
        Value::Array(_) => "\"array\"".to_owned(),
        other => other.to_string(),
    }
}

struct Checker {
    causes: Vec<Cause>,
}

impl Checker {
    fn add(&mut self, reason: &'static str, field: &str, message: String) {
        self.causes.push(Cause { reason, message, field: field.to_owned() });
    }

    fn invalid(&mut self, path: &str, value: &str, why: &str) {
        let message = format!("Invalid value: {value}: {path} in body {why}");
        self.add("FieldValueInvalid", path, message);
    }

    fn at(&mut self, schema: &Value, value: &Value, path: &str) {
        if value.is_null() && schema["nullable"] == true {
            return;
        }
        if !self.has_type(schema, value, path) {
            return;
        }
        self.combinations(schema, value, path);
        self.choices(schema, value, path);
        match value {
            Value::String(text) => self.text(schema, text, path),
            Value::Number(number) => {
                self.number(schema, number.as_f64().unwrap_or(0.0), value, path);
            }
            Value::Array(items) => self.items(schema, items, path),
            Value::Object(_) => self.object(schema, value, path),
            _ => (),
        }
    }

    fn has_type(&mut self, schema: &Value, value: &Value, path: &str) -> bool {
        if schema["x-kubernetes-int-or-string"] == true {
            if value.is_string() || value.is_i64() {
                return true;
            }
            let wanted = "integer,string";
            let have = type_of(value);
            let message = format!(
                "Invalid value: \"{have}\": {path} in body must be of type {wanted}: \"{have}\""
            );
            self.add("FieldValueTypeInvalid", path, message);
            return false;
        }
        let Some(wanted) = schema["type"].as_str() else { return true };
        let fits = match wanted {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "number" => value.is_number(),
            "integer" => {
                value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
            }
            _ => true,
        };
        if !fits {
            let have = type_of(value);
            let message = format!(
                "Invalid value: \"{have}\": {path} in body must be of type {wanted}: \"{have}\""
            );
            self.add("FieldValueTypeInvalid", path, message);
        }
        fits
    }

    fn choices(&mut self, schema: &Value, value: &Value, path: &str) {
        let Some(choices) = schema["enum"].as_array() else { return };
        if choices.contains(value) {
            return;
        }
        let list: Vec<String> = choices
            .iter()
            .map(|choice| match choice {
                Value::String(text) => format!("\"{text}\""),
                other => format!("\"{other}\""),
            })
            .collect();
        let message = format!("Unsupported value: {value}: supported values: {}", list.join(", "));
        self.add("FieldValueNotSupported", path, message);
    }

    fn text(&mut self, schema: &Value, text: &str, path: &str) {
        let length = text.chars().count() as u64;
        let quoted = Value::from(text).to_string();
        if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
            let message = format!("Too long: may not be more than {most} bytes");
            self.add("FieldValueTooLong", path, message);
        }
        if let Some(least) = schema["minLength"].as_u64().filter(|least| length < *least) {
            self.invalid(path, &quoted, &format!("should be at least {least} chars long"));
        }
        if let Some(pattern) = schema["pattern"].as_str()
            && Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text))
        {
            self.invalid(path, &quoted, &format!("should match '{pattern}'"));
        }
        if let Some(format) = schema["format"].as_str()
            && !formats::has(format, text)
        {
            self.invalid(path, &quoted, &format!("must be of type {format}: {quoted}"));
        }
    }

    fn number(&mut self, schema: &Value, number: f64, value: &Value, path: &str) {
        let shown = value.to_string();
        if let Some(most) = schema["maximum"].as_f64() {
            let exclusive = schema["exclusiveMaximum"] == true;
            if number > most || (exclusive && number >= most) {
                let bound = if exclusive { "less than" } else { "less than or equal to" };
                self.invalid(path, &shown, &format!("should be {bound} {most}"));
            }
        }
        if let Some(least) = schema["minimum"].as_f64() {
            let exclusive = schema["exclusiveMinimum"] == true;
            if number < least || (exclusive && number <= least) {
                let bound = if exclusive { "greater than" } else { "greater than or equal to" };
                self.invalid(path, &shown, &format!("should be {bound} {least}"));
            }
        }
        if let Some(step) = schema["multipleOf"].as_f64().filter(|step| *step != 0.0)
            && (number / step).fract() != 0.0
        {
            self.invalid(path, &shown, &format!("should be a multiple of {step}"));
        }
        let bounds = match schema["format"].as_str() {
            Some("int32") => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
            _ => None,
        };
        if bounds.is_some_and(|(low, high)| number < low || number > high) {
            self.invalid(path, &shown, "must be of type int32");
        }
    }

    fn items(&mut self, schema: &Value, items: &[Value], path: &str) {
        let count = items.len() as u64;
        if let Some(most) = schema["maxItems"].as_u64().filter(|most| count > *most) {
            let message = format!("Too many: {count}: must have at most {most} items");
            self.add("FieldValueTooMany", path, message);
        }
        if let Some(least) = schema["minItems"].as_u64().filter(|least| count < *least) {
            self.invalid(path, &count.to_string(), &format!("should have at least {least} items"));
        }
        for (index, item) in items.iter().enumerate() {
            self.at(&schema["items"], item, &format!("{path}[{index}]"));
        }
        self.duplicates(schema, items, path);
    }

    fn duplicates(&mut self, schema: &Value, items: &[Value], path: &str) {
        let keys = crate::object::strings(&schema["x-kubernetes-list-map-keys"]);
        let identity = |item: &Value| match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => Some(item.clone()),
            Some("map") => Some(Value::Object(
                keys.iter().map(|key| (key.clone(), item[key.as_str()].clone())).collect(),
            )),
            _ => None,
        };
        let mut seen: Vec<Value> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Some(identity) = identity(item) else { return };
            if seen.contains(&identity) {
                let message = format!("Duplicate value: {identity}");
                self.add("FieldValueDuplicate", &format!("{path}[{index}]"), message);
            }
            seen.push(identity);
        }
    }

    fn object(&mut self, schema: &Value, value: &Value, path: &str) {
        let map = value.as_object().into_iter().flatten();
        let count = map.clone().count() as u64;
        if let Some(most) = schema["maxProperties"].as_u64().filter(|most| count > *most) {
            let message = format!("Too many: {count}: must have at most {most} items");
            self.add("FieldValueTooMany", path, message);
        }
        if let Some(least) = schema["minProperties"].as_u64().filter(|least| count < *least) {
            let why = format!("should have at least {least} properties");
            self.invalid(path, &count.to_string(), &why);
        }
        self.required(schema, value, path);
        for (name, item) in map {
            let below = format!("{path}.{name}");
            match (schema["properties"].get(name), &schema["additionalProperties"]) {
                (Some(field), _) => self.at(field, item, &below),
                (None, rest @ Value::Object(_)) => self.at(rest, item, &below),
                _ => (),
            }
        }
        if schema["x-kubernetes-embedded-resource"] == true {
            for field in ["apiVersion", "kind"] {
                if value[field].as_str().unwrap_or_default().is_empty() {
                    let message = "Required value: must not be empty".to_owned();
                    self.add("FieldValueRequired", &format!("{path}.{field}"), message);
                }
            }
        }
    }

    fn required(&mut self, schema: &Value, value: &Value, path: &str) {
        for name in crate::object::strings(&schema["required"]) {
            if value.get(&name).is_none() {
                let field = if path.is_empty() { name } else { format!("{path}.{name}") };
                self.add("FieldValueRequired", &field, "Required value".to_owned());
            }
        }
    }

    /// `allOf`, `anyOf`, `oneOf` and `not`.
    fn combinations(&mut self, schema: &Value, value: &Value, path: &str) {
        let list = |name: &str| schema[name].as_array().cloned().unwrap_or_default();
        for part in list("allOf") {
            self.at(&part, value, path);
        }
        let shown = shown_for(value);
        let any = list("anyOf");
        if !any.is_empty() && !any.iter().any(|part| fits(part, value, path)) {
            let why = "must validate at least one schema (anyOf)";
            self.closest(&any, value, path, &shown, why);
        }
        let one = list("oneOf");
        let found = one.iter().filter(|part| fits(part, value, path)).count();
        if !one.is_empty() && found == 0 {
            let why = "must validate one and only one schema (oneOf). Found none valid";
            self.closest(&one, value, path, &shown, why);
        } else if found > 1 {
            let why = format!(
                "must validate one and only one schema (oneOf). Found {found} valid alternatives"
            );
            self.invalid(path, &shown, &why);
        }
        if schema["not"].is_object() && fits(&schema["not"], value, path) {
            self.invalid(path, &shown, "must not validate the schema (not)");
        }
    }

    /// No alternative fits: says so, and why the one that came closest does not.
    fn closest(&mut self, parts: &[Value], value: &Value, path: &str, shown: &str, why: &str) {
        self.invalid(path, shown, why);
        let best = parts.iter().map(|part| causes(part, value, path)).min_by_key(Vec::len);
        self.causes.extend(best.unwrap_or_default());
    }
}

fn causes(schema: &Value, value: &Value, path: &str) -> Vec<Cause> {
    let mut checker = Checker { causes: Vec::new() };
    checker.at(schema, value, path);
    // Branches have no type of their own; their constraints on fields still hold.
    if schema["type"].is_null() && value.is_object() && schema["properties"].is_null() {
        return checker.causes;
    }
    checker.causes
}

fn fits(schema: &Value, value: &Value, path: &str) -> bool {
    causes(schema, value, path).is_empty()
}

fn shown_for(value: &Value) -> String {
    match value {
        Value::Object(_) | Value::Array(_) => format!("\"{}\"", type_of(value)),
        other => other.to_string(),
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use kube_cel::compile_schema;
    use serde_json::json;

    use super::*;

    fn texts(schema: &Value, value: &Value) -> Vec<String> {
        let has_rules = schema.to_string().contains("x-kubernetes-validations");
        let rules = has_rules.then(|| compile_schema(schema));
        let causes = check(schema, rules.as_ref(), value, None);
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn errors_read_as_kubernetes_writes_them() {
        let schema = json!({"type": "object", "required": ["spec"], "properties": {"spec": {
            "type": "object",
            "required": ["host"],
            "properties": {
                "host": {"type": "string", "pattern": "^a"},
                "n": {"type": "integer", "minimum": 1},
                "mode": {"type": "string", "enum": ["A", "B"]},
            },
        }}});
        assert_eq!(texts(&schema, &json!({})), ["spec: Required value"]);
        let value = json!({"spec": {"host": "b", "n": 0, "mode": "C"}});
        assert_eq!(
            texts(&schema, &value),
            [
                "spec.host: Invalid value: \"b\": spec.host in body should match '^a'",
                "spec.mode: Unsupported value: \"C\": supported values: \"A\", \"B\"",
                "spec.n: Invalid value: 0: spec.n in body should be greater than or equal to 1",
            ]
        );
        let value = json!({"spec": {"host": 1}});
        assert_eq!(
            texts(&schema, &value),
            [
                "spec.host: Invalid value: \"integer\": spec.host in body must be of type string: \"integer\""
            ]
        );
    }

    #[test]
    fn rules_are_evaluated() {
        let schema = json!({"type": "object", "properties": {"spec": {
            "type": "object",
            "properties": {"n": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.n > 1", "message": "n is too small"}],
        }}});
        assert_eq!(
            texts(&schema, &json!({"spec": {"n": 1}})),
            ["spec: Invalid value: \"object\": n is too small"]
        );
        assert!(texts(&schema, &json!({"spec": {"n": 2}})).is_empty());
    }
}
