//! Compiles what several proxies share once: proxies that see the same share one map.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tombolo_xds::resource::{Resource, Resources};

use crate::compile::resource::ResourceType;
use crate::compile::{Compiled, ScopeKey, own, scope_key, shared};
use crate::proxy::Proxy;
use crate::push::publish::Published;
use crate::serve::ads::Compile;

/// Compiles with [`crate::compile`] and keeps what is shared until it changes.
#[derive(Debug, Default)]
pub struct Compiler {
    kept: Mutex<BTreeMap<(ScopeKey, ResourceType), Kept>>,
}

#[derive(Debug)]
struct Kept {
    /// The generation it was compiled from, or was found unchanged in.
    generation: u64,
    resources: Arc<Resources>,
}

/// How many generations a shared map outlives its last use.
const UNUSED: u64 = 16;

impl Compiler {
    fn shared(&self, published: &Published, proxy: &Proxy, kind: ResourceType) -> Arc<Resources> {
        let key = (scope_key(&published.picture, proxy), kind);
        let generation = published.generation;
        {
            let mut kept = self.kept.lock();
            if let Some(found) = kept.get_mut(&key)
                && found.generation <= generation
            {
                let changes = published.changes_since(found.generation);
                let endpoints = kind == ResourceType::Endpoint && !changes.endpoints.is_empty();
                if !changes.everything && !endpoints {
                    found.generation = generation;
                    return found.resources.clone();
                }
            }
        }
        // Compiled without the lock: twice at worst, and equally.
        let compiled = shared(&published.picture, proxy, kind);
        let resources = Arc::new(resources(compiled));
        let mut kept = self.kept.lock();
        kept.retain(|_, kept| kept.generation + UNUSED > generation);
        kept.insert(key, Kept { generation, resources: resources.clone() });
        resources
    }
}

fn resources(compiled: Compiled) -> Resources {
    let named = compiled.resources.into_iter().map(|(name, resource)| {
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
        let own = resources(own(&published.picture, proxy, kind));
        if own.is_empty() {
            return shared;
        }
        let mut all = Resources::clone(&shared);
        all.extend(own);
        Arc::new(all)
    }
}
