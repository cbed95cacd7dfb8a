//! Reads the table of built-in types.
//!
//! Type letters: s string, y bytes, b boolean, i int32, l int64, n number, q quantity, x integer
//! or string, t time, T time with microseconds, r anything; `[]`, `{}` lists and maps; `@` names.
//! Flags: `!` required, `#` number in protobuf, `+` written even when empty, `*` zero is a value.

use std::sync::Arc;

use serde_json::json;

use super::{Field, Kind, ListType, Object, PatchRule, Schema, Types, Zero};

const TABLE: &str = include_str!("../../data/builtin-types.txt");

/// Fields whose default takes part in a merge key.
const KEY_DEFAULTS: &[(&str, &str)] =
    &[("core.v1.ContainerPort", "protocol"), ("core.v1.ServicePort", "protocol")];

pub(super) fn read() -> Types {
    let mut types = Types::default();
    let mut current: Option<(&'static str, Schema)> = None;
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        if let Some(rest) = line.strip_prefix("= ") {
            if let Some((kind, name)) = rest.split_once(' ') {
                types.kinds.insert(kind.to_owned(), Arc::new(Schema::of(Kind::Named(name))));
            }
        } else if let Some(field) = line.strip_prefix(' ') {
            if let Some((name, schema)) = &mut current {
                add_field(name, schema, field);
            }
        } else {
            types.types.extend(current.take());
            let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
            let mut schema = Schema::of(Kind::Object(Object::default()));
            schema.atomic = rest == "atomic";
            current = Some((name, schema));
        }
    }
    types.types.extend(current);
    types
}

fn add_field(owner: &str, schema: &mut Schema, line: &'static str) {
    let mut words = line.split(' ');
    let (Some(name), Some(kind)) = (words.next(), words.next()) else { return };
    let mut field = Schema::of(kind_of(kind));
    field.atomic = matches!(field.kind, Kind::Any);
    let mut required = false;
    let mut zero = Zero::Omitted;
    let mut tag = Vec::new();
    for flag in words {
        match flag.split_once('=') {
            None if flag == "!" => required = true,
            None if flag == "+" => zero = Zero::Written,
            None if flag == "*" => zero = Zero::Kept,
            None if flag.starts_with('#') => {
                tag = flag[1..].split('.').filter_map(|number| number.parse().ok()).collect();
            }
            None if flag == "set" => field.list = ListType::Set,
            None => field.atomic |= flag == "atomic",
            Some(("keys", keys)) => {
                field.list = ListType::Map(keys.split(',').map(str::to_owned).collect());
            }
            Some(("patch", strategy)) => {
                field.patch.merge = strategy.contains("merge");
                field.patch.retain_keys = strategy.contains("retainKeys");
            }
            Some((_, key)) => {
                field.patch = PatchRule { key: Some(key.to_owned()), ..field.patch };
            }
        }
    }
    if KEY_DEFAULTS.contains(&(owner, name)) {
        field.default = Some(json!("TCP"));
    }
    if let Kind::Object(object) = &mut schema.kind {
        object.fields.insert(name.to_owned(), Field { schema: field, required, zero, tag });
    }
}

fn kind_of(text: &'static str) -> Kind {
    if let Some(element) = text.strip_prefix("[]") {
        return Kind::Array(Arc::new(Schema::of(kind_of(element))));
    }
    if let Some(value) = text.strip_prefix("{}") {
        return Kind::Map(Arc::new(Schema::of(kind_of(value))));
    }
    if let Some(name) = text.strip_prefix('@') {
        return Kind::Named(name);
    }
    match text {
        "s" => Kind::String,
        "y" => Kind::Bytes,
        "b" => Kind::Boolean,
        "i" => Kind::Integer(32),
        "l" => Kind::Integer(64),
        "n" => Kind::Number,
        "q" => Kind::Quantity,
        "x" => Kind::IntOrString,
        "t" => Kind::Time,
        "T" => Kind::MicroTime,
        _ => Kind::Any,
    }
}
