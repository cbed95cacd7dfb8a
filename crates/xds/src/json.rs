//! Protobuf JSON of every message the crate knows, `Any` opened: for dumps and bootstraps.
//!
//! It goes through dynamic messages, which is fine for people and files and too slow for pushes.

use std::sync::OnceLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

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
}
