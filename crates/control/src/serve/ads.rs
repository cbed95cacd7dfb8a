//! Aggregated discovery for the mesh's proxies: who may follow what, and one follower per proxy.
//!
//! A follower compiles the types that a change touches, from the latest picture, and publishes
//! them as one snapshot; the protocol engine sends the difference. However fast pictures change,
//! a proxy costs one compilation at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tombolo_model::endpoint::Workload;
use tombolo_model::id::ObjectName;
use tombolo_model::identity::Identity;
use tombolo_runtime::ready::Ready;
use tombolo_runtime::shutdown::Shutdown;
use tombolo_xds::proto::envoy::config::core::v3::Node;
use tombolo_xds::resource::{Resources, Snapshot};
use tombolo_xds::server::{ResourceSource, Subscriber, Wanted};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Status};

use crate::compile::resource::ResourceType;
use crate::index::picture::Picture;
use crate::proxy::Proxy;
use crate::push::publish::{Pictures, Published};
use crate::push::publisher::Publisher;
use crate::serve::authenticate::{Authenticator, Caller, Connection};
use crate::serve::certificates::unauthenticated;
use crate::serve::settings::Settings;

/// How long a new proxy may wait for its pod to be seen.
const POD: Duration = Duration::from_secs(5);

/// Turns a picture into what one proxy gets.
pub trait Compile: Send + Sync + 'static {
    /// The resources of one type for `proxy`.
    fn compile(&self, published: &Published, proxy: &Proxy, kind: ResourceType) -> Arc<Resources>;
}

/// Where proxies' streams get their resources from.
pub struct Source {
    settings: Arc<Settings>,
    authenticator: Arc<Authenticator>,
    publisher: Publisher,
    compiler: Arc<dyn Compile>,
    ready: Ready,
    shutdown: Shutdown,
    /// How many compilations run at a time.
    throttle: Arc<Semaphore>,
    connections: Connections,
}

/// The proxies that are connected now. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    all: Arc<Mutex<BTreeMap<u64, Arc<Connected>>>>,
    next: Arc<AtomicU64>,
}

/// One connected proxy.
#[derive(Debug)]
pub struct Connected {
    /// `pod.namespace-number`.
    pub id: String,
    pub proxy: Proxy,
    pub since: jiff::Timestamp,
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub types: Mutex<BTreeMap<String, TypeState>>,
}

/// How far a proxy is with one type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeState {
    pub wanted: Wanted,
    pub sent: String,
    pub sent_at: Option<jiff::Timestamp>,
    pub accepted: String,
    /// The last rejected nonce, and why.
    pub rejected: Option<(String, String)>,
}

impl Connections {
    /// Everybody who is connected, the oldest first.
    pub fn all(&self) -> Vec<Arc<Connected>> {
        self.all.lock().values().cloned().collect()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

/// What a [`Source`] works with.
#[derive(Clone)]
pub struct Parts {
    pub settings: Arc<Settings>,
    pub authenticator: Arc<Authenticator>,
    pub publisher: Publisher,
    pub compiler: Arc<dyn Compile>,
    pub ready: Ready,
    pub shutdown: Shutdown,
    pub connections: Connections,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

impl Source {
    pub fn new(parts: Parts) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            settings: parts.settings,
            authenticator: parts.authenticator,
            publisher: parts.publisher,
            compiler: parts.compiler,
            ready: parts.ready,
            shutdown: parts.shutdown,
            throttle: Arc::new(Semaphore::new(processors)),
            connections: parts.connections,
        }
    }

    /// The proxy that a node describes, if the caller may be it.
    async fn admit(&self, caller: &Caller, node: &Node) -> Result<Proxy, Status> {
        let proxy = Proxy::from_node(node, |name| self.settings.resolve(name))
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        authorize(caller, &proxy, &node.id)?;
        let mut pictures = self.publisher.subscribe();
        let seen = tokio::time::timeout(POD, seen(&mut pictures, &proxy)).await;
        match seen {
            Ok(pod) => {
                belongs(caller, &proxy, &pod)?;
                Ok(Proxy { labels: pod.labels.clone(), ..proxy })
            }
            Err(_) => {
                // Labels decide which gateway a proxy is, so they are never taken on its word.
                tracing::warn!(
                    node = proxy.id,
                    "the pod of a proxy is not known; it gets no labels"
                );
                Ok(Proxy { labels: BTreeMap::new(), ..proxy })
            }
        }
    }
}

/// Whether the pod that a proxy says it is in is of the caller's own service account.
fn belongs(caller: &Caller, proxy: &Proxy, pod: &Workload) -> Result<(), Status> {
    let of_pod = pod.identity.as_ref();
    let same = |it: &Identity| *it.service_account == *caller.id.service_account();
    if of_pod.is_none_or(same) {
        return Ok(());
    }
    let text = format!(
        "authorization failed: pod `{}` of cluster `{}` is not of the caller's service account `{}`",
        proxy.pod,
        proxy.cluster,
        caller.id.service_account()
    );
    Err(refused(caller, text))
}

fn refused(caller: &Caller, text: String) -> Status {
    tracing::warn!(caller = %caller.id, error = %text, "proxy refused");
    Status::permission_denied(text)
}

/// Waits for the proxy's pod.
async fn seen(pictures: &mut Pictures, proxy: &Proxy) -> Arc<Workload> {
    loop {
        let latest = pictures.borrow_and_update().clone();
        let pods = latest.picture.workloads.get(&proxy.cluster);
        if let Some(pod) = pods.and_then(|pods| pods.get(&proxy.pod)) {
            return pod.clone();
        }
        if pictures.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whether the verified caller may say of itself what the node says.
fn authorize(caller: &Caller, proxy: &Proxy, node: &str) -> Result<(), Status> {
    let denied = |what: &str, says: &str, is: &str| {
        let text = format!(
            "authorization failed: node `{node}` says {what} `{says}`, the caller is of `{is}`"
        );
        Err(refused(caller, text))
    };
    let id = &caller.id;
    if proxy.namespace() != id.namespace() {
        return denied("namespace", proxy.namespace(), id.namespace());
    }
    // The id names a namespace of its own, which must not be another.
    let named = node.split('~').nth(2).and_then(|pod| pod.rsplit_once('.'));
    match named {
        Some((_, namespace)) if namespace == id.namespace() => (),
        _ => return denied("namespace", node, id.namespace()),
    }
    if !proxy.service_account.is_empty() && proxy.service_account != id.service_account() {
        return denied("service account", &proxy.service_account, id.service_account());
    }
    if let Some(cluster) = &caller.cluster
        && *cluster != proxy.cluster
    {
        return denied("cluster", proxy.cluster.as_str(), cluster.as_str());
    }
    if let Some(pod) = &caller.pod
        && *pod != *proxy.pod.name
    {
        return denied("pod", &proxy.pod.name, pod);
    }
    Ok(())
}

#[tonic::async_trait]
impl ResourceSource for Source {
    type Caller = Caller;

    async fn authenticate(
        &self,
        metadata: &MetadataMap,
        connection: &Extensions,
    ) -> Result<Caller, Status> {
        if !self.ready.is_ready() {
            return Err(Status::unavailable("the control plane has not seen every cluster yet"));
        }
        self.authenticator
            .authenticate(metadata.as_ref(), connection.get::<Connection>())
            .await
            .map_err(|error| unauthenticated(&error))
    }

    async fn connect(&self, caller: Caller, node: Node) -> Result<Arc<dyn Subscriber>, Status> {
        let proxy = self.admit(&caller, &node).await?;
        let number = self.connections.next.fetch_add(1, Ordering::Relaxed);
        let ObjectName { namespace, name } = &proxy.pod;
        let id = format!("{name}.{namespace}-{number}");
        let mut follower = Follower {
            proxy: proxy.clone(),
            pictures: self.publisher.subscribe(),
            compiler: self.compiler.clone(),
            throttle: self.throttle.clone(),
            served: 0,
            snapshot: Snapshot::default(),
        };
        follower.catch_up().await;
        let (sender, snapshot) = watch::channel(Arc::new(follower.snapshot.clone()));
        let connected = Arc::new(Connected {
            id: id.clone(),
            proxy,
            since: jiff::Timestamp::now(),
            snapshot,
            types: Mutex::default(),
        });
        self.connections.all.lock().insert(number, connected.clone());
        tracing::info!(proxy = %id, caller = %caller.id, cluster = %connected.proxy.cluster, "proxy connected");
        let gone = CancellationToken::new();
        let stop = gone.clone();
        self.shutdown.spawn("proxy follower", async move {
            tokio::select! {
                () = follower.run(sender) => (),
                () = stop.cancelled() => (),
            }
        });
        let connections = self.connections.clone();
        Ok(Arc::new(Session { number, connected, connections, gone }))
    }
}

/// One proxy's stream. Ending it ends the follower.
struct Session {
    number: u64,
    connected: Arc<Connected>,
    connections: Connections,
    gone: CancellationToken,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.gone.cancel();
        self.connections.all.lock().remove(&self.number);
        tracing::info!(proxy = %self.connected.id, "proxy disconnected");
    }
}

impl Session {
    fn note(&self, type_url: &str, note: impl FnOnce(&mut TypeState)) {
        note(self.connected.types.lock().entry(type_url.to_owned()).or_default());
    }
}

impl Subscriber for Session {
    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.connected.snapshot.clone()
    }

    fn subscribed(&self, type_url: &str, wanted: &Wanted) {
        self.note(type_url, |state| state.wanted = wanted.clone());
    }

    fn sent(&self, type_url: &str, nonce: &str, resources: usize) {
        tracing::debug!(proxy = %self.connected.id, type_url, nonce, resources, "pushed");
        self.note(type_url, |state| {
            nonce.clone_into(&mut state.sent);
            state.sent_at = Some(jiff::Timestamp::now());
        });
    }

    fn accepted(&self, type_url: &str, nonce: &str) {
        self.note(type_url, |state| {
            nonce.clone_into(&mut state.accepted);
            state.rejected = None;
        });
    }

    fn rejected(&self, type_url: &str, nonce: &str, message: &str) {
        tracing::warn!(proxy = %self.connected.id, type_url, nonce, message, "configuration rejected");
        self.note(type_url, |state| state.rejected = Some((nonce.into(), message.into())));
    }
}

/// Keeps one proxy's snapshot up to date.
struct Follower {
    proxy: Proxy,
    pictures: Pictures,
    compiler: Arc<dyn Compile>,
    throttle: Arc<Semaphore>,
    /// The generation that the snapshot was compiled from.
    served: u64,
    snapshot: Snapshot,
}

impl Follower {
    async fn run(mut self, sender: watch::Sender<Arc<Snapshot>>) {
        while self.pictures.changed().await.is_ok() {
            if self.catch_up().await {
                sender.send_replace(Arc::new(self.snapshot.clone()));
            }
        }
    }

    /// Compiles what is different in the latest picture. Says whether anything is.
    async fn catch_up(&mut self) -> bool {
        let Ok(_turn) = self.throttle.clone().acquire_owned().await else { return false };
        let published = self.pictures.borrow_and_update().clone();
        let changes = published.changes_since(self.served);
        self.served = published.generation;
        self.refresh(&published.picture);
        let mut changed = false;
        for kind in ResourceType::ALL {
            if !changes.touches(kind, &self.proxy) {
                continue;
            }
            let resources = self.compiler.compile(&published, &self.proxy, kind);
            let url = type_url(kind);
            // An equal map keeps its address, by which the protocol engine knows it.
            if self.snapshot.types.get(url).is_none_or(|old| **old != *resources) {
                self.snapshot.types.insert(url, resources);
                changed = true;
            }
            // Compilations of many proxies must not keep others from the processor.
            tokio::task::yield_now().await;
        }
        if changed {
            self.snapshot.version = format!("{}/{}", jiff::Timestamp::now(), published.generation);
        }
        changed
    }

    /// Takes over the labels that the pod has by now.
    fn refresh(&mut self, picture: &Picture) {
        let pods = picture.workloads.get(&self.proxy.cluster);
        if let Some(pod) = pods.and_then(|pods| pods.get(&self.proxy.pod)) {
            self.proxy.labels.clone_from(&pod.labels);
        }
    }
}

fn type_url(kind: ResourceType) -> &'static str {
    use tombolo_xds::types;
    match kind {
        ResourceType::Cluster => types::CLUSTER,
        ResourceType::Endpoint => types::ENDPOINT,
        ResourceType::Listener => types::LISTENER,
        ResourceType::Route => types::ROUTE,
    }
}
