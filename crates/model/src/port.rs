//! Ports of services and the protocols spoken on them.

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC, that is HTTP/2.
    Grpc,
    /// gRPC-Web, that is HTTP/1.1 or 2.
    GrpcWeb,
    /// HTTP inside the application's own TLS.
    Https,
    /// The application's own TLS.
    Tls,
    /// Bytes.
    Tcp,
    /// MongoDB, carried as bytes.
    Mongo,
    /// Redis, carried as bytes.
    Redis,
    /// MySQL, carried as bytes.
    Mysql,
    /// Datagrams, which the mesh does not carry.
    Udp,
    /// Not declared: found out from the first bytes.
    Auto,
}

impl Protocol {
    /// The protocol that a name such as `http` or `grpc-web` stands for.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "http" | "kubernetes.io/ws" => Self::Http,
            "http2" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "https" | "kubernetes.io/wss" => Self::Https,
            "tls" => Self::Tls,
            "tcp" => Self::Tcp,
            "mongo" => Self::Mongo,
            "redis" => Self::Redis,
            "mysql" => Self::Mysql,
            "udp" => Self::Udp,
            _ => return None,
        })
    }

    /// The protocol of a Kubernetes service port: `appProtocol`, else the prefix of its name,
    /// else to be found out.
    pub fn of_service_port(app_protocol: Option<&str>, name: &str, is_udp: bool) -> Self {
        if is_udp {
            return Self::Udp;
        }
        if let Some(declared) = app_protocol.and_then(Self::parse) {
            return declared;
        }
        let name = name.to_ascii_lowercase();
        if name == "grpc-web" || name.starts_with("grpc-web-") {
            return Self::GrpcWeb;
        }
        let prefix = name.split('-').next().unwrap_or_default();
        match Self::parse(prefix) {
            // A TCP port cannot speak UDP, whatever its name says.
            Some(Self::Udp) | None => Self::Auto,
            Some(protocol) => protocol,
        }
    }

    /// Whether requests can be told apart and routed.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether it is HTTP/2 for certain.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }

    /// Whether the application speaks TLS itself.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServicePort {
    /// Its name, by which endpoints refer to it. Empty for a single unnamed port.
    pub name: String,
    /// The number that clients use.
    pub number: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_is_declared_then_named_then_unknown() {
        let of = Protocol::of_service_port;
        assert_eq!(of(Some("grpc"), "http-web", false), Protocol::Grpc);
        assert_eq!(of(None, "http-web", false), Protocol::Http);
        assert_eq!(of(None, "grpc-web-x", false), Protocol::GrpcWeb);
        assert_eq!(of(None, "grpc", false), Protocol::Grpc);
        assert_eq!(of(None, "status-port", false), Protocol::Auto);
        assert_eq!(of(Some("x/unknown"), "tls", false), Protocol::Tls);
        assert_eq!(of(None, "http", true), Protocol::Udp);
    }
}
