//! The small parts that resources are made of.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use prost::{Message, Name};
use tombolo_xds::proto::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiConfigSource, ApiVersion, CidrRange, ConfigSource,
    GrpcService, Metadata, SocketAddress, TransportSocket, address, api_config_source,
    config_source, grpc_service, socket_address, transport_socket,
};
use tombolo_xds::proto::envoy::config::route::v3::route_action::MaxStreamDuration;
use tombolo_xds::proto::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher};
use tombolo_xds::proto::google::protobuf::{
    Any, BoolValue, Duration, Struct, UInt32Value, Value, value,
};

/// A message with its type.
pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec().into() }
}

/// A length of time.
pub(crate) fn duration(of: std::time::Duration) -> Duration {
    Duration {
        seconds: i64::try_from(of.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(of.subsec_nanos()).unwrap_or_default(),
    }
}

/// A length of time in whole seconds.
pub(crate) fn seconds(seconds: u32) -> Duration {
    Duration { seconds: i64::from(seconds), nanos: 0 }
}

/// Timeouts that gRPC clients ask for hold up to this; 0 for any.
pub(crate) fn grpc_timeout(most: Duration) -> Option<MaxStreamDuration> {
    Some(MaxStreamDuration { grpc_timeout_header_max: Some(most), ..MaxStreamDuration::default() })
}

pub(crate) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(crate) fn yes() -> Option<BoolValue> {
    Some(BoolValue { value: true })
}

pub(crate) fn no() -> Option<BoolValue> {
    Some(BoolValue { value: false })
}

/// An address and a port.
pub(crate) fn socket(ip: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: ip.to_owned(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(u32::from(port))),
            ..SocketAddress::default()
        })),
    }
}

/// An address with `port` on all interfaces.
pub(crate) fn any_address(port: u16) -> Address {
    socket(&IpAddr::from(Ipv4Addr::UNSPECIFIED).to_string(), port)
}

/// A range of addresses.
pub(crate) fn range(of: &ipnet::IpNet) -> CidrRange {
    CidrRange {
        address_prefix: of.network().to_string(),
        prefix_len: number(u32::from(of.prefix_len())),
    }
}

/// Resources that come over the same stream.
pub(crate) fn from_ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        initial_fetch_timeout: Some(seconds(0)),
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(
            AggregatedConfigSource {},
        )),
        ..ConfigSource::default()
    }
}

/// Secrets that come from the agent beside the proxy.
pub(crate) fn from_agent() -> ConfigSource {
    let target = grpc_service::TargetSpecifier::EnvoyGrpc(grpc_service::EnvoyGrpc {
        cluster_name: String::from("sds-grpc"),
        ..grpc_service::EnvoyGrpc::default()
    });
    let service = GrpcService { target_specifier: Some(target), ..GrpcService::default() };
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        initial_fetch_timeout: Some(seconds(0)),
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::ApiConfigSource(
            ApiConfigSource {
                api_type: api_config_source::ApiType::Grpc.into(),
                transport_api_version: ApiVersion::V3.into(),
                grpc_services: vec![service],
                set_node_on_first_message_only: true,
                ..ApiConfigSource::default()
            },
        )),
        ..ConfigSource::default()
    }
}

/// A transport socket.
pub(crate) fn transport<M: Message + Name>(name: &str, config: &M) -> TransportSocket {
    TransportSocket {
        name: name.to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(config))),
    }
}

pub(crate) fn text(value: impl Into<String>) -> Value {
    Value { kind: Some(value::Kind::StringValue(value.into())) }
}

pub(crate) fn fields<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct { fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
}

/// JSON as a protobuf value.
pub(crate) fn from_json(json: &serde_json::Value) -> Value {
    use tombolo_xds::proto::google::protobuf::{ListValue, NullValue};
    let kind = match json {
        serde_json::Value::Null => value::Kind::NullValue(NullValue::NullValue.into()),
        serde_json::Value::Bool(value) => value::Kind::BoolValue(*value),
        serde_json::Value::Number(number) => {
            value::Kind::NumberValue(number.as_f64().unwrap_or_default())
        }
        serde_json::Value::String(text) => value::Kind::StringValue(text.clone()),
        serde_json::Value::Array(items) => {
            value::Kind::ListValue(ListValue { values: items.iter().map(from_json).collect() })
        }
        serde_json::Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), from_json(value)));
            value::Kind::StructValue(Struct { fields: fields.collect() })
        }
    };
    Value { kind: Some(kind) }
}

/// Metadata with one filter's fields.
pub(crate) fn metadata(filter: &str, fields: Struct) -> Metadata {
    Metadata {
        filter_metadata: BTreeMap::from([(filter.to_owned(), fields)]),
        ..Metadata::default()
    }
}

pub(crate) fn exact(text: &str) -> StringMatcher {
    matcher(string_matcher::MatchPattern::Exact(text.to_owned()))
}

pub(crate) fn prefix(text: &str) -> StringMatcher {
    matcher(string_matcher::MatchPattern::Prefix(text.to_owned()))
}

pub(crate) fn suffix(text: &str) -> StringMatcher {
    matcher(string_matcher::MatchPattern::Suffix(text.to_owned()))
}

pub(crate) fn regex(text: &str) -> RegexMatcher {
    RegexMatcher { regex: text.to_owned(), ..RegexMatcher::default() }
}

pub(crate) fn matching(expression: &str) -> StringMatcher {
    matcher(string_matcher::MatchPattern::SafeRegex(regex(expression)))
}

fn matcher(pattern: string_matcher::MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ignore_case: false }
}
