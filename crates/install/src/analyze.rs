//! Finds mistakes in a mesh's configuration, as `istioctl analyze` does: what refers to nothing,
//! what overlaps, what clusters disagree about, what has no effect.
//!
//! **Invariant:** analysis is a pure function of the objects per cluster; reading them is
//! [`collect`]. One file per family of analyzers, all listed in [`ANALYZERS`].

pub mod collect;
pub mod message;
pub mod report;
pub mod world;

mod destination_rules;
mod gateways;
mod injection;
mod multicluster;
mod schema;
mod selectors;
mod services;
mod virtual_services;
mod webhooks;

use crate::analyze::message::Message;
use crate::analyze::world::World;

/// One analyzer.
#[derive(Debug)]
pub struct Analyzer {
    /// Istio's name for it, where it has one.
    pub name: &'static str,
    pub about: &'static str,
    /// The codes of its messages.
    pub codes: &'static [&'static str],
    run: fn(&World, &mut Vec<Message>),
}

/// All analyzers, in the order they run and are listed.
pub const ANALYZERS: &[Analyzer] = &[
    Analyzer {
        name: "meshnetworks.MeshNetworksAnalyzer",
        about: "Check that the mesh networks name clusters that are known",
        codes: &["IST0126"],
        run: multicluster::mesh_networks,
    },
    Analyzer {
        name: "services.MultiClusterServiceAnalyzer",
        about: "Check that clusters agree about services of the same name",
        codes: &["IST0170"],
        run: multicluster::services,
    },
    Analyzer {
        name: "externalcontrolplane.ExternalControlPlaneAnalyzer",
        about: "Check the addresses at which webhooks find a control plane elsewhere",
        codes: &["IST0163", "IST0164"],
        run: multicluster::external_control_plane,
    },
    Analyzer {
        name: "webhook.Analyzer",
        about: "Check that injection webhooks do not overlap and lead to a service",
        codes: &["IST0139"],
        run: webhooks::webhooks,
    },
    Analyzer {
        name: "injection.Analyzer",
        about: "Check that namespaces say whether pods get a proxy, and that pods have it",
        codes: &["IST0102", "IST0103", "IST0123"],
        run: injection::injection,
    },
    Analyzer {
        name: "injection.ImageAutoAnalyzer",
        about: "Check that containers with the image `auto` are injected",
        codes: &["IST0146", "IST0147"],
        run: injection::image_auto,
    },
    Analyzer {
        name: "service.PortNameAnalyzer",
        about: "Check that names of service ports say the protocol",
        codes: &["IST0118"],
        run: services::port_names,
    },
    Analyzer {
        name: "deployment.MultiServiceAnalyzer",
        about: "Check that services of one deployment do not give a port two meanings",
        codes: &["IST0116"],
        run: services::deployments,
    },
    Analyzer {
        name: "gateway.IngressGatewayPortAnalyzer",
        about: "Check that gateways are selected by workloads, and that services open their ports",
        codes: &["IST0101", "IST0162"],
        run: gateways::ports,
    },
    Analyzer {
        name: "gateway.ConflictingGatewayAnalyzer",
        about: "Check that gateways of one workload do not ask for the same hosts",
        codes: &["IST0145"],
        run: gateways::conflicts,
    },
    Analyzer {
        name: "gateway.SecretAnalyzer",
        about: "Check that the secrets that gateways name exist",
        codes: &["IST0101"],
        run: gateways::secrets,
    },
    Analyzer {
        name: "virtualservice.DestinationHostAnalyzer",
        about: "Check that routes lead to hosts that exist",
        codes: &["IST0101", "IST0112"],
        run: virtual_services::hosts,
    },
    Analyzer {
        name: "virtualservice.DestinationRuleAnalyzer",
        about: "Check that routes lead to subsets that exist",
        codes: &["IST0101"],
        run: virtual_services::subsets,
    },
    Analyzer {
        name: "virtualservice.GatewayAnalyzer",
        about: "Check that virtual services name gateways that exist and serve their hosts",
        codes: &["IST0101", "IST0132"],
        run: virtual_services::gateways,
    },
    Analyzer {
        name: "virtualservice.ConflictingMeshGatewayHostsAnalyzer",
        about: "Check that virtual services inside the mesh do not share hosts",
        codes: &["IST0109"],
        run: virtual_services::conflicts,
    },
    Analyzer {
        name: "virtualservice.UnreachableRuleAnalyzer",
        about: "Check that every route can be reached",
        codes: &["IST0130", "IST0131"],
        run: virtual_services::unreachable,
    },
    Analyzer {
        name: "destinationrule.CaCertificateAnalyzer",
        about: "Check that destination rules that originate TLS verify the server",
        codes: &["IST0128", "IST0129"],
        run: destination_rules::certificates,
    },
    Analyzer {
        name: "destinationrule.PodNotSelectedAnalyzer",
        about: "Check that destination rules name known hosts, and that their subsets select pods",
        codes: &["IST0173", "IST0174"],
        run: destination_rules::targets,
    },
    Analyzer {
        name: "sidecar.SelectorAnalyzer",
        about: "Check that workloads are selected by one Sidecar at most, and namespaces have one",
        codes: &["IST0110", "IST0111"],
        run: selectors::sidecars,
    },
    Analyzer {
        name: "auth.AuthorizationPoliciesAnalyzer",
        about: "Check that policies select workloads",
        codes: &["IST0127"],
        run: selectors::policies,
    },
    Analyzer {
        name: "serviceentry.ProtocolAddressesAnalyzer",
        about: "Check that service entries whose ports say no protocol have addresses",
        codes: &["IST0134"],
        run: services::entries,
    },
    Analyzer {
        name: "schema.ValidationAnalyzer",
        about: "Check that objects can be read, and that all of their fields have an effect here",
        codes: &["IST0106", "IST0133"],
        run: schema::schema,
    },
];

/// Runs all analyzers. Messages come sorted by level, code and object, each once.
pub fn analyze(world: &World) -> Vec<Message> {
    analyze_by(world, &[])
}

/// Runs the analyzers of the given names; all where none is given.
pub fn analyze_by(world: &World, names: &[String]) -> Vec<Message> {
    let mut messages = Vec::new();
    for analyzer in ANALYZERS {
        if names.is_empty() || names.iter().any(|name| name == analyzer.name) {
            (analyzer.run)(world, &mut messages);
        }
    }
    messages.sort();
    messages.dedup();
    messages
}

#[cfg(test)]
mod tests;
