//! What only one control plane does in a cluster: hand out roots, tell API servers whom to trust.
//!
//! At home always; in a remote only when `EXTERNAL_ISTIOD` is set and the remote's system
//! namespace names this cluster in `topology.istio.io/controlPlaneClusters`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tombolo_model::id::ClusterId;
use tombolo_runtime::backoff::Backoff;
use tombolo_runtime::shutdown::Shutdown;

use crate::serve::settings::Settings;
use crate::watch::clusters::{Cluster, Clusters};

pub mod election;
mod namespaces;
mod webhooks;

/// Names the control planes that may lead in a remote cluster.
const CONTROL_PLANES: &str = "topology.istio.io/controlPlaneClusters";

/// What leading needs.
#[derive(Clone, Debug)]
pub struct Leading {
    pub settings: Arc<Settings>,
    pub clusters: Clusters,
    /// The roots in PEM.
    pub roots: watch::Receiver<Arc<str>>,
    /// The lists of revoked certificates in PEM; empty when there are none.
    pub revocations: watch::Receiver<Arc<str>>,
    pub shutdown: Shutdown,
}

/// One cluster that is led, as its tasks see it.
#[derive(Clone)]
struct Place {
    id: ClusterId,
    client: kube::Client,
    is_remote: bool,
    stop: CancellationToken,
}

impl Leading {
    /// Leads at home and in the remotes that ask for it, until the process drains.
    pub async fn run(self) {
        let mut led: BTreeMap<ClusterId, (u64, CancellationToken)> = BTreeMap::new();
        let mut changes = self.clusters.changes();
        loop {
            changes.borrow_and_update();
            let all = self.clusters.all();
            led.retain(|id, (incarnation, stop)| {
                let stays = all.iter().any(|it| it.id == *id && it.incarnation == *incarnation);
                if !stays {
                    stop.cancel();
                }
                stays
            });
            for cluster in all {
                let is_remote = cluster.id != *self.clusters.config_cluster();
                if led.contains_key(&cluster.id) || is_remote && !self.settings.external {
                    continue;
                }
                let stop = self.shutdown.draining_token().child_token();
                led.insert(cluster.id.clone(), (cluster.incarnation, stop.clone()));
                self.start(cluster, is_remote, stop);
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.shutdown.draining() => return,
            }
        }
    }

    fn start(&self, cluster: Cluster, is_remote: bool, stop: CancellationToken) {
        let place = Place { id: cluster.id, client: cluster.client, is_remote, stop };
        let leading = self.clone();
        self.shutdown.spawn("lead in a cluster", async move {
            let token = place.stop.clone();
            tokio::select! {
                () = token.cancelled() => (),
                () = leading.lead(place) => (),
            }
        });
    }

    async fn lead(self, place: Place) {
        if place.is_remote && !self.should_lead(&place).await {
            tracing::info!(cluster = %place.id, "another control plane leads in the remote cluster");
            return;
        }
        tracing::info!(cluster = %place.id, "leading in cluster");
        let mut all = vec![self.spawn("root certificates", &place, namespaces::run)];
        if self.settings.patch_injection_webhooks {
            all.push(self.spawn("webhook trust", &place, webhooks::injection));
        }
        if !place.is_remote {
            all.push(self.spawn("validation trust", &place, webhooks::validation));
        }
        for done in all {
            done.cancelled().await;
        }
    }

    /// Starts a task that ends by itself when `place` is not led any more.
    fn spawn<F>(
        &self,
        name: &'static str,
        place: &Place,
        task: impl FnOnce(Self, Place) -> F,
    ) -> CancellationToken
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let done = CancellationToken::new();
        let guard = done.clone().drop_guard();
        let task = task(self.clone(), place.clone());
        self.shutdown.spawn(name, async move {
            let _guard = guard;
            task.await;
        });
        done
    }

    /// Whether the remote names this control plane. Asks until the remote answers.
    async fn should_lead(&self, place: &Place) -> bool {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
        let namespaces = Api::<Namespace>::all(place.client.clone());
        loop {
            match namespaces.get_opt(&self.settings.namespace).await {
                Ok(None) => return false,
                Ok(Some(namespace)) => {
                    let annotations = namespace.metadata.annotations.unwrap_or_default();
                    let named = annotations.get(CONTROL_PLANES).map_or("", String::as_str);
                    let own = self.settings.cluster.as_str();
                    return named.split(',').any(|name| name == own || name == "*");
                }
                Err(error) => {
                    let delay = backoff.delay();
                    tracing::warn!(cluster = %place.id, %error, ?delay, "cannot read the remote's system namespace, trying again");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tempfile::TempDir;

    use super::*;

    /// What is asked of a cluster whose control plane leads with these settings.
    async fn asked(patch_injection_webhooks: bool) -> Vec<String> {
        let (asked, heard) =
            (Arc::new(Mutex::new(Vec::new())), Arc::new(tokio::sync::Notify::new()));
        let server = {
            let (asked, heard) = (asked.clone(), heard.clone());
            tower::service_fn(move |request: http::Request<kube::client::Body>| {
                asked.lock().push(request.uri().path().to_owned());
                heard.notify_one();
                std::future::pending::<Result<http::Response<kube::client::Body>, std::io::Error>>()
            })
        };
        let client = kube::Client::new(server, "default");
        let home = ClusterId::new("cluster01");
        let clusters = Clusters::new(home, client);
        let settings = crate::serve::tests::settings(&TempDir::new().unwrap());
        let settings = Settings { leader_election: false, patch_injection_webhooks, ..settings };
        let (_roots, roots) = watch::channel(Arc::from("roots"));
        let shutdown = Shutdown::default();
        let (settings, revocations) = (Arc::new(settings), roots.clone());
        let leading =
            Leading { settings, clusters, roots, revocations, shutdown: shutdown.clone() };
        shutdown.spawn("leading", leading.run());
        // The validation webhooks are looked at last.
        let last = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
        while !asked.lock().iter().any(|path| path == last) {
            heard.notified().await;
        }
        shutdown.draining_token().cancel();
        asked.lock().clone()
    }

    #[tokio::test]
    async fn injection_webhooks_are_left_alone_when_they_are_patched_by_other_means() {
        let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations".to_owned();
        assert!(asked(true).await.contains(&path));
        assert!(!asked(false).await.contains(&path));
    }
}
