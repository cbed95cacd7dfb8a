//! Kubernetes' protobuf bodies, which Go clients send for built-in kinds.
//!
//! A body is the magic `k8s\0` and an envelope with kind, version and the object's own message.
//! That message is read by the field numbers in the table of built-in types and becomes the JSON
//! it stands for. Answers are always JSON.

use base64::Engine as _;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde_json::{Map, Value, json};

use crate::resources::split_group_version;
use crate::schema::{self, Field, Kind, Schema};

const MAGIC: &[u8] = b"k8s\0";

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProtobufError {
    #[error("provided data does not appear to be a protobuf message, expected prefix {MAGIC:?}")]
    Magic,
    #[error("no kind \"{kind}\" is registered for version \"{version}\"")]
    Unknown { kind: String, version: String },
    #[error("proto: {0}")]
    Wire(#[from] prost::DecodeError),
    #[error("proto: wrong wire type or length for {0}")]
    Type(String),
}

/// Reads a body into the JSON object it stands for.
///
/// # Errors
/// When it is not such a body, or of a kind without a schema.
pub fn read(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for part in Parts(envelope) {
        match part? {
            (1, Wire::Bytes(meta)) => {
                for part in Parts(meta) {
                    match part? {
                        (1, Wire::Bytes(text)) => version = text_of(text),
                        (2, Wire::Bytes(text)) => kind = text_of(text),
                        _ => (),
                    }
                }
            }
            (2, Wire::Bytes(object)) => raw = object,
            _ => (),
        }
    }
    let (group, short) = split_group_version(&version);
    let schema = match kind.as_str() {
        "DeleteOptions" => schema::builtin("", "v1", "DeleteOptions"),
        _ => schema::builtin(group, short, &kind),
    };
    let Some(schema) = schema else { return Err(ProtobufError::Unknown { kind, version }) };
    let mut object = message(&schema, raw)?;
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    Ok(object)
}

/// One field as it is on the wire.
enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Double(f64),
    Other,
}

/// The fields of a message, in order.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u32, Wire<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        Some(self.part().inspect_err(|_| self.0 = &[]))
    }
}

impl<'a> Parts<'a> {
    fn part(&mut self) -> Result<(u32, Wire<'a>), ProtobufError> {
        let (tag, wire_type) = decode_key(&mut self.0)?;
        let wire = match wire_type {
            WireType::Varint => Wire::Varint(decode_varint(&mut self.0)?),
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut self.0)?).unwrap_or(usize::MAX);
                if length > self.0.len() {
                    return Err(ProtobufError::Type(format!("field {tag}")));
                }
                let (bytes, rest) = self.0.split_at(length);
                self.0 = rest;
                Wire::Bytes(bytes)
            }
            WireType::SixtyFourBit if self.0.len() >= 8 => Wire::Double(self.0.get_f64_le()),
            other => {
                skip_field(other, tag, &mut self.0, DecodeContext::default())?;
                Wire::Other
            }
        };
        Ok((tag, wire))
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn message(schema: &Schema, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let mut object = Map::new();
    fields(schema, &[], bytes, &mut object)?;
    Ok(Value::Object(object))
}

/// Reads the fields of a message. `path` leads to a message that JSON inlines into its parent.
fn fields(
    schema: &Schema,
    path: &[u32],
    bytes: &[u8],
    object: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    let Kind::Object(shape) = &schema.resolve().kind else { return Ok(()) };
    for part in Parts(bytes) {
        let (tag, wire) = part?;
        let mut here = path.to_vec();
        here.push(tag);
        if let Some((name, field)) = shape.fields.iter().find(|(_, field)| field.tag == here) {
            add(object, name, field, &wire)?;
            continue;
        }
        let is_inlined = shape.fields.values().any(|field| field.tag.starts_with(&here));
        if let (true, Wire::Bytes(inner)) = (is_inlined, &wire) {
            fields(schema, &here, inner, object)?;
        }
    }
    Ok(())
}

fn add(
    object: &mut Map<String, Value>,
    name: &str,
    field: &Field,
    wire: &Wire<'_>,
) -> Result<(), ProtobufError> {
    match &field.schema.kind {
        Kind::Array(element) => {
            let list = object.entry(name).or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(value(element, name, wire)?);
            }
        }
        Kind::Map(values) => {
            let Wire::Bytes(entry) = wire else { return Err(ProtobufError::Type(name.to_owned())) };
            let (mut key, mut item) = (String::new(), Value::Null);
            for part in Parts(entry) {
                match part? {
                    (1, Wire::Bytes(text)) => key = text_of(text),
                    (2, wire) => item = value(values, name, &wire)?,
                    _ => (),
                }
            }
            if let Some(map) = object.entry(name).or_insert_with(|| json!({})).as_object_mut() {
                map.insert(key, item);
            }
        }
        _ => drop(object.insert(name.to_owned(), value(&field.schema, name, wire)?)),
    }
    Ok(())
}

#[expect(
    clippy::cast_possible_wrap,
    reason = "protobuf writes negative numbers as the unsigned ones of the same bits"
)]
fn value(schema: &Schema, name: &str, wire: &Wire<'_>) -> Result<Value, ProtobufError> {
    Ok(match (&schema.kind, wire) {
        (Kind::String, Wire::Bytes(text)) => text_of(text).into(),
        (Kind::Bytes, Wire::Bytes(bytes)) => {
            base64::engine::general_purpose::STANDARD.encode(bytes).into()
        }
        (Kind::Boolean, Wire::Varint(number)) => (*number != 0).into(),
        (Kind::Integer(_), Wire::Varint(number)) => (*number as i64).into(),
        (Kind::Number, Wire::Double(number)) => json!(number),
        (Kind::Quantity, Wire::Bytes(inner)) => match first(inner, 1)? {
            Some(Wire::Bytes(text)) => text_of(text).into(),
            _ => "0".into(),
        },
        (Kind::IntOrString, Wire::Bytes(inner)) => int_or_string(inner)?,
        (Kind::Time | Kind::MicroTime, Wire::Bytes(inner)) => time(&schema.kind, inner)?,
        // A list inside a map or list is wrapped in a message of its own.
        (Kind::Array(element), Wire::Bytes(inner)) => {
            let mut list = Vec::new();
            for part in Parts(inner) {
                list.push(value(element, name, &part?.1)?);
            }
            Value::Array(list)
        }
        (Kind::Any, Wire::Bytes(inner)) => anything(inner)?,
        (Kind::Named(_) | Kind::Object(_), Wire::Bytes(inner)) => message(schema, inner)?,
        _ => return Err(ProtobufError::Type(name.to_owned())),
    })
}

fn first(bytes: &[u8], wanted: u32) -> Result<Option<Wire<'_>>, ProtobufError> {
    for part in Parts(bytes) {
        let (tag, wire) = part?;
        if tag == wanted {
            return Ok(Some(wire));
        }
    }
    Ok(None)
}

#[expect(
    clippy::cast_possible_wrap,
    reason = "protobuf writes negative numbers as the unsigned ones of the same bits"
)]
fn int_or_string(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let is_text = matches!(first(bytes, 1)?, Some(Wire::Varint(1)));
    Ok(match (is_text, first(bytes, 2)?, first(bytes, 3)?) {
        (true, _, Some(Wire::Bytes(text))) => text_of(text).into(),
        (false, Some(Wire::Varint(number)), _) => (number as i64).into(),
        (true, ..) => "".into(),
        (false, ..) => 0.into(),
    })
}

#[expect(
    clippy::cast_possible_wrap,
    reason = "protobuf writes negative numbers as the unsigned ones of the same bits"
)]
fn time(kind: &Kind, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let number = |wanted| match first(bytes, wanted) {
        Ok(Some(Wire::Varint(number))) => number as i64,
        _ => 0,
    };
    let (seconds, nanos) = (number(1), number(2));
    if seconds == 0 && nanos == 0 {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).unwrap_or(0);
    let stamp = jiff::Timestamp::new(seconds, nanos)
        .map_err(|error| ProtobufError::Type(format!("a time: {error}")))?;
    Ok(match kind {
        Kind::MicroTime => stamp.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string().into(),
        _ => crate::object::time(stamp).into(),
    })
}

/// A message that holds JSON as bytes, as raw extensions do.
fn anything(bytes: &[u8]) -> Result<Value, ProtobufError> {
    match first(bytes, 1)? {
        Some(Wire::Bytes(json)) => serde_json::from_slice(json)
            .map_err(|error| ProtobufError::Type(format!("embedded JSON: {error}"))),
        _ => Ok(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `Namespace` named `a` as kubectl 1.36 sends it.
    #[test]
    fn an_envelope_becomes_the_object_it_holds() {
        let mut body = MAGIC.to_vec();
        body.extend_from_slice(b"\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x15\x0a\x0f\x0a\x01a\x12\x00\x1a\x00\x22\x00\x2a\x00\x32\x00\x38\x00\x12\x00\x1a\x00");
        let object = read(&body).unwrap();
        let expected = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": "a", "generateName": "", "namespace": "", "selfLink": "", "uid": "",
                "resourceVersion": "", "generation": 0,
            },
            "spec": {},
            "status": {},
        });
        assert_eq!(object, expected);
        assert!(matches!(read(b"{}"), Err(ProtobufError::Magic)));
    }
}
