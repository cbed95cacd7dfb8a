//! Step 3: a picture and a proxy in, xDS resources out.
//!
//! **Invariants:** pure and total. Equal inputs give equal bytes, so a version is a hash and a
//! golden test is a diff. What cannot be expressed is a diagnostic, never an error.

pub mod names;
pub mod resource;

mod access_log;
mod authentication;
mod authorization;
mod effects;
mod endpoints;
mod filters;
mod gateway;
mod http_routes;
mod inbound;
mod nearness;
mod opaque;
mod outbound;
mod parts;
mod policy;
mod retries;
mod routes;
mod routing;
mod scope;
mod settings;
mod tls;
mod upstreams;

use std::collections::{BTreeMap, BTreeSet};

use prost::{Message, Name};
use tombolo_model::id::{Host, ObjectName};

use crate::compile::resource::{Resource, ResourceType, Resources};
use crate::compile::scope::Scope;
use crate::diagnostic::Diagnostic;
use crate::index::picture::Picture;
use crate::proxy::{Proxy, ProxyKind};

/// Resources of one type for one proxy, and what users should know about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// The resources by name.
    pub resources: Resources,
    /// Sorted, each once.
    pub diagnostics: Vec<Diagnostic>,
}

impl Compiled {
    fn add<M: Message + Name>(&mut self, name: &str, message: &M) {
        self.resources.insert(name.to_owned(), Resource::of(message));
    }
}

/// All resources of a type for a proxy: what it shares with others, and its own.
pub fn compile(picture: &Picture, proxy: &Proxy, kind: ResourceType) -> Compiled {
    let mut all = shared(picture, proxy, kind);
    all.resources.extend(own(picture, proxy, kind));
    all
}

/// The resources that depend only on what [`scope_key`] holds.
pub fn shared(picture: &Picture, proxy: &Proxy, kind: ResourceType) -> Compiled {
    let scope = Scope::new(picture, proxy);
    let mut out = Compiled::default();
    let mut remarks = Vec::new();
    let router = proxy.kind == ProxyKind::Router;
    match kind {
        ResourceType::Cluster => {
            let through = router && gateway::passes_through(&scope);
            for called in upstreams::of_scope(&scope) {
                let cluster = called.cluster(&scope, &mut remarks);
                out.add(&cluster.name, &cluster);
                if through && gateway::exposes(&scope, &called) {
                    let cluster = called.sni_cluster(&scope);
                    out.add(&cluster.name, &cluster);
                }
            }
            let black_hole = upstreams::black_hole(&scope);
            out.add(&black_hole.name, &black_hole);
            if !router {
                let passthrough = upstreams::passthrough(&scope);
                out.add(&passthrough.name, &passthrough);
            }
        }
        ResourceType::Endpoint => assignments(&scope, None, &mut out),
        ResourceType::Listener if router => {
            let called = upstreams::of_scope(&scope);
            for listener in gateway::listeners(&scope, &called, &mut remarks) {
                out.add(&listener.name, &listener);
            }
        }
        ResourceType::Listener => {
            for listener in outbound::listeners(&scope, &mut remarks) {
                out.add(&listener.name, &listener);
            }
            remarks.extend(access_log_remark(picture));
        }
        ResourceType::Route => {
            let configurations = match router {
                true => gateway::configurations(&scope, &mut remarks),
                false => routes::configurations(&scope, &mut remarks),
            };
            for configuration in configurations {
                out.add(&configuration.name, &configuration);
            }
        }
    }
    if kind == ResourceType::Listener {
        remarks.extend(authorization::remarks(&scope));
    }
    remarks.sort();
    remarks.dedup();
    out.diagnostics = remarks;
    out
}

/// The resources of the proxy's own workload: what it receives.
pub fn own(picture: &Picture, proxy: &Proxy, kind: ResourceType) -> Resources {
    let mut out = Compiled::default();
    if proxy.kind == ProxyKind::Router {
        return out.resources;
    }
    let scope = Scope::new(picture, proxy);
    match kind {
        ResourceType::Cluster => {
            for cluster in inbound::clusters(&scope) {
                out.add(&cluster.name, &cluster);
            }
        }
        ResourceType::Listener => {
            let listener = inbound::listener(&scope);
            out.add(&listener.name, &listener);
        }
        ResourceType::Endpoint | ResourceType::Route => (),
    }
    out.resources
}

/// The endpoints of the upstreams of some hosts only, for changes that touch nothing else.
pub fn endpoints_of(picture: &Picture, proxy: &Proxy, hosts: &BTreeSet<Host>) -> Resources {
    let scope = Scope::new(picture, proxy);
    let mut out = Compiled::default();
    assignments(&scope, Some(hosts), &mut out);
    out.resources
}

fn assignments(scope: &Scope<'_>, hosts: Option<&BTreeSet<Host>>, out: &mut Compiled) {
    let through = scope.proxy.kind == ProxyKind::Router && gateway::passes_through(scope);
    let chosen = scope.services.values().copied();
    for service in chosen.filter(|it| hosts.is_none_or(|hosts| hosts.contains(&it.host))) {
        let mut called = Vec::new();
        upstreams::of_service(scope, service, &mut called);
        for called in called.iter().filter(|called| called.has_assignment(scope)) {
            let name = called.upstream.name();
            out.add(&name, &called.assignment(scope, name.clone(), false));
            if through && gateway::exposes(scope, called) {
                let name = called.upstream.sni();
                out.add(&name, &called.assignment(scope, name.clone(), true));
            }
        }
    }
}

fn access_log_remark(picture: &Picture) -> Option<Diagnostic> {
    let message = access_log::problem(&picture.mesh.config)?;
    Some(Diagnostic {
        cluster: picture.config_cluster.clone(),
        kind: String::from("ConfigMap"),
        object: ObjectName::new(&picture.mesh.config.root_namespace, "istio"),
        message,
    })
}

/// What of a proxy decides its shared resources. Proxies with equal keys see the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScopeKey(String);

/// The key of a proxy in a picture.
pub fn scope_key(picture: &Picture, proxy: &Proxy) -> ScopeKey {
    let pods = picture.workloads.get(&proxy.cluster);
    let known = pods.and_then(|pods| pods.get(&proxy.pod));
    let labels = known.map_or(&proxy.labels, |workload| &workload.labels);
    let wanted = scope::labels_that_matter(picture);
    let labels: BTreeMap<&String, &String> =
        labels.iter().filter(|(name, _)| wanted.contains(name.as_str())).collect();
    let node_local = picture.services.values().any(|service| service.node_local);
    let node = if node_local { proxy.node_name.as_str() } else { "" };
    let locality = match known {
        Some(workload) if !workload.locality.is_empty() => &workload.locality,
        _ => &proxy.locality,
    };
    let families: BTreeSet<bool> = proxy.ips.iter().map(|ip| ip.to_canonical().is_ipv4()).collect();
    // A gateway's ports are translated by the services of its own pod.
    let pod = (proxy.kind == ProxyKind::Router).then_some(&proxy.pod);
    ScopeKey(format!(
        "{:?}",
        (
            (proxy.kind, &proxy.cluster, proxy.namespace(), &proxy.network, &families),
            (&proxy.requested_network_view, proxy.is_tombolo, node, locality, labels, pod),
        )
    ))
}
