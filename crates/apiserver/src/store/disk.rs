//! The store's file: objects as JSON by key, and the revision counter.

use std::fs;
use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable};

use super::committed::{Change, Committed};
use super::unsynced::Unsynced;
use super::{COUNTERS, Flush, Key, OBJECTS, OpenError, Pending, Stored};

const FILE: &str = "store.redb";
const REVISION: &str = "revision";
/// The revision an empty store starts from. Zero means "any" to clients, so it is never one.
const FIRST: u64 = 1;

/// Opens the file and reads all of it.
pub(super) fn open(folder: &Path, flush: Flush) -> Result<(Database, Committed), OpenError> {
    let path = folder.join(FILE);
    let shown = path.display().to_string();
    fs::create_dir_all(folder)
        .map_err(|source| OpenError::Folder { path: folder.display().to_string(), source })?;
    let broken =
        |source: redb::Error| OpenError::Open { path: shown.clone(), source: source.into() };
    let database = match flush {
        Flush::Always => Database::create(&path),
        Flush::Never => create_unsynced(&path),
    };
    let database = database.map_err(|error| broken(error.into()))?;
    create_tables(&database).map_err(&broken)?;
    let (revision, rows) = read(&database).map_err(&broken)?;
    let mut committed = Committed::new(revision);
    for (key, json) in rows {
        let value: serde_json::Value = serde_json::from_slice(&json).map_err(|source| {
            OpenError::Damaged { path: shown.clone(), key: key.replace('\0', "/"), source }
        })?;
        let revision = value["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .unwrap_or(revision);
        committed.load(Stored::new(split(&key), revision, value));
    }
    Ok((database, committed))
}

fn create_unsynced(path: &Path) -> Result<Database, redb::DatabaseError> {
    let mut options = fs::OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let file = options.open(path).map_err(redb::StorageError::from)?;
    Database::builder().create_with_backend(Unsynced::new(file)?)
}

fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(OBJECTS)?;
    transaction.open_table(COUNTERS)?;
    transaction.commit()?;
    Ok(())
}

type Rows = Vec<(String, Vec<u8>)>;

fn read(database: &Database) -> Result<(u64, Rows), redb::Error> {
    let transaction = database.begin_read()?;
    let revision = transaction.open_table(COUNTERS)?.get(REVISION)?.map_or(FIRST, |v| v.value());
    let mut rows = Vec::new();
    for row in transaction.open_table(OBJECTS)?.iter()? {
        let (key, value) = row?;
        rows.push((key.value().to_owned(), value.value().to_vec()));
    }
    Ok((revision, rows))
}

/// Writes a batch in one durable transaction.
pub(super) fn write(database: &Database, batch: &[Pending]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        let mut counters = transaction.open_table(COUNTERS)?;
        for pending in batch {
            let key = join(&pending.object.key);
            match pending.change {
                Change::Deleted => drop(objects.remove(key.as_str())?),
                Change::Added | Change::Modified => {
                    drop(objects.insert(key.as_str(), &*pending.object.json())?);
                }
            }
            counters.insert(REVISION, pending.object.revision)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn join(key: &Key) -> String {
    format!("{}\0{}\0{}", key.storage, key.namespace, key.name)
}

fn split(text: &str) -> Key {
    let mut parts = text.splitn(3, '\0');
    let mut next = || parts.next().unwrap_or_default();
    let (storage, namespace, name) = (next(), next(), next());
    Key::new(storage, namespace, name)
}
