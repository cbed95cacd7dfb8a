//! What follows from a mesh file: two facts per cluster (its network, and whether it is a primary
//! or a remote) decide everything else.
//!
//! Pure: a mesh file in, one [`ClusterPlan`] per cluster out. Nothing here is asked for twice.

use std::collections::BTreeSet;

use crate::mesh_file::{Cluster, MeshFile, Role};

/// The namespace of the control plane and the gateways.
pub const NAMESPACE: &str = "istio-system";
/// The gateway by which other networks, and remotes, come in.
pub(crate) const GATEWAY: &str = "istio-eastwestgateway";

/// Everything that installing a mesh does to one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPlan {
    pub name: String,
    pub network: String,
    pub role: Role,
    /// The remotes this primary manages; empty for a remote.
    pub remotes: Vec<String>,
    /// The clusters whose API servers this cluster's control plane watches, besides its own.
    pub watches: Vec<String>,
    /// `istio-system` is labelled with the network: needed as soon as there are several.
    pub label_network: bool,
    /// The control plane signs with an intermediate of the mesh's root (`cacerts`).
    pub plugged_in_ca: bool,
    /// An east-west gateway is installed.
    pub gateway: bool,
    /// The gateway passes 15012 and 15017 through to istiod.
    pub expose_istiod: bool,
    /// The gateway passes 15443 through to every service, by SNI.
    pub expose_services: bool,
    /// The other clusters of the same network, to and from which pods are routed directly.
    pub flat_with: Vec<String>,
}

impl ClusterPlan {
    /// Whether the cluster runs a control plane.
    pub fn is_primary(&self) -> bool {
        self.role == Role::Primary
    }
}

/// The plans of all clusters, in the order of the mesh file.
pub fn plans(mesh: &MeshFile) -> Vec<ClusterPlan> {
    let networks: BTreeSet<&str> =
        mesh.clusters.iter().map(|cluster| cluster.network.as_str()).collect();
    let primaries = mesh.clusters.iter().filter(|cluster| cluster.role == Role::Primary).count();
    let facts = Facts { several_networks: networks.len() > 1, several_primaries: primaries > 1 };
    mesh.clusters.iter().map(|cluster| plan(mesh, cluster, facts)).collect()
}

#[derive(Clone, Copy)]
struct Facts {
    several_networks: bool,
    several_primaries: bool,
}

fn plan(mesh: &MeshFile, cluster: &Cluster, facts: Facts) -> ClusterPlan {
    let primary = cluster.role == Role::Primary;
    let others = || mesh.clusters.iter().filter(|other| other.name != cluster.name);
    let remotes: Vec<String> = others()
        .filter(|other| other.role == Role::Remote { primary: cluster.name.clone() })
        .map(|other| other.name.clone())
        .collect();
    let has_remotes = !remotes.is_empty();
    ClusterPlan {
        name: cluster.name.clone(),
        network: cluster.network.clone(),
        role: cluster.role.clone(),
        watches: if primary {
            others().map(|other| other.name.clone()).collect()
        } else {
            Vec::new()
        },
        label_network: facts.several_networks,
        // With one primary its self-signed CA serves every cluster.
        plugged_in_ca: primary && facts.several_primaries,
        // A primary with remotes needs one even in a flat network: istiod is exposed through it.
        gateway: facts.several_networks || has_remotes,
        expose_istiod: has_remotes,
        // The gateways of remotes follow the configuration of their primary.
        expose_services: primary && facts.several_networks,
        flat_with: others()
            .filter(|other| other.network == cluster.network)
            .map(|other| other.name.clone())
            .collect(),
        remotes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One line per cluster: `name: facts`.
    fn summary(example: &str) -> String {
        let mesh = MeshFile::parse("mesh.yaml", example).unwrap();
        plans(&mesh)
            .iter()
            .map(|plan| {
                let facts = [
                    (plan.label_network, "labelled"),
                    (plan.plugged_in_ca, "cacerts"),
                    (plan.gateway, "gateway"),
                    (plan.expose_istiod, "istiod exposed"),
                    (plan.expose_services, "services exposed"),
                ];
                let facts: Vec<_> =
                    facts.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
                format!(
                    "{}: {} remotes {:?} watches {:?} flat with {:?}\n",
                    plan.name,
                    facts.join(", "),
                    plan.remotes,
                    plan.watches,
                    plan.flat_with
                )
            })
            .collect()
    }

    #[test]
    fn primary_remote_in_a_flat_network() {
        insta::assert_snapshot!(summary(include_str!("../../../examples/primary-remote.yaml")), @r#"
        cluster01: gateway, istiod exposed remotes ["cluster02"] watches ["cluster02"] flat with ["cluster02"]
        cluster02:  remotes [] watches [] flat with ["cluster01"]
        "#);
    }

    #[test]
    fn multi_primary_in_a_flat_network() {
        insta::assert_snapshot!(summary(include_str!("../../../examples/multi-primary.yaml")), @r#"
        cluster01: cacerts remotes [] watches ["cluster02"] flat with ["cluster02"]
        cluster02: cacerts remotes [] watches ["cluster01"] flat with ["cluster01"]
        "#);
    }

    #[test]
    fn primary_remote_on_separate_networks() {
        insta::assert_snapshot!(summary(include_str!("../../../examples/primary-remote-multi-network.yaml")), @r#"
        cluster01: labelled, gateway, istiod exposed, services exposed remotes ["cluster02"] watches ["cluster02"] flat with []
        cluster02: labelled, gateway remotes [] watches [] flat with []
        "#);
    }

    #[test]
    fn multi_primary_on_separate_networks() {
        insta::assert_snapshot!(summary(include_str!("../../../examples/multi-primary-multi-network.yaml")), @r#"
        cluster01: labelled, cacerts, gateway, services exposed remotes [] watches ["cluster02"] flat with []
        cluster02: labelled, cacerts, gateway, services exposed remotes [] watches ["cluster01"] flat with []
        "#);
    }
}
