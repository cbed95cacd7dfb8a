//! What the API server holds, followed by one watch per kind and shared by all controllers.
//!
//! A controller also tells the cache what its own writes returned, so that its next pass sees
//! them even if the watch lags behind: without that, a slow watch would make a ReplicaSet create
//! its pods twice. Resource versions decide which state is newer; the cache never goes back.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tombolo_runtime::shutdown::Shutdown;

use crate::controllers::queue::Key;

/// A kind that can be followed.
pub trait Kind:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static
{
}

/// One change, as handlers see it. `old` is missing for a new object, `new` for a removed one.
pub struct Change<'a, K> {
    /// The state before.
    pub old: Option<&'a Arc<K>>,
    /// The state after.
    pub new: Option<&'a Arc<K>>,
}

impl<'a, K> Change<'a, K> {
    /// The states that exist, newest first.
    pub fn states(&self) -> impl Iterator<Item = &'a Arc<K>> {
        self.new.into_iter().chain(self.old)
    }
}

type Handler<K> = Box<dyn Fn(Change<'_, K>) + Send + Sync>;

/// The objects of one kind.
pub struct Cache<K> {
    state: RwLock<State<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// UIDs of objects whose deletion the API server has accepted from us.
    deleted: HashSet<String>,
    /// The newest resource version that the watch has delivered.
    seen: u64,
}

impl<K> fmt::Debug for Cache<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("objects", &self.state.read().objects.len()).finish()
    }
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        let state = State { objects: BTreeMap::new(), deleted: HashSet::new(), seen: 0 };
        Self {
            state: RwLock::new(state),
            handlers: RwLock::default(),
            synced: watch::Sender::new(false),
        }
    }
}

fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

impl<K: Kind> Cache<K> {
    /// The object of that key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.state.read().objects.get(key).cloned()
    }

    /// Every object, sorted by namespace and name.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// Every object of a namespace, sorted by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let from = state.objects.range(Key::new(namespace, "")..);
        from.take_while(|(key, _)| &*key.namespace == namespace).map(|(_, o)| o.clone()).collect()
    }

    /// Calls `handler` for every change from now on. It must be quick: it runs in the watch.
    pub fn on_change(&self, handler: impl Fn(Change<'_, K>) + Send + Sync + 'static) {
        self.handlers.write().push(Box::new(handler));
    }

    /// Takes in what a write of ours returned.
    pub fn wrote(&self, object: &K) {
        if version(object) > self.state.read().seen {
            self.apply(object.clone(), false);
        }
    }

    /// Holds `object` as it will be once the API server shows a write that returned no object.
    pub fn assume(&self, object: K) {
        let key = Key::of(&object);
        let mut state = self.state.write();
        if let Some(held) = state.objects.get_mut(&key)
            && held.meta().resource_version == object.meta().resource_version
        {
            *held = Arc::new(object);
        }
    }

    /// Marks an object whose deletion the API server has accepted.
    pub fn deleted(&self, object: &K) {
        let (Some(uid), key) = (object.uid(), Key::of(object)) else { return };
        let mut state = self.state.write();
        let Some(held) = state.objects.get_mut(&key) else { return };
        if held.uid().as_deref() == Some(uid.as_str()) {
            let meta = Arc::make_mut(held).meta_mut();
            meta.deletion_timestamp.get_or_insert_with(|| Time(Timestamp::now()));
            state.deleted.insert(uid);
        }
    }

    fn apply(&self, mut object: K, from_watch: bool) {
        // Nothing here reads them, and they are half of an object's memory.
        object.meta_mut().managed_fields = None;
        let (key, new_version) = (Key::of(&object), version(&object));
        let (old, new) = {
            let mut state = self.state.write();
            if from_watch && new_version != u64::MAX {
                state.seen = state.seen.max(new_version);
            }
            if let Some(held) = state.objects.get(&key) {
                let same = held.uid() == object.uid();
                if same && version(&**held) >= new_version && new_version != u64::MAX {
                    return;
                }
            }
            let doomed = object.meta().uid.as_ref().is_some_and(|uid| state.deleted.contains(uid));
            if doomed && object.meta().deletion_timestamp.is_none() {
                return;
            }
            let new = Arc::new(object);
            (state.objects.insert(key, new.clone()), new)
        };
        self.tell(old.as_ref(), Some(&new));
    }

    fn remove(&self, key: &Key, object: Option<&K>) {
        let old = {
            let mut state = self.state.write();
            if let Some(object) = object {
                let removed = version(object);
                if removed != u64::MAX {
                    state.seen = state.seen.max(removed);
                }
                if let Some(uid) = object.meta().uid.as_ref() {
                    state.deleted.remove(uid);
                }
                // Made anew under the same name, and known already from a write of ours.
                if state.objects.get(key).is_some_and(|held| held.uid() != object.uid()) {
                    return;
                }
            }
            state.objects.remove(key)
        };
        if let Some(old) = old {
            self.tell(Some(&old), None);
        }
    }

    fn tell(&self, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        for handler in self.handlers.read().iter() {
            handler(Change { old, new });
        }
    }

    async fn follow(self: Arc<Self>, api: Api<K>, config: watcher::Config, shutdown: Shutdown) {
        let kind = K::kind(&()).into_owned();
        let mut events = watcher(api, config).default_backoff().boxed();
        let mut listed: HashSet<Key> = HashSet::new();
        loop {
            let event = tokio::select! {
                () = shutdown.draining() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(watcher::Event::Init)) => listed.clear(),
                Some(Ok(watcher::Event::InitApply(object))) => {
                    listed.insert(Key::of(&object));
                    self.apply(object, true);
                }
                Some(Ok(watcher::Event::InitDone)) => {
                    self.forget_all_but(&listed);
                    listed.clear();
                    self.synced.send_replace(true);
                }
                Some(Ok(watcher::Event::Apply(object))) => self.apply(object, true),
                Some(Ok(watcher::Event::Delete(object))) => {
                    self.remove(&Key::of(&object), Some(&object));
                }
                Some(Err(error)) => {
                    let error = tombolo_runtime::errors::chain(&error).to_string();
                    tracing::warn!(kind, error, "watch failed, trying again");
                }
                None => return,
            }
        }
    }

    /// Follows while `exists`; what is known is forgotten when it ends.
    async fn follow_while(
        self: Arc<Self>,
        exists: Arc<watch::Sender<bool>>,
        mut defined: watch::Receiver<bool>,
        api: Api<K>,
        shutdown: Shutdown,
    ) {
        let mut exists = exists.subscribe();
        if defined.wait_for(|defined| *defined).await.is_err() {
            return;
        }
        while !shutdown.is_draining() {
            if *exists.borrow_and_update() {
                let config = watcher::Config::default().any_semantic();
                let follow = self.clone().follow(api.clone(), config, shutdown.clone());
                tokio::select! {
                    () = follow => (),
                    _ = exists.wait_for(|exists| !*exists) => (),
                }
                self.forget_all_but(&HashSet::new());
            } else {
                self.synced.send_replace(true);
                tokio::select! {
                    () = shutdown.draining() => return,
                    _ = exists.wait_for(|exists| *exists) => (),
                }
            }
        }
    }

    /// After a new list: what it did not hold is gone.
    fn forget_all_but(&self, listed: &HashSet<Key>) {
        let gone: Vec<Key> = {
            let state = self.state.read();
            state.objects.keys().filter(|key| !listed.contains(*key)).cloned().collect()
        };
        for key in gone {
            self.remove(&key, None);
        }
    }
}

fn is_served(definition: &CustomResourceDefinition) -> bool {
    let status = definition.status.as_ref();
    let conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Established" && c.status == "True")
        && definition.metadata.deletion_timestamp.is_none()
}

type Start = Box<dyn FnOnce(&Shutdown) + Send>;

/// A `Cache` of the type and with the field selector that the key names.
type Held = HashMap<(TypeId, &'static str), Arc<dyn Any + Send + Sync>>;

/// All caches of the process, made when a controller first asks for one.
pub struct Caches {
    client: Client,
    held: Mutex<Held>,
    starts: Mutex<Vec<(Start, watch::Receiver<bool>)>>,
}

impl fmt::Debug for Caches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caches").field("kinds", &self.held.lock().len()).finish_non_exhaustive()
    }
}

impl Caches {
    /// No caches yet.
    pub fn new(client: Client) -> Self {
        Self { client, held: Mutex::default(), starts: Mutex::default() }
    }

    /// The client that the caches and all controllers use.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The cache of all objects of a kind.
    pub fn all<K: Kind>(&self) -> Arc<Cache<K>> {
        self.filtered("")
    }

    /// The cache of the objects that a field selector picks.
    pub fn filtered<K: Kind>(&self, fields: &'static str) -> Arc<Cache<K>> {
        let mut held = self.held.lock();
        if let Some(cache) = held.get(&(TypeId::of::<K>(), fields)) {
            return cache.clone().downcast().expect("the key holds the type");
        }
        let cache: Arc<Cache<K>> = Arc::default();
        held.insert((TypeId::of::<K>(), fields), cache.clone());
        let mut config = watcher::Config::default().any_semantic().page_size(500);
        if !fields.is_empty() {
            config = config.fields(fields);
        }
        let (api, synced) = (Api::all(self.client.clone()), cache.synced.subscribe());
        let follower = cache.clone();
        let start: Start = Box::new(move |shutdown: &Shutdown| {
            let task = follower.follow(api, config, shutdown.clone());
            shutdown.spawn_essential("watch", task);
        });
        self.starts.lock().push((start, synced));
        cache
    }

    /// The cache of a kind that exists only while the definition `crd` does.
    pub fn optional<K: Kind>(&self, crd: &'static str) -> Arc<Cache<K>> {
        let definitions = self.all::<CustomResourceDefinition>();
        let mut held = self.held.lock();
        if let Some(cache) = held.get(&(TypeId::of::<K>(), "")) {
            return cache.clone().downcast().expect("the key holds the type");
        }
        let cache: Arc<Cache<K>> = Arc::default();
        held.insert((TypeId::of::<K>(), ""), cache.clone());
        let exists = Arc::new(watch::Sender::new(false));
        let tell = exists.clone();
        definitions.on_change(move |change| {
            if change.states().any(|definition| definition.name_any() == crd) {
                tell.send_replace(change.new.is_some_and(|definition| is_served(definition)));
            }
        });
        let (api, synced) = (Api::all(self.client.clone()), cache.synced.subscribe());
        let (follower, defined) = (cache.clone(), definitions.synced.subscribe());
        let start: Start = Box::new(move |shutdown: &Shutdown| {
            let task = follower.follow_while(exists, defined, api, shutdown.clone());
            shutdown.spawn_essential("watch", task);
        });
        self.starts.lock().push((start, synced));
        cache
    }

    /// Starts every watch that was asked for, and returns when each has been filled once.
    pub async fn start(&self, shutdown: &Shutdown) {
        let mut waiting = Vec::new();
        for (start, synced) in std::mem::take(&mut *self.starts.lock()) {
            start(shutdown);
            waiting.push(synced);
        }
        for mut synced in waiting {
            // An error means that the watch ended, which the process reports by itself.
            if synced.wait_for(|synced| *synced).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::ObjectMeta;

    use super::*;

    fn object(uid: &str, version: u64) -> ConfigMap {
        let metadata = ObjectMeta {
            name: Some("a".into()),
            namespace: Some("ns".into()),
            uid: Some(uid.into()),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    fn held(cache: &Cache<ConfigMap>) -> Option<(String, u64)> {
        cache.get(&Key::new("ns", "a")).map(|o| (o.uid().unwrap(), version(&*o)))
    }

    #[test]
    fn a_write_is_seen_before_the_watch_delivers_it_and_is_not_undone_by_older_events() {
        let cache = Cache::default();
        cache.apply(object("u1", 5), true);
        cache.wrote(&object("u1", 9));
        cache.apply(object("u1", 7), true);
        assert_eq!(held(&cache), Some(("u1".into(), 9)));
    }

    #[test]
    fn a_write_that_the_watch_has_passed_does_not_come_back() {
        let cache = Cache::default();
        cache.apply(object("u1", 5), true);
        cache.remove(&Key::new("ns", "a"), Some(&object("u1", 8)));
        cache.wrote(&object("u1", 6));
        assert_eq!(held(&cache), None);
    }

    #[test]
    fn a_deleted_object_stays_marked_until_the_watch_removes_it() {
        let cache = Cache::default();
        cache.apply(object("u1", 5), true);
        cache.deleted(&object("u1", 5));
        cache.apply(object("u1", 6), true);
        let seen = cache.get(&Key::new("ns", "a")).unwrap();
        assert!(seen.meta().deletion_timestamp.is_some());
        cache.remove(&Key::new("ns", "a"), Some(&object("u1", 7)));
        assert_eq!(held(&cache), None);
    }

    #[test]
    fn the_removal_of_a_predecessor_does_not_remove_its_successor() {
        let cache = Cache::default();
        cache.apply(object("u1", 5), true);
        cache.wrote(&object("u2", 9));
        cache.remove(&Key::new("ns", "a"), Some(&object("u1", 8)));
        assert_eq!(held(&cache), Some(("u2".into(), 9)));
    }
}
