//! How every controller writes the status of an object it looks after.

use kube::api::PostParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::Serialize;

use crate::controllers::cache::{Cache, Kind};
use crate::controllers::failure::{Doing, Failure};
use crate::controllers::queue::Key;

/// Changes the status of `old` by `change`, and puts what the API server made of it in the cache.
/// Nothing is written, and nothing returned, where that changes nothing.
///
/// # Errors
/// When the API server refuses, for example because `old` is not the newest state.
pub async fn write<K>(
    client: &Client,
    cache: &Cache<K>,
    old: &K,
    change: impl FnOnce(&mut K),
) -> Result<Option<K>, Failure>
where
    K: Kind + Resource<Scope = NamespaceResourceScope> + PartialEq + Serialize,
{
    let mut changed = old.clone();
    change(&mut changed);
    if changed == *old {
        return Ok(None);
    }
    let key = Key::of(old);
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    let written = api
        .replace_status(&key.name, &PostParams::default(), &changed)
        .await
        .doing(|| format!("write the status of {} {key}", K::kind(&())))?;
    cache.wrote(&written);
    Ok(Some(written))
}
