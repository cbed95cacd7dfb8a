//! Who asks for configuration: a proxy as its xDS node describes it.
//!
//! **Invariant:** nothing here is trusted for authorisation. The stream's certificate or token
//! says who the proxy is; `serve` refuses a node whose namespace or service account disagrees.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tombolo_model::endpoint::Locality;
use tombolo_model::id::{ClusterId, NetworkId, ObjectName};
use tombolo_xds::proto::envoy::config::core::v3::Node;
use tombolo_xds::proto::google::protobuf::{Struct, Value, value};

/// What a proxy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyKind {
    /// It stands beside one workload and captures its traffic.
    Sidecar,
    /// It stands alone: an east-west, ingress or egress gateway.
    Router,
}

/// A proxy that asks for configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The node's id, for messages: `sidecar~10.10.0.7~pod.ns~ns.svc.cluster.local`.
    pub id: String,
    /// What it is for.
    pub kind: ProxyKind,
    /// The pod it runs in.
    pub pod: ObjectName,
    /// The cluster it runs in, after aliases.
    pub cluster: ClusterId,
    /// The network it is in.
    pub network: NetworkId,
    /// The networks whose endpoints it wants to see; empty for all.
    pub requested_network_view: BTreeSet<NetworkId>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
    /// The DNS domain that completes short names, such as `sample.svc.cluster.local`.
    pub dns_domain: String,
    /// The service account it says it has; empty when it says nothing.
    pub service_account: String,
    /// The node it says it runs on; empty when it says nothing.
    pub node_name: String,
    /// Where it says it is.
    pub locality: Locality,
    /// The version it says it is of; empty when it says nothing.
    pub version: String,
    /// Whether it is Tombolo's own proxy, which knows filters that stock Envoy lacks.
    pub is_tombolo: bool,
}

/// Why a node is not a proxy that can be configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The id is not in Istio's form.
    #[error("node id `{0}` is not of the form TYPE~IP~POD.NAMESPACE~DOMAIN")]
    Id(String),
    /// The type is one that is not served.
    #[error("node `{id}` is of type `{kind}`; sidecar and router are served")]
    Kind {
        /// The node's id.
        id: String,
        /// The type it names.
        kind: String,
    },
    /// The address in the id does not parse.
    #[error("node `{id}`: `{ip}` is not an IP address")]
    Address {
        /// The node's id.
        id: String,
        /// The text that is no address.
        ip: String,
    },
}

impl Proxy {
    /// Reads the node of a proxy's first request.
    ///
    /// `cluster_of` maps the name that the proxy gives its cluster to the real one.
    ///
    /// # Errors
    /// When the id has another form, its type is not served, or an address does not parse.
    pub fn from_node(
        node: &Node,
        cluster_of: impl FnOnce(&str) -> ClusterId,
    ) -> Result<Self, NodeError> {
        let id = node.id.clone();
        let parts: Vec<&str> = node.id.split('~').collect();
        let [kind, ip, name, dns_domain] = parts.as_slice() else {
            return Err(NodeError::Id(id));
        };
        let kind = match *kind {
            "sidecar" => ProxyKind::Sidecar,
            "router" => ProxyKind::Router,
            other => return Err(NodeError::Kind { id, kind: other.to_owned() }),
        };
        // Pod names may hold dots, namespaces may not.
        let (pod, namespace) = name.rsplit_once('.').ok_or_else(|| NodeError::Id(id.clone()))?;
        let metadata = Metadata(node.metadata.as_ref());
        let namespace = metadata.text("NAMESPACE").unwrap_or(namespace);
        let ips = metadata.text("INSTANCE_IPS").unwrap_or(ip);
        let ips = ips
            .split(',')
            .map(str::trim)
            .filter(|ip| !ip.is_empty())
            .map(|ip| {
                ip.parse().map_err(|_| NodeError::Address { id: id.clone(), ip: ip.to_owned() })
            })
            .collect::<Result<_, _>>()?;
        let locality = node.locality.as_ref();
        Ok(Self {
            kind,
            pod: ObjectName::new(namespace, pod),
            cluster: cluster_of(metadata.text("CLUSTER_ID").unwrap_or("Kubernetes")),
            network: NetworkId::new(metadata.text("NETWORK").unwrap_or_default()),
            requested_network_view: metadata
                .text("REQUESTED_NETWORK_VIEW")
                .unwrap_or_default()
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(NetworkId::new)
                .collect(),
            ips,
            labels: metadata.texts("LABELS"),
            dns_domain: (*dns_domain).to_owned(),
            service_account: metadata.text("SERVICE_ACCOUNT").unwrap_or_default().to_owned(),
            node_name: metadata.text("NODE_NAME").unwrap_or_default().to_owned(),
            locality: Locality {
                region: locality.map(|at| at.region.clone()).unwrap_or_default(),
                zone: locality.map(|at| at.zone.clone()).unwrap_or_default(),
                subzone: locality.map(|at| at.sub_zone.clone()).unwrap_or_default(),
            },
            version: metadata.text("ISTIO_VERSION").unwrap_or_default().to_owned(),
            is_tombolo: metadata.text("TOMBOLO_PROXY") == Some("true"),
            id,
        })
    }

    /// The namespace it runs in.
    pub fn namespace(&self) -> &str {
        &self.pod.namespace
    }
}

/// Access to the node's metadata.
struct Metadata<'a>(Option<&'a Struct>);

impl<'a> Metadata<'a> {
    fn field(&self, name: &str) -> Option<&'a value::Kind> {
        self.0?.fields.get(name)?.kind.as_ref()
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        match self.field(name)? {
            value::Kind::StringValue(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    fn texts(&self, name: &str) -> BTreeMap<String, String> {
        let Some(value::Kind::StructValue(fields)) = self.field(name) else {
            return BTreeMap::new();
        };
        let text = |value: &Value| match &value.kind {
            Some(value::Kind::StringValue(text)) => Some(text.clone()),
            _ => None,
        };
        fields
            .fields
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), text(value)?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Value {
        Value { kind: Some(value::Kind::StringValue(value.to_owned())) }
    }

    fn node(id: &str, fields: &[(&str, &str)]) -> Node {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), text(value)));
        Node {
            id: id.to_owned(),
            metadata: Some(Struct { fields: fields.collect() }),
            ..Node::default()
        }
    }

    #[test]
    fn a_sidecar_is_read_from_its_node() {
        let node = node(
            "sidecar~10.10.0.7~helloworld-v1.abc.sample~sample.svc.cluster.local",
            &[
                ("CLUSTER_ID", "cluster01"),
                ("NETWORK", "network1"),
                ("INSTANCE_IPS", "10.10.0.7,fd00::7"),
                ("REQUESTED_NETWORK_VIEW", "network1, network2"),
                ("ISTIO_VERSION", "1.30.0"),
                ("TOMBOLO_PROXY", "true"),
            ],
        );
        let want = Proxy {
            id: node.id.clone(),
            kind: ProxyKind::Sidecar,
            pod: ObjectName::new("sample", "helloworld-v1.abc"),
            cluster: ClusterId::new("cluster01"),
            network: NetworkId::new("network1"),
            requested_network_view: BTreeSet::from([
                NetworkId::new("network1"),
                NetworkId::new("network2"),
            ]),
            ips: vec!["10.10.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            labels: BTreeMap::new(),
            dns_domain: String::from("sample.svc.cluster.local"),
            service_account: String::new(),
            node_name: String::new(),
            locality: Locality::default(),
            version: "1.30.0".to_owned(),
            is_tombolo: true,
        };
        assert_eq!(Proxy::from_node(&node, ClusterId::new), Ok(want));
    }

    #[test]
    fn nodes_that_cannot_be_configured_say_why() {
        let why =
            |id: &str| Proxy::from_node(&node(id, &[]), ClusterId::new).unwrap_err().to_string();
        assert_eq!(
            why("sidecar~10.0.0.1~pod.ns"),
            "node id `sidecar~10.0.0.1~pod.ns` is not of the form TYPE~IP~POD.NAMESPACE~DOMAIN"
        );
        assert_eq!(
            why("ztunnel~10.0.0.1~pod.ns~d"),
            "node `ztunnel~10.0.0.1~pod.ns~d` is of type `ztunnel`; sidecar and router are served"
        );
        assert_eq!(
            why("sidecar~x~pod.ns~d"),
            "node `sidecar~x~pod.ns~d`: `x` is not an IP address"
        );
    }
}
