//! The client's end: follows a control plane over aggregated discovery.
//!
//! *Expected flow*: make [`Subscriptions`], subscribe, then [`run`] with a [`Connect`] that opens
//! connections and a [`Handler`] that takes changes. `run` uses the incremental protocol, or the
//! state of the world when the server has no other, and connects again for ever, with a backoff.
//!
//! *Guarantees*
//! * Every change is handed over once, in the order it came. What the handler refuses is NACKed
//!   by name and not counted as held; the rest of the same response is kept.
//! * After a cut only what changed meanwhile is handed over; what was removed meanwhile is
//!   removed then. Until that moment the handler keeps what it has.
//! * Subscriptions may change at any time, also from within the handler.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tombolo_runtime::backoff::Backoff;
use tombolo_runtime::errors::chain;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Extensions, Request, Status, Streaming};

use crate::proto::envoy::config::core::v3::Node;
use crate::proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::resource::Resource;

mod delta;
mod sotw;
mod wanted;

pub use delta::Delta;
pub use sotw::Sotw;
pub use wanted::{Interest, Subscriptions};

/// Responses of big meshes are large; a server is trusted more than a client.
const LARGEST_RESPONSE: usize = 512 << 20;
/// Requests that wait for the transport. More than one per type is never useful.
const WAITING_REQUESTS: usize = 64;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// A change of one type.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The type of everything below.
    pub type_url: String,
    /// The version of the server's whole state, for people.
    pub version: String,
    /// New and changed resources.
    pub changed: Vec<Resource>,
    /// Names of resources that are gone, or were asked for and do not exist.
    pub removed: Vec<Arc<str>>,
}

/// A resource that the handler refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its name.
    pub name: Arc<str>,
    /// What is wrong with it, with the path of the field.
    pub reason: String,
}

/// What happened to the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    /// A stream is open.
    Up,
    /// It broke, or could not be opened, for this reason. The next attempt follows after a delay.
    Down(String),
}

/// Takes what the control plane sends.
pub trait Handler: Send {
    /// Takes a change in and returns what was wrong with it. Called in order, never twice at a
    /// time; it should not take long.
    fn update(&mut self, update: Update) -> Vec<Refusal>;

    /// The connection came or went.
    fn connection(&mut self, _connection: Connection) {}
}

/// Opens connections to a control plane.
#[tonic::async_trait]
pub trait Connect: Send {
    /// A new connection and the metadata (such as a token) that opens a stream on it.
    ///
    /// # Errors
    /// Whatever kept it from coming about.
    async fn connect(
        &mut self,
    ) -> Result<(Channel, MetadataMap), Box<dyn std::error::Error + Send + Sync>>;
}

/// Which protocol to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Only changes travel; falls back when the server does not know it.
    #[default]
    Delta,
    /// Whole lists travel.
    Sotw,
}

/// Who follows, and how.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What the control plane is told about this client.
    pub node: Node,
    /// The protocol to begin with.
    pub protocol: Protocol,
}

/// Follows the control plane until the future is dropped.
pub async fn run(
    settings: Settings,
    subscriptions: Subscriptions,
    mut connect: impl Connect,
    mut handler: impl Handler,
) {
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
    let mut protocol = settings.protocol;
    let mut delta = Delta::new(settings.node.clone());
    let mut sotw = Sotw::new(settings.node);
    loop {
        let ended = match connect.connect().await {
            Err(error) => {
                Ended { worked: false, why: Why::Connect(chain(error.as_ref()).to_string()) }
            }
            Ok((channel, metadata)) => {
                let client = AggregatedDiscoveryServiceClient::new(channel)
                    .max_decoding_message_size(LARGEST_RESPONSE);
                let wanted = subscriptions.subscribe();
                match protocol {
                    Protocol::Delta => {
                        stream(client, metadata, wanted, &mut delta, &mut handler).await
                    }
                    Protocol::Sotw => {
                        stream(client, metadata, wanted, &mut sotw, &mut handler).await
                    }
                }
            }
        };
        if ended.worked {
            backoff.reset();
        }
        if ended.is_unimplemented() && protocol == Protocol::Delta {
            tracing::info!(
                "the control plane has no incremental protocol, using state of the world"
            );
            protocol = Protocol::Sotw;
            sotw.adopt(delta.take_held());
        }
        let delay = backoff.delay();
        tracing::info!(reason = %ended.why, ?delay, "control plane connection ended, trying again");
        handler.connection(Connection::Down(ended.why.to_string()));
        tokio::time::sleep(delay).await;
    }
}

/// How a stream ended.
struct Ended {
    /// Whether anything came over it.
    worked: bool,
    why: Why,
}

enum Why {
    Connect(String),
    Closed,
    Status(Status),
}

impl Ended {
    fn is_unimplemented(&self) -> bool {
        matches!(&self.why, Why::Status(status) if status.code() == Code::Unimplemented)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(text) => f.write_str(text),
            Self::Closed => f.write_str("the control plane closed the stream"),
            Self::Status(status) => write!(f, "{}: {}", status.code(), status.message()),
        }
    }
}

/// One protocol's bookkeeping, which outlives a stream.
pub(crate) trait Engine: Send {
    type Request: Send + 'static;
    type Response: Send;

    /// Opens a stream with this protocol's call.
    async fn open(
        client: &mut AggregatedDiscoveryServiceClient<Channel>,
        request: Request<ReceiverStream<Self::Request>>,
    ) -> Result<Streaming<Self::Response>, Status>;

    /// A new stream begins: what to send first.
    fn begin(&mut self, wanted: &Interest) -> Vec<Self::Request>;

    /// The subscriptions changed: what to send.
    fn want(&mut self, wanted: &Interest) -> Vec<Self::Request>;

    /// Hands a response over and returns the answer to it.
    fn response(&mut self, response: Self::Response, handler: &mut dyn Handler) -> Self::Request;
}

async fn stream<E: Engine>(
    mut client: AggregatedDiscoveryServiceClient<Channel>,
    metadata: MetadataMap,
    mut wanted: watch::Receiver<Arc<Interest>>,
    engine: &mut E,
    handler: &mut dyn Handler,
) -> Ended {
    let mut worked = false;
    match follow(&mut client, metadata, &mut wanted, engine, handler, &mut worked).await {
        Ok(()) => Ended { worked, why: Why::Closed },
        Err(status) => Ended { worked, why: Why::Status(status) },
    }
}

async fn follow<E: Engine>(
    client: &mut AggregatedDiscoveryServiceClient<Channel>,
    metadata: MetadataMap,
    wanted: &mut watch::Receiver<Arc<Interest>>,
    engine: &mut E,
    handler: &mut dyn Handler,
    worked: &mut bool,
) -> Result<(), Status> {
    let (requests, outbound) = mpsc::channel(WAITING_REQUESTS);
    let first = engine.begin(&wanted.borrow_and_update().clone());
    // Some servers answer the call only after the first request, so it goes out beforehand.
    send(&requests, first).await?;
    let request =
        Request::from_parts(metadata, Extensions::default(), ReceiverStream::new(outbound));
    let mut responses = E::open(client, request).await?;
    handler.connection(Connection::Up);
    loop {
        tokio::select! {
            changed = wanted.changed() => {
                changed.expect("`run` holds the other end");
                let now = wanted.borrow_and_update().clone();
                send(&requests, engine.want(&now)).await?;
            }
            response = next(&mut responses) => {
                let Some(response) = response? else { return Ok(()) };
                *worked = true;
                let answer = engine.response(response, handler);
                send(&requests, vec![answer]).await?;
            }
        }
    }
}

async fn next<R>(
    responses: &mut (impl Stream<Item = Result<R, Status>> + Unpin),
) -> Result<Option<R>, Status> {
    responses.next().await.transpose()
}

async fn send<R>(requests: &mpsc::Sender<R>, all: Vec<R>) -> Result<(), Status> {
    for request in all {
        requests
            .send(request)
            .await
            .map_err(|_| Status::unavailable("the control plane stopped reading requests"))?;
    }
    Ok(())
}

/// One text for everything the handler refused, and the names.
fn refusals(refused: &[Refusal]) -> Option<(String, BTreeSet<Arc<str>>)> {
    if refused.is_empty() {
        return None;
    }
    let text: Vec<_> =
        refused.iter().map(|each| format!("{}: {}", each.name, each.reason)).collect();
    Some((text.join("; "), refused.iter().map(|each| each.name.clone()).collect()))
}
