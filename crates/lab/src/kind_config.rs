//! kind's own Cluster document, as the description of a lab cluster.
//!
//! Nothing in it is ignored: what a lab cluster does not have is an error that names file, line
//! and field, and says what to do instead.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::{Location, Spanned};

use crate::spec::{ClusterName, ClusterSpec, NodeRole, SpecError};

/// The only version of the document that kind has.
const API_VERSION: &str = "kind.x-k8s.io/v1alpha4";

/// Most machines need no more; kind itself has no limit.
const MOST_NODES: usize = 32;

/// What is wrong with a document, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct KindConfigError {
    /// The file as the user named it.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// The path of the field, when one is known.
    pub field: Option<String>,
    /// What is wrong, and how to mend it.
    pub reason: String,
}

impl fmt::Display for KindConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.reason)
    }
}

type Text = Option<Spanned<String>>;
type Other = Option<Spanned<IgnoredAny>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    kind: Text,
    api_version: Text,
    name: Text,
    nodes: Option<Spanned<Vec<Spanned<Node>>>>,
    networking: Option<Networking>,
    feature_gates: Other,
    runtime_config: Other,
    kubeadm_config_patches: Other,
    #[serde(rename = "kubeadmConfigPatchesJSON6902")]
    kubeadm_config_patches_json: Other,
    containerd_config_patches: Other,
    #[serde(rename = "containerdConfigPatchesJSON6902")]
    containerd_config_patches_json: Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Node {
    role: Text,
    image: Other,
    labels: Other,
    extra_mounts: Other,
    extra_port_mappings: Other,
    kubeadm_config_patches: Other,
    #[serde(rename = "kubeadmConfigPatchesJSON6902")]
    kubeadm_config_patches_json: Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Networking {
    ip_family: Text,
    api_server_port: Option<Spanned<i64>>,
    api_server_address: Text,
    pod_subnet: Text,
    service_subnet: Text,
    #[serde(rename = "disableDefaultCNI")]
    disable_default_cni: Option<Spanned<bool>>,
    kube_proxy_mode: Text,
    dns_search: Other,
}

/// Reads a document; `file` is how errors name it.
///
/// # Errors
/// Names file, line and field of the first mistake, and how to mend it.
pub fn parse(file: &str, text: &str) -> Result<ClusterSpec, KindConfigError> {
    let options = serde_saphyr::options! { with_snippet: false, legacy_octal_numbers: true };
    let document: Document =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| KindConfigError {
            file: file.to_owned(),
            line: error.location().map_or(1, |location| location.line()),
            field: None,
            reason: reason_of(&error),
        })?;
    let reader = Reader { file };
    reader.header(&document)?;
    reader.spec(document)
}

/// The parser's own text, without the place, which the error already has.
fn reason_of(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let plain = first.rsplit_once(" at line ").map_or(first, |(reason, _)| reason);
    // The reader's advice to programmers means nothing to users.
    let plain = plain.split_once(", set DuplicateKeyPolicy").map_or(plain, |(reason, _)| reason);
    plain.trim_start_matches("error: ").to_owned()
}

struct Reader<'a> {
    file: &'a str,
}

impl Reader<'_> {
    fn error(&self, at: Location, field: &str, reason: impl fmt::Display) -> KindConfigError {
        KindConfigError {
            file: self.file.to_owned(),
            line: at.line(),
            field: Some(field.to_owned()),
            reason: reason.to_string(),
        }
    }

    fn header(&self, document: &Document) -> Result<(), KindConfigError> {
        for (field, value, want) in [
            ("kind", &document.kind, "Cluster"),
            ("apiVersion", &document.api_version, API_VERSION),
        ] {
            match value {
                Some(value) if value.value == want => (),
                Some(value) => {
                    let reason = format!("`{}` is not supported: write `{want}`", value.value);
                    return Err(self.error(value.referenced, field, reason));
                }
                None => {
                    return Err(KindConfigError {
                        file: self.file.to_owned(),
                        line: 1,
                        field: Some(field.to_owned()),
                        reason: format!("is missing: write `{field}: {want}`"),
                    });
                }
            }
        }
        for (field, value) in [
            ("featureGates", &document.feature_gates),
            ("runtimeConfig", &document.runtime_config),
            ("kubeadmConfigPatches", &document.kubeadm_config_patches),
            ("kubeadmConfigPatchesJSON6902", &document.kubeadm_config_patches_json),
            ("containerdConfigPatches", &document.containerd_config_patches),
            ("containerdConfigPatchesJSON6902", &document.containerd_config_patches_json),
        ] {
            self.absent(field, value)?;
        }
        Ok(())
    }

    /// Refuses a field of kind's that lab clusters have nothing for.
    fn absent(&self, field: &str, value: &Other) -> Result<(), KindConfigError> {
        match value {
            None => Ok(()),
            Some(value) => {
                let reason = "lab clusters do not have this: remove it";
                Err(self.error(value.referenced, field, reason))
            }
        }
    }

    fn spec(&self, document: Document) -> Result<ClusterSpec, KindConfigError> {
        let default: ClusterName = "kind"
            .parse()
            .map_err(|reason: SpecError| self.error(Location::UNKNOWN, "name", reason))?;
        let name = self.parsed("name", &document.name)?.unwrap_or(default);
        let mut spec = ClusterSpec::new(name);
        let (mut pods_at, mut services_at) = (None, None);
        if let Some(networking) = document.networking {
            pods_at = networking.pod_subnet.as_ref().map(|text| text.referenced);
            services_at = networking.service_subnet.as_ref().map(|text| text.referenced);
            self.networking(networking, &mut spec)?;
        }
        let nodes_at = document.nodes.as_ref().map(|nodes| nodes.referenced);
        if let Some(nodes) = document.nodes {
            spec.nodes = self.nodes(nodes)?;
        }
        match spec.check() {
            Ok(()) => Ok(spec),
            Err(reason) => {
                let (at, field) = match &reason {
                    SpecError::ControlPlanes { .. } => (nodes_at, "nodes"),
                    SpecError::LabNetwork { field: "podSubnet", .. }
                    | SpecError::PodSubnet { .. } => (pods_at, "networking.podSubnet"),
                    _ => (services_at.or(pods_at), "networking.serviceSubnet"),
                };
                Err(self.error(at.unwrap_or(Location::UNKNOWN), field, reason))
            }
        }
    }

    fn networking(
        &self,
        networking: Networking,
        spec: &mut ClusterSpec,
    ) -> Result<(), KindConfigError> {
        self.absent("networking.dnsSearch", &networking.dns_search)?;
        self.only("networking.ipFamily", &networking.ip_family, "ipv4")?;
        self.only("networking.kubeProxyMode", &networking.kube_proxy_mode, "nftables")?;
        if let Some(disabled) = networking.disable_default_cni.filter(|value| value.value) {
            let reason = "the lab's own pod network cannot be replaced: remove it";
            return Err(self.error(disabled.referenced, "networking.disableDefaultCNI", reason));
        }
        if let Some(subnet) = self.subnet("networking.podSubnet", &networking.pod_subnet)? {
            spec.pod_subnet = subnet;
        }
        if let Some(subnet) = self.subnet("networking.serviceSubnet", &networking.service_subnet)? {
            spec.service_subnet = subnet;
        }
        let address = "networking.apiServerAddress";
        if let Some(address) = self.parsed::<IpAddr>(address, &networking.api_server_address)? {
            spec.api_server_address = address;
        }
        if let Some(port) = networking.api_server_port {
            // kind's -1 lets the container runtime choose, which is what 0 does here.
            let wanted = if port.value == -1 { 0 } else { port.value };
            spec.api_server_port = u16::try_from(wanted).map_err(|_| {
                let reason = format!("{} is not a port: write 0 to 65535", port.value);
                self.error(port.referenced, "networking.apiServerPort", reason)
            })?;
        }
        Ok(())
    }

    fn nodes(&self, nodes: Spanned<Vec<Spanned<Node>>>) -> Result<Vec<NodeRole>, KindConfigError> {
        if nodes.value.len() > MOST_NODES {
            let reason = format!("a lab cluster has at most {MOST_NODES} nodes");
            return Err(self.error(nodes.referenced, "nodes", reason));
        }
        let mut roles = Vec::new();
        for (index, node) in nodes.value.into_iter().enumerate() {
            let (at, node) = (node.referenced, node.value);
            let field = |name: &str| format!("nodes[{index}].{name}");
            if let Some(image) = &node.image {
                let reason = "lab clusters have no node images: remove it; which Kubernetes serves the API is chosen with --api-server";
                return Err(self.error(image.referenced, &field("image"), reason));
            }
            for (name, value) in [
                ("labels", &node.labels),
                ("extraMounts", &node.extra_mounts),
                ("extraPortMappings", &node.extra_port_mappings),
                ("kubeadmConfigPatches", &node.kubeadm_config_patches),
                ("kubeadmConfigPatchesJSON6902", &node.kubeadm_config_patches_json),
            ] {
                self.absent(&field(name), value)?;
            }
            let role = match node.role.as_ref().map(|role| role.value.as_str()) {
                None | Some("control-plane") => NodeRole::ControlPlane,
                Some("worker") => NodeRole::Worker,
                Some(other) => {
                    let at = node.role.as_ref().map_or(at, |role| role.referenced);
                    let reason = format!("`{other}` is no role: write `control-plane` or `worker`");
                    return Err(self.error(at, &field("role"), reason));
                }
            };
            if role == NodeRole::ControlPlane && roles.contains(&role) {
                let at = node.role.as_ref().map_or(at, |role| role.referenced);
                let reason = "a second control plane: a lab cluster has exactly one";
                return Err(self.error(at, &field("role"), reason));
            }
            roles.push(role);
        }
        // The first node carries the API server, wherever the file has it.
        roles.sort_by_key(|role| *role == NodeRole::Worker);
        Ok(roles)
    }

    fn only(&self, field: &str, value: &Text, want: &str) -> Result<(), KindConfigError> {
        match value {
            Some(value) if value.value != want => {
                let reason =
                    format!("`{}` is not supported: lab clusters use `{want}`", value.value);
                Err(self.error(value.referenced, field, reason))
            }
            _ => Ok(()),
        }
    }

    fn subnet(&self, field: &str, value: &Text) -> Result<Option<Ipv4Net>, KindConfigError> {
        let Some(value) = value else { return Ok(None) };
        let at = value.referenced;
        match value.value.parse() {
            Ok(IpNet::V4(subnet)) if subnet.trunc() == subnet => Ok(Some(subnet)),
            Ok(IpNet::V4(subnet)) => {
                let reason =
                    format!("{subnet} has bits set after its prefix: write {}", subnet.trunc());
                Err(self.error(at, field, reason))
            }
            Ok(IpNet::V6(subnet)) => {
                Err(self.error(at, field, format!("{subnet} is IPv6: lab clusters have IPv4 only")))
            }
            Err(_) => {
                let reason = format!("`{}` is not a subnet: write it as 10.10.0.0/16", value.value);
                Err(self.error(at, field, reason))
            }
        }
    }

    fn parsed<T: FromStr<Err: fmt::Display>>(
        &self,
        field: &str,
        value: &Text,
    ) -> Result<Option<T>, KindConfigError> {
        let Some(value) = value else { return Ok(None) };
        match value.value.parse() {
            Ok(parsed) => Ok(Some(parsed)),
            Err(reason) => {
                // Some errors say what was written, others only what is wrong with it.
                let (written, reason) = (format!("`{}`", value.value), reason.to_string());
                let named = reason.starts_with(&written);
                let reason = if named { reason } else { format!("{written}: {reason}") };
                Err(self.error(value.referenced, field, reason))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n";

    #[test]
    fn the_tutorials_document_is_read_as_kind_reads_it() {
        let text = format!(
            "{HEAD}name: cluster01\nnodes:\n- role: worker\n- role: control-plane\nnetworking:\n  podSubnet: \"10.10.0.0/16\"\n  serviceSubnet: \"10.11.0.0/16\"\n  apiServerPort: -1\n"
        );
        let mut want = ClusterSpec::new("cluster01".parse().unwrap());
        want.pod_subnet = "10.10.0.0/16".parse().unwrap();
        want.service_subnet = "10.11.0.0/16".parse().unwrap();
        want.nodes = vec![NodeRole::ControlPlane, NodeRole::Worker];
        assert_eq!(parse("c.yaml", &text), Ok(want));
    }

    #[test]
    fn mistakes_name_file_line_and_field_and_how_to_mend_them() {
        let cases = [
            "name: [",
            "name: Big\n",
            "nodez: []\n",
            "networking:\n  podSubnet: 10.10.0.0/33\n",
            "networking:\n  podSubnet: 10.10.1.0/16\n",
            "networking:\n  podSubnet: fd00::/64\n",
            "networking:\n  podSubnet: 172.18.0.0/20\n",
            "networking:\n  podSubnet: 10.10.0.0/16\n  serviceSubnet: 10.10.128.0/20\n",
            "networking:\n  apiServerPort: 70000\n",
            "networking:\n  apiServerAddress: here\n",
            "networking:\n  ipFamily: dual\n",
            "networking:\n  disableDefaultCNI: true\n",
            "networking:\n  kubeProxyMode: ipvs\n",
            "networking:\n  podSubnets: x\n",
            "nodes:\n- role: worker\n",
            "nodes:\n- role: control-plane\n- role: control-plane\n",
            "nodes:\n- role: leader\n",
            "nodes:\n- role: control-plane\n  image: kindest/node:v1.27.3\n",
            "nodes:\n- role: control-plane\n  extraPortMappings: []\n",
            "featureGates: {A: true}\n",
            "name: a\nname: b\n",
        ];
        let told = cases.map(|case| match parse("c.yaml", &format!("{HEAD}{case}")) {
            Ok(spec) => format!("accepted: {spec:?}"),
            Err(error) => error.to_string(),
        });
        insta::assert_snapshot!(told.join("\n"));
        let errors = ["", "kind: Pod\n", "kind: Cluster\napiVersion: v1\n"]
            .map(|text| parse("c.yaml", text).unwrap_err().to_string());
        insta::assert_snapshot!(errors.join("\n"));
    }
}
