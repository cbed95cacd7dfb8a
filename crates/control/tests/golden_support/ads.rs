//! A management server that knows one proxy's resources and notes how the proxy likes them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tombolo_xds::proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use tombolo_xds::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tombolo_xds::proto::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use tombolo_xds::proto::google::protobuf::Any;
use tonic::{Request, Response, Status, Streaming};

/// Resources by type URL and name.
pub type Held = BTreeMap<String, BTreeMap<String, Any>>;

/// What a proxy has said so far.
#[derive(Debug, Default)]
pub struct Said {
    /// Accepted names by type URL.
    pub accepted: BTreeMap<String, BTreeSet<String>>,
    /// Rejections, word by word.
    pub rejected: Vec<String>,
}

#[derive(Clone, Debug)]
struct Server {
    held: Arc<Held>,
    said: Arc<Mutex<Said>>,
}

/// Serves on a socket until the returned task is dropped.
pub fn serve(socket: &Path, held: Held) -> Arc<Mutex<Said>> {
    let said = Arc::new(Mutex::new(Said::default()));
    let server = Server { held: Arc::new(held), said: said.clone() };
    let listener = UnixListener::bind(socket).unwrap();
    let routes = tonic::service::Routes::new(AggregatedDiscoveryServiceServer::new(server.clone()))
        .add_service(SecretDiscoveryServiceServer::new(server))
        .prepare();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(routes.clone());
            tokio::spawn(async move {
                let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                // The proxy hangs up when the test is over.
                let _ = http.http2_only().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    said
}

type Responses = ReceiverStream<Result<DiscoveryResponse, Status>>;

impl Server {
    fn answer(&self, request: Request<Streaming<DiscoveryRequest>>) -> Response<Responses> {
        let (sender, responses) = mpsc::channel(64);
        let (server, mut requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            // Names sent last, by type and by nonce.
            let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            let mut sent: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            let mut nonce = 0_u64;
            while let Ok(Some(request)) = requests.message().await {
                let kind = request.type_url.clone();
                if let Some(error) = request.error_detail {
                    server.said.lock().rejected.push(format!("{kind}: {}", error.message));
                    continue;
                }
                if let Some(names) = sent.get(&request.response_nonce) {
                    let mut said = server.said.lock();
                    said.accepted.entry(kind.clone()).or_default().extend(names.clone());
                }
                let names: BTreeSet<String> = request.resource_names.into_iter().collect();
                if wanted.get(&kind) == Some(&names) {
                    continue;
                }
                wanted.insert(kind.clone(), names.clone());
                let held = server.held.get(&kind).cloned().unwrap_or_default();
                let chosen: BTreeMap<String, Any> = held
                    .into_iter()
                    .filter(|(name, _)| names.is_empty() || names.contains(name))
                    .collect();
                nonce += 1;
                sent.insert(nonce.to_string(), chosen.keys().cloned().collect());
                let response = DiscoveryResponse {
                    version_info: String::from("1"),
                    nonce: nonce.to_string(),
                    type_url: kind,
                    resources: chosen.into_values().collect(),
                    ..DiscoveryResponse::default()
                };
                if sender.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        Response::new(ReceiverStream::new(responses))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Server {
    type StreamAggregatedResourcesStream = Responses;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        Ok(self.answer(request))
    }

    async fn delta_aggregated_resources(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("this server speaks state of the world"))
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Server {
    type StreamSecretsStream = Responses;
    type DeltaSecretsStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        Ok(self.answer(request))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("this server speaks state of the world"))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("this server streams"))
    }
}
