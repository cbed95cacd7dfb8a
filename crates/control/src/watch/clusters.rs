//! The clusters of the mesh and how the connection to each of them is.

use std::collections::BTreeMap;
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
    /// How far the connection is.
    pub sync: Sync,
    /// Talks to its API server.
    pub client: kube::Client,
    /// Which connection this is; it grows when the cluster's kubeconfig changes.
    pub incarnation: u64,
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
    all: Arc<Mutex<BTreeMap<ClusterId, Cluster>>>,
    refused: Arc<Mutex<BTreeMap<ClusterId, Refusal>>>,
    changed: watch::Sender<u64>,
}

impl Clusters {
    /// Only the config cluster.
    pub fn new(config: ClusterId, client: kube::Client) -> Self {
        let only = Cluster {
            id: config.clone(),
            secret: String::new(),
            sync: Sync::Syncing,
            client,
            incarnation: 0,
        };
        Self {
            all: Arc::new(Mutex::new(BTreeMap::from([(config.clone(), only)]))),
            config,
            refused: Arc::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// The cluster that Istio objects are read from.
    pub fn config_cluster(&self) -> &ClusterId {
        &self.config
    }

    /// The client of a cluster.
    pub fn client(&self, cluster: &ClusterId) -> Option<kube::Client> {
        self.all.lock().get(cluster).map(|cluster| cluster.client.clone())
    }

    /// All clusters, sorted by name.
    pub fn all(&self) -> Vec<Cluster> {
        self.all.lock().values().cloned().collect()
    }

    /// Remote secrets that do not link their clusters, and why.
    pub fn refused(&self) -> BTreeMap<ClusterId, Refusal> {
        self.refused.lock().clone()
    }

    /// Wakes when a cluster comes, goes, or its connection changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Adds a cluster, or replaces its connection.
    pub(crate) fn set(&self, cluster: Cluster) {
        self.all.lock().insert(cluster.id.clone(), cluster);
        self.tell();
    }

    /// Notes how the connection `incarnation` of a cluster is.
    pub(crate) fn set_sync(&self, cluster: &ClusterId, incarnation: u64, sync: Sync) {
        let mut all = self.all.lock();
        let known = all.get_mut(cluster).filter(|known| known.incarnation == incarnation);
        let Some(known) = known.filter(|known| known.sync != sync) else { return };
        known.sync = sync;
        drop(all);
        self.tell();
    }

    /// Notes that a secret does not link its cluster.
    pub(crate) fn refuse(&self, cluster: &ClusterId, secret: String, why: String) {
        self.refused.lock().insert(cluster.clone(), Refusal { secret, why });
        self.tell();
    }

    /// Takes a refusal back.
    pub(crate) fn accept(&self, cluster: &ClusterId) {
        self.refused.lock().remove(cluster);
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
