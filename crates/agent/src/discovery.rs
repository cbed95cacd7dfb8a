//! Follows the control plane and hands what it sends to the proxy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;
use tombolo_proxy::proxy::Proxy;
use tombolo_proxy::snapshot::{Builder, Kind};
use tombolo_runtime::ready::Blocker;
use tombolo_xds::client::{Connect, Connection, Handler, Refusal, Subscriptions, Update};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use crate::certificates::{authorization, control_plane};
use crate::settings::Settings;

/// What came from the control plane so far. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Received(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    updates: BTreeMap<String, u64>,
    rejections: BTreeMap<(Kind, String), Rejected>,
    versions: BTreeMap<String, String>,
    connected: bool,
    reason: String,
    resources: BTreeMap<Kind, BTreeMap<String, Accepted>>,
}

/// A resource as it came.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub bytes: Bytes,
    /// The version of this resource, not of the response it came in.
    pub version: String,
    pub since: SystemTime,
}

/// A resource that the proxy could not use. What it had before, if anything, still counts.
#[derive(Clone, Debug)]
pub struct Rejected {
    pub reason: String,
    pub version: String,
    pub at: SystemTime,
}

impl Received {
    /// The accepted resources of one kind.
    pub fn resources(&self, kind: Kind) -> BTreeMap<String, Accepted> {
        self.0.lock().resources.get(&kind).cloned().unwrap_or_default()
    }

    /// The rejected resources of one kind.
    pub fn rejected(&self, kind: Kind) -> BTreeMap<String, Rejected> {
        let state = self.0.lock();
        let mine = state.rejections.iter().filter(|((of, _), _)| *of == kind);
        mine.map(|((_, name), rejected)| (name.clone(), rejected.clone())).collect()
    }

    /// Version and number of updates by type.
    pub fn versions(&self) -> BTreeMap<String, (String, u64)> {
        let state = self.0.lock();
        let entry = |(url, count): (&String, &u64)| {
            (url.clone(), (state.versions.get(url).cloned().unwrap_or_default(), *count))
        };
        state.updates.iter().map(entry).collect()
    }

    /// What was rejected, by resource.
    pub fn rejections(&self) -> BTreeMap<String, String> {
        let state = self.0.lock();
        let reason = |((_, name), rejected): (&(Kind, String), &Rejected)| {
            (name.clone(), rejected.reason.clone())
        };
        state.rejections.iter().map(reason).collect()
    }

    /// Whether a stream is open, and if not, why.
    pub fn connection(&self) -> (bool, String) {
        let state = self.0.lock();
        (state.connected, state.reason.clone())
    }

    /// Why the proxy is not ready, in Istio's words; none if it is.
    pub fn missing(&self) -> Option<&'static str> {
        let state = self.0.lock();
        let count = |kind: Kind| state.updates.get(kind.url()).copied().unwrap_or(0);
        match (count(Kind::Upstream), count(Kind::Listener)) {
            (0, 0) => Some("config not received from XDS server (is Istiod running?)"),
            (0, _) | (_, 0) => Some("config not fully received from XDS server"),
            _ => None,
        }
    }
}

/// Applies updates in order.
#[derive(Debug)]
pub struct Follower {
    proxy: Arc<Proxy>,
    builder: Builder,
    subscriptions: Subscriptions,
    received: Received,
    blocker: Option<Blocker>,
}

impl Follower {
    /// A follower of everything a proxy needs. `blocker` goes when all of it has come.
    pub fn new(
        proxy: Arc<Proxy>,
        subscriptions: Subscriptions,
        received: Received,
        blocker: Blocker,
    ) -> Self {
        subscriptions.want_all(Kind::Upstream.url());
        subscriptions.want_all(Kind::Listener.url());
        let builder = Builder::new(proxy.snapshot.clone());
        Self { proxy, builder, subscriptions, received, blocker: Some(blocker) }
    }
}

impl Handler for Follower {
    fn update(&mut self, update: Update) -> Vec<Refusal> {
        let Some(kind) = Kind::from_url(&update.type_url) else {
            // Nobody subscribed to it, so this is the server's mistake; say so to it.
            let refuse = |resource: &tombolo_xds::resource::Resource| Refusal {
                name: resource.name.clone(),
                reason: format!("the type {} was not asked for", update.type_url),
            };
            return update.changed.iter().map(refuse).collect();
        };
        let versions: BTreeMap<String, String> = update
            .changed
            .iter()
            .map(|resource| (resource.name.to_string(), resource.version.to_string()))
            .collect();
        let version = |name: &str| versions.get(name).cloned().unwrap_or_default();
        let now = SystemTime::now();
        let added: Vec<(String, Bytes)> = update
            .changed
            .iter()
            .map(|resource| (resource.name.to_string(), resource.body.value.clone()))
            .collect();
        let removed: Vec<String> = update.removed.iter().map(ToString::to_string).collect();
        let rejections = self.builder.apply(kind, &added, &removed);
        if kind == Kind::Upstream {
            self.subscriptions
                .want_names(Kind::Endpoints.url(), names(self.builder.wanted_assignments()));
        }
        if kind == Kind::Listener {
            self.subscriptions.want_names(Kind::Routes.url(), names(self.builder.wanted_routes()));
        }
        self.proxy.announce();
        let mut state = self.received.0.lock();
        *state.updates.entry(update.type_url.clone()).or_default() += 1;
        state.versions.insert(update.type_url, update.version);
        for (name, _) in &added {
            state.rejections.remove(&(kind, name.clone()));
        }
        for name in &removed {
            state.rejections.remove(&(kind, name.clone()));
        }
        let resources = state.resources.entry(kind).or_default();
        for name in &removed {
            resources.remove(name);
        }
        for (name, bytes) in added {
            if rejections.iter().all(|rejection| rejection.name != name) {
                let version = version(&name);
                resources.insert(name, Accepted { bytes, version, since: now });
            }
        }
        let refusal = |rejection: tombolo_proxy::snapshot::Rejection| {
            let reason = rejection.problem.to_string();
            tracing::warn!(resource = rejection.name, reason, "configuration rejected");
            let rejected =
                Rejected { reason: reason.clone(), version: version(&rejection.name), at: now };
            state.rejections.insert((kind, rejection.name.clone()), rejected);
            Refusal { name: rejection.name.into(), reason }
        };
        let refused = rejections.into_iter().map(refusal).collect();
        drop(state);
        if self.received.missing().is_none() && self.builder.is_complete() {
            drop(self.blocker.take());
        }
        refused
    }

    fn connection(&mut self, connection: Connection) {
        let mut state = self.received.0.lock();
        match connection {
            Connection::Up => {
                state.connected = true;
                state.reason.clear();
            }
            Connection::Down(reason) => {
                state.connected = false;
                state.reason = reason;
            }
        }
    }
}

fn names(names: std::collections::BTreeSet<String>) -> Vec<Arc<str>> {
    names.into_iter().map(Into::into).collect()
}

/// Connects with the workload's token, under the mounted roots.
#[derive(Debug)]
pub struct ByToken(pub Arc<Settings>);

#[tonic::async_trait]
impl Connect for ByToken {
    async fn connect(
        &mut self,
    ) -> Result<(Channel, MetadataMap), Box<dyn std::error::Error + Send + Sync>> {
        let target = control_plane(&self.0, &self.0.discovery_address)?;
        let metadata = authorization(&self.0)?;
        Ok((target.connect().await?, metadata))
    }
}
