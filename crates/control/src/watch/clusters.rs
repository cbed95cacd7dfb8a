//! The clusters of the mesh and how the connection to each of them is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tombolo_model::id::ClusterId;

/// How far the connection to a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sync {
    /// Not everything has been seen yet.
    Syncing,
    /// Not everything has been seen in the time allowed; it goes on trying.
    Timeout,
    /// Everything has been seen.
    Synced,
    /// Everything had been seen, and now the cluster does not answer. Its last state holds.
    Stale,
    /// The cluster is being forgotten.
    Closed,
}

impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syncing => "syncing",
            Self::Timeout => "timeout",
            Self::Synced => "synced",
            Self::Stale => "stale",
            Self::Closed => "closed",
        })
    }
}

/// One cluster, for those who talk to it or show it.
#[derive(Clone)]
pub struct Cluster {
    /// Its name.
    pub id: ClusterId,
    /// `namespace/name` of the secret that links it; empty for the config cluster.
    pub secret: String,
    /// How far the latest connection is.
    pub sync: Sync,
    /// Talks to its API server.
    pub client: kube::Client,
    /// Which connection `client` is of; it grows when that of a changed kubeconfig takes over.
    pub incarnation: u64,
}

/// A cluster, and the connection that takes over once it has seen everything.
#[derive(Debug)]
struct Known {
    shown: Cluster,
    next: Option<Cluster>,
}

impl Known {
    /// The connection that replaces one that worked must have worked first: its kubeconfig may be
    /// wrong.
    fn offer(&mut self, cluster: Cluster) {
        if self.next.is_none() && !matches!(self.shown.sync, Sync::Synced | Sync::Stale) {
            self.shown = cluster;
            return;
        }
        self.shown.secret.clone_from(&cluster.secret);
        self.shown.sync = cluster.sync;
        self.next = Some(cluster);
    }

    /// Notes how a connection is, and says whether that is new. Only the latest one is shown.
    fn set_sync(&mut self, incarnation: u64, sync: Sync) -> bool {
        let latest = self.next.as_ref().unwrap_or(&self.shown);
        if latest.incarnation != incarnation || self.shown.sync == sync {
            return false;
        }
        if matches!(sync, Sync::Synced | Sync::Stale)
            && let Some(next) = self.next.take()
        {
            self.shown = next;
        }
        self.shown.sync = sync;
        true
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, secret, sync, incarnation, .. } = self;
        let mut shown = f.debug_struct("Cluster");
        shown.field("id", id).field("secret", secret).field("sync", sync);
        shown.field("incarnation", incarnation).finish_non_exhaustive()
    }
}

/// A remote secret that does not link its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `namespace/name` of the secret.
    pub secret: String,
    /// What is wrong with it.
    pub why: String,
}

/// All clusters. Cheap to clone; every clone sees the same.
#[derive(Clone, Debug)]
pub struct Clusters {
    config: ClusterId,
    all: Arc<Mutex<BTreeMap<ClusterId, Known>>>,
    refused: Arc<Mutex<BTreeMap<ClusterId, Refusal>>>,
    changed: watch::Sender<u64>,
}

impl Clusters {
    /// Only the config cluster.
    pub fn new(config: ClusterId, client: kube::Client) -> Self {
        let shown = Cluster {
            id: config.clone(),
            secret: String::new(),
            sync: Sync::Syncing,
            client,
            incarnation: 0,
        };
        Self {
            all: Arc::new(Mutex::new(BTreeMap::from([(
                config.clone(),
                Known { shown, next: None },
            )]))),
            config,
            refused: Arc::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// The cluster that Istio objects are read from.
    pub fn config_cluster(&self) -> &ClusterId {
        &self.config
    }

    /// The client of a cluster: of the latest connection that has seen everything, if one has.
    pub fn client(&self, cluster: &ClusterId) -> Option<kube::Client> {
        self.all.lock().get(cluster).map(|known| known.shown.client.clone())
    }

    /// All clusters, sorted by name.
    pub fn all(&self) -> Vec<Cluster> {
        self.all.lock().values().map(|known| known.shown.clone()).collect()
    }

    /// Remote secrets that do not link their clusters, and why.
    pub fn refused(&self) -> BTreeMap<ClusterId, Refusal> {
        self.refused.lock().clone()
    }

    /// Wakes when a cluster comes, goes, or its connection changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Adds a cluster, or a new connection to it, which replaces one that has seen everything only
    /// when it has, too.
    pub(crate) fn set(&self, cluster: Cluster) {
        match self.all.lock().entry(cluster.id.clone()) {
            Entry::Occupied(mut known) => known.get_mut().offer(cluster),
            Entry::Vacant(free) => {
                free.insert(Known { shown: cluster, next: None });
            }
        }
        self.tell();
    }

    /// Notes how the connection `incarnation` of a cluster is.
    pub(crate) fn set_sync(&self, cluster: &ClusterId, incarnation: u64, sync: Sync) {
        let mut all = self.all.lock();
        let changed = all.get_mut(cluster).is_some_and(|known| known.set_sync(incarnation, sync));
        drop(all);
        if changed {
            self.tell();
        }
    }

    /// Notes that a secret does not link its cluster.
    pub(crate) fn refuse(&self, cluster: &ClusterId, secret: String, why: String) {
        self.refused.lock().insert(cluster.clone(), Refusal { secret, why });
        self.tell();
    }

    /// Takes back the refusals of clusters that are not to be kept.
    pub(crate) fn retain_refused(&self, keep: impl Fn(&ClusterId) -> bool) {
        self.refused.lock().retain(|cluster, _| keep(cluster));
        self.tell();
    }

    /// Forgets a cluster.
    pub(crate) fn remove(&self, cluster: &ClusterId) {
        self.all.lock().remove(cluster);
        self.tell();
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> kube::Client {
        let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("not asked here"))
        });
        kube::Client::new(nobody, name)
    }

    #[tokio::test]
    async fn a_client_that_works_stays_until_the_next_one_does() {
        let clusters = Clusters::new(ClusterId::new("home"), client("home"));
        let id = ClusterId::new("away");
        let set = |incarnation: u64| {
            let (id, client) = (id.clone(), client(&incarnation.to_string()));
            let (secret, sync) = (String::from("s"), Sync::Syncing);
            clusters.set(Cluster { id, secret, sync, client, incarnation });
        };
        let now = || {
            let client = clusters.client(&id).unwrap().default_namespace().to_owned();
            let shown = clusters.all().into_iter().find(|it| it.id == id).unwrap();
            (client, shown.incarnation, shown.sync)
        };
        set(1);
        // The first kubeconfig never worked, so that the second cannot be worse.
        clusters.set_sync(&id, 1, Sync::Timeout);
        set(2);
        assert_eq!(now(), ("2".into(), 2, Sync::Syncing));
        clusters.set_sync(&id, 2, Sync::Synced);
        set(3);
        assert_eq!(now(), ("2".into(), 2, Sync::Syncing));
        clusters.set_sync(&id, 2, Sync::Stale);
        clusters.set_sync(&id, 3, Sync::Timeout);
        assert_eq!(now(), ("2".into(), 2, Sync::Timeout));
        set(4);
        clusters.set_sync(&id, 3, Sync::Synced);
        assert_eq!(now(), ("2".into(), 2, Sync::Syncing));
        clusters.set_sync(&id, 4, Sync::Synced);
        assert_eq!(now(), ("4".into(), 4, Sync::Synced));
    }
}
