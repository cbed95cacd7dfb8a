//! What the injection webhook needs from clusters: the injector's ConfigMap and the age of nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::Instant;
use tombolo_model::id::ClusterId;
use tombolo_runtime::ready::Blocker;

use crate::inject::InjectorConfig;
use crate::serve::settings::{NativeSidecars, Settings};
use crate::watch::clusters::Clusters;

/// The first Kubernetes whose native sidecars are used.
const NATIVE_SINCE: u32 = 33;
/// How long an answer about a cluster's nodes is believed.
const BELIEVED: Duration = Duration::from_secs(60);
/// A webhook has ten seconds in all.
const ASK: Duration = Duration::from_secs(2);

/// The injector's configuration of the moment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Config {
    current: Arc<ArcSwapOption<InjectorConfig>>,
}

impl Config {
    /// What the ConfigMap says; none until it was read once.
    pub fn current(&self) -> Option<Arc<InjectorConfig>> {
        self.current.load_full()
    }

    /// Follows the ConfigMap for ever; `unread` goes when it was read once.
    pub async fn follow(self, settings: Arc<Settings>, client: Client, unread: Blocker) {
        let name = settings.revisioned("istio-sidecar-injector");
        let api = Api::<ConfigMap>::namespaced(client, &settings.namespace);
        let fields = format!("metadata.name={name}");
        let events = watcher(api, watcher::Config::default().fields(&fields)).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut unread = Some(unread);
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) => {
                    match InjectorConfig::read(&map.data.unwrap_or_default()) {
                        Ok(config) => {
                            self.current.store(Some(Arc::new(config)));
                            unread.take();
                            tracing::info!(config_map = name, "injection configuration read");
                        }
                        Err(error) => {
                            tracing::error!(config_map = name, %error, "injection configuration cannot be read, the old one stays");
                        }
                    }
                }
                Ok(_) => (),
                Err(error) => {
                    tracing::warn!(config_map = name, %error, "watch interrupted, trying again");
                }
            }
        }
    }
}

/// Says whether clusters' nodes know native sidecars.
#[derive(Debug)]
pub struct Nodes {
    wanted: NativeSidecars,
    clusters: Clusters,
    known: Mutex<BTreeMap<ClusterId, (bool, Instant)>>,
}

impl Nodes {
    pub fn new(wanted: NativeSidecars, clusters: Clusters) -> Self {
        Self { wanted, clusters, known: Mutex::default() }
    }

    /// Whether sidecars in `cluster` shall be native. A cluster that does not answer counts as
    /// one that knows none: those work everywhere.
    pub async fn native(&self, cluster: &ClusterId) -> bool {
        match self.wanted {
            NativeSidecars::Always => return true,
            NativeSidecars::Never => return false,
            NativeSidecars::Auto => (),
        }
        if let Some((native, at)) = self.known.lock().get(cluster)
            && at.elapsed() < BELIEVED
        {
            return *native;
        }
        let config = self.clusters.config_cluster();
        let client = self.clusters.client(cluster).or_else(|| self.clusters.client(config));
        let Some(client) = client else { return false };
        let nodes = Api::<Node>::all(client);
        let native = match tokio::time::timeout(ASK, nodes.list(&ListParams::default())).await {
            Ok(Ok(nodes)) => !nodes.items.is_empty() && nodes.items.iter().all(is_new),
            Ok(Err(error)) => {
                tracing::warn!(%cluster, %error, "nodes cannot be listed; no native sidecars");
                return false;
            }
            Err(_) => {
                tracing::warn!(%cluster, "nodes were not listed in time; no native sidecars");
                return false;
            }
        };
        self.known.lock().insert(cluster.clone(), (native, Instant::now()));
        native
    }
}

/// Whether a node runs a Kubernetes whose native sidecars are used.
pub fn is_new(node: &Node) -> bool {
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    let version = info.map(|info| info.kubelet_version.trim_start_matches('v'));
    let mut parts = version.unwrap_or_default().split('.');
    let number = |text: Option<&str>| {
        let digits: String = text?.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    };
    match (number(parts.next()), number(parts.next())) {
        (Some(1), Some(minor)) => minor >= NATIVE_SINCE,
        (Some(major), Some(_)) => major > 1,
        _ => false,
    }
}
