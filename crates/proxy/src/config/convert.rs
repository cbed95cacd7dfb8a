//! Small conversions that every kind of resource needs.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use prost::{Message, Name};
use tombolo_xds::proto::envoy::config::core::v3 as core;
use tombolo_xds::proto::envoy::config::core::v3::address::Address as AddressKind;
use tombolo_xds::proto::envoy::config::core::v3::socket_address::{PortSpecifier, Protocol};
use tombolo_xds::proto::google::protobuf as wkt;

use crate::config::problem::{At, Problem, required};
use crate::config::strict::type_name;

/// A duration that is not negative.
pub fn duration(value: &wkt::Duration) -> Result<Duration, Problem> {
    let seconds = u64::try_from(value.seconds);
    let nanos = u32::try_from(value.nanos);
    match (seconds, nanos) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(Problem::new("must be a duration of zero or more")),
    }
}

/// An optional timeout in which zero means that there is none.
pub fn timeout(field: &str, value: Option<&wkt::Duration>) -> Result<Option<Duration>, Problem> {
    let timeout = value.map(duration).transpose().at(field)?;
    Ok(timeout.filter(|timeout| !timeout.is_zero()))
}

/// The value of a wrapper, or `default`.
pub fn flag(value: Option<wkt::BoolValue>, default: bool) -> bool {
    value.map_or(default, |value| value.value)
}

/// The value of a wrapper, or `default`.
pub fn number(value: Option<wkt::UInt32Value>, default: u32) -> u32 {
    value.map_or(default, |value| value.value)
}

/// An IP address and port.
pub fn socket_address(address: Option<&core::Address>) -> Result<SocketAddr, Problem> {
    match required("address", address.and_then(|address| address.address.as_ref()))? {
        AddressKind::SocketAddress(socket) => {
            if socket.protocol() != Protocol::Tcp {
                return Err(Problem::new("must be TCP")
                    .inside("protocol")
                    .inside("socket_address"));
            }
            let port = match socket.port_specifier {
                Some(PortSpecifier::PortValue(port)) => u16::try_from(port).ok(),
                _ => None,
            };
            let port = required("port_value", port).at("socket_address")?;
            let ip: IpAddr = socket.address.parse().map_err(|_| {
                Problem::new(format!("`{}` is not an IP address", socket.address))
                    .inside("address")
                    .inside("socket_address")
            })?;
            Ok(SocketAddr::new(ip, port))
        }
        _ => Err(Problem::new("must be a socket_address")),
    }
}

/// An address range.
pub fn range(range: &core::CidrRange) -> Result<IpNet, Problem> {
    let ip: IpAddr = range.address_prefix.parse().map_err(|_| {
        Problem::new(format!("`{}` is not an IP address", range.address_prefix))
            .inside("address_prefix")
    })?;
    let length = u8::try_from(number(range.prefix_len, 0)).unwrap_or(u8::MAX);
    IpNet::new(ip, length)
        .map(|net| net.trunc())
        .map_err(|_| Problem::new("is longer than the address").inside("prefix_len"))
}

/// The message inside an `Any`, which must be of type `M`.
pub fn typed<M: Message + Name + Default>(any: Option<&wkt::Any>) -> Result<M, Problem> {
    let any = any.ok_or_else(|| Problem::new("must be set"))?;
    let name = type_name(&any.type_url);
    if name != M::full_name() {
        return Err(Problem::new(format!("must be a {}, is a {name}", M::full_name())));
    }
    M::decode(any.value.as_ref()).map_err(|error| Problem::new(format!("cannot be read: {error}")))
}

/// A text from a data source that carries it inline.
pub fn inline(source: &core::DataSource) -> Result<Vec<u8>, Problem> {
    use core::data_source::Specifier;
    match source.specifier.as_ref() {
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes.clone()),
        Some(Specifier::InlineString(text)) => Ok(text.clone().into_bytes()),
        Some(Specifier::Filename(path)) => {
            Err(Problem::new(format!("must be inline, not the file {path}")))
        }
        _ => Err(Problem::new("must be set")),
    }
}

/// How often out of 1,000,000 something applies.
pub fn fraction(
    fraction: Option<&tombolo_xds::proto::envoy::r#type::v3::FractionalPercent>,
) -> u32 {
    use tombolo_xds::proto::envoy::r#type::v3::fractional_percent::DenominatorType;
    let Some(fraction) = fraction else { return 0 };
    let per = match fraction.denominator() {
        DenominatorType::Hundred => 10_000,
        DenominatorType::TenThousand => 100,
        DenominatorType::Million => 1,
    };
    fraction.numerator.saturating_mul(per).min(1_000_000)
}
