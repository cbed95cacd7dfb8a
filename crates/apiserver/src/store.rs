//! The versioned, durable store: every object's newest state in memory, every change in redb
//! before it is acknowledged or seen by any reader, and a bounded log of changes for watches.
//!
//! Invariants: one revision counter for everything; readers and watchers see only what is durable;
//! writers check against the newest accepted state, so that of two writers with the same
//! expectation one loses. Concurrent writes share one transaction and one `fsync`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use redb::{Database, TableDefinition};
use serde_json::Value;
use tokio::sync::oneshot;

mod committed;
mod disk;
#[cfg(test)]
mod tests;
mod unsynced;

use committed::Committed;
pub use committed::{Change, Event, Expired, Snapshot, Subscription};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

/// Where an object is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// [`crate::resources::ResourceType::storage`].
    pub storage: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    pub name: String,
}

/// An object in one revision.
#[derive(Debug)]
pub struct Stored {
    pub key: Key,
    pub revision: u64,
    pub value: Value,
    json: OnceLock<Bytes>,
}

/// When writes are forced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Before they are acknowledged: they survive a power failure.
    Always,
    /// When the system likes: they survive the end of the process, not that of the machine.
    Never,
}

/// What a writer believes the object's state to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Absent,
    Revision(u64),
}

/// Why a write was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("the object exists already")]
    Exists,
    #[error("the object has changed or is gone")]
    Changed,
    #[error("the store does not take writes: {0}")]
    Failed(String),
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("create the folder {path}")]
    Folder { path: String, source: std::io::Error },
    #[error("open the store {path}")]
    Open { path: String, source: Box<redb::Error> },
    #[error("the store {path} holds an object that cannot be read: {key}")]
    Damaged { path: String, key: String, source: serde_json::Error },
    #[error("start the store's writer")]
    Thread(#[source] std::io::Error),
}

/// The store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
    _closer: Arc<Closer>,
}

#[derive(Debug)]
struct Shared {
    committed: RwLock<Committed>,
    head: Mutex<Head>,
    wake: Condvar,
}

/// What is accepted but not yet durable.
#[derive(Debug, Default)]
struct Head {
    revision: u64,
    queue: Vec<Pending>,
    overlay: HashMap<Key, (u64, Option<Arc<Stored>>)>,
    closed: bool,
    failed: Option<String>,
}

#[derive(Debug)]
struct Pending {
    object: Arc<Stored>,
    previous: Option<Arc<Stored>>,
    change: Change,
    done: oneshot::Sender<Result<(), String>>,
}

/// Ends the writer thread when the last handle to the store goes.
#[derive(Debug)]
struct Closer {
    shared: Arc<Shared>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.shared.head.lock().closed = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

impl Key {
    pub fn new(storage: &str, namespace: &str, name: &str) -> Self {
        Self { storage: storage.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl Stored {
    pub fn new(key: Key, revision: u64, value: Value) -> Self {
        Self { key, revision, value, json: OnceLock::new() }
    }

    /// The object as JSON, encoded once.
    pub fn json(&self) -> Bytes {
        self.json.get_or_init(|| Bytes::from(self.value.to_string())).clone()
    }
}

impl Store {
    /// Opens or creates the store in `folder`.
    ///
    /// # Errors
    /// When the folder or the database cannot be used.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        Self::open_with(folder, Flush::Always)
    }

    /// Opens or creates the store in `folder`, with the given care for the disk.
    ///
    /// # Errors
    /// When the folder or the database cannot be used.
    pub fn open_with(folder: &Path, flush: Flush) -> Result<Self, OpenError> {
        let (database, committed) = disk::open(folder, flush)?;
        let head = Head { revision: committed.revision(), ..Head::default() };
        let shared = Arc::new(Shared {
            committed: RwLock::new(committed),
            head: Mutex::new(head),
            wake: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || write_batches(&writer, &database))
            .map_err(OpenError::Thread)?;
        let closer = Closer { shared: Arc::clone(&shared), thread: Mutex::new(Some(thread)) };
        Ok(Self { shared, _closer: Arc::new(closer) })
    }

    /// The newest durable revision.
    pub fn revision(&self) -> u64 {
        self.shared.committed.read().revision()
    }

    /// Whether writes are taken; a disk error ends that.
    pub fn is_writable(&self) -> bool {
        self.shared.head.lock().failed.is_none()
    }

    /// An object's durable state.
    pub fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        self.shared.committed.read().get(key)
    }

    /// An object's newest accepted state, which a writer must build on.
    pub fn newest(&self, key: &Key) -> Option<Arc<Stored>> {
        let head = self.shared.head.lock();
        match head.overlay.get(key) {
            Some((_, state)) => state.clone(),
            None => self.shared.committed.read().get(key),
        }
    }

    /// All objects of a resource, in order of namespace and name, at the newest revision.
    pub fn list(&self, storage: &str, namespace: Option<&str>) -> Snapshot {
        self.shared.committed.read().list(storage, namespace)
    }

    /// All objects of a resource as they were at `revision`.
    ///
    /// # Errors
    /// When the log does not reach back that far.
    pub fn list_at(
        &self,
        storage: &str,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<Snapshot, Expired> {
        self.shared.committed.read().list_at(storage, namespace, revision)
    }

    /// Changes of a resource after `revision`.
    ///
    /// # Errors
    /// When the log does not reach back that far.
    pub fn watch(&self, storage: &str, revision: u64) -> Result<Subscription, Expired> {
        let changed = self.shared.committed.write().subscribe(storage, revision)?;
        Ok(Subscription::new(self.clone(), storage.to_owned(), revision, changed))
    }

    /// Creates or replaces an object; returns its new state once that is durable.
    ///
    /// # Errors
    /// When the expectation is wrong or the disk fails.
    pub async fn put(
        &self,
        key: Key,
        expect: Expect,
        value: Value,
    ) -> Result<Arc<Stored>, WriteError> {
        self.write(key, expect, Some(value)).await
    }

    /// Removes an object; returns its last state, carrying the revision of the removal.
    ///
    /// # Errors
    /// When the expectation is wrong or the disk fails.
    pub async fn remove(&self, key: Key, revision: u64) -> Result<Arc<Stored>, WriteError> {
        self.write(key, Expect::Revision(revision), None).await
    }

    async fn write(
        &self,
        key: Key,
        expect: Expect,
        value: Option<Value>,
    ) -> Result<Arc<Stored>, WriteError> {
        let (object, done) = self.accept(key, expect, value)?;
        match done.await {
            Ok(Ok(())) => Ok(object),
            Ok(Err(error)) => Err(WriteError::Failed(error)),
            Err(_) => Err(WriteError::Failed("it is closed".to_owned())),
        }
    }

    #[expect(clippy::type_complexity, reason = "the pair is taken apart at once by the one caller")]
    fn accept(
        &self,
        key: Key,
        expect: Expect,
        value: Option<Value>,
    ) -> Result<(Arc<Stored>, oneshot::Receiver<Result<(), String>>), WriteError> {
        let mut head = self.shared.head.lock();
        if let Some(error) = &head.failed {
            return Err(WriteError::Failed(error.clone()));
        }
        let previous = match head.overlay.get(&key) {
            Some((_, state)) => state.clone(),
            None => self.shared.committed.read().get(&key),
        };
        match (expect, &previous) {
            (Expect::Absent, None) => (),
            (Expect::Absent, Some(_)) => return Err(WriteError::Exists),
            (Expect::Revision(revision), Some(state)) if state.revision == revision => (),
            (Expect::Revision(_), _) => return Err(WriteError::Changed),
        }
        head.revision += 1;
        let revision = head.revision;
        let (change, mut value) = match (value, &previous) {
            (Some(value), None) => (Change::Added, value),
            (Some(value), Some(_)) => (Change::Modified, value),
            (None, Some(last)) => (Change::Deleted, last.value.clone()),
            (None, None) => return Err(WriteError::Changed),
        };
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
        }
        let object = Arc::new(Stored::new(key.clone(), revision, value));
        let state = (change != Change::Deleted).then(|| Arc::clone(&object));
        head.overlay.insert(key, (revision, state));
        let (done, receiver) = oneshot::channel();
        head.queue.push(Pending { object: Arc::clone(&object), previous, change, done });
        drop(head);
        self.shared.wake.notify_one();
        Ok((object, receiver))
    }
}

/// The writer thread: takes what has queued up, makes it durable, shows it to readers.
fn write_batches(shared: &Shared, database: &Database) {
    loop {
        let batch = {
            let mut head = shared.head.lock();
            while head.queue.is_empty() && !head.closed {
                shared.wake.wait(&mut head);
            }
            if head.queue.is_empty() {
                return;
            }
            std::mem::take(&mut head.queue)
        };
        match disk::write(database, &batch) {
            Ok(()) => publish(shared, batch),
            Err(error) => fail(shared, batch, &error),
        }
    }
}

fn publish(shared: &Shared, batch: Vec<Pending>) {
    {
        let mut committed = shared.committed.write();
        for pending in &batch {
            committed.apply(Event {
                revision: pending.object.revision,
                change: pending.change,
                object: Arc::clone(&pending.object),
                previous: pending.previous.clone(),
            });
        }
        committed.announce();
    }
    let mut head = shared.head.lock();
    for pending in &batch {
        if head.overlay.get(&pending.object.key).is_some_and(|(r, _)| *r == pending.object.revision)
        {
            head.overlay.remove(&pending.object.key);
        }
    }
    drop(head);
    for pending in batch {
        // The client may have gone; its write stands.
        pending.done.send(Ok(())).unwrap_or(());
    }
}

/// A disk that fails once is not trusted again: all writes fail until a restart.
fn fail(shared: &Shared, batch: Vec<Pending>, error: &redb::Error) {
    tracing::error!(%error, "the store cannot write; it refuses writes from now on");
    let mut head = shared.head.lock();
    head.failed = Some(error.to_string());
    let queue = std::mem::take(&mut head.queue);
    head.overlay.clear();
    drop(head);
    for pending in batch.into_iter().chain(queue) {
        pending.done.send(Err(error.to_string())).unwrap_or(());
    }
}
