//! Remote clusters: which secrets link them, and what happens when a secret changes.
//!
//! A changed kubeconfig opens a new connection beside the old one, which goes on to serve until
//! the new one has seen everything. Only a secret that goes takes its cluster away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::runtime::watcher::{self, Event as Watched, watcher};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tombolo_model::id::ClusterId;
use tombolo_runtime::backoff::Backoff;
use tombolo_runtime::errors::chain;
use tombolo_runtime::ready::{Blocker, Ready};
use tombolo_runtime::shutdown::Shutdown;

use crate::index::live::{Change, Event, Incarnation};
use crate::watch::clusters::{Cluster, Clusters, Sync};
use crate::watch::follow::Connection;
use crate::watch::kubeconfig::{self, Loopback};
use crate::watch::started;

/// The label of secrets that link clusters.
const LABEL: &str = "istio/multiCluster=true";

/// What linking needs.
pub(crate) struct Remotes {
    pub(crate) client: kube::Client,
    pub(crate) namespace: String,
    pub(crate) clusters: Clusters,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) shutdown: Shutdown,
    pub(crate) ready: Ready,
    /// How long the start of the process waits for a remote cluster; 0 for ever.
    pub(crate) timeout: Duration,
    pub(crate) loopback: Loopback,
    pub(crate) linked: BTreeMap<ClusterId, Linked>,
    pub(crate) next: Incarnation,
}

/// A cluster that is linked.
pub(crate) struct Linked {
    secret: String,
    digest: Vec<u8>,
    current: Connection,
    /// The connection that `current` takes over from once it has seen everything.
    old: Option<Connection>,
}

/// Kubeconfigs by cluster, by secret.
type Secrets = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

impl Remotes {
    /// Follows the secrets for ever. `blocker` is dropped when all of them have been seen once.
    pub(crate) async fn run(mut self, blocker: Blocker) {
        // Whether the last attempt failed: each outage is told of once.
        let failing = Arc::new(AtomicBool::new(false));
        let works = {
            let (failing, cluster) = (failing.clone(), self.clusters.config_cluster().clone());
            move || {
                if failing.swap(false, Ordering::Relaxed) {
                    tracing::info!(%cluster, "remote secrets are followed again");
                }
            }
        };
        let client = started::heeding(&self.client, works);
        let api = Api::<Secret>::namespaced(client, &self.namespace);
        let config = watcher::Config::default().labels(LABEL);
        let mut stream = std::pin::pin!(watcher(api, config));
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let draining = self.shutdown.draining_token();
        let (mut secrets, mut fresh) = (Secrets::new(), Secrets::new());
        let mut blocker = Some(blocker);
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            // The watch stream and the interval keep their state when they are not chosen.
            let event = tokio::select! {
                event = stream.next() => event,
                _ = tick.tick() => {
                    self.retire_old();
                    continue;
                }
                () = draining.cancelled() => return,
            };
            match event {
                None => return,
                Some(Ok(Watched::Init)) => fresh.clear(),
                Some(Ok(Watched::InitApply(secret))) => {
                    fresh.extend(entries(secret));
                }
                Some(Ok(Watched::InitDone)) => {
                    backoff.reset();
                    secrets = std::mem::take(&mut fresh);
                    self.link(&secrets).await;
                    // Each linked cluster holds a blocker of its own by now.
                    drop(blocker.take());
                }
                Some(Ok(Watched::Apply(secret))) => {
                    secrets.extend(entries(secret));
                    self.link(&secrets).await;
                }
                Some(Ok(Watched::Delete(secret))) => {
                    secrets.remove(secret.metadata.name.as_deref().unwrap_or_default());
                    self.link(&secrets).await;
                }
                Some(Err(error)) => {
                    if let Some(why) = started::failure(&error)
                        && !failing.swap(true, Ordering::Relaxed)
                    {
                        tracing::warn!(
                            cluster = %self.clusters.config_cluster(),
                            namespace = self.namespace, error = why,
                            "remote secrets cannot be followed: the clusters stay as they are, trying again"
                        );
                    }
                    tokio::time::sleep(backoff.delay()).await;
                }
            }
        }
    }

    /// Brings the linked clusters in line with the secrets.
    async fn link(&mut self, secrets: &Secrets) {
        let wanted = self.wanted(secrets);
        let gone: Vec<ClusterId> =
            self.linked.keys().filter(|cluster| !wanted.contains_key(cluster)).cloned().collect();
        for cluster in gone {
            self.unlink(&cluster).await;
        }
        // A secret that is gone is not wrong any more.
        self.clusters.retain_refused(|cluster| wanted.contains_key(cluster));
        for (cluster, (secret, bytes)) in wanted {
            let digest = Sha256::digest(bytes).to_vec();
            let known = self.linked.get(&cluster);
            if known.is_some_and(|known| known.digest == digest) {
                continue;
            }
            self.connect(cluster, secret, bytes, digest).await;
        }
    }

    /// Which kubeconfig links which cluster. A cluster stays with the secret that has it.
    fn wanted<'s>(&self, secrets: &'s Secrets) -> BTreeMap<ClusterId, (&'s str, &'s [u8])> {
        let mut wanted: BTreeMap<ClusterId, (&str, &[u8])> = BTreeMap::new();
        for (secret, entries) in secrets {
            for (key, bytes) in entries {
                let cluster = ClusterId::new(key);
                if cluster == *self.clusters.config_cluster() {
                    tracing::warn!(%cluster, secret, "a remote secret names this cluster: ignored");
                    continue;
                }
                let held = self.linked.get(&cluster).is_some_and(|it| it.secret == *secret);
                match wanted.get(&cluster) {
                    Some((first, _)) if !held => {
                        tracing::warn!(%cluster, secret, first, "cluster is linked twice: ignored");
                    }
                    _ => {
                        wanted.insert(cluster, (secret, bytes));
                    }
                }
            }
        }
        wanted
    }

    async fn connect(&mut self, cluster: ClusterId, secret: &str, bytes: &[u8], digest: Vec<u8>) {
        let shown = format!("{}/{secret}", self.namespace);
        let client = match kubeconfig::client(bytes, self.loopback).await {
            Ok(client) => client,
            Err(error) => {
                let why = chain(&error).to_string();
                tracing::warn!(%cluster, secret = shown, why, "remote secret refused");
                self.clusters.refuse(&cluster, shown, why);
                if let Some(known) = self.linked.get_mut(&cluster) {
                    // What was linked before goes on to serve.
                    known.digest = digest;
                }
                return;
            }
        };
        self.clusters.retain_refused(|refused| *refused != cluster);
        self.next += 1;
        let incarnation = self.next;
        let connection = Connection::new(
            cluster.clone(),
            incarnation,
            client.clone(),
            self.events.clone(),
            self.clusters.clone(),
        );
        self.clusters.set(Cluster {
            id: cluster.clone(),
            secret: shown,
            sync: Sync::Syncing,
            client,
            incarnation,
        });
        tracing::info!(%cluster, secret, "cluster linked");
        let blocker = self.ready.block(format!("cluster {cluster}"));
        connection.start(&self.shutdown, blocker, None).await;
        self.limit(&connection);
        let linked =
            Linked { secret: secret.to_owned(), digest, current: connection.clone(), old: None };
        if let Some(before) = self.linked.insert(cluster.clone(), linked) {
            // Of two that wait, only the one that serves is kept.
            let (serving, superseded) = match before.old {
                Some(old) => (old, Some(before.current)),
                None => (before.current, None),
            };
            if let Some(superseded) = superseded {
                superseded.ended.cancel();
            }
            if let Some(linked) = self.linked.get_mut(&cluster) {
                linked.old = Some(serving);
            }
        }
    }

    /// Ends the wait for a cluster after a while.
    fn limit(&self, connection: &Connection) {
        if self.timeout.is_zero() {
            return;
        }
        let (connection, timeout) = (connection.clone(), self.timeout);
        let draining = self.shutdown.draining_token();
        self.shutdown.spawn("limit the wait for a cluster", async move {
            tokio::select! {
                () = tokio::time::sleep(timeout) => connection.wait_no_longer(),
                () = connection.ended.cancelled() => (),
                () = draining.cancelled() => (),
            }
        });
    }

    /// Ends connections whose successors have seen everything.
    fn retire_old(&mut self) {
        for linked in self.linked.values_mut() {
            if linked.current.is_synced()
                && let Some(old) = linked.old.take()
            {
                old.ended.cancel();
            }
        }
    }

    async fn unlink(&mut self, cluster: &ClusterId) {
        let Some(linked) = self.linked.remove(cluster) else { return };
        linked.current.ended.cancel();
        if let Some(old) = &linked.old {
            old.ended.cancel();
        }
        linked.current.wait_no_longer();
        self.clusters.remove(cluster);
        tracing::info!(%cluster, secret = linked.secret, "cluster unlinked");
        let event = Event {
            cluster: cluster.clone(),
            incarnation: linked.current.incarnation,
            change: Change::Gone,
        };
        if self.events.send(event).await.is_err() {
            tracing::debug!("the index has ended");
        }
    }
}

fn entries(secret: Secret) -> Option<(String, BTreeMap<String, Vec<u8>>)> {
    let data = secret.data.unwrap_or_default();
    let data = data.into_iter().map(|(key, value)| (key, value.0)).collect();
    Some((secret.metadata.name?, data))
}
