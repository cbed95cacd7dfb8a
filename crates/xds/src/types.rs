//! Type URLs, and what the protocol does differently by type.

/// Upstreams (Envoy's clusters).
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Endpoints of an upstream.
pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Listeners.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// HTTP route tables.
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// Certificates, keys and trust bundles.
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Extension configurations.
pub const EXTENSION: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
/// Istio's table of names for the DNS proxy.
pub const NAME_TABLE: &str = "type.googleapis.com/istio.networking.nds.v1.NameTable";

/// The order in which one proxy gets a change, so that nothing refers to what is not there yet.
const ORDER: [&str; 6] = [CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, EXTENSION];

/// The place of a type in the push order; types without a place come last.
pub(crate) fn rank(type_url: &str) -> usize {
    ORDER.iter().position(|known| *known == type_url).unwrap_or(ORDER.len())
}

/// Whether a client that names no resource of the type wants all of them.
pub fn is_wildcard(type_url: &str) -> bool {
    !matches!(type_url, ENDPOINT | ROUTE | SECRET | EXTENSION)
}

/// Whether a state-of-the-world response of the type lists everything the client wants, so that
/// what is missing is gone.
pub(crate) fn lists_everything(type_url: &str) -> bool {
    matches!(type_url, CLUSTER | LISTENER)
}
