//! One cluster followed: a watch per kind, each event reduced and passed on.

use std::collections::BTreeSet;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::runtime::watcher::{self, Event as Watched, watcher};
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tombolo_model::id::{ClusterId, ObjectName};
use tombolo_runtime::backoff::Backoff;
use tombolo_runtime::errors::chain;
use tombolo_runtime::ready::Blocker;
use tombolo_runtime::shutdown::Shutdown;

use crate::index::live::{Change, Event, Incarnation, MeshSettings};
use crate::index::objects::{Kind, Object};
use crate::watch::clusters::{Clusters, Sync};
use crate::watch::{extract, mesh, started};

#[cfg(test)]
mod tests;

/// How long to wait between attempts, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often a cluster's API server is asked whether it is there, and how long it may take.
const PROBE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// Objects per page of a list.
const PAGE: u32 = 500;

/// Stands for the mesh's settings.
const MESH: Kind = Kind::Istio("MeshConfig");

/// Every Istio kind: name, group, plural, versions by preference. Those that have no effect are
/// followed too, so that users are told.
const ISTIO: &[(&str, &str, &str, &[&str])] = &[
    ("AuthorizationPolicy", "security.istio.io", "authorizationpolicies", &["v1", "v1beta1"]),
    ("DestinationRule", "networking.istio.io", "destinationrules", &["v1", "v1beta1", "v1alpha3"]),
    ("EnvoyFilter", "networking.istio.io", "envoyfilters", &["v1alpha3"]),
    ("Gateway", "networking.istio.io", "gateways", &["v1", "v1beta1", "v1alpha3"]),
    ("PeerAuthentication", "security.istio.io", "peerauthentications", &["v1", "v1beta1"]),
    ("ProxyConfig", "networking.istio.io", "proxyconfigs", &["v1beta1"]),
    ("RequestAuthentication", "security.istio.io", "requestauthentications", &["v1", "v1beta1"]),
    ("ServiceEntry", "networking.istio.io", "serviceentries", &["v1", "v1beta1", "v1alpha3"]),
    ("Sidecar", "networking.istio.io", "sidecars", &["v1", "v1beta1", "v1alpha3"]),
    ("Telemetry", "telemetry.istio.io", "telemetries", &["v1", "v1alpha1"]),
    ("VirtualService", "networking.istio.io", "virtualservices", &["v1", "v1beta1", "v1alpha3"]),
    ("WasmPlugin", "extensions.istio.io", "wasmplugins", &["v1alpha1"]),
    ("WorkloadEntry", "networking.istio.io", "workloadentries", &["v1", "v1beta1", "v1alpha3"]),
];

/// One connection to a cluster, and where what it sees goes.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) cluster: ClusterId,
    pub(crate) incarnation: Incarnation,
    pub(crate) client: kube::Client,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) clusters: Clusters,
    /// Ends the connection.
    pub(crate) ended: CancellationToken,
    progress: Arc<Mutex<Progress>>,
}

/// What a cluster is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    /// Whether its API server is there.
    Version,
    Objects(Kind),
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version => f.write_str("API server version"),
            Self::Objects(kind) => write!(f, "{kind}"),
        }
    }
}

/// What of a cluster has been seen, and what fails now.
struct Progress {
    pending: BTreeSet<Kind>,
    failing: BTreeSet<Asked>,
    /// Held until everything has been seen.
    blocker: Option<Blocker>,
    synced: bool,
}

impl Connection {
    pub(crate) fn new(
        cluster: ClusterId,
        incarnation: Incarnation,
        client: kube::Client,
        events: mpsc::Sender<Event>,
        clusters: Clusters,
    ) -> Self {
        Self {
            cluster,
            incarnation,
            client,
            events,
            clusters,
            ended: CancellationToken::new(),
            progress: Arc::new(Mutex::new(Progress {
                pending: BTreeSet::new(),
                failing: BTreeSet::new(),
                blocker: None,
                synced: false,
            })),
        }
    }

    /// Starts to follow the cluster. `blocker` is dropped when everything has been seen once.
    /// `mesh` names the mesh's settings, in the cluster that has them.
    pub(crate) async fn start(
        &self,
        shutdown: &Shutdown,
        blocker: Blocker,
        mesh: Option<ObjectName>,
    ) {
        let mut kinds = vec![Kind::Service, Kind::Slice, Kind::Pod, Kind::Node, Kind::Namespace];
        if mesh.is_some() {
            kinds.extend(ISTIO.iter().map(|(kind, ..)| Kind::Istio(kind)));
            kinds.push(MESH);
        }
        {
            let mut progress = self.progress.lock();
            progress.pending = kinds.into_iter().collect();
            progress.blocker = Some(blocker);
            self.show(&progress);
        }
        self.tell(Change::Opened).await;
        let spawn = |task: futures::future::BoxFuture<'static, ()>| {
            let (ended, draining) = (self.ended.clone(), shutdown.draining_token());
            shutdown.spawn("follow cluster", async move {
                tokio::select! {
                    () = task => (),
                    () = ended.cancelled() => (),
                    () = draining.cancelled() => (),
                }
            });
        };
        spawn(self.kubernetes::<Service>(Kind::Service, |it| {
            Some(Object::Service(extract::service(it)))
        }));
        spawn(
            self.kubernetes::<EndpointSlice>(Kind::Slice, |it| {
                extract::slice(it).map(Object::Slice)
            }),
        );
        spawn(self.kubernetes::<Pod>(Kind::Pod, |it| Some(Object::Pod(extract::pod(it)))));
        spawn(self.kubernetes::<Node>(Kind::Node, |it| Some(Object::Node(extract::node(it)))));
        spawn(self.kubernetes::<Namespace>(Kind::Namespace, |it| {
            Some(Object::Namespace(extract::namespace(it)))
        }));
        if let Some(name) = mesh {
            for (kind, group, plural, versions) in ISTIO {
                spawn(Box::pin(self.clone().istio(kind, group, plural, versions)));
            }
            spawn(Box::pin(self.clone().mesh(name)));
        }
        spawn(Box::pin(self.clone().probe()));
    }

    async fn tell(&self, change: Change) {
        let event = Event { cluster: self.cluster.clone(), incarnation: self.incarnation, change };
        // The receiver goes only when the process ends.
        if self.events.send(event).await.is_err() {
            self.ended.cancel();
        }
    }

    fn kubernetes<K>(
        &self,
        kind: Kind,
        reduce: fn(K) -> Option<Object>,
    ) -> futures::future::BoxFuture<'static, ()>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let api = Api::<K>::all(self.heeded(kind));
        Box::pin(self.clone().follow(api, kind, reduce))
    }

    /// The client, for watches of `kind`.
    fn heeded(&self, kind: Kind) -> kube::Client {
        let connection = self.clone();
        started::heeding(&self.client, move || connection.works(Asked::Objects(kind)))
    }

    /// Follows one kind for ever. An object that cannot be read stops nothing.
    async fn follow<K>(self, api: Api<K>, kind: Kind, reduce: impl Fn(K) -> Option<Object>)
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let config = watcher::Config::default().page_size(PAGE);
        let mut stream = std::pin::pin!(watcher(api, config));
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut fresh = Vec::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Watched::Init) => fresh.clear(),
                Ok(Watched::InitApply(object)) => fresh.extend(reduce(object)),
                Ok(Watched::InitDone) => {
                    backoff.reset();
                    self.works(Asked::Objects(kind));
                    self.tell(Change::Replace(kind, std::mem::take(&mut fresh))).await;
                    self.seen(kind).await;
                }
                Ok(Watched::Apply(object)) => {
                    let name = name_of(&object);
                    match reduce(object) {
                        Some(object) => self.tell(Change::Apply(object)).await,
                        None => self.tell(Change::Delete(kind, name)).await,
                    }
                }
                Ok(Watched::Delete(object)) => {
                    self.tell(Change::Delete(kind, name_of(&object))).await;
                }
                Err(error) => {
                    self.interrupted(kind, &error);
                    tokio::time::sleep(backoff.delay()).await;
                }
            }
        }
    }

    fn interrupted(&self, kind: Kind, error: &watcher::Error) {
        match started::failure(error) {
            Some(why) => self.fails(Asked::Objects(kind), &why),
            None => tracing::debug!(
                cluster = %self.cluster, %kind, error = %chain(error), "watch interrupted"
            ),
        }
    }

    /// Notes that a kind has been seen once.
    async fn seen(&self, kind: Kind) {
        let done = {
            let mut progress = self.progress.lock();
            let last = progress.pending.remove(&kind) && progress.pending.is_empty();
            if last {
                progress.synced = true;
            } else {
                self.show(&progress);
            }
            last
        };
        if !done {
            return;
        }
        // The event goes before the blocker, so that whoever waits for the blocker has it.
        self.tell(Change::Synced).await;
        tracing::info!(cluster = %self.cluster, "cluster synced");
        let mut progress = self.progress.lock();
        self.show(&progress);
        progress.blocker = None;
    }

    /// Gives up waiting for everything to be seen; the watches go on.
    pub(crate) fn wait_no_longer(&self) {
        let mut progress = self.progress.lock();
        if progress.blocker.take().is_some() {
            drop(progress);
            self.clusters.set_sync(&self.cluster, self.incarnation, Sync::Timeout);
            tracing::warn!(
                cluster = %self.cluster,
                "the cluster does not answer in time: going on without it, it is added when it does"
            );
        }
    }

    /// Whether everything has been seen once.
    pub(crate) fn is_synced(&self) -> bool {
        self.progress.lock().synced
    }

    /// Follows an Istio kind in whichever version the cluster serves.
    async fn istio(
        self,
        kind: &'static str,
        group: &'static str,
        plural: &'static str,
        versions: &'static [&'static str],
    ) {
        let client = self.heeded(Kind::Istio(kind));
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            for version in versions {
                let of = GroupVersionKind::gvk(group, version, kind);
                let resource = ApiResource::from_gvk_with_plural(&of, plural);
                let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
                match api.list(&ListParams::default().limit(1)).await {
                    Ok(_) => {
                        let reduce = move |it| Some(Object::Istio(extract::istio(kind, it)));
                        return self.follow(api, Kind::Istio(kind), reduce).await;
                    }
                    Err(kube::Error::Api(status)) if status.code == 404 => (),
                    Err(error) => {
                        let asked = Asked::Objects(Kind::Istio(kind));
                        self.fails(asked, &chain(&error).to_string());
                        // Not known whether it is served: try all versions again.
                        break;
                    }
                }
                if Some(version) == versions.last() {
                    // The kind is not installed, which is all there is to see.
                    self.works(Asked::Objects(Kind::Istio(kind)));
                    self.tell(Change::Replace(Kind::Istio(kind), Vec::new())).await;
                    self.seen(Kind::Istio(kind)).await;
                }
            }
            tokio::time::sleep(backoff.delay()).await;
        }
    }

    /// Follows the mesh's settings.
    async fn mesh(self, name: ObjectName) {
        let api = Api::<ConfigMap>::namespaced(self.heeded(MESH), &name.namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={}", name.name));
        let mut stream = std::pin::pin!(watcher(api, config));
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let (mut settings, mut found, mut read) = (MeshSettings::default(), false, false);
        while let Some(event) = stream.next().await {
            let data = match event {
                Ok(Watched::Init) => {
                    found = false;
                    continue;
                }
                Ok(Watched::InitApply(map) | Watched::Apply(map)) => {
                    (found, read) = (true, true);
                    map.data.unwrap_or_default()
                }
                Ok(Watched::InitDone) => {
                    backoff.reset();
                    if !found && read {
                        tracing::warn!(
                            cluster = %self.cluster, config_map = %name,
                            "the mesh's settings are gone: those before hold"
                        );
                    } else if !found {
                        self.tell(Change::Mesh(Box::default())).await;
                    }
                    self.works(Asked::Objects(MESH));
                    self.seen(MESH).await;
                    continue;
                }
                // Settings that were deleted by mistake go on to hold, also after the next list.
                Ok(Watched::Delete(_)) => continue,
                Err(error) => {
                    self.interrupted(MESH, &error);
                    tokio::time::sleep(backoff.delay()).await;
                    continue;
                }
            };
            settings = mesh::settings(&self.cluster, &name, &data, &settings);
            self.tell(Change::Mesh(Box::new(settings.clone()))).await;
        }
    }

    /// Asks from time to time whether the API server is there. A watch alone notices a silent
    /// loss only after minutes.
    async fn probe(self) {
        loop {
            tokio::time::sleep(PROBE.0).await;
            self.ask().await;
        }
    }

    async fn ask(&self) {
        let asked = tokio::time::timeout(PROBE.1, self.client.apiserver_version()).await;
        match asked {
            Ok(Ok(_)) => self.works(Asked::Version),
            // An answer that forbids is an answer. One to nobody it knows is none to us, and
            // others may come from what stands in front of the API server.
            Ok(Err(kube::Error::Api(status))) if status.code != 401 && status.code < 500 => {
                self.works(Asked::Version);
            }
            Ok(Err(error)) => self.fails(Asked::Version, &chain(&error).to_string()),
            Err(_) => self.fails(Asked::Version, &format!("no answer within {:?}", PROBE.1)),
        }
    }

    /// Notes that something is not answered, and says why when that is new.
    fn fails(&self, asked: Asked, why: &str) {
        let mut progress = self.progress.lock();
        if !progress.failing.insert(asked) {
            return;
        }
        tracing::warn!(
            cluster = %self.cluster, %asked, error = why,
            "cluster not followed: what was seen of it last holds, trying again"
        );
        self.show(&progress);
    }

    /// Notes that something is answered.
    fn works(&self, asked: Asked) {
        let mut progress = self.progress.lock();
        if !progress.failing.remove(&asked) {
            return;
        }
        tracing::info!(cluster = %self.cluster, %asked, "cluster followed again");
        self.show(&progress);
    }

    /// Brings what others see of the connection in line with its progress.
    fn show(&self, progress: &Progress) {
        if progress.synced {
            let sync = if progress.failing.is_empty() { Sync::Synced } else { Sync::Stale };
            self.clusters.set_sync(&self.cluster, self.incarnation, sync);
        }
        if let Some(blocker) = &progress.blocker {
            let kind = |kind: &Kind| match progress.failing.contains(&Asked::Objects(*kind)) {
                true => format!("{kind} (fails, see the log)"),
                false => kind.to_string(),
            };
            let kinds: Vec<String> = progress.pending.iter().map(kind).collect();
            let text = match kinds.as_slice() {
                [] => format!("cluster {}", self.cluster),
                kinds => format!("cluster {}: {}", self.cluster, kinds.join(", ")),
            };
            blocker.describe(text);
        }
    }
}

fn name_of<K: Resource>(object: &K) -> ObjectName {
    let metadata = object.meta();
    ObjectName::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}
