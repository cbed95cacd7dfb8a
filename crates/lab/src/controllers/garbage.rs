//! Garbage collection: what an owner leaves behind when it goes.
//!
//! The metadata of every kind is watched, custom resources included, and kept as a graph
//! ([`graph`]). Background deletion removes what has no owner left; foreground deletion holds the
//! owner until its blocking dependents are gone; orphaning lets the dependents live on without it.
//! Before anything is deleted because an owner is missing, the API server is asked whether it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{
    DeleteParams, DynamicObject, PartialObjectMeta, Patch, PatchParams, Preconditions,
    PropagationPolicy,
};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tombolo_runtime::shutdown::Shutdown;

use crate::controllers::cache::Caches;
use crate::controllers::failure::{Doing, Failure, unless_gone};
use crate::controllers::garbage::graph::{FOREGROUND, Graph, Item, ORPHAN, Owners, Verdict};
use crate::controllers::kinds::{self, Served};
use crate::controllers::queue::{Key, Queue};
use crate::controllers::work::Controller;

mod graph;

/// Kinds are asked for again this often, and whenever a definition changes.
const REDISCOVER: Duration = Duration::from_secs(30);
/// Kinds whose objects own nothing, are owned by nothing and come in numbers.
const IGNORED: [&str; 2] = ["events", "events.events.k8s.io"];

/// The controller.
pub(crate) struct Garbage {
    client: Client,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
}

/// What watches write and passes read.
#[derive(Default)]
struct Shared {
    graph: Mutex<Graph>,
    kinds: RwLock<BTreeMap<String, Served>>,
    /// True once the graph has held all kinds.
    complete: watch::Sender<bool>,
    definitions_changed: Notify,
}

impl Garbage {
    /// Follows definitions; every other kind is followed once discovery has told of it.
    pub(crate) fn new(caches: &Caches, shutdown: &Shutdown) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let shared: Arc<Shared> = Arc::default();
        let changed = shared.clone();
        caches.all::<CustomResourceDefinition>().on_change(move |_| {
            changed.definitions_changed.notify_one();
        });
        let watches = Watches {
            client: caches.client(),
            queue: queue.clone(),
            shared: shared.clone(),
            shutdown: shutdown.clone(),
        };
        shutdown.spawn_essential("garbage-kinds", watches.run());
        Self { client: caches.client(), queue, shared }
    }

    fn served(&self, kind: &str) -> Option<Served> {
        self.shared.kinds.read().get(kind).cloned()
    }

    /// Whether an owner still exists under that UID, asked from the API server.
    async fn exists(&self, owner: &OwnerReference, namespace: &str) -> Result<bool, Failure> {
        let known = {
            let kinds = self.shared.kinds.read();
            kinds.values().find(|kind| kind.is(&owner.api_version, &owner.kind)).cloned()
        };
        let served = match known {
            Some(served) => served,
            None => kinds::find(&self.client, &owner.api_version, &owner.kind).await.ok_or_else(
                || {
                    let OwnerReference { api_version, kind, name, .. } = owner;
                    Failure::Object(format!("owner {kind} {name}: {api_version} is not served"))
                },
            )?,
        };
        let api = served.api(&self.client, namespace);
        let found = unless_gone(api.get_metadata(&owner.name).await)
            .doing(|| format!("look for owner {} {}", owner.kind, owner.name))?;
        Ok(found.is_some_and(|found| found.uid().as_deref() == Some(owner.uid.as_str())))
    }

    async fn owners(&self, item: &Item) -> Result<Owners, Failure> {
        let mut owners = Owners::default();
        for owner in &item.owners {
            let known = self.shared.graph.lock().get(&owner.uid).cloned();
            let list = match known {
                Some(known) if known.waits_for_dependents() => {
                    // Only a blocking reference is waited for.
                    if owner.block_owner_deletion == Some(true) {
                        &mut owners.waiting
                    } else {
                        &mut owners.solid
                    }
                }
                Some(_) => &mut owners.solid,
                None if self.exists(owner, &item.namespace).await? => &mut owners.solid,
                None => &mut owners.dangling,
            };
            list.push(owner.uid.clone());
        }
        Ok(owners)
    }

    async fn judge(&self, uid: &str, item: &Item) -> Result<(), Failure> {
        let owners = self.owners(item).await?;
        let has_dependents = !self.shared.graph.lock().blocking(uid).is_empty();
        match graph::verdict(&owners, has_dependents) {
            Verdict::Keep => Ok(()),
            Verdict::Unlink(lost) => self.unlink(uid, item, &lost).await,
            Verdict::Delete { foreground } => {
                let policy = if item.orphan {
                    PropagationPolicy::Orphan
                } else if foreground || item.foreground {
                    PropagationPolicy::Foreground
                } else {
                    PropagationPolicy::Background
                };
                self.delete(uid, item, policy).await
            }
        }
    }

    async fn delete(
        &self,
        uid: &str,
        item: &Item,
        policy: PropagationPolicy,
    ) -> Result<(), Failure> {
        let Some(served) = self.served(&item.kind) else { return Ok(()) };
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        let api = served.api(&self.client, &item.namespace);
        unless_gone(api.delete(&item.name, &params).await)
            .doing(|| format!("delete {} {}/{}", item.kind, item.namespace, item.name))?;
        tracing::debug!(kind = item.kind, namespace = item.namespace, name = item.name, "deleted");
        Ok(())
    }

    /// Changes the live metadata of an object, if it is still the same object.
    async fn change(
        &self,
        uid: &str,
        item: &Item,
        change: impl FnOnce(&ObjectMeta) -> serde_json::Value,
    ) -> Result<(), Failure> {
        let Some(served) = self.served(&item.kind) else { return Ok(()) };
        let api = served.api(&self.client, &item.namespace);
        let doing = || format!("change {} {}/{}", item.kind, item.namespace, item.name);
        let Some(live) = unless_gone(api.get_metadata(&item.name).await).doing(doing)? else {
            return Ok(());
        };
        if live.metadata.uid.as_deref() != Some(uid) {
            return Ok(());
        }
        let mut metadata = change(&live.metadata);
        // Refused if anything changed since it was read.
        if let Some(map) = metadata.as_object_mut() {
            map.insert("resourceVersion".into(), json!(live.metadata.resource_version));
        }
        let patch = Patch::Merge(json!({"metadata": metadata}));
        unless_gone(api.patch(&item.name, &PatchParams::default(), &patch).await).doing(doing)?;
        Ok(())
    }

    async fn unlink(&self, uid: &str, item: &Item, lost: &[String]) -> Result<(), Failure> {
        self.change(uid, item, |live| {
            let owners = live.owner_references.iter().flatten();
            let kept: Vec<_> = owners.filter(|owner| !lost.contains(&owner.uid)).collect();
            json!({"ownerReferences": kept})
        })
        .await
    }

    async fn drop_finalizer(&self, uid: &str, item: &Item, name: &str) -> Result<(), Failure> {
        self.change(uid, item, |live| {
            let finalizers = live.finalizers.iter().flatten();
            let kept: Vec<_> = finalizers.filter(|finalizer| *finalizer != name).collect();
            json!({"finalizers": kept})
        })
        .await
    }

    async fn orphan(&self, uid: &str, item: &Item) -> Result<(), Failure> {
        let dependents = self.shared.graph.lock().dependents(uid);
        for dependent in dependents {
            let known = self.shared.graph.lock().get(&dependent).cloned();
            if let Some(known) = known {
                self.unlink(&dependent, &known, &[uid.to_owned()]).await?;
            }
        }
        self.drop_finalizer(uid, item, ORPHAN).await
    }

    async fn foreground(&self, uid: &str, item: &Item) -> Result<(), Failure> {
        let blocking = self.shared.graph.lock().blocking(uid);
        if blocking.is_empty() {
            return self.drop_finalizer(uid, item, FOREGROUND).await;
        }
        for dependent in blocking {
            self.queue.add(Key::new("", &dependent));
        }
        Ok(())
    }
}

impl Controller for Garbage {
    const NAME: &'static str = "garbage-collector";
    const WORKERS: usize = 4;

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        // What has not been listed yet might be somebody's dependent.
        if self.shared.complete.subscribe().wait_for(|complete| *complete).await.is_err() {
            return Ok(());
        }
        let uid = &*key.name;
        let Some(item) = self.shared.graph.lock().get(uid).cloned() else { return Ok(()) };
        match &item {
            Item { deleting: true, orphan: true, .. } => self.orphan(uid, &item).await,
            Item { deleting: true, foreground: true, .. } => self.foreground(uid, &item).await,
            Item { deleting: true, .. } => Ok(()),
            _ => self.judge(uid, &item).await,
        }
    }
}

/// Keeps one metadata watch per kind.
struct Watches {
    client: Client,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    shutdown: Shutdown,
}

/// A running watch of one kind.
struct Running {
    stop: CancellationToken,
    synced: watch::Receiver<bool>,
}

impl Watches {
    async fn run(self) {
        let mut running: BTreeMap<String, Running> = BTreeMap::new();
        loop {
            match kinds::discover(&self.client).await {
                Ok(kinds) => self.follow(kinds, &mut running),
                Err(failure) => {
                    let error = tombolo_runtime::errors::chain(&failure).to_string();
                    tracing::warn!(error, "garbage collection cannot see all kinds");
                }
            }
            let pause = if running.is_empty() { Duration::from_secs(1) } else { REDISCOVER };
            let synced = async {
                for one in running.values_mut() {
                    if one.synced.wait_for(|synced| *synced).await.is_err() {
                        // It was stopped: the kind is gone.
                        continue;
                    }
                }
                self.shared.complete.send_if_modified(|complete| {
                    let first = !*complete && !self.shared.kinds.read().is_empty();
                    *complete |= first;
                    first
                });
                tokio::time::sleep(pause).await;
            };
            tokio::select! {
                () = self.shutdown.draining() => return,
                () = self.shared.definitions_changed.notified() => (),
                () = synced => (),
            }
        }
    }

    fn follow(&self, kinds: Vec<Served>, running: &mut BTreeMap<String, Running>) {
        let wanted: BTreeMap<String, Served> = kinds
            .into_iter()
            .map(|kind| (kind.full_name(), kind))
            .filter(|(name, kind)| kind.watchable && !IGNORED.contains(&name.as_str()))
            .collect();
        let gone: Vec<_> = running.keys().filter(|n| !wanted.contains_key(*n)).cloned().collect();
        for name in gone {
            if let Some(one) = running.remove(&name) {
                one.stop.cancel();
            }
        }
        *self.shared.kinds.write() = wanted.clone();
        for (name, served) in wanted {
            running.entry(name).or_insert_with(|| {
                let stop = CancellationToken::new();
                let synced = watch::Sender::new(false);
                let receiver = synced.subscribe();
                let watch = Watch {
                    kind: served.full_name(),
                    queue: self.queue.clone(),
                    shared: self.shared.clone(),
                    synced,
                };
                let stopped = stop.clone();
                let (client, shutdown) = (self.client.clone(), self.shutdown.clone());
                self.shutdown.spawn("garbage-watch", async move {
                    tokio::select! {
                        () = shutdown.draining() => (),
                        () = stopped.cancelled() => watch.forget(&BTreeSet::new()),
                        () = watch.follow(&client, &served) => (),
                    }
                });
                Running { stop, synced: receiver }
            });
        }
    }
}

/// Writes what happens to objects of one kind into the graph.
struct Watch {
    kind: String,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    synced: watch::Sender<bool>,
}

impl Watch {
    async fn follow(&self, client: &Client, served: &Served) {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::all_with(client.clone(), &served.resource);
        let config = watcher::Config::default().any_semantic().page_size(500);
        let mut events = watcher(api, config).default_backoff().boxed();
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    listed.extend(object.uid());
                    self.put(&object);
                }
                Ok(watcher::Event::InitDone) => {
                    self.forget(&listed);
                    self.synced.send_replace(true);
                }
                Ok(watcher::Event::Apply(object)) => self.put(&object),
                Ok(watcher::Event::Delete(object)) => {
                    let uid = object.uid().unwrap_or_default();
                    self.look(self.shared.graph.lock().remove(&uid));
                }
                Err(error) => {
                    let error = tombolo_runtime::errors::chain(&error).to_string();
                    tracing::debug!(kind = self.kind, error, "metadata watch failed");
                }
            }
        }
    }

    fn put(&self, object: &PartialObjectMeta<DynamicObject>) {
        let Some(uid) = object.uid() else { return };
        let item = Item::of(&self.kind, &object.metadata);
        self.look(self.shared.graph.lock().put(&uid, item));
    }

    /// Forgets the objects of this kind that are not in `listed`.
    fn forget(&self, listed: &BTreeSet<String>) {
        let known = self.shared.graph.lock().of_kind(&self.kind);
        for uid in known.keys().filter(|uid| !listed.contains(*uid)) {
            self.look(self.shared.graph.lock().remove(uid));
        }
    }

    fn look(&self, uids: Vec<String>) {
        uids.iter().for_each(|uid| self.queue.add(Key::new("", uid)));
    }
}
