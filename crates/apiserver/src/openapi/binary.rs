//! The version 2 document as protobuf, the only form in which `kubectl` asks for it.
//!
//! The messages are those of `openapi.v2` in gnostic-models (`openapiv2/OpenAPIv2.proto`), which
//! client-go decodes. A message here is the list of its fields; what a document has beyond them
//! and does not begin with `x-` would be lost, so the tests compare names.

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value;

/// What a field holds, and how it is written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Flag,
    Whole,
    Decimal,
    /// Any value, as YAML in field 2.
    Anything,
    One(&'static Message),
    /// A field for each element.
    Each(&'static Form),
    /// A message whose field of this number is repeated for each name: `{1: name, 2: value}`.
    Named(u32, &'static Form),
    /// A message whose field of this number is repeated for each element, or holds the one value.
    Listed(u32, &'static Form),
    /// A message of which one field is set: the form tells which, by the value.
    Choice(fn(&Value) -> (u32, Form)),
}

type Message = &'static [(&'static str, u32, Form)];

/// The content type under which clients ask for it, in both spellings that are in use.
pub const CONTENT_TYPES: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

/// Writes the version 2 document.
pub fn encode(document: &Value) -> Bytes {
    let mut out = Vec::new();
    message(DOCUMENT, document, &mut out);
    out.into()
}

const TEXTS: Form = Form::Each(&Form::Text);

static DOCUMENT: Message = &[
    ("swagger", 1, Form::Text),
    ("info", 2, Form::One(&INFO)),
    ("paths", 8, Form::Named(2, &Form::One(&PATH_ITEM))),
    ("definitions", 9, Form::Named(1, &Form::One(&SCHEMA))),
    ("security", 12, Form::Each(&Form::Named(1, &Form::Listed(1, &Form::Text)))),
    ("securityDefinitions", 13, Form::Named(1, &Form::Choice(|_| (2, Form::One(&API_KEY))))),
];

static INFO: Message =
    &[("title", 1, Form::Text), ("version", 2, Form::Text), ("description", 3, Form::Text)];

static API_KEY: Message = &[
    ("type", 1, Form::Text),
    ("name", 2, Form::Text),
    ("in", 3, Form::Text),
    ("description", 4, Form::Text),
];

static PATH_ITEM: Message = &[
    ("get", 2, Form::One(&OPERATION)),
    ("put", 3, Form::One(&OPERATION)),
    ("post", 4, Form::One(&OPERATION)),
    ("delete", 5, Form::One(&OPERATION)),
    ("options", 6, Form::One(&OPERATION)),
    ("head", 7, Form::One(&OPERATION)),
    ("patch", 8, Form::One(&OPERATION)),
    ("parameters", 9, Form::Each(&PARAMETER)),
    ("x-", 10, Form::Anything),
];

static OPERATION: Message = &[
    ("tags", 1, TEXTS),
    ("summary", 2, Form::Text),
    ("description", 3, Form::Text),
    ("operationId", 5, Form::Text),
    ("produces", 6, TEXTS),
    ("consumes", 7, TEXTS),
    ("parameters", 8, Form::Each(&PARAMETER)),
    ("responses", 9, Form::Named(1, &RESPONSE_VALUE)),
    ("schemes", 10, TEXTS),
    ("deprecated", 11, Form::Flag),
    ("x-", 13, Form::Anything),
];

/// `ParametersItem` > `Parameter` > `BodyParameter`, or `NonBodyParameter` > one by its place.
static PARAMETER: Form = Form::Choice(|_| (1, Form::Choice(parameter_kind)));

fn parameter_kind(parameter: &Value) -> (u32, Form) {
    match parameter["in"].as_str() {
        Some("body") => (1, Form::One(&BODY_PARAMETER)),
        Some("path") => (2, Form::Choice(|_| (4, Form::One(&PATH_PARAMETER)))),
        _ => (2, Form::Choice(|_| (3, Form::One(&QUERY_PARAMETER)))),
    }
}

static BODY_PARAMETER: Message = &[
    ("description", 1, Form::Text),
    ("name", 2, Form::Text),
    ("in", 3, Form::Text),
    ("required", 4, Form::Flag),
    ("schema", 5, Form::One(&SCHEMA)),
    ("x-", 6, Form::Anything),
];

static PATH_PARAMETER: Message = &[
    ("required", 1, Form::Flag),
    ("in", 2, Form::Text),
    ("description", 3, Form::Text),
    ("name", 4, Form::Text),
    ("type", 5, Form::Text),
    ("format", 6, Form::Text),
    ("uniqueItems", 19, Form::Flag),
    ("x-", 22, Form::Anything),
];

static QUERY_PARAMETER: Message = &[
    ("required", 1, Form::Flag),
    ("in", 2, Form::Text),
    ("description", 3, Form::Text),
    ("name", 4, Form::Text),
    ("type", 6, Form::Text),
    ("format", 7, Form::Text),
    ("uniqueItems", 20, Form::Flag),
    ("x-", 23, Form::Anything),
];

static RESPONSE_VALUE: Form = Form::Choice(|_| (1, Form::One(&RESPONSE)));

static RESPONSE: Message = &[
    ("description", 1, Form::Text),
    ("schema", 2, Form::Choice(|_| (1, Form::One(&SCHEMA)))),
    ("x-", 5, Form::Anything),
];

static SCHEMA: Message = &[
    ("$ref", 1, Form::Text),
    ("format", 2, Form::Text),
    ("title", 3, Form::Text),
    ("description", 4, Form::Text),
    ("default", 5, Form::Anything),
    ("multipleOf", 6, Form::Decimal),
    ("maximum", 7, Form::Decimal),
    ("exclusiveMaximum", 8, Form::Flag),
    ("minimum", 9, Form::Decimal),
    ("exclusiveMinimum", 10, Form::Flag),
    ("maxLength", 11, Form::Whole),
    ("minLength", 12, Form::Whole),
    ("pattern", 13, Form::Text),
    ("maxItems", 14, Form::Whole),
    ("minItems", 15, Form::Whole),
    ("uniqueItems", 16, Form::Flag),
    ("maxProperties", 17, Form::Whole),
    ("minProperties", 18, Form::Whole),
    ("required", 19, TEXTS),
    ("enum", 20, Form::Each(&Form::Anything)),
    ("additionalProperties", 21, Form::Choice(additional)),
    ("type", 22, Form::Listed(1, &Form::Text)),
    ("items", 23, Form::Listed(1, &Form::One(&SCHEMA))),
    ("allOf", 24, Form::Each(&Form::One(&SCHEMA))),
    ("properties", 25, Form::Named(1, &Form::One(&SCHEMA))),
    ("readOnly", 27, Form::Flag),
    ("example", 30, Form::Anything),
    ("x-", 31, Form::Anything),
];

fn additional(value: &Value) -> (u32, Form) {
    if value.is_boolean() { (2, Form::Flag) } else { (1, Form::One(&SCHEMA)) }
}

fn message(fields: Message, value: &Value, out: &mut Vec<u8>) {
    let Some(object) = value.as_object() else { return };
    for (name, value) in object {
        if name.starts_with("x-") {
            let extension = fields.iter().find(|(known, ..)| *known == "x-");
            if let Some((_, number, form)) = extension {
                nested(*number, out, |out| named(name, form, value, out));
            }
        } else if let Some((_, number, form)) = fields.iter().find(|(known, ..)| known == name) {
            field(*number, form, value, out);
        }
    }
}

fn field(number: u32, form: &Form, value: &Value, out: &mut Vec<u8>) {
    match form {
        Form::Text => text(number, value.as_str().unwrap_or_default(), out),
        Form::Flag => varint(number, u64::from(value == &Value::Bool(true)), out),
        // Negative numbers are written in two's complement, as int64 is.
        Form::Whole => varint(number, value.as_i64().unwrap_or_default().cast_unsigned(), out),
        Form::Decimal => {
            encode_key(number, WireType::SixtyFourBit, out);
            out.extend(value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Form::Anything => nested(number, out, |out| text(2, &value.to_string(), out)),
        Form::One(fields) => nested(number, out, |out| message(fields, value, out)),
        Form::Each(form) => {
            for element in value.as_array().into_iter().flatten() {
                field(number, form, element, out);
            }
        }
        Form::Named(inner, form) => nested(number, out, |out| {
            for (name, value) in value.as_object().into_iter().flatten() {
                nested(*inner, out, |out| named(name, form, value, out));
            }
        }),
        Form::Listed(inner, form) => nested(number, out, |out| match value {
            Value::Array(all) => all.iter().for_each(|one| field(*inner, form, one, out)),
            one => field(*inner, form, one, out),
        }),
        Form::Choice(choose) => nested(number, out, |out| {
            let (inner, form) = choose(value);
            field(inner, &form, value, out);
        }),
    }
}

fn named(name: &str, form: &Form, value: &Value, out: &mut Vec<u8>) {
    text(1, name, out);
    field(2, form, value, out);
}

fn text(number: u32, text: &str, out: &mut Vec<u8>) {
    nested(number, out, |out| out.extend(text.as_bytes()));
}

fn varint(number: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}

fn nested(number: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    encode_key(number, WireType::LengthDelimited, out);
    // Lengths fit: a document has some megabytes.
    encode_varint(inner.len() as u64, out);
    out.append(&mut inner);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_written_as_protobuf() {
        let schema = json!({"maximum": 1.5, "minLength": 3, "type": "object", "x-a": "b"});
        let mut out = Vec::new();
        message(SCHEMA, &schema, &mut out);
        let want = [
            b"\x39\0\0\0\0\0\0\xf8\x3f".as_slice(),
            b"\x60\x03",
            b"\xb2\x01\x08\x0a\x06object",
            b"\xfa\x01\x0c\x0a\x03x-a\x12\x05\x12\x03\"b\"",
        ];
        assert_eq!(out, want.concat());
    }

    /// Names in a document that no field of its message takes.
    fn unknown(fields: Message, value: &Value, lost: &mut BTreeSet<String>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            match fields
                .iter()
                .find(|(known, ..)| known == name || name.starts_with("x-") && *known == "x-")
            {
                None => drop(lost.insert(name.clone())),
                Some((_, _, form)) => walk(form, value, lost),
            }
        }
    }

    fn walk(form: &Form, value: &Value, lost: &mut BTreeSet<String>) {
        match form {
            Form::One(fields) => unknown(fields, value, lost),
            Form::Each(form) => {
                value.as_array().into_iter().flatten().for_each(|one| walk(form, one, lost));
            }
            Form::Named(_, form) => {
                value.as_object().into_iter().flatten().for_each(|(_, one)| walk(form, one, lost));
            }
            Form::Listed(_, form) => match value {
                Value::Array(all) => all.iter().for_each(|one| walk(form, one, lost)),
                one => walk(form, one, lost),
            },
            Form::Choice(choose) => walk(&choose(value).1, value, lost),
            _ => (),
        }
    }

    #[test]
    fn nothing_of_the_document_is_lost() {
        let document = crate::openapi::v2_document(&crate::resources::Catalog::new([]));
        assert!(document["definitions"].as_object().unwrap().len() > 100);
        let mut lost = BTreeSet::new();
        unknown(DOCUMENT, &document, &mut lost);
        assert_eq!(lost, BTreeSet::new());
    }
}
