//! What is durable: the objects, and per resource a bounded log of changes.
//!
//! The log gives watches their replay and lists their past: the state at an older revision is the
//! newest one with the changes since undone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::watch;

use super::{Key, Store, Stored};

/// How many changes per resource a watch can be behind.
const LOG_LENGTH: usize = 8192;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

/// One change of one object.
#[derive(Debug, Clone)]
pub struct Event {
    pub revision: u64,
    pub change: Change,
    /// The new state, or the last one of a deleted object.
    pub object: Arc<Stored>,
    pub previous: Option<Arc<Stored>>,
}

/// A list and the revision it shows.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub revision: u64,
    pub objects: Vec<Arc<Stored>>,
}

/// The log no longer holds what was asked for, or not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Expired {
    #[error("too old resource version: {asked} ({oldest})")]
    Old { asked: u64, oldest: u64 },
    #[error("Too large resource version: {asked}, current: {newest}")]
    Future { asked: u64, newest: u64 },
}

#[derive(Debug)]
pub(super) struct Committed {
    revision: u64,
    /// No log reaches back beyond this.
    opened: u64,
    collections: HashMap<String, Collection>,
}

#[derive(Debug)]
struct Collection {
    objects: BTreeMap<(String, String), Arc<Stored>>,
    log: VecDeque<Event>,
    /// Changes up to this revision are gone from the log.
    floor: u64,
    newest: u64,
    changed: watch::Sender<u64>,
}

impl Collection {
    fn new(floor: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            floor,
            newest: floor,
            changed: watch::Sender::new(floor),
        }
    }
}

impl Committed {
    pub(super) fn new(revision: u64) -> Self {
        Self { revision, opened: revision, collections: HashMap::new() }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Adds an object read from disk.
    pub(super) fn load(&mut self, object: Stored) {
        let key = (object.key.namespace.clone(), object.key.name.clone());
        let collection = self.collection(&object.key.storage);
        collection.objects.insert(key, Arc::new(object));
    }

    fn collection(&mut self, storage: &str) -> &mut Collection {
        let opened = self.opened;
        self.collections.entry(storage.to_owned()).or_insert_with(|| Collection::new(opened))
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        let collection = self.collections.get(&key.storage)?;
        collection.objects.get(&(key.namespace.clone(), key.name.clone())).cloned()
    }

    pub(super) fn apply(&mut self, event: Event) {
        self.revision = event.revision;
        let key = &event.object.key;
        let collection = self.collection(&key.storage.clone());
        let place = (key.namespace.clone(), key.name.clone());
        match event.change {
            Change::Deleted => collection.objects.remove(&place),
            Change::Added | Change::Modified => {
                collection.objects.insert(place, Arc::clone(&event.object))
            }
        };
        collection.newest = event.revision;
        collection.log.push_back(event);
        if collection.log.len() > LOG_LENGTH
            && let Some(oldest) = collection.log.pop_front()
        {
            collection.floor = oldest.revision;
        }
    }

    /// Wakes the watchers of what changed.
    pub(super) fn announce(&self) {
        for collection in self.collections.values() {
            collection.changed.send_if_modified(|seen| {
                let is_new = *seen != collection.newest;
                *seen = collection.newest;
                is_new
            });
        }
    }

    pub(super) fn list(&self, storage: &str, namespace: Option<&str>) -> Snapshot {
        let objects = self.collections.get(storage).map(|collection| match namespace {
            None => collection.objects.values().cloned().collect(),
            Some(namespace) => collection
                .objects
                .range((namespace.to_owned(), String::new())..)
                .take_while(|((have, _), _)| have == namespace)
                .map(|(_, object)| Arc::clone(object))
                .collect(),
        });
        Snapshot { revision: self.revision, objects: objects.unwrap_or_default() }
    }

    pub(super) fn list_at(
        &self,
        storage: &str,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<Snapshot, Expired> {
        self.check(storage, revision)?;
        if revision > self.revision {
            return Err(Expired::Future { asked: revision, newest: self.revision });
        }
        let Some(collection) = self.collections.get(storage) else {
            return Ok(Snapshot { revision, objects: Vec::new() });
        };
        let mut objects = collection.objects.clone();
        for event in collection.log.iter().rev().take_while(|event| event.revision > revision) {
            let key = &event.object.key;
            let place = (key.namespace.clone(), key.name.clone());
            match &event.previous {
                Some(previous) => objects.insert(place, Arc::clone(previous)),
                None => objects.remove(&place),
            };
        }
        let objects = objects
            .into_iter()
            .filter(|((have, _), _)| namespace.is_none_or(|wanted| have == wanted))
            .map(|(_, object)| object)
            .collect();
        Ok(Snapshot { revision, objects })
    }

    fn check(&self, storage: &str, revision: u64) -> Result<(), Expired> {
        let floor = self.collections.get(storage).map_or(self.opened, |c| c.floor);
        if revision < floor {
            return Err(Expired::Old { asked: revision, oldest: floor });
        }
        Ok(())
    }

    pub(super) fn subscribe(
        &mut self,
        storage: &str,
        revision: u64,
    ) -> Result<watch::Receiver<u64>, Expired> {
        self.check(storage, revision)?;
        Ok(self.collection(storage).changed.subscribe())
    }

    /// Changes after `cursor` and the revision up to which nothing more is known.
    fn since(&self, storage: &str, cursor: u64) -> Result<(u64, Vec<Event>), Expired> {
        self.check(storage, cursor)?;
        let events = self.collections.get(storage).map(|collection| {
            let start = collection.log.partition_point(|event| event.revision <= cursor);
            collection.log.range(start..).cloned().collect()
        });
        Ok((self.revision.max(cursor), events.unwrap_or_default()))
    }
}

/// A reader of one resource's changes. It holds no memory while it is slow; when it falls behind
/// the log it gets [`Expired`].
#[derive(Debug)]
pub struct Subscription {
    store: Store,
    storage: String,
    cursor: u64,
    changed: watch::Receiver<u64>,
}

impl Subscription {
    pub(super) fn new(
        store: Store,
        storage: String,
        cursor: u64,
        changed: watch::Receiver<u64>,
    ) -> Self {
        Self { store, storage, cursor, changed }
    }

    /// The revision up to which all changes were returned.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Changes that are there now; also moves the cursor to the newest revision.
    ///
    /// # Errors
    /// When the log no longer holds what comes next.
    pub fn ready(&mut self) -> Result<Vec<Event>, Expired> {
        self.changed.mark_unchanged();
        let (cursor, events) =
            self.store.shared.committed.read().since(&self.storage, self.cursor)?;
        self.cursor = cursor;
        Ok(events)
    }

    /// Waits for changes. Cancel safe.
    ///
    /// # Errors
    /// When the log no longer holds what comes next.
    pub async fn next(&mut self) -> Result<Vec<Event>, Expired> {
        loop {
            let events = self.ready()?;
            if !events.is_empty() {
                return Ok(events);
            }
            // The sender lives in the store, which we hold.
            if self.changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
