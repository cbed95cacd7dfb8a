//! Protobuf JSON of every message the crate knows, `Any` opened: for dumps and bootstraps.
//!
//! It goes through dynamic messages, which is fine for people and files and too slow for pushes.

use std::sync::OnceLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, SerializeOptions};
use serde_json::{Map, Value};

use crate::proto::DESCRIPTORS;
use crate::proto::google::protobuf::Any;

/// Why a message and its JSON cannot be turned into each other.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The type is not compiled in.
    #[error("no description of message type `{0}`")]
    Unknown(String),
    /// The bytes are damaged.
    #[error("decode `{0}`")]
    Decode(String, #[source] prost::DecodeError),
    /// The JSON does not fit the type.
    #[error("JSON of `{0}`")]
    Json(String, #[source] serde_json::Error),
}

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(DESCRIPTORS).expect("the build wrote a complete descriptor set")
    })
}

fn dynamic(name: &str, bytes: &[u8]) -> Result<DynamicMessage, Error> {
    let descriptor =
        pool().get_message_by_name(name).ok_or_else(|| Error::Unknown(name.to_owned()))?;
    DynamicMessage::decode(descriptor, bytes).map_err(|error| Error::Decode(name.to_owned(), error))
}

fn value(name: &str, bytes: &[u8]) -> Result<Value, Error> {
    let options = SerializeOptions::new().skip_default_fields(true).stringify_64_bit_integers(true);
    dynamic(name, bytes)?
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| Error::Json(name.to_owned(), error))
}

/// The JSON form of a message, field names in lower camel case.
///
/// # Errors
/// When an `Any` inside holds a type that is not compiled in.
pub fn to_value<M: Message + Name>(message: &M) -> Result<Value, Error> {
    value(&M::full_name(), &message.encode_to_vec())
}

/// The JSON form of the message in `any`, with its `@type`.
///
/// # Errors
/// When it, or an `Any` inside, holds a type that is not compiled in.
pub fn any_to_value(any: &Any) -> Result<Value, Error> {
    value("google.protobuf.Any", &any.encode_to_vec())
}

/// Reads a message from JSON; field names in camel or snake case.
///
/// # Errors
/// When the JSON does not fit the message.
pub fn from_value<M: Message + Name + Default>(json: &Value) -> Result<M, Error> {
    let name = M::full_name();
    let descriptor =
        pool().get_message_by_name(&name).ok_or_else(|| Error::Unknown(name.clone()))?;
    let message = DynamicMessage::deserialize(descriptor, json)
        .map_err(|error| Error::Json(name.clone(), error))?;
    M::decode(message.encode_to_vec().as_slice()).map_err(|error| Error::Decode(name, error))
}

/// How the fields of messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// In lower camel case, as protobuf JSON has them by default and Istio's tools print them.
    Camel,
    /// As the interface definition has them, which is how Envoy's admin server prints them.
    Proto,
}

/// The JSON form of a message with its fields written in one way, whichever way each was written.
///
/// Nothing is refused: fields and types that are not compiled in, such as those of a newer Envoy,
/// stay as they are, and so do the contents of structs and maps.
pub fn renamed(message: &str, json: Value, names: Names) -> Value {
    match pool().get_message_by_name(message) {
        Some(descriptor) => rename(&descriptor, json, names),
        None => json,
    }
}

fn rename(message: &MessageDescriptor, json: Value, names: Names) -> Value {
    let Value::Object(fields) = json else { return json };
    if message.full_name() == "google.protobuf.Any" {
        let inner = fields.get("@type").and_then(Value::as_str).and_then(|url| {
            let name = url.rsplit_once('/').map_or(url, |(_, name)| name);
            pool().get_message_by_name(name)
        });
        return match inner {
            Some(inner) => rename(&inner, Value::Object(fields), names),
            None => Value::Object(fields),
        };
    }
    // Structs, and inside an `Any` also wrappers, have a form of their own.
    if message.package_name() == "google.protobuf" {
        return Value::Object(fields);
    }
    let mut renamed = Map::new();
    for (key, value) in fields {
        let known =
            message.get_field_by_json_name(&key).or_else(|| message.get_field_by_name(&key));
        let Some(field) = known else {
            renamed.insert(key, value);
            continue;
        };
        let name = match names {
            Names::Camel => field.json_name(),
            Names::Proto => field.name(),
        };
        let value = match (field.kind(), value) {
            (Kind::Message(entry), Value::Object(entries)) if field.is_map() => {
                let each = |(key, value)| (key, rename_entry(&entry, value, names));
                Value::Object(entries.into_iter().map(each).collect())
            }
            (Kind::Message(inner), Value::Array(items)) if field.is_list() => {
                items.into_iter().map(|item| rename(&inner, item, names)).collect()
            }
            (Kind::Message(inner), value) => rename(&inner, value, names),
            (_, value) => value,
        };
        renamed.insert(name.to_owned(), value);
    }
    Value::Object(renamed)
}

fn rename_entry(entry: &MessageDescriptor, value: Value, names: Names) -> Value {
    match entry.map_entry_value_field().kind() {
        Kind::Message(inner) => rename(&inner, value, names),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::envoy::config::cluster::v3::Cluster;
    use crate::resource::pack;

    #[test]
    fn a_message_survives_json_with_an_any_inside() {
        let json = json!({
            "name": "outbound|5000||helloworld",
            "connectTimeout": "10s",
            "type": "EDS",
            "transportSocket": {
                "name": "tls",
                "typedConfig": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    "sni": "outbound_.5000_._.helloworld"
                }
            }
        });
        let cluster: Cluster = from_value(&json).unwrap();
        assert_eq!(cluster.name, "outbound|5000||helloworld");
        assert_eq!(to_value(&cluster).unwrap(), json);
        let mut with_type = json;
        with_type["@type"] = crate::types::CLUSTER.into();
        assert_eq!(any_to_value(&pack(&cluster)).unwrap(), with_type);
    }

    #[test]
    fn fields_are_renamed_both_ways_and_what_is_unknown_stays() {
        let proto = json!({"configs": [{
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "version_info": "1",
            "dynamic_active_clusters": [{"cluster": {
                "@type": crate::types::CLUSTER,
                "connect_timeout": "10s",
                "from_tomorrow": {"some_key": 1},
                "metadata": {"filter_metadata": {"a_key": {"b_key": 2}}},
                "typed_extension_protocol_options": {"an_option": {
                    "@type": "type.googleapis.com/from.tomorrow.Options", "some_field": 3,
                }},
            }}],
        }]});
        let camel = json!({"configs": [{
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "versionInfo": "1",
            "dynamicActiveClusters": [{"cluster": {
                "@type": crate::types::CLUSTER,
                "connectTimeout": "10s",
                "from_tomorrow": {"some_key": 1},
                "metadata": {"filterMetadata": {"a_key": {"b_key": 2}}},
                "typedExtensionProtocolOptions": {"an_option": {
                    "@type": "type.googleapis.com/from.tomorrow.Options", "some_field": 3,
                }},
            }}],
        }]});
        let dump = "envoy.admin.v3.ConfigDump";
        assert_eq!(renamed(dump, proto.clone(), Names::Camel), camel);
        assert_eq!(renamed(dump, camel.clone(), Names::Camel), camel);
        assert_eq!(renamed(dump, camel, Names::Proto), proto);
    }
}
