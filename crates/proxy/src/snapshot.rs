//! The routing snapshot that traffic reads, and how updates make the next one.
//!
//! Updates are applied by one owner, [`Builder`]; readers take whole snapshots without a lock. A
//! listener that names routes which have not arrived keeps its former version until they have.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use prost::Message;
use tombolo_xds::proto::envoy::config::cluster::v3::Cluster;
use tombolo_xds::proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use tombolo_xds::proto::envoy::config::listener::v3::Listener as ListenerProto;
use tombolo_xds::proto::envoy::config::route::v3::RouteConfiguration;

use crate::config::endpoints::{Assignment, assignment};
use crate::config::http::RouteSource;
use crate::config::listener::{Listener, Terminal, listener};
use crate::config::problem::Problem;
use crate::config::routes::{Routes, routes};
use crate::config::strict;
use crate::config::upstream::{Source, upstream};
use crate::connect::upstream::Upstream;

/// Everything that decides where traffic goes, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub listeners: Arc<BTreeMap<Arc<str>, Arc<Listener>>>,
    pub routes: Arc<HashMap<Arc<str>, Arc<Routes>>>,
    pub upstreams: Arc<HashMap<Arc<str>, Arc<Upstream>>>,
}

/// The kinds of resources that make a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Upstream,
    Endpoints,
    Listener,
    Routes,
}

impl Kind {
    /// The type URL.
    pub fn url(self) -> &'static str {
        match self {
            Self::Upstream => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The kind with this type URL.
    pub fn from_url(url: &str) -> Option<Self> {
        [Self::Upstream, Self::Endpoints, Self::Listener, Self::Routes]
            .into_iter()
            .find(|kind| kind.url() == url)
    }
}

/// Why a resource is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct Rejection {
    pub name: String,
    pub problem: Problem,
}

/// Applies updates and publishes snapshots.
#[derive(Debug)]
pub struct Builder {
    current: Arc<ArcSwap<Snapshot>>,
    /// What came and could not be used.
    rejected: BTreeSet<(Kind, String)>,
    listeners: BTreeMap<Arc<str>, Arc<Listener>>,
    routes: HashMap<Arc<str>, Arc<Routes>>,
    upstreams: HashMap<Arc<str>, Arc<Upstream>>,
    assignments: HashMap<String, Assignment>,
    /// The accepted resources as they came, for the admin server.
    raw: BTreeMap<Kind, BTreeMap<String, bytes::Bytes>>,
}

impl Builder {
    /// A builder that publishes to `current`.
    pub fn new(current: Arc<ArcSwap<Snapshot>>) -> Self {
        Self {
            current,
            rejected: BTreeSet::new(),
            listeners: BTreeMap::new(),
            routes: HashMap::new(),
            upstreams: HashMap::new(),
            assignments: HashMap::new(),
            raw: BTreeMap::new(),
        }
    }

    /// Applies one response: what is good in it counts, what is not is returned and leaves the
    /// former version in place.
    pub fn apply(
        &mut self,
        kind: Kind,
        added: &[(String, bytes::Bytes)],
        removed: &[String],
    ) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for (name, bytes) in added {
            match self.add(kind, name, bytes) {
                Ok(()) => {
                    self.rejected.remove(&(kind, name.clone()));
                    self.raw.entry(kind).or_default().insert(name.clone(), bytes.clone());
                }
                Err(problem) => {
                    self.rejected.insert((kind, name.clone()));
                    rejections.push(Rejection { name: name.clone(), problem });
                }
            }
        }
        for name in removed {
            self.remove(kind, name);
        }
        self.publish();
        rejections
    }

    /// The names of routes that the listeners need.
    pub fn wanted_routes(&self) -> BTreeSet<String> {
        self.listeners.values().flat_map(|listener| route_names(listener)).collect()
    }

    /// The names of assignments that the upstreams need.
    pub fn wanted_assignments(&self) -> BTreeSet<String> {
        let name = |upstream: &Arc<Upstream>| match &upstream.config.source {
            Source::Discovery(name) => Some(name.clone()),
            _ => None,
        };
        self.upstreams.values().filter_map(name).collect()
    }

    /// Whether everything that is needed has arrived. What was rejected has: the rest must not
    /// wait for it.
    pub fn is_complete(&self) -> bool {
        let came = |kind, name: String| self.rejected.contains(&(kind, name));
        self.wanted_routes()
            .into_iter()
            .all(|name| self.routes.contains_key(name.as_str()) || came(Kind::Routes, name))
            && self
                .wanted_assignments()
                .into_iter()
                .all(|name| self.assignments.contains_key(&name) || came(Kind::Endpoints, name))
    }

    /// The accepted resources of one kind, as they came.
    pub fn raw(&self, kind: Kind) -> BTreeMap<String, bytes::Bytes> {
        self.raw.get(&kind).cloned().unwrap_or_default()
    }

    fn add(&mut self, kind: Kind, name: &str, bytes: &[u8]) -> Result<(), Problem> {
        strict::check(kind.url(), bytes)?;
        let key: Arc<str> = name.into();
        match kind {
            Kind::Listener => {
                let listener = listener(&decode::<ListenerProto>(bytes)?)?;
                self.listeners.insert(key, Arc::new(listener));
            }
            Kind::Routes => {
                let routes = routes(&decode::<RouteConfiguration>(bytes)?)?;
                self.routes.insert(key, Arc::new(routes));
            }
            Kind::Endpoints => {
                let assignment = assignment(&decode::<ClusterLoadAssignment>(bytes)?)?;
                for upstream in self.upstreams.values() {
                    if matches!(&upstream.config.source, Source::Discovery(known) if known == name)
                    {
                        upstream.update(&assignment);
                    }
                }
                self.assignments.insert(name.to_owned(), assignment);
            }
            Kind::Upstream => {
                let config = upstream(&decode::<Cluster>(bytes)?)?;
                let before = self.upstreams.get(&key);
                if before.is_some_and(|before| before.config == config) {
                    return Ok(());
                }
                let none = Assignment::default();
                let assignment = match &config.source {
                    Source::Discovery(name) => self.assignments.get(name).unwrap_or(&none).clone(),
                    Source::Static(assignment) => assignment.clone(),
                    Source::OriginalDestination | Source::Dns(_) => none,
                };
                let made = Upstream::new(config, &assignment, before.map(AsRef::as_ref));
                self.upstreams.insert(key, Arc::new(made));
            }
        }
        Ok(())
    }

    fn remove(&mut self, kind: Kind, name: &str) {
        if let Some(raw) = self.raw.get_mut(&kind) {
            raw.remove(name);
        }
        self.rejected.remove(&(kind, name.to_owned()));
        match kind {
            Kind::Listener => drop(self.listeners.remove(name)),
            Kind::Routes => drop(self.routes.remove(name)),
            Kind::Upstream => drop(self.upstreams.remove(name)),
            Kind::Endpoints => {
                self.assignments.remove(name);
                for upstream in self.upstreams.values() {
                    if matches!(&upstream.config.source, Source::Discovery(known) if known == name)
                    {
                        upstream.update(&Assignment::default());
                    }
                }
            }
        }
    }

    fn publish(&self) {
        let before = self.current.load();
        let warm = |listener: &Listener| {
            route_names(listener).iter().all(|name| self.routes.contains_key(name.as_str()))
        };
        let mut listeners = BTreeMap::new();
        for (name, listener) in &self.listeners {
            if warm(listener) {
                listeners.insert(name.clone(), listener.clone());
            } else if let Some(before) = before.listeners.get(name) {
                listeners.insert(name.clone(), before.clone());
            }
        }
        self.current.store(Arc::new(Snapshot {
            listeners: Arc::new(listeners),
            routes: Arc::new(self.routes.clone()),
            upstreams: Arc::new(self.upstreams.clone()),
        }));
    }
}

fn route_names(listener: &Listener) -> Vec<String> {
    let name = |terminal: &Terminal| match terminal {
        Terminal::Http(http) => match &http.routes {
            RouteSource::Named(name) => Some(name.to_string()),
            RouteSource::Inline(_) => None,
        },
        Terminal::Tcp(_) => None,
    };
    listener.chains.iter().filter_map(|chain| name(&chain.terminal)).collect()
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, Problem> {
    M::decode(bytes).map_err(|error| Problem::new(format!("cannot be read: {error}")))
}
