//! What follows from a write to a definition: the catalog, its conditions, the end of its objects.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::json;

use crate::api::Api;
use crate::crd::definition::{self, CLEANUP, STORAGE};
use crate::object;
use crate::operation::Operation;
use crate::resources::ResourceType;
use crate::store::{Expect, Key, WriteError};
use crate::verbs::delete;

/// Called after every write to a resource: follows what changes the server itself.
pub async fn changed(api: &Arc<Api>, storage: &str) {
    if storage == STORAGE {
        follow(api).await;
    }
}

/// Brings everything in line with the stored definitions. Called after every change of one and at
/// the start.
pub async fn follow(api: &Arc<Api>) {
    {
        let mut known = api.definitions.lock().await;
        api.catalog.store(Arc::new(known.catalog(&api.store)));
    }
    for stored in api.store.list(STORAGE, None).objects {
        if object::is_deleting(&stored.value) {
            begin_cleanup(api, &stored.key.name);
            continue;
        }
        let status = definition::accepted(&stored.value);
        if status == stored.value["status"] {
            continue;
        }
        let mut new = stored.value.clone();
        new["status"] = status;
        let put = api.store.put(stored.key.clone(), Expect::Revision(stored.revision), new);
        match put.await {
            // Whoever changed it meanwhile comes here again.
            Ok(_) | Err(WriteError::Changed | WriteError::Exists) => (),
            Err(error) => tracing::error!(definition = stored.key.name, %error, "cannot accept"),
        }
    }
}

/// Starts the deletion of a definition's objects, once.
fn begin_cleanup(api: &Arc<Api>, name: &str) {
    if !api.cleanups.lock().insert(name.to_owned()) {
        return;
    }
    let (api, name) = (Arc::clone(api), name.to_owned());
    let shutdown = api.shutdown.clone();
    shutdown.spawn("definition cleanup", async move {
        tokio::select! {
            () = api.shutdown.draining() => (),
            () = clean(&api, &name) => (),
        }
        api.cleanups.lock().remove(&name);
    });
}

async fn clean(api: &Arc<Api>, name: &str) {
    let key = Key::new(STORAGE, "", name);
    let Some(stored) = api.store.newest(&key) else { return };
    let types = definition::types(&stored.value);
    if let Some(resource) = types.first() {
        remove_objects(api, resource).await;
    }
    loop {
        let Some(stored) = api.store.newest(&key) else { return };
        let mut list = object::finalizers(&stored.value);
        list.retain(|have| have != CLEANUP);
        let done = if list.is_empty() {
            api.store.remove(key.clone(), stored.revision).await
        } else {
            let mut new = stored.value.clone();
            object::set_meta(&mut new, "finalizers", json!(list));
            api.store.put(key.clone(), Expect::Revision(stored.revision), new).await
        };
        match done {
            Ok(_) => break,
            Err(WriteError::Changed | WriteError::Exists) => (),
            Err(error) => {
                tracing::error!(definition = name, %error, "cannot finish the deletion");
                return;
            }
        }
    }
    let mut known = api.definitions.lock().await;
    api.catalog.store(Arc::new(known.catalog(&api.store)));
}

/// Deletes all objects and waits until they are gone, for those that have finalizers.
async fn remove_objects(api: &Arc<Api>, resource: &Arc<ResourceType>) {
    let start = api.store.revision();
    let Ok(mut changes) = api.store.watch(&resource.storage, start) else { return };
    let mut asked = HashSet::new();
    loop {
        let objects = api.store.list(&resource.storage, None).objects;
        if objects.is_empty() {
            return;
        }
        for stored in objects {
            if !asked.insert(object::uid(&stored.value).to_owned()) {
                continue;
            }
            let operation = Operation::by_server(api, resource, &stored.key);
            if let Err(status) = delete::by_server(&operation, &stored.key).await {
                tracing::warn!(object = ?stored.key, %status, "cannot delete a custom resource");
            }
        }
        if changes.next().await.is_err() {
            return;
        }
    }
}
