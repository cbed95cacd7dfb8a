//! Reading a body against its schema: types are checked as Go's decoder would, unknown fields are
//! dropped and named, and what Go leaves out when it writes (nulls, empty lists and maps) goes.

use serde_json::{Map, Number, Value};

use super::{Kind, Schema, Zero};

/// A value of the wrong type, in the words of Go's JSON decoder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WrongType(String);

/// Marks keys of maps in a path.
const KEY: char = '\u{0}';

/// An empty object of a kind, as Go writes it.
pub fn empty(schema: &Schema) -> Value {
    zero(schema)
}

/// Checks and cleans an object; returns the paths of unknown fields.
///
/// # Errors
/// At the first value of the wrong type.
pub fn decode(schema: &Schema, kind: &str, value: &mut Value) -> Result<Vec<String>, WrongType> {
    let mut reader = Reader { unknown: Vec::new(), path: Vec::new(), owner: kind.to_owned() };
    reader.read(schema, value)?;
    Ok(reader.unknown)
}

struct Reader {
    unknown: Vec<String>,
    path: Vec<String>,
    /// The Go struct the current field belongs to.
    owner: String,
}

impl Reader {
    fn read(&mut self, schema: &Schema, value: &mut Value) -> Result<(), WrongType> {
        if let Kind::Named(name) = schema.kind {
            let short = name.rsplit('.').next().unwrap_or(name).to_owned();
            let outer = std::mem::replace(&mut self.owner, short);
            let done = self.read(schema.resolve(), value);
            self.owner = outer;
            return done;
        }
        match &schema.kind {
            Kind::Any | Kind::Named(_) => Ok(()),
            Kind::String => self.scalar(value, value.is_string(), "string"),
            Kind::Bytes => self.bytes(value),
            Kind::Boolean => self.scalar(value, value.is_boolean(), "bool"),
            Kind::Integer(bits) => self.integer(value, *bits),
            Kind::Number => self.scalar(value, value.is_number(), "float64"),
            Kind::Quantity => self.quantity(value),
            Kind::IntOrString => {
                self.scalar(value, value.is_string() || value.is_i64(), "intstr.IntOrString")
            }
            Kind::Time => self.time(value),
            Kind::MicroTime => self.micro_time(value),
            Kind::Array(element) => self.array(element, value),
            Kind::Map(values) => self.map(values, value),
            Kind::Object(_) => self.object(schema, value),
        }
    }

    fn object(&mut self, schema: &Schema, value: &mut Value) -> Result<(), WrongType> {
        let owner = format!("v1.{}", self.owner);
        let Value::Object(map) = value else { return Err(self.wrong(value, &owner)) };
        let names: Vec<String> = map.keys().cloned().collect();
        for name in names {
            let Some(field) = schema.field(&name) else {
                self.unknown.push(self.at(&name));
                map.remove(&name);
                continue;
            };
            let Some(child) = map.get_mut(&name) else { continue };
            if child.is_null() {
                map.remove(&name);
                continue;
            }
            self.path.push(name.clone());
            self.read(field, child)?;
            self.path.pop();
        }
        settle_zeros(schema, map);
        Ok(())
    }

    fn array(&mut self, element: &Schema, value: &mut Value) -> Result<(), WrongType> {
        let Value::Array(items) = value else {
            let owner = self.go_type(element);
            return Err(self.wrong(value, &format!("[]{owner}")));
        };
        for (index, item) in items.iter_mut().enumerate() {
            if let Some(last) = self.path.last_mut() {
                last.push_str(&format!("[{index}]"));
            }
            self.read(element, item)?;
            if let Some(last) = self.path.last_mut() {
                let end = last.rfind('[').unwrap_or(last.len());
                last.truncate(end);
            }
        }
        Ok(())
    }

    fn map(&mut self, values: &Schema, value: &mut Value) -> Result<(), WrongType> {
        let Value::Object(map) = value else {
            let owner = self.go_type(values);
            return Err(self.wrong(value, &format!("map[string]{owner}")));
        };
        for (name, child) in map.iter_mut() {
            if child.is_null() {
                // Go reads null as the zero value.
                if matches!(values.kind, Kind::String | Kind::Bytes) {
                    *child = Value::String(String::new());
                }
                continue;
            }
            self.path.push(format!("{KEY}{name}"));
            self.read(values, child)?;
            self.path.pop();
        }
        Ok(())
    }

    fn integer(&self, value: &mut Value, bits: u8) -> Result<(), WrongType> {
        // Go accepts 3.0 for 3 no more than we do, except through YAML, which has no such form.
        let fits = match value.as_i64() {
            Some(number) if bits == 32 => i32::try_from(number).is_ok(),
            Some(_) => true,
            None => false,
        };
        if fits {
            return Ok(());
        }
        if let Some(whole) = value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15) {
            let text = format!("{whole:.0}");
            if let Ok(number) = text.parse::<i64>() {
                *value = Value::Number(Number::from(number));
                return Ok(());
            }
        }
        Err(self.wrong(value, &format!("int{bits}")))
    }

    fn bytes(&self, value: &Value) -> Result<(), WrongType> {
        use base64::Engine as _;
        let Some(text) = value.as_str() else { return Err(self.wrong(value, "[]uint8")) };
        let compact: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        match base64::engine::general_purpose::STANDARD.decode(compact.as_bytes()) {
            Ok(_) => Ok(()),
            Err(error) => {
                let at = match error {
                    base64::DecodeError::InvalidByte(at, _)
                    | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                    _ => compact.len().saturating_sub(compact.len() % 4),
                };
                Err(WrongType(format!("illegal base64 data at input byte {at}")))
            }
        }
    }

    fn quantity(&self, value: &mut Value) -> Result<(), WrongType> {
        if value.is_number() {
            *value = Value::String(value.to_string());
        }
        let Some(text) = value.as_str() else {
            return Err(self.wrong(value, "resource.Quantity"));
        };
        match crate::quantity::canonical(text) {
            Some(canonical) => {
                *value = Value::String(canonical);
                Ok(())
            }
            None => Err(WrongType(
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                    .to_owned(),
            )),
        }
    }

    fn time(&self, value: &mut Value) -> Result<(), WrongType> {
        let Some(text) = value.as_str() else { return Err(self.wrong(value, "string")) };
        if text.parse::<jiff::Timestamp>().is_ok() {
            return Ok(());
        }
        Err(WrongType(format!(
            "parsing time \"\\\"{text}\\\"\" as \"\\\"2006-01-02T15:04:05Z07:00\\\"\": cannot parse \"{text}\\\"\" as \"2006\""
        )))
    }

    /// Go insists on the fraction.
    fn micro_time(&self, value: &mut Value) -> Result<(), WrongType> {
        self.time(value)?;
        let text = value.as_str().unwrap_or_default();
        let (_, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = fraction.chars().take_while(char::is_ascii_digit).count();
        if digits == 6 {
            return Ok(());
        }
        Err(WrongType(format!(
            "parsing time \"{text}\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"{}\" as \".000000\"",
            text.get(19..).unwrap_or_default()
        )))
    }

    fn scalar(&self, value: &Value, fits: bool, wanted: &str) -> Result<(), WrongType> {
        if fits { Ok(()) } else { Err(self.wrong(value, wanted)) }
    }

    fn wrong(&self, value: &Value, wanted: &str) -> WrongType {
        let have = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if wanted.starts_with("int") => format!("number {number}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        // Go names fields only: neither list indexes nor keys of maps.
        let fields = self.path.iter().filter(|part| !part.starts_with(KEY));
        let plain = fields.map(|part| part.split('[').next().unwrap_or(part));
        let path = plain.collect::<Vec<_>>().join(".");
        WrongType(format!(
            "json: cannot unmarshal {have} into Go struct field {}.{path} of type {wanted}",
            self.owner
        ))
    }

    fn go_type(&self, schema: &Schema) -> String {
        match &schema.kind {
            Kind::Named(name) => {
                format!("v1.{}", name.rsplit('.').next().unwrap_or(name))
            }
            Kind::Boolean => "bool".to_owned(),
            Kind::Integer(bits) => format!("int{bits}"),
            _ => "string".to_owned(),
        }
    }

    fn at(&self, name: &str) -> String {
        let mut path = self.path.join(".").replace(KEY, "");
        if !path.is_empty() {
            path.push('.');
        }
        path + name
    }
}

/// Drops and adds what Go does when it writes a struct: see [`Zero`].
fn settle_zeros(schema: &Schema, map: &mut Map<String, Value>) {
    let Kind::Object(object) = &schema.kind else { return };
    for (name, field) in &object.fields {
        match field.zero {
            Zero::Omitted => {
                if map.get(name).is_some_and(|value| is_zero(&field.schema, value)) {
                    map.remove(name);
                }
            }
            Zero::Kept => (),
            Zero::Written => {
                if !map.contains_key(name) {
                    map.insert(name.clone(), zero(&field.schema));
                }
            }
        }
    }
}

fn is_zero(schema: &Schema, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => matches!(schema.kind, Kind::Map(_)) && map.is_empty(),
    }
}

fn zero(schema: &Schema) -> Value {
    match &schema.resolve().kind {
        Kind::String => "".into(),
        Kind::Boolean => false.into(),
        Kind::Integer(_) | Kind::Number | Kind::IntOrString => 0.into(),
        Kind::Quantity => "0".into(),
        Kind::Object(_) => {
            let mut map = Map::new();
            settle_zeros(schema.resolve(), &mut map);
            Value::Object(map)
        }
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_fields_are_named_and_dropped() {
        let schema = crate::schema::builtin("apps", "v1", "Deployment").unwrap();
        let mut object = json!({
            "metadata": {"name": "a", "creationTimestamp": null, "labels": {}},
            "spec": {"replicas": 1, "x": 1, "template": {"spec": {"containers": [{"name": "a", "imagee": "b"}]}}},
        });
        let unknown = decode(&schema, "Deployment", &mut object).unwrap();
        assert_eq!(unknown, ["spec.template.spec.containers[0].imagee", "spec.x"]);
        // What Go writes even when it is empty is there, as it is in Kubernetes.
        let cleaned = json!({
            "metadata": {"name": "a"},
            "spec": {
                "replicas": 1,
                "strategy": {},
                "template": {"metadata": {}, "spec": {"containers": [{"name": "a", "resources": {}}]}},
            },
            "status": {},
        });
        assert_eq!(object, cleaned);
    }

    #[test]
    fn wrong_types_are_refused_in_gos_words() {
        let schema = crate::schema::builtin("apps", "v1", "Deployment").unwrap();
        let mut object = json!({"spec": {"replicas": "x"}});
        let error = decode(&schema, "Deployment", &mut object).unwrap_err();
        assert_eq!(
            error.to_string(),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
    }
}
