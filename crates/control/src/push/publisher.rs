//! The one place that proxies' configuration comes from.
//!
//! Resources are compiled once for every scope of proxies that see the same, encoded once, and
//! shared. A change of endpoints compiles only the endpoints of the hosts that changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::compile::resource::ResourceType;
use crate::compile::{self, Compiled, ScopeKey};
use crate::index::picture::Picture;
use crate::proxy::{Proxy, ProxyKind};
use crate::push::publish::{Pictures, Published};

/// Scopes that nobody asked for during so many generations are forgotten.
const KEPT: u64 = 64;

/// What was compiled for one scope and type, and from which generation.
#[derive(Debug, Default)]
struct Slot {
    generation: u64,
    compiled: Arc<Compiled>,
}

type Slots = BTreeMap<(ScopeKey, ResourceType), Arc<Mutex<Slot>>>;

/// Publishes pictures to everybody who serves them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Publisher {
    latest: watch::Sender<Arc<Published>>,
    slots: Arc<Mutex<Slots>>,
}

impl Publisher {
    /// Starts with a picture, usually that of nothing.
    pub fn new(picture: Picture) -> Self {
        Self {
            latest: watch::Sender::new(Arc::new(Published::first(picture))),
            slots: Arc::default(),
        }
    }

    /// The latest picture, and a way to wait for the next.
    pub fn subscribe(&self) -> Pictures {
        self.latest.subscribe()
    }

    /// The latest picture.
    pub fn latest(&self) -> Arc<Published> {
        Arc::clone(&self.latest.borrow())
    }

    /// Publishes a picture, unless it is equal to the latest. Says whether it was published.
    pub fn publish(&self, picture: Picture) -> bool {
        let latest = self.latest();
        let Some(next) = latest.next(picture) else { return false };
        let generation = next.generation;
        self.latest.send_replace(Arc::new(next));
        self.slots.lock().retain(|_, slot| {
            // A slot in use is being brought up to date.
            slot.try_lock().is_none_or(|slot| slot.generation + KEPT >= generation)
        });
        true
    }

    /// All resources of a type for a proxy.
    ///
    /// The same inputs give the same bytes, so what a client holds already is told by version.
    pub fn resources(
        &self,
        published: &Published,
        proxy: &Proxy,
        kind: ResourceType,
    ) -> Arc<Compiled> {
        let shared = self.shared(published, proxy, kind);
        let own = matches!(kind, ResourceType::Cluster | ResourceType::Listener)
            && proxy.kind == ProxyKind::Sidecar;
        if !own {
            return shared;
        }
        let own = compile::own(&published.picture, proxy, kind);
        let mut all = (*shared).clone();
        all.resources.extend(own.resources);
        all.diagnostics.extend(own.diagnostics);
        Arc::new(all)
    }

    fn shared(&self, published: &Published, proxy: &Proxy, kind: ResourceType) -> Arc<Compiled> {
        let picture = &published.picture;
        let key = (compile::scope_key(picture, proxy), kind);
        let slot = Arc::clone(self.slots.lock().entry(key).or_default());
        let mut slot = slot.lock();
        if slot.generation > published.generation {
            // Somebody is ahead already; this caller will be told of it too.
            return Arc::new(compile::shared(picture, proxy, kind));
        }
        if slot.generation == published.generation {
            return Arc::clone(&slot.compiled);
        }
        let changes = published.changes_since(slot.generation);
        // Ports of a gateway are translated by the services of its pod.
        let own_pod = proxy.kind == ProxyKind::Router
            && changes.pods.contains(&(proxy.cluster.clone(), proxy.pod.clone()));
        if changes.everything || own_pod {
            slot.compiled = Arc::new(compile::shared(picture, proxy, kind));
        } else if kind == ResourceType::Endpoint && !changes.endpoints.is_empty() {
            let mut compiled = (*slot.compiled).clone();
            let fresh = compile::endpoints_of(picture, proxy, &changes.endpoints);
            compiled.resources.extend(fresh);
            slot.compiled = Arc::new(compiled);
        }
        slot.generation = published.generation;
        Arc::clone(&slot.compiled)
    }
}
