//! Puts the roots into every namespace, as ConfigMap `istio-ca-root-cert`, and the lists of revoked
//! certificates, if there are any, as `istio-ca-crl`; and keeps them there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tombolo_ca::bundle::REVOCATIONS;
use tombolo_model::id::ClusterId;
use tombolo_runtime::backoff::Backoff;

use crate::lead::election::{Candidate, Held};
use crate::lead::{Leading, Place};

const LOCK: &str = "istio-namespace-controller-election";
/// The key of the roots.
const ROOTS: &str = "root-cert.pem";
const LABEL: (&str, &str) = ("istio.io/config", "true");
/// Namespaces of the cluster itself, where nothing of the mesh runs.
const SKIPPED: [&str; 3] = ["kube-public", "kube-node-lease", "local-path-storage"];
/// Events come in swarms; one look at all of them is enough.
const SETTLE: Duration = Duration::from_millis(20);

pub(super) async fn run(leading: Leading, place: Place) {
    let Leading { settings, roots, revocations, .. } = leading;
    let mark = if place.is_remote { "^" } else { "" };
    let candidate = Candidate {
        client: place.client.clone(),
        namespace: settings.namespace.clone(),
        lock: LOCK.into(),
        identity: settings.pod.clone(),
        key: format!("{mark}{}", settings.revision),
    };
    let stop = place.stop.clone();
    let mut maps = vec![(settings.root_config_map.clone(), ROOTS, roots)];
    if let Some(name) = settings.revocations_config_map.clone() {
        maps.push((name, REVOCATIONS, revocations));
    }
    candidate
        .run(settings.leader_election, stop, |held| {
            let writers = maps.clone().into_iter().map(|(name, key, text)| {
                let writer = Writer {
                    cluster: place.id.clone(),
                    client: place.client.clone(),
                    name,
                    key,
                    text,
                    held: held.clone(),
                    namespaces: BTreeSet::new(),
                    there: BTreeMap::new(),
                };
                writer.run()
            });
            let all = futures::future::join_all(writers);
            async { drop(all.await) }
        })
        .await;
}

/// What the cluster holds, and what it should.
struct Writer {
    cluster: ClusterId,
    client: Client,
    /// The ConfigMap's name.
    name: String,
    /// Its key for the text.
    key: &'static str,
    /// What it shall hold. Nothing is written until there is something.
    text: watch::Receiver<Arc<str>>,
    held: Held,
    /// The namespaces that shall have the text.
    namespaces: BTreeSet<String>,
    /// What namespaces have.
    there: BTreeMap<String, ConfigMap>,
}

impl Writer {
    async fn run(mut self) {
        tokio::select! {
            some = self.text.wait_for(|text| !text.is_empty()) => if some.is_err() { return },
            () = self.held.lost() => return,
        }
        let named = format!("metadata.name={}", self.name);
        let mut namespaces =
            follow::<Namespace>(Api::all(self.client.clone()), watcher::Config::default());
        let mut maps = follow::<ConfigMap>(
            Api::all(self.client.clone()),
            watcher::Config::default().fields(&named),
        );
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(10));
        let mut again: Option<Duration> = None;
        let mut seen = (false, false);
        loop {
            let retry = async {
                match again {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(event) = namespaces.next() => seen.0 |= self.namespace(event),
                Some(event) = maps.next() => seen.1 |= self.map(event),
                changed = self.text.changed() => if changed.is_err() { return },
                () = retry => (),
                () = self.held.lost() => return,
            }
            // Until both lists are complete, what is missing may only be unseen.
            if seen != (true, true) {
                continue;
            }
            tokio::time::sleep(SETTLE).await;
            while let Some(Some(event)) = futures::FutureExt::now_or_never(namespaces.next()) {
                self.namespace(event);
            }
            while let Some(Some(event)) = futures::FutureExt::now_or_never(maps.next()) {
                self.map(event);
            }
            again = match self.write().await {
                true => {
                    backoff.reset();
                    None
                }
                false => Some(backoff.delay()),
            };
        }
    }

    /// Takes an event in; says whether the first list is complete with it.
    fn namespace(&mut self, event: watcher::Event<Namespace>) -> bool {
        match event {
            watcher::Event::Init => self.namespaces.clear(),
            watcher::Event::InitDone => return true,
            watcher::Event::Apply(namespace) | watcher::Event::InitApply(namespace) => {
                let name = namespace.metadata.name.unwrap_or_default();
                let ends = namespace.metadata.deletion_timestamp.is_some()
                    || namespace.status.and_then(|it| it.phase).as_deref() == Some("Terminating");
                if ends || SKIPPED.contains(&name.as_str()) {
                    self.namespaces.remove(&name);
                } else {
                    self.namespaces.insert(name);
                }
            }
            watcher::Event::Delete(namespace) => {
                self.namespaces.remove(&namespace.metadata.name.unwrap_or_default());
            }
        }
        false
    }

    fn map(&mut self, event: watcher::Event<ConfigMap>) -> bool {
        match event {
            watcher::Event::Init => self.there.clear(),
            watcher::Event::InitDone => return true,
            watcher::Event::Apply(map) | watcher::Event::InitApply(map) => {
                self.there.insert(map.metadata.namespace.clone().unwrap_or_default(), map);
            }
            watcher::Event::Delete(map) => {
                self.there.remove(&map.metadata.namespace.unwrap_or_default());
            }
        }
        false
    }

    /// Writes what is missing or different. Says whether all of it worked.
    async fn write(&mut self) -> bool {
        let text = self.text.borrow_and_update().clone();
        let mut worked = true;
        for namespace in self.namespaces.clone() {
            let current = self.there.get(&namespace);
            if current.is_some_and(|map| self.is_right(map, &text)) {
                continue;
            }
            if !self.held.is_held() {
                return false;
            }
            let (wanted, is_new) = (self.wanted(&namespace, current, &text), current.is_none());
            let api = Api::<ConfigMap>::namespaced(self.client.clone(), &namespace);
            let params = PostParams::default();
            // Both fail when the lock's next holder was here first: one because the map exists,
            // the other by its resource version.
            let written = match is_new {
                true => api.create(&params, &wanted).await,
                false => api.replace(&self.name, &params, &wanted).await,
            };
            match written {
                Ok(map) => {
                    tracing::debug!(cluster = %self.cluster, namespace, config_map = self.name, "ConfigMap written");
                    self.there.insert(namespace, map);
                }
                Err(error) => {
                    worked = self.failed(&namespace, &error) && worked;
                }
            }
        }
        worked
    }

    /// Says whether a failure is none to try again after: the namespace is going away.
    fn failed(&mut self, namespace: &str, error: &kube::Error) -> bool {
        if let kube::Error::Api(status) = error {
            // Gone, or forbidden because it is being deleted: its events will tell.
            if status.code == 404
                || status.code == 403 && status.message.contains("being terminated")
            {
                return true;
            }
        }
        tracing::warn!(cluster = %self.cluster, namespace, config_map = self.name, %error, "ConfigMap not written, trying again");
        false
    }

    fn wanted(&self, namespace: &str, current: Option<&ConfigMap>, text: &str) -> ConfigMap {
        let mut map = current.cloned().unwrap_or_else(|| ConfigMap {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        });
        map.metadata.managed_fields = None;
        map.metadata.labels.get_or_insert_default().insert(LABEL.0.into(), LABEL.1.into());
        map.data.get_or_insert_default().insert(self.key.into(), text.to_owned());
        map
    }

    fn is_right(&self, map: &ConfigMap, text: &str) -> bool {
        let labels = map.metadata.labels.as_ref();
        map.data.as_ref().and_then(|data| data.get(self.key)).is_some_and(|pem| pem == text)
            && labels.and_then(|labels| labels.get(LABEL.0)).is_some_and(|value| value == LABEL.1)
    }
}

/// The events of a watch that goes on through every failure.
pub(super) fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
) -> std::pin::Pin<Box<dyn Stream<Item = watcher::Event<K>> + Send>>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
    K::DynamicType: Default,
{
    let events = watcher(api, config).default_backoff();
    Box::pin(events.filter_map(|event| async {
        event.inspect_err(|error| tracing::warn!(%error, "watch interrupted, trying again")).ok()
    }))
}
