//! Whether mutual TLS is demanded of whom: PeerAuthentication objects, composed.

use std::collections::BTreeMap;

use tombolo_crds::security::{MutualTlsMode, PeerAuthentication};

use crate::compile::scope::has_all;
use crate::index::config::Configured;
use crate::index::picture::Picture;

/// What a workload demands of its callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    mode: MutualTlsMode,
    ports: BTreeMap<u16, MutualTlsMode>,
}

impl Demand {
    /// On one port: DISABLE, PERMISSIVE or STRICT.
    pub(crate) fn on(&self, port: u16) -> MutualTlsMode {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }

    /// On ports that nothing is said about.
    pub(crate) fn elsewhere(&self) -> MutualTlsMode {
        self.mode
    }

    /// The ports that something is said about.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.keys().copied()
    }
}

fn mode(policy: &Configured<PeerAuthentication>) -> MutualTlsMode {
    policy.spec.mtls.as_ref().map_or(MutualTlsMode::Unset, |mtls| mtls.mode)
}

/// What holds for a whole namespace, before the policies of single workloads.
pub(crate) fn of_namespace(picture: &Picture, namespace: &str) -> MutualTlsMode {
    let root = picture.mesh.config.root_namespace.as_str();
    let of = |namespace: &str| {
        let mut policies = picture.config.peer_authentications.iter();
        // They are sorted by age, and the oldest wins.
        policies.find(|it| it.namespace() == namespace && !selects(it))
    };
    let mut composed = MutualTlsMode::Permissive;
    for level in [of(root), of(namespace)].into_iter().flatten() {
        if mode(level) != MutualTlsMode::Unset {
            composed = mode(level);
        }
    }
    composed
}

fn selects(policy: &Configured<PeerAuthentication>) -> bool {
    policy.spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty())
}

/// What holds for one workload.
pub(crate) fn of_workload(
    picture: &Picture,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Demand {
    let mut composed = of_namespace(picture, namespace);
    let mut ports = BTreeMap::new();
    let root = picture.mesh.config.root_namespace.as_str();
    let own = picture.config.peer_authentications.iter().find(|policy| {
        // In the root namespace a selector has no effect.
        let chosen = policy.spec.selector.as_ref().filter(|it| !it.match_labels.is_empty());
        policy.namespace() == namespace
            && namespace != root
            && chosen.is_some_and(|selector| has_all(labels, &selector.match_labels))
    });
    if let Some(own) = own {
        if mode(own) != MutualTlsMode::Unset {
            composed = mode(own);
        }
        for (port, mtls) in &own.spec.port_level_mtls {
            let Ok(port) = port.parse() else { continue };
            let mode = match mtls.mode {
                MutualTlsMode::Unset => composed,
                mode => mode,
            };
            ports.insert(port, mode);
        }
    }
    Demand { mode: composed, ports }
}
