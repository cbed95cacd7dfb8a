//! What the injection webhook needs from clusters: the injector's ConfigMap and the age of nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tombolo_model::id::ClusterId;
use tombolo_runtime::errors::chain;

use crate::inject::InjectorConfig;
use crate::serve::settings::{NativeSidecars, Settings};
use crate::watch::clusters::Clusters;

/// The first Kubernetes whose native sidecars are used.
const NATIVE_SINCE: u32 = 33;
/// How long an answer about a cluster's nodes is believed.
const BELIEVED: Duration = Duration::from_secs(60);
/// How long a cluster that did not answer is not asked again.
const SPARED: Duration = Duration::from_secs(5);
/// A webhook has ten seconds in all.
const ASK: Duration = Duration::from_secs(2);

/// The injector's configuration of the moment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Config {
    current: watch::Sender<Option<Arc<InjectorConfig>>>,
}

impl Config {
    /// What the ConfigMap says. Waits until it was read once.
    pub async fn read(&self) -> Arc<InjectorConfig> {
        let mut changes = self.current.subscribe();
        loop {
            if let Some(config) = changes.borrow_and_update().clone() {
                return config;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(crate) fn set(&self, config: InjectorConfig) {
        self.current.send_replace(Some(Arc::new(config)));
    }

    /// Follows the ConfigMap for ever.
    pub async fn follow(self, settings: Arc<Settings>, client: Client) {
        let Settings { namespace, cluster, .. } = &*settings;
        let name = settings.injector_config_map();
        let api = Api::<ConfigMap>::namespaced(client, namespace);
        let fields = format!("metadata.name={name}");
        let events = watcher(api, watcher::Config::default().fields(&fields)).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut found = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => found = false,
                Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) => {
                    found = true;
                    match InjectorConfig::read(&map.data.unwrap_or_default()) {
                        Ok(config) => {
                            self.set(config);
                            tracing::info!(config_map = name, "injection configuration read");
                        }
                        Err(error) => {
                            tracing::error!(%cluster, namespace, config_map = name, %error, "injection configuration cannot be read, what was read before holds");
                        }
                    }
                }
                Ok(watcher::Event::InitDone) if found => (),
                Ok(watcher::Event::InitDone | watcher::Event::Delete(_)) => {
                    tracing::warn!(%cluster, namespace, config_map = name, "no injection configuration, what was read before holds; without any, no pod is injected");
                }
                Err(error) => {
                    tracing::warn!(%cluster, namespace, config_map = name, error = %chain(&error), "watch interrupted, trying again");
                }
            }
        }
    }
}

/// Says whether clusters' nodes know native sidecars.
///
/// Callers are nobody in particular: whatever they ask, a cluster is asked once in a while, and
/// only clusters of the mesh take memory.
#[derive(Debug)]
pub struct Nodes {
    wanted: NativeSidecars,
    clusters: Clusters,
    known: Mutex<BTreeMap<ClusterId, Arc<tokio::sync::Mutex<Option<Answer>>>>>,
}

/// What a cluster said about its nodes.
#[derive(Clone, Copy, Debug)]
struct Answer {
    native: bool,
    until: Instant,
}

impl Nodes {
    pub fn new(wanted: NativeSidecars, clusters: Clusters) -> Self {
        Self { wanted, clusters, known: Mutex::default() }
    }

    /// Whether sidecars in `cluster` shall be native. A cluster that does not answer counts as
    /// one that knows none: those work everywhere. One that is not known is like the config
    /// cluster.
    pub async fn native(&self, cluster: &ClusterId) -> bool {
        match self.wanted {
            NativeSidecars::Always => return true,
            NativeSidecars::Never => return false,
            NativeSidecars::Auto => (),
        }
        let config = self.clusters.config_cluster();
        let known = |cluster| Some((cluster, self.clusters.client(cluster)?));
        let Some((cluster, client)) = known(cluster).or_else(|| known(config)) else {
            return false;
        };
        let slot = self.known.lock().entry(cluster.clone()).or_default().clone();
        // Whoever asks meanwhile waits for the same answer.
        let mut answer = slot.lock().await;
        if let Some(answer) = answer.filter(|answer| Instant::now() < answer.until) {
            return answer.native;
        }
        let (native, holds) = match ask(client).await {
            Ok(native) => (native, BELIEVED),
            Err(error) => {
                tracing::warn!(%cluster, error, "nodes cannot be listed; no native sidecars");
                (false, SPARED)
            }
        };
        *answer = Some(Answer { native, until: Instant::now() + holds });
        native
    }
}

/// Whether all nodes of a cluster know native sidecars.
async fn ask(client: Client) -> Result<bool, String> {
    let nodes = Api::<Node>::all(client);
    match tokio::time::timeout(ASK, nodes.list(&ListParams::default())).await {
        Ok(Ok(nodes)) => Ok(!nodes.items.is_empty() && nodes.items.iter().all(is_new)),
        Ok(Err(error)) => Err(chain(&error).to_string()),
        Err(_) => Err(format!("no answer within {ASK:?}")),
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A config cluster that answers with `code` and counts how often it is asked.
    fn nodes(code: u16, asked: &Arc<AtomicUsize>) -> Nodes {
        let asked = asked.clone();
        let answer = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            asked.fetch_add(1, Ordering::Relaxed);
            let list = r#"{"apiVersion": "v1", "kind": "NodeList", "metadata": {}, "items": [
                {"metadata": {"name": "n"}, "status": {"nodeInfo": {"kubeletVersion": "v1.33.1"}}}
            ]}"#;
            let mut response = http::Response::new(axum::body::Body::from(list));
            *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
            async { Ok::<_, std::io::Error>(response) }
        });
        let client = Client::new(answer, "default");
        Nodes::new(NativeSidecars::Auto, Clusters::new(ClusterId::new("cluster01"), client))
    }

    #[tokio::test]
    async fn names_that_nobody_knows_cost_one_question_and_no_memory() {
        let asked = Arc::new(AtomicUsize::new(0));
        let nodes = nodes(200, &asked);
        let names: Vec<ClusterId> =
            (0..100).map(|at| ClusterId::new(&format!("made-up-{at}"))).collect();
        let answers = futures::future::join_all(names.iter().map(|name| nodes.native(name))).await;
        assert_eq!(answers, [true; 100]);
        assert!(nodes.native(&ClusterId::new("cluster01")).await);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(nodes.known.lock().len(), 1);
    }

    #[tokio::test]
    async fn a_cluster_that_refuses_is_not_asked_again_at_once() {
        let asked = Arc::new(AtomicUsize::new(0));
        let nodes = nodes(403, &asked);
        for _ in 0..3 {
            assert!(!nodes.native(&ClusterId::new("cluster01")).await);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
