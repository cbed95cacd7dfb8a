//! Names of resources, which are Istio's exactly: EnvoyFilters, dashboards and the gateways of
//! other meshes depend on them.

use tombolo_model::id::Host;

/// Where traffic to unknown destinations goes when it may.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// Where traffic goes that may not.
pub const BLACK_HOLE: &str = "BlackHoleCluster";
/// Where inbound traffic goes on ports that no service declares.
pub const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";

/// One port of a service, or of one of its subsets, as a client calls it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Upstream {
    /// The service.
    pub host: Host,
    /// The service's port.
    pub port: u16,
    /// The subset, or empty.
    pub subset: String,
}

impl Upstream {
    /// All of the endpoints of a port.
    pub fn new(host: &Host, port: u16) -> Self {
        Self { host: host.clone(), port, subset: String::new() }
    }

    /// The name for sidecars and ingress gateways.
    pub fn name(&self) -> String {
        format!("outbound|{}|{}|{}", self.port, self.subset, self.host)
    }

    /// The name inside TLS: the SNI of clients, and the name at gateways that pass it through.
    pub fn sni(&self) -> String {
        format!("outbound_.{}_.{}_.{}", self.port, self.subset, self.host)
    }

    /// Reads either form back; the second value says whether it was the form inside TLS.
    pub fn parse(name: &str) -> Option<(Self, bool)> {
        let (rest, separator, is_sni) = match name.strip_prefix("outbound|") {
            Some(rest) => (rest, "|", false),
            None => (name.strip_prefix("outbound_.")?, "_.", true),
        };
        let mut parts = rest.splitn(3, separator);
        let (port, subset, host) = (parts.next()?, parts.next()?, parts.next()?);
        let upstream =
            Self { host: Host::new(host), port: port.parse().ok()?, subset: subset.to_owned() };
        Some((upstream, is_sni))
    }
}

/// The name of the upstream of an application's own port.
pub fn inbound(port: u16) -> String {
    format!("inbound|{port}||")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let mut upstream = Upstream::new(&Host::new("helloworld.sample.svc.cluster.local"), 5000);
        upstream.subset = String::from("v1");
        assert_eq!(upstream.name(), "outbound|5000|v1|helloworld.sample.svc.cluster.local");
        assert_eq!(upstream.sni(), "outbound_.5000_.v1_.helloworld.sample.svc.cluster.local");
        assert_eq!(Upstream::parse(&upstream.name()), Some((upstream.clone(), false)));
        assert_eq!(Upstream::parse(&upstream.sni()), Some((upstream, true)));
        assert_eq!(Upstream::parse("inbound|5000||"), None);
    }
}
