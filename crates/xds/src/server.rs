//! The server's end: aggregated discovery (`delta` and state of the world) over snapshots.
//!
//! *Expected flow*: [`ResourceSource::authenticate`] when a stream opens, [`ResourceSource::connect`]
//! with the node of its first request; then the stream follows the [`Subscriber`]'s snapshots.
//!
//! *Guarantees*
//! * Each response is computed when the transport asks for it, from the newest snapshot: a slow
//!   reader skips states and costs no memory beyond its own subscriptions.
//! * One change reaches a client in the order clusters, endpoints, listeners, routes, secrets.
//! * Endpoints of a cluster that was sent are sent after it, changed or not, because Envoy waits
//!   for them before it uses the cluster.
//! * A resource that a client rejected is not sent to it again until it changes.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::proto::envoy::config::core::v3::{ControlPlane, Node};
use crate::proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use crate::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use crate::resource::Snapshot;
use crate::types;

mod delta;
mod sotw;

pub use delta::Delta;
pub use sotw::Sotw;

/// The largest request a client may send.
const LARGEST_REQUEST: usize = 4 << 20;
/// How long a client may take to say who it is.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// How many types one stream may ask for.
const MOST_TYPES: usize = 64;
/// How many names of one type one stream may ask for.
const MOST_NAMES: usize = 100_000;

/// Where streams get their resources from.
#[tonic::async_trait]
pub trait ResourceSource: Send + Sync + 'static {
    /// What authentication learned about the other end of a stream.
    type Caller: Send + Sync;

    /// Decides who opens a stream, before anything is read from it.
    ///
    /// # Errors
    /// The status that ends the stream.
    async fn authenticate(
        &self,
        metadata: &MetadataMap,
        connection: &Extensions,
    ) -> Result<Self::Caller, Status>;

    /// Decides what the node may follow. It may have to wait until there is a first snapshot.
    ///
    /// # Errors
    /// The status that ends the stream, for example when node and caller do not agree.
    async fn connect(
        &self,
        caller: Self::Caller,
        node: Node,
    ) -> Result<Arc<dyn Subscriber>, Status>;
}

/// One connected client as its source sees it. Dropped when the stream ends.
pub trait Subscriber: Send + Sync {
    /// The snapshots the client follows.
    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>>;

    /// The client asked for the resources of `type_url`, by name or all of them.
    fn subscribed(&self, _type_url: &str, _wanted: &Wanted) {}

    /// A response was sent.
    fn sent(&self, _type_url: &str, _nonce: &str, _resources: usize) {}

    /// The client accepted the response with this nonce.
    fn accepted(&self, _type_url: &str, _nonce: &str) {}

    /// The client rejected the response with this nonce, saying why.
    fn rejected(&self, _type_url: &str, _nonce: &str, _message: &str) {}
}

/// Which resources of a type a client wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// All of them.
    pub all: bool,
    /// These, also when `all` is not set.
    pub names: std::collections::BTreeSet<Arc<str>>,
}

/// The aggregated discovery service over a [`ResourceSource`].
pub struct Ads<S> {
    source: Arc<S>,
    /// Named in every response as the one who answered.
    identifier: Arc<str>,
}

impl<S> fmt::Debug for Ads<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ads").field("identifier", &self.identifier).finish_non_exhaustive()
    }
}

impl<S: ResourceSource> Ads<S> {
    /// A service over `source`. `identifier` is what clients see as the control plane's name.
    pub fn new(source: Arc<S>, identifier: impl Into<Arc<str>>) -> Self {
        Self { source, identifier: identifier.into() }
    }

    /// The service for a tonic router.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(LARGEST_REQUEST)
    }

    /// Runs one stream, whichever protocol its messages are of.
    async fn follow<E: Engine>(
        &self,
        request: Request<Streaming<E::Request>>,
        engine: impl FnOnce(Arc<str>) -> E,
    ) -> Result<Response<Responses<E::Response>>, Status> {
        let (metadata, extensions, inbound) = request.into_parts();
        let caller = self.source.authenticate(&metadata, &extensions).await?;
        let engine = engine(self.identifier.clone());
        let opening = Opening { source: self.source.clone(), caller, inbound, engine };
        let stream = futures::stream::once(opening.open())
            .map(|opened| match opened {
                Ok(Some(open)) => open.responses(),
                Ok(None) => futures::stream::empty().boxed(),
                Err(status) => futures::stream::iter([Err(status)]).boxed(),
            })
            .flatten();
        Ok(Response::new(Box::pin(stream)))
    }
}

type Responses<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

/// One protocol's bookkeeping for one stream.
pub(crate) trait Engine: Send + 'static {
    type Request: Send;
    type Response: Send;

    /// The node, when the request names one.
    fn node(request: &mut Self::Request) -> Option<Node>;

    /// Takes a request in.
    fn request(
        &mut self,
        request: Self::Request,
        subscriber: &dyn Subscriber,
    ) -> Result<(), Status>;

    /// The next response that brings the client closer to `snapshot`, if it is not there yet.
    fn response(
        &mut self,
        snapshot: &Snapshot,
        subscriber: &dyn Subscriber,
    ) -> Option<Self::Response>;
}

/// A stream whose client has not said yet who it is.
struct Opening<S: ResourceSource, E: Engine> {
    source: Arc<S>,
    caller: S::Caller,
    inbound: Streaming<E::Request>,
    engine: E,
}

/// A stream whose client is known.
struct Open<E: Engine> {
    subscriber: Arc<dyn Subscriber>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    node: String,
    inbound: Streaming<E::Request>,
    engine: E,
}

impl<S: ResourceSource, E: Engine> Opening<S, E> {
    async fn open(mut self) -> Result<Option<Open<E>>, Status> {
        let first = tokio::time::timeout(FIRST_REQUEST, self.inbound.next())
            .await
            .map_err(|_| Status::deadline_exceeded("no request came on the new stream"))?;
        let Some(mut first) = first.transpose()? else { return Ok(None) };
        let node = E::node(&mut first)
            .filter(|node| !node.id.is_empty())
            .ok_or_else(|| Status::invalid_argument("the first request must name its node"))?;
        let id = node.id.clone();
        let subscriber = self.source.connect(self.caller, node).await?;
        self.engine.request(first, subscriber.as_ref())?;
        Ok(Some(Open {
            snapshots: subscriber.snapshots(),
            subscriber,
            node: id,
            inbound: self.inbound,
            engine: self.engine,
        }))
    }
}

impl<E: Engine> Open<E> {
    fn responses(self) -> Responses<E::Response> {
        Box::pin(futures::stream::unfold(Some(self), |state| async {
            let mut open = state?;
            match open.next().await {
                Ok(Some(response)) => Some((Ok(response), Some(open))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        }))
    }

    /// Waits until there is something to send. Cancel safe: requests are taken in whole.
    async fn next(&mut self) -> Result<Option<E::Response>, Status> {
        loop {
            let snapshot = self.snapshots.borrow_and_update().clone();
            if let Some(response) = self.engine.response(&snapshot, self.subscriber.as_ref()) {
                return Ok(Some(response));
            }
            tokio::select! {
                request = self.inbound.next() => match request.transpose()? {
                    None => return Ok(None),
                    Some(mut request) => {
                        if E::node(&mut request).is_some_and(|node| !node.id.is_empty() && node.id != self.node) {
                            return Err(Status::invalid_argument("the node of a stream cannot change"));
                        }
                        self.engine.request(request, self.subscriber.as_ref())?;
                    }
                },
                changed = self.snapshots.changed() => if changed.is_err() {
                    return Err(Status::unavailable("the control plane stopped following for this client; connect again"));
                },
            }
        }
    }
}

#[tonic::async_trait]
impl<S: ResourceSource> AggregatedDiscoveryService for Ads<S> {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.follow(request, Sotw::new).await
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.follow(request, Delta::new).await
    }
}

/// What the engines of both protocols keep about their stream; `W` is what they keep per type.
#[derive(Debug)]
struct Following<W> {
    identifier: Arc<str>,
    nonces: Nonces,
    watches: BTreeMap<String, W>,
}

impl<W: Default> Following<W> {
    fn new(identifier: Arc<str>) -> Self {
        Self { identifier, nonces: Nonces::default(), watches: BTreeMap::new() }
    }

    /// The watch of a type that a request names, and whether the request is the first to do so.
    fn watch(&mut self, type_url: &str) -> Result<(&mut W, bool), Status> {
        if type_url.is_empty() {
            return Err(Status::invalid_argument("a request names no type URL"));
        }
        let first = !self.watches.contains_key(type_url);
        if first && self.watches.len() >= MOST_TYPES {
            return Err(too_many("types"));
        }
        Ok((self.watches.entry(type_url.to_owned()).or_default(), first))
    }

    /// The types that are watched, in the order in which clients need them.
    fn types(&self) -> Vec<String> {
        let mut types: Vec<String> = self.watches.keys().cloned().collect();
        types.sort_by_key(|type_url| types::rank(type_url));
        types
    }

    fn control_plane(&self) -> Option<ControlPlane> {
        Some(ControlPlane { identifier: self.identifier.to_string() })
    }
}

/// Response nonces: unique within a stream, which is all the protocol needs.
#[derive(Debug, Default)]
struct Nonces(u64);

impl Nonces {
    fn next(&mut self, version: &str) -> String {
        self.0 += 1;
        format!("{version}#{}", self.0)
    }

    /// How many nonces there had been when this one was made, itself included.
    fn number(nonce: &str) -> Option<u64> {
        nonce.rsplit_once('#')?.1.parse().ok()
    }
}

fn too_many(what: &str) -> Status {
    Status::resource_exhausted(format!("the stream asks for too many {what}"))
}
