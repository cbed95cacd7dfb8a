//! Istio objects of the config cluster, read into their types.
//!
//! An object that cannot be read is left out and reported; a field that is not implemented is
//! reported and has no effect. Lists are in the order in which older objects win. Objects of
//! another revision are for its control plane, and say nothing here.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tombolo_crds::document;
use tombolo_crds::networking::destination_rule::DestinationRule;
use tombolo_crds::networking::gateway::Gateway;
use tombolo_crds::networking::service_entry::{ServiceEntry, Sidecar, WorkloadEntry};
use tombolo_crds::networking::virtual_service::VirtualService;
use tombolo_crds::security::{
    Action, AuthorizationPolicy, MutualTls, MutualTlsMode, PeerAuthentication, Rule,
};
use tombolo_model::id::{ClusterId, Host, ObjectName};

use crate::diagnostic::Diagnostic;
use crate::index::live::Live;
use crate::index::objects::IstioObject;

/// The label that names the control plane that an object is for.
const REVISION_LABEL: &str = "istio.io/rev";

/// The Istio kinds that have an effect.
pub const SUPPORTED: &[&str] = &[
    "AuthorizationPolicy",
    "DestinationRule",
    "Gateway",
    "PeerAuthentication",
    "ServiceEntry",
    "Sidecar",
    "VirtualService",
    "WorkloadEntry",
];

/// One object, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Configured<T> {
    /// Its name.
    pub name: ObjectName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// What it says.
    pub spec: T,
    /// The paths within the specification that are not implemented.
    pub unknown: Vec<String>,
}

impl<T> Configured<T> {
    /// The namespace it is in.
    pub fn namespace(&self) -> &str {
        &self.name.namespace
    }

    /// Completes a short host name with the object's namespace.
    pub fn host(&self, name: &str, domain: &str) -> Host {
        if name.contains('.') || name.contains('*') || name.parse::<std::net::IpAddr>().is_ok() {
            return Host::new(name);
        }
        Host::of_service(name, self.namespace(), domain)
    }
}

/// All that has an effect, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "each field is named for its kind")]
pub struct Config {
    pub authorization_policies: Vec<Configured<AuthorizationPolicy>>,
    pub destination_rules: Vec<Configured<DestinationRule>>,
    pub gateways: Vec<Configured<Gateway>>,
    pub peer_authentications: Vec<Configured<PeerAuthentication>>,
    pub service_entries: Vec<Configured<ServiceEntry>>,
    pub sidecars: Vec<Configured<Sidecar>>,
    pub virtual_services: Vec<Configured<VirtualService>>,
    pub workload_entries: Vec<Configured<WorkloadEntry>>,
}

/// Reads the Istio objects of the config cluster.
pub(crate) fn of(live: &Live, diagnostics: &mut Vec<Diagnostic>) -> Config {
    let Some(objects) = live.config() else { return Config::default() };
    let none = BTreeMap::new();
    let kind = |kind: &str| objects.istio.get(kind).unwrap_or(&none);
    let cluster = &live.config_cluster;
    for (name, objects) in &objects.istio {
        if SUPPORTED.contains(name) {
            continue;
        }
        for object in objects.values().filter(|object| is_ours(live, object)) {
            let message = format!("{name} is not implemented: this object has no effect");
            diagnostics.push(remark(cluster, object, message));
        }
    }
    Config {
        authorization_policies: read_guarding(
            live,
            kind("AuthorizationPolicy"),
            deny_everything,
            diagnostics,
        ),
        destination_rules: read(live, kind("DestinationRule"), diagnostics),
        gateways: read(live, kind("Gateway"), diagnostics),
        peer_authentications: read_guarding(
            live,
            kind("PeerAuthentication"),
            demand_mutual_tls,
            diagnostics,
        ),
        service_entries: read(live, kind("ServiceEntry"), diagnostics),
        sidecars: read(live, kind("Sidecar"), diagnostics),
        virtual_services: read(live, kind("VirtualService"), diagnostics),
        workload_entries: read(live, kind("WorkloadEntry"), diagnostics),
    }
}

/// What stands for an authorization policy that cannot be read: nobody may call its namespace.
fn deny_everything() -> AuthorizationPolicy {
    let rules = vec![Rule::default()];
    AuthorizationPolicy { action: Action::Deny, rules, ..AuthorizationPolicy::default() }
}

/// What stands for a peer authentication that cannot be read: mutual TLS in its namespace.
fn demand_mutual_tls() -> PeerAuthentication {
    let mtls = Some(MutualTls { mode: MutualTlsMode::Strict });
    PeerAuthentication { mtls, ..PeerAuthentication::default() }
}

/// Whether an object is for this control plane: one that names no revision is for all.
fn is_ours(live: &Live, object: &IstioObject) -> bool {
    let wanted = object.labels.get(REVISION_LABEL);
    live.revision.is_empty() || wanted.is_none_or(|revision| *revision == live.revision)
}

type Objects = BTreeMap<ObjectName, IstioObject>;

fn read<T: Serialize + DeserializeOwned>(
    live: &Live,
    objects: &Objects,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Configured<T>> {
    read_all(live, objects, None, diagnostics)
}

/// Reads objects that guard something: where one cannot be read, `closed` stands for it.
fn read_guarding<T: Serialize + DeserializeOwned>(
    live: &Live,
    objects: &Objects,
    closed: fn() -> T,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Configured<T>> {
    read_all(live, objects, Some(closed), diagnostics)
}

fn read_all<T: Serialize + DeserializeOwned>(
    live: &Live,
    objects: &Objects,
    closed: Option<fn() -> T>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Configured<T>> {
    let cluster = &live.config_cluster;
    let mut found = Vec::new();
    for object in objects.values().filter(|object| is_ours(live, object)) {
        let (spec, unknown) = match document::read::<T>(&object.spec) {
            Ok(read) => {
                for path in &read.unknown {
                    let message = format!("field `spec.{path}` is not implemented: no effect");
                    diagnostics.push(remark(cluster, object, message));
                }
                (read.value, read.unknown)
            }
            Err(error) => {
                let effect = match closed {
                    Some(_) => "its namespace is closed",
                    None => "left out",
                };
                let message = format!("{effect}, because it cannot be read: {error}");
                diagnostics.push(remark(cluster, object, message));
                let Some(closed) = closed else { continue };
                (closed(), Vec::new())
            }
        };
        found.push(Configured {
            name: object.name.clone(),
            labels: object.labels.clone(),
            annotations: object.annotations.clone(),
            created: object.created,
            spec,
            unknown,
        });
    }
    found.sort_by(|a, b| {
        let key = |of: &Configured<T>| {
            (of.created, Arc::clone(&of.name.name), Arc::clone(&of.name.namespace))
        };
        key(a).cmp(&key(b))
    });
    found
}

fn remark(cluster: &ClusterId, object: &IstioObject, message: String) -> Diagnostic {
    Diagnostic {
        cluster: cluster.clone(),
        kind: object.kind.to_owned(),
        object: object.name.clone(),
        message,
    }
}
