//! Pictures as they are published, and what changed between any two of them.
//!
//! A reader holds the generation it has served and asks what changed since. However many
//! generations a slow reader misses, it gets one answer and the latest picture: it delays nobody,
//! and nothing queues up for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tombolo_model::id::{ClusterId, Host, ObjectName};
use tombolo_model::service::{Resolution, ServiceKey};

use crate::compile::ScopeKey;
use crate::compile::resource::ResourceType;
use crate::diagnostic::Diagnostic;
use crate::index::picture::Picture;
use crate::proxy::Proxy;

/// How many generations of changes are remembered. A reader that is further behind is told that
/// everything changed.
const REMEMBERED: usize = 64;

/// What changed between two pictures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// More than the rest tells: everything has to be compiled again.
    pub everything: bool,
    /// The endpoints of these hosts.
    pub endpoints: BTreeSet<Host>,
    /// What these pods are or serve.
    pub pods: BTreeSet<(ClusterId, ObjectName)>,
}

impl Changes {
    /// Whether resources of a type may be different now for `proxy`.
    pub fn touches(&self, kind: ResourceType, proxy: &Proxy) -> bool {
        let endpoints = kind == ResourceType::Endpoint && !self.endpoints.is_empty();
        self.everything
            || endpoints
            || self.pods.contains(&(proxy.cluster.clone(), proxy.pod.clone()))
    }

    fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    fn and(mut self, other: &Self) -> Self {
        self.everything |= other.everything;
        self.endpoints.extend(other.endpoints.iter().cloned());
        self.pods.extend(other.pods.iter().cloned());
        self
    }
}

/// A picture as it was published.
#[derive(Clone, Debug)]
pub struct Published {
    /// Grows by one with every picture.
    pub generation: u64,
    /// The picture.
    pub picture: Arc<Picture>,
    /// What was found while compiling, in this and former generations.
    pub remarks: Arc<Remarks>,
    /// What each of the last generations changed, the latest last.
    recent: VecDeque<Arc<Changes>>,
}

/// What users should know that only shows when configuration is compiled, by scope and type.
#[derive(Debug, Default)]
pub struct Remarks {
    by_scope: Mutex<BTreeMap<(ScopeKey, ResourceType), Vec<Diagnostic>>>,
}

impl Remarks {
    /// Notes what was found for a scope, in place of what was found before.
    pub fn set(&self, key: &(ScopeKey, ResourceType), found: Vec<Diagnostic>) {
        let mut by_scope = self.by_scope.lock();
        for diagnostic in &found {
            if !by_scope.values().flatten().any(|known| known == diagnostic) {
                tracing::warn!(%diagnostic, "an object has less effect than it says");
            }
        }
        by_scope.insert(key.clone(), found);
    }

    /// Forgets scopes that nobody asks for any more.
    pub fn retain(&self, used: impl Fn(&(ScopeKey, ResourceType)) -> bool) {
        self.by_scope.lock().retain(|key, _| used(key));
    }

    /// All of them, sorted, each once.
    pub fn all(&self) -> BTreeSet<Diagnostic> {
        self.by_scope.lock().values().flatten().cloned().collect()
    }
}

impl Published {
    /// The first picture.
    pub fn first(picture: Picture) -> Self {
        Self {
            generation: 1,
            picture: Arc::new(picture),
            remarks: Arc::default(),
            recent: VecDeque::new(),
        }
    }

    /// The next picture, or nothing when it is equal to this one.
    pub fn next(&self, picture: Picture) -> Option<Self> {
        let picture = picture.share_with(&self.picture);
        if picture == *self.picture {
            return None;
        }
        let mut recent = self.recent.clone();
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back(Arc::new(changes(&self.picture, &picture)));
        Some(Self {
            generation: self.generation + 1,
            picture: Arc::new(picture),
            remarks: Arc::clone(&self.remarks),
            recent,
        })
    }

    /// What users should know: about the picture, and about what was compiled from it.
    pub fn diagnostics(&self) -> BTreeSet<Diagnostic> {
        let mut all = self.remarks.all();
        all.extend(self.picture.diagnostics.iter().cloned());
        all
    }

    /// What changed since generation `seen`; everything when that is not remembered.
    pub fn changes_since(&self, seen: u64) -> Changes {
        let missed = self.generation.saturating_sub(seen);
        let Ok(missed) = usize::try_from(missed) else { return Changes::everything() };
        if seen == 0 || missed > self.recent.len() {
            return Changes::everything();
        }
        let start = self.recent.len() - missed;
        self.recent.range(start..).fold(Changes::default(), |all, one| all.and(one))
    }
}

/// What is different between two pictures.
fn changes(old: &Picture, new: &Picture) -> Changes {
    let same = old.services == new.services
        && old.gateways == new.gateways
        && old.config == new.config
        && old.mesh == new.mesh;
    if !same {
        return Changes::everything();
    }
    let endpoints = different(&old.endpoints, &new.endpoints);
    // Endpoints that do not come by EDS are in upstreams and listeners.
    let inline = |key: &ServiceKey| {
        new.services.get(key).is_some_and(|it| it.resolution != Resolution::Endpoints)
    };
    if endpoints.iter().any(inline) {
        return Changes::everything();
    }
    // The identities of endpoints are in the upstream itself.
    let identities = |picture: &Picture, key: &ServiceKey| -> BTreeSet<String> {
        let of = picture.endpoints_of(key).iter();
        of.filter_map(|it| it.workload.identity.as_ref().map(ToString::to_string)).collect()
    };
    if endpoints.iter().any(|key| identities(old, key) != identities(new, key)) {
        return Changes::everything();
    }
    let mut pods = in_clusters(&old.workloads, &new.workloads);
    pods.extend(in_clusters(&old.targets, &new.targets));
    let endpoints = endpoints.into_iter().map(|key| key.host).collect();
    Changes { everything: false, endpoints, pods }
}

/// The keys whose values differ.
fn different<K: Ord + Clone, V: PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> BTreeSet<K> {
    let changed = new.iter().filter(|(key, value)| old.get(key) != Some(value));
    let gone = old.keys().filter(|key| !new.contains_key(key));
    changed.map(|(key, _)| key).chain(gone).cloned().collect()
}

type ByPod<V> = BTreeMap<ClusterId, BTreeMap<ObjectName, V>>;

fn in_clusters<V: PartialEq>(old: &ByPod<V>, new: &ByPod<V>) -> BTreeSet<(ClusterId, ObjectName)> {
    let none = BTreeMap::new();
    let clusters: BTreeSet<&ClusterId> = old.keys().chain(new.keys()).collect();
    let of_cluster = |cluster: &ClusterId| {
        let (old, new) = (old.get(cluster).unwrap_or(&none), new.get(cluster).unwrap_or(&none));
        different(old, new).into_iter().map(|pod| (cluster.clone(), pod)).collect::<Vec<_>>()
    };
    clusters.into_iter().flat_map(of_cluster).collect()
}

/// Where readers get pictures from.
pub type Pictures = watch::Receiver<Arc<Published>>;
