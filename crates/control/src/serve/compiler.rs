//! Compiles what several proxies share once: proxies that see the same share one map.
//!
//! A change of endpoints compiles only the endpoints of the hosts that changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tombolo_xds::resource::{Resource, Resources};

use crate::compile::resource::ResourceType;
use crate::compile::{self, ScopeKey};
use crate::proxy::{Proxy, ProxyKind};
use crate::push::publish::Published;
use crate::serve::ads::Compile;

/// Compiles with [`crate::compile`] and keeps what is shared until it changes.
#[derive(Debug, Default)]
pub struct Compiler {
    kept: Mutex<BTreeMap<ScopeKey, Known>>,
}

/// What is kept for a scope.
#[derive(Debug, Default)]
struct Known {
    /// The generation in which it was last asked for anything: changes that touch one type only
    /// must not make the others look unused.
    used: u64,
    types: BTreeMap<ResourceType, Kept>,
}

#[derive(Clone, Debug)]
struct Kept {
    /// The generation it was compiled from, or was found unchanged in.
    generation: u64,
    resources: Arc<Resources>,
}

/// How many generations a shared map outlives its last use.
const UNUSED: u64 = 16;

impl Compiler {
    fn shared(&self, published: &Published, proxy: &Proxy, kind: ResourceType) -> Arc<Resources> {
        let picture = &published.picture;
        let key = (compile::scope_key(picture, proxy), kind);
        let generation = published.generation;
        let found = self.kept.lock().get(&key.0).and_then(|known| known.types.get(&kind)).cloned();
        let found = found.filter(|found| found.generation <= generation);
        // Compiled without the lock: twice at worst, and equally.
        let (resources, remarks) =
            match found.map(|found| brought_up(found, published, proxy, kind)) {
                Some(Some(resources)) => (resources, None),
                Some(None) | None => {
                    let compiled = compile::shared(picture, proxy, kind);
                    (Arc::new(resources(compiled.resources)), Some(compiled.diagnostics))
                }
            };
        let mut kept = self.kept.lock();
        let known = kept.entry(key.0.clone()).or_default();
        known.used = known.used.max(generation);
        known.types.insert(kind, Kept { generation, resources: Arc::clone(&resources) });
        kept.retain(|_, known| known.used + UNUSED > generation);
        if let Some(remarks) = remarks {
            published.remarks.set(&key, remarks);
        }
        published.remarks.retain(|(scope, _)| kept.contains_key(scope));
        resources
    }
}

/// What was kept, with the endpoints that changed since; nothing when more than that changed.
fn brought_up(
    found: Kept,
    published: &Published,
    proxy: &Proxy,
    kind: ResourceType,
) -> Option<Arc<Resources>> {
    let changes = published.changes_since(found.generation);
    // Ports of a gateway are translated by the services of its own pod.
    let own_pod = proxy.kind == ProxyKind::Router
        && changes.pods.contains(&(proxy.cluster.clone(), proxy.pod.clone()));
    if changes.everything || own_pod {
        return None;
    }
    if kind != ResourceType::Endpoint || changes.endpoints.is_empty() {
        return Some(found.resources);
    }
    let fresh = compile::endpoints_of(&published.picture, proxy, &changes.endpoints);
    let mut all = Resources::clone(&found.resources);
    all.extend(resources(fresh));
    Some(Arc::new(all))
}

fn resources(of: compile::resource::Resources) -> Resources {
    let named = of.into_iter().map(|(name, resource)| {
        let name: Arc<str> = name.into();
        let resource =
            Resource { name: name.clone(), version: resource.version, body: resource.body };
        (name, resource)
    });
    named.collect()
}

impl Compile for Compiler {
    fn compile(&self, published: &Published, proxy: &Proxy, kind: ResourceType) -> Arc<Resources> {
        let shared = self.shared(published, proxy, kind);
        let own = compile::own(&published.picture, proxy, kind);
        if own.is_empty() {
            return shared;
        }
        let mut all = Resources::clone(&shared);
        all.extend(resources(own));
        Arc::new(all)
    }
}
