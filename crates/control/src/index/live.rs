//! The set of live objects, by cluster first.
//!
//! Keyed by cluster first, one cluster can be forgotten in one step and can never overwrite
//! another. A cluster whose connection is replaced keeps its old objects until the new
//! connection has seen everything (make before break).

use std::collections::BTreeMap;
use std::sync::Arc;

use tombolo_crds::mesh_config::{MeshConfig, MeshNetworks};
use tombolo_model::id::{ClusterId, ObjectName};

use crate::diagnostic::Diagnostic;
use crate::index::objects::{
    IstioObject, Kind, NamespaceObject, NodeObject, Object, PodObject, ServiceObject, SliceObject,
};

/// Which connection to a cluster an event came through; later connections have higher numbers.
pub type Incarnation = u64;

/// Something that happened in a cluster.
#[derive(Clone, Debug)]
pub struct Event {
    /// Where.
    pub cluster: ClusterId,
    /// Through which connection.
    pub incarnation: Incarnation,
    /// What.
    pub change: Change,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Change {
    /// The connection was opened.
    Opened,
    /// The objects of a kind are exactly these.
    Replace(Kind, Vec<Object>),
    /// The object is now so.
    Apply(Object),
    /// The object is gone.
    Delete(Kind, ObjectName),
    /// The connection has seen everything once.
    Synced,
    /// The cluster is not part of the mesh any more.
    Gone,
    /// The mesh's settings are now so. Only from the config cluster.
    Mesh(Box<MeshSettings>),
}

/// The mesh's settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeshSettings {
    /// The settings proper.
    pub config: MeshConfig,
    /// The networks that are declared.
    pub networks: MeshNetworks,
    /// What was not understood.
    pub diagnostics: Vec<Diagnostic>,
}

/// What one cluster holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterObjects {
    /// Its services.
    pub services: BTreeMap<ObjectName, ServiceObject>,
    /// Its endpoint slices.
    pub slices: BTreeMap<ObjectName, SliceObject>,
    /// Its pods.
    pub pods: BTreeMap<ObjectName, PodObject>,
    /// Its nodes.
    pub nodes: BTreeMap<ObjectName, NodeObject>,
    /// Its namespaces.
    pub namespaces: BTreeMap<ObjectName, NamespaceObject>,
    /// Its Istio objects, by kind. Only of the config cluster.
    pub istio: BTreeMap<&'static str, BTreeMap<ObjectName, IstioObject>>,
}

impl ClusterObjects {
    /// Applies one change and says whether anything is different now.
    fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Replace(kind, objects) => self.replace(kind, objects),
            Change::Apply(object) => match object {
                Object::Service(object) => put(&mut self.services, object.name.clone(), object),
                Object::Slice(object) => put(&mut self.slices, object.name.clone(), object),
                Object::Pod(object) => put(&mut self.pods, object.name.clone(), object),
                Object::Node(object) => put(&mut self.nodes, object.name.clone(), object),
                Object::Namespace(object) => put(&mut self.namespaces, object.name.clone(), object),
                Object::Istio(object) => {
                    put(self.istio.entry(object.kind).or_default(), object.name.clone(), object)
                }
            },
            Change::Delete(kind, name) => match kind {
                Kind::Service => self.services.remove(&name).is_some(),
                Kind::Slice => self.slices.remove(&name).is_some(),
                Kind::Pod => self.pods.remove(&name).is_some(),
                Kind::Node => self.nodes.remove(&name).is_some(),
                Kind::Namespace => self.namespaces.remove(&name).is_some(),
                Kind::Istio(kind) => {
                    self.istio.get_mut(kind).is_some_and(|kind| kind.remove(&name).is_some())
                }
            },
            Change::Opened | Change::Synced | Change::Gone | Change::Mesh(_) => false,
        }
    }

    fn replace(&mut self, kind: Kind, objects: Vec<Object>) -> bool {
        let mut fresh = Self::default();
        for object in objects {
            fresh.apply(Change::Apply(object));
        }
        match kind {
            Kind::Service => swap(&mut self.services, fresh.services),
            Kind::Slice => swap(&mut self.slices, fresh.slices),
            Kind::Pod => swap(&mut self.pods, fresh.pods),
            Kind::Node => swap(&mut self.nodes, fresh.nodes),
            Kind::Namespace => swap(&mut self.namespaces, fresh.namespaces),
            Kind::Istio(kind) => swap(
                self.istio.entry(kind).or_default(),
                fresh.istio.remove(kind).unwrap_or_default(),
            ),
        }
    }
}

fn put<T: PartialEq>(map: &mut BTreeMap<ObjectName, T>, name: ObjectName, value: T) -> bool {
    if map.get(&name) == Some(&value) {
        return false;
    }
    map.insert(name, value);
    true
}

fn swap<T: PartialEq>(old: &mut T, new: T) -> bool {
    if *old == new {
        return false;
    }
    *old = new;
    true
}

/// A cluster's objects, and those that its next connection has seen so far.
#[derive(Clone, Debug, Default)]
struct Slot {
    current: (Incarnation, ClusterObjects),
    next: Option<(Incarnation, ClusterObjects)>,
}

/// The set of live objects of all clusters.
#[derive(Clone, Debug)]
pub struct Live {
    /// The cluster whose Istio objects and mesh settings hold.
    pub config_cluster: ClusterId,
    /// The DNS domain of services, such as `cluster.local`.
    pub domain: String,
    /// The namespace of the control plane, whose labels name each cluster's network.
    pub system_namespace: String,
    /// The control plane's revision, whose Istio objects hold; empty for those of all revisions.
    pub revision: String,
    /// The mesh's settings.
    pub mesh: Arc<MeshSettings>,
    slots: BTreeMap<ClusterId, Slot>,
}

impl Live {
    /// Nothing yet, with default settings, for the default revision.
    pub fn new(config_cluster: ClusterId, domain: &str, system_namespace: &str) -> Self {
        Self {
            config_cluster,
            domain: domain.to_owned(),
            system_namespace: system_namespace.to_owned(),
            revision: String::from("default"),
            mesh: Arc::default(),
            slots: BTreeMap::new(),
        }
    }

    /// Applies one event and says whether the picture may have changed.
    pub fn apply(&mut self, event: Event) -> bool {
        let Event { cluster, incarnation, change } = event;
        match change {
            Change::Gone => self.slots.remove(&cluster).is_some(),
            Change::Mesh(settings) => {
                let changed = *self.mesh != *settings;
                self.mesh = Arc::new(*settings);
                changed
            }
            Change::Opened => {
                match self.slots.get_mut(&cluster) {
                    Some(slot) => slot.next = Some((incarnation, ClusterObjects::default())),
                    None => {
                        let current = (incarnation, ClusterObjects::default());
                        self.slots.insert(cluster, Slot { current, next: None });
                    }
                }
                false
            }
            Change::Synced => {
                let Some(slot) = self.slots.get_mut(&cluster) else { return false };
                match slot.next.take_if(|next| next.0 == incarnation) {
                    Some(next) => {
                        let changed = slot.current.1 != next.1;
                        slot.current = next;
                        changed
                    }
                    None => false,
                }
            }
            change => {
                let Some(slot) = self.slots.get_mut(&cluster) else { return false };
                if slot.current.0 == incarnation {
                    return slot.current.1.apply(change);
                }
                if let Some((_, next)) = slot.next.as_mut().filter(|next| next.0 == incarnation) {
                    next.apply(change);
                }
                false
            }
        }
    }

    /// The clusters in the order in which they supply what only one can: the config cluster
    /// first, then the others by name.
    pub fn clusters(&self) -> impl Iterator<Item = (&ClusterId, &ClusterObjects)> {
        let config = self.slots.get_key_value(&self.config_cluster);
        let others = self.slots.iter().filter(|(cluster, _)| **cluster != self.config_cluster);
        config.into_iter().chain(others).map(|(cluster, slot)| (cluster, &slot.current.1))
    }

    /// The objects of the config cluster, once it is known.
    pub fn config(&self) -> Option<&ClusterObjects> {
        self.slots.get(&self.config_cluster).map(|slot| &slot.current.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> Object {
        Object::Namespace(NamespaceObject {
            name: ObjectName::new("", name),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        })
    }

    fn names(live: &Live) -> Vec<String> {
        live.clusters()
            .flat_map(|(cluster, objects)| {
                objects.namespaces.keys().map(move |name| format!("{cluster}/{name}"))
            })
            .collect()
    }

    #[test]
    fn a_new_connection_takes_over_only_when_it_has_seen_everything() {
        let mut live = Live::new(ClusterId::new("a"), "cluster.local", "istio-system");
        let mut tell = |incarnation, change| {
            live.apply(Event { cluster: ClusterId::new("b"), incarnation, change });
            names(&live)
        };
        tell(1, Change::Opened);
        assert_eq!(tell(1, Change::Apply(namespace("old"))), ["b/old"]);
        tell(2, Change::Opened);
        assert_eq!(tell(2, Change::Apply(namespace("new"))), ["b/old"]);
        assert_eq!(tell(1, Change::Apply(namespace("more"))), ["b/more", "b/old"]);
        assert_eq!(tell(2, Change::Synced), ["b/new"]);
        assert_eq!(tell(1, Change::Apply(namespace("late"))), ["b/new"]);
        assert_eq!(tell(2, Change::Gone), Vec::<String>::new());
    }
}
