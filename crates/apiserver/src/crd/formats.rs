//! The string formats that custom resources are checked for. Unknown formats are no constraint.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use regex::Regex;

/// Whether a text has the format.
pub fn has(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => is_duration(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(ip, _)| {
            ip.parse::<IpAddr>().is_ok() && text.parse::<ipnet::IpNet>().is_ok()
        }),
        "uuid" | "uuid4" => uuid::Uuid::parse_str(text).is_ok(),
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        "uri" => text
            .parse::<http::Uri>()
            .is_ok_and(|uri| uri.scheme().is_some() || text.starts_with('/')),
        "hostname" => text.len() <= 255 && is_match(&HOSTNAME, text),
        "email" => {
            text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
        }
        _ => true,
    }
}

static HOSTNAME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^[a-zA-Z0-9]([-a-zA-Z0-9]{0,62})(\.[a-zA-Z0-9]([-a-zA-Z0-9]{0,62}))*\.?$")
        .expect("the pattern is a constant and compiles")
});
static DURATION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^[-+]?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h|d|w))+$")
        .expect("the pattern is a constant and compiles")
});

fn is_match(pattern: &Regex, text: &str) -> bool {
    pattern.is_match(text)
}

fn is_duration(text: &str) -> bool {
    is_match(&DURATION, text)
}
