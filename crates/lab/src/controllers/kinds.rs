//! Every kind that the API server serves, by discovery: what namespace deletion and garbage
//! collection work on, custom resources included.

use kube::api::DynamicObject;
use kube::core::discovery::verbs;
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::{Discovery, Scope};
use kube::{Api, Client};

use crate::controllers::failure::{Doing, Failure};

/// A kind whose objects can be listed and deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    /// Whether it can be watched.
    pub(crate) watchable: bool,
    /// Whether a namespace's objects can be deleted by one call.
    pub(crate) collective: bool,
}

impl Served {
    /// `pods`, `deployments.apps`.
    pub(crate) fn full_name(&self) -> String {
        match self.resource.group.as_str() {
            "" => self.resource.plural.clone(),
            group => format!("{}.{group}", self.resource.plural),
        }
    }

    /// The API of a namespace, or of all of them when `namespace` is empty.
    pub(crate) fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        if namespace.is_empty() || !self.namespaced {
            Api::all_with(client.clone(), &self.resource)
        } else {
            Api::namespaced_with(client.clone(), namespace, &self.resource)
        }
    }

    /// Whether `kind` in the group of `api_version` is this kind, in whatever version.
    pub(crate) fn is(&self, api_version: &str, kind: &str) -> bool {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.resource.kind == kind && self.resource.group == group
    }
}

/// Asks the API server for all kinds.
///
/// # Errors
/// When discovery fails.
pub(crate) async fn discover(client: &Client) -> Result<Vec<Served>, Failure> {
    // Two requests where the server can tell all at once, one per group version elsewhere.
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        Err(error) => {
            tracing::debug!(%error, "no aggregated discovery, asking group by group");
            Discovery::new(client.clone()).run().await.doing(|| "discover kinds".into())?
        }
    };
    let mut kinds: Vec<Served> = Vec::new();
    for (resource, can) in discovery.groups().flat_map(|group| group.resources_by_stability()) {
        let usable = can.supports_operation(verbs::LIST) && can.supports_operation(verbs::DELETE);
        if usable {
            kinds.push(Served {
                namespaced: can.scope == Scope::Namespaced,
                watchable: can.supports_operation(verbs::WATCH),
                collective: can.supports_operation(verbs::DELETE_COLLECTION),
                resource,
            });
        }
    }
    kinds.sort_by_key(Served::full_name);
    kinds.dedup_by_key(|kind| kind.full_name());
    Ok(kinds)
}

/// One kind, as an owner reference names it, asked from the API server.
pub(crate) async fn find(client: &Client, api_version: &str, kind: &str) -> Option<Served> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let wanted = GroupVersionKind::gvk(group, version, kind);
    let (resource, can) = kube::discovery::pinned_kind(client, &wanted).await.ok()?;
    Some(Served {
        namespaced: can.scope == Scope::Namespaced,
        watchable: can.supports_operation(verbs::WATCH),
        collective: can.supports_operation(verbs::DELETE_COLLECTION),
        resource,
    })
}
