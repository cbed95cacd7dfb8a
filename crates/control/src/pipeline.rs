//! The steps from clusters to pictures, running: watch, index, push.
//!
//! *Expected flow*: events arrive; a quiet moment later they have become one picture, which is
//! published. *Guarantees*: nothing is published, and the process is not ready, before the config
//! cluster and every linked cluster have been seen once (or have had their time): a proxy never
//! gets a picture with holes because the control plane was restarted.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tombolo_model::id::{ClusterId, ObjectName};
use tombolo_runtime::ready::{Blocker, Ready};
use tombolo_runtime::shutdown::Shutdown;

use crate::index::live::{Event, Live};
use crate::index::picture::Picture;
use crate::push::publisher::Publisher;
use crate::watch::clusters::Clusters;
use crate::watch::follow::Connection;
use crate::watch::kubeconfig::Loopback;
use crate::watch::remotes::Remotes;

/// Events that wait for the index. When it is full, watches wait, and so do API servers.
const WAITING: usize = 4096;

/// What the pipeline needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of the cluster that Istio objects are read from.
    pub cluster: ClusterId,
    /// The DNS domain of services, `cluster.local`.
    pub domain: String,
    /// The namespace of the control plane, `istio-system`.
    pub system_namespace: String,
    /// The control plane's revision, `default`.
    pub revision: String,
    /// The ConfigMap with the mesh's settings, `istio` or `istio-REVISION`.
    pub mesh_config_map: String,
    /// How long the start waits for a remote cluster; 0 for ever.
    pub remote_timeout: Duration,
    /// How quiet it must be before a picture is made.
    pub debounce_after: Duration,
    /// How long a picture may be put off.
    pub debounce_most: Duration,
    /// Whether remote API servers may be on loopback.
    pub loopback: Loopback,
}

/// The pipeline, running.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The clusters and how the connections to them are.
    pub clusters: Clusters,
    /// Where pictures and resources come from.
    pub publisher: Publisher,
}

/// Starts to follow the clusters and to publish pictures of them.
///
/// `ready` is blocked until the first picture is published, and says what has not been seen yet.
pub async fn start(
    settings: Settings,
    client: kube::Client,
    shutdown: &Shutdown,
    ready: &Ready,
) -> Pipeline {
    let clusters = Clusters::new(settings.cluster.clone(), client.clone());
    let (events, received) = mpsc::channel(WAITING);
    let mut live =
        Live::new(settings.cluster.clone(), &settings.domain, &settings.system_namespace);
    live.revision = settings.revision;
    let publisher = Publisher::new(Picture::of(&live));
    // What has not been seen yet, apart from what else the process waits for.
    let unseen = Ready::default();
    let first = ready.block_because("first picture of the mesh", &unseen);
    let secrets = unseen.block("remote secrets");
    let own = unseen.block(format!("cluster {}", settings.cluster));
    let builder = Builder {
        live,
        received,
        publisher: publisher.clone(),
        unseen: unseen.clone(),
        after: settings.debounce_after,
        most: settings.debounce_most,
    };
    let draining = shutdown.draining_token();
    shutdown.spawn_essential("index", builder.run(first, draining));
    let mesh = ObjectName::new(&settings.system_namespace, &settings.mesh_config_map);
    let connection = Connection::new(
        settings.cluster.clone(),
        0,
        client.clone(),
        events.clone(),
        clusters.clone(),
    );
    connection.start(shutdown, own, Some(mesh)).await;
    let remotes = Remotes {
        client,
        namespace: settings.system_namespace,
        clusters: clusters.clone(),
        events,
        shutdown: shutdown.clone(),
        ready: unseen,
        timeout: settings.remote_timeout,
        loopback: settings.loopback,
        linked: BTreeMap::new(),
        next: 0,
    };
    shutdown.spawn_essential("remote secrets", remotes.run(secrets));
    Pipeline { clusters, publisher }
}

/// Makes pictures of what is live.
struct Builder {
    live: Live,
    received: mpsc::Receiver<Event>,
    publisher: Publisher,
    unseen: Ready,
    after: Duration,
    most: Duration,
}

impl Builder {
    async fn run(mut self, first: Blocker, draining: tokio_util::sync::CancellationToken) {
        // Everything there is to see at the start arrives before `unseen` is ready.
        loop {
            // Receiving and waiting keep their state when they are not chosen.
            tokio::select! {
                biased;
                () = draining.cancelled() => return,
                event = self.received.recv() => match event {
                    Some(event) => { self.live.apply(event); }
                    None => return,
                },
                () = self.unseen.wait() => break,
            }
        }
        self.publish();
        tracing::info!("first picture of the mesh published");
        drop(first);
        loop {
            let event = tokio::select! {
                () = draining.cancelled() => return,
                event = self.received.recv() => event,
            };
            let Some(event) = event else { return };
            if !self.live.apply(event) {
                continue;
            }
            if !self.settle(&draining).await {
                return;
            }
            self.publish();
        }
    }

    /// Waits until nothing has changed for a while, or for long enough. Says whether to go on.
    async fn settle(&mut self, draining: &tokio_util::sync::CancellationToken) -> bool {
        let most = Instant::now() + self.most;
        let mut quiet = Instant::now() + self.after;
        loop {
            tokio::select! {
                biased;
                () = draining.cancelled() => return false,
                () = tokio::time::sleep_until(quiet.min(most)) => return true,
                event = self.received.recv() => match event {
                    None => return false,
                    Some(event) => if self.live.apply(event) {
                        quiet = Instant::now() + self.after;
                    }
                },
            }
        }
    }

    fn publish(&self) {
        let started = Instant::now();
        let published = self.publisher.publish(Picture::of(&self.live));
        tracing::debug!(published, took = ?started.elapsed(), "picture made");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_is_not_ready_says_what_of_which_cluster_it_has_not_seen() {
        let silent = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, std::io::Error>>()
        });
        let (shutdown, ready) = (Shutdown::default(), Ready::default());
        let settings = Settings {
            cluster: ClusterId::new("cluster01"),
            domain: String::from("cluster.local"),
            system_namespace: String::from("istio-system"),
            mesh_config_map: String::from("istio"),
            revision: String::new(),
            remote_timeout: Duration::ZERO,
            debounce_after: Duration::ZERO,
            debounce_most: Duration::ZERO,
            loopback: Loopback::Refused,
        };
        start(settings, kube::Client::new(silent, "default"), &shutdown, &ready).await;
        let pending = ready.pending();
        shutdown.draining_token().cancel();
        let [secrets, cluster] = pending.as_slice() else { panic!("{pending:?}") };
        assert_eq!(secrets, "first picture of the mesh: remote secrets");
        let seen = "first picture of the mesh: cluster cluster01: Service, EndpointSlice, Pod,";
        assert!(cluster.starts_with(seen), "{cluster}");
    }
}
