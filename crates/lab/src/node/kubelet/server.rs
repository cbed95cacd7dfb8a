//! The kubelet API's listener and routes.
//!
//! Only clients with a certificate of the cluster's CA get in, and only those of an administrative
//! group may read logs or run commands: in practice, the API server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, FromRequestParts, Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use http::{HeaderName, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tombolo_runtime::listen::accept;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::node::kubelet::logs::{self, Wanted, Writing};
use crate::node::kubelet::streams;
use crate::node::pod::process::{Folder, Process};
use crate::node::pod::work::Live;
use crate::node::{KUBELET_PORT, Node, NodeError, tls};

/// Groups whose members may do everything here.
const ADMINISTRATORS: [&str; 2] = ["system:masters", "kubeadm:cluster-admins"];

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What the client's certificate says about it.
#[derive(Clone, Copy, Debug)]
struct Administrator(bool);

/// A bound kubelet API.
pub(crate) struct Bound {
    listener: TcpListener,
    tls: TlsAcceptor,
}

pub(crate) async fn bind(node: &Node) -> Result<Bound, NodeError> {
    let settings = &node.settings;
    let config = tls::server(
        &settings.tls_cert_file,
        &settings.tls_private_key_file,
        &settings.client_ca_file,
    );
    let config = config.map_err(|error| NodeError::Kubelet(Box::new(error)))?;
    let address = (settings.node_ip, KUBELET_PORT);
    let listener = TcpListener::bind(address).await;
    let doing = || format!("listen on {}:{KUBELET_PORT} for the kubelet API", settings.node_ip);
    let listener = listener.map_err(|source| NodeError::Io { doing: doing(), source })?;
    Ok(Bound { listener, tls: TlsAcceptor::from(Arc::new(config)) })
}

/// Serves until the process drains.
pub(crate) async fn run(node: Arc<Node>, bound: Bound) {
    let router = router(Arc::clone(&node));
    while let Some((socket, _)) = accept(&bound.listener, "kubelet API", &node.shutdown).await {
        let (tls, router) = (bound.tls.clone(), router.clone());
        node.shutdown.spawn("kubelet connection", async move {
            if let Err(error) = serve(socket, tls, router).await {
                tracing::debug!(%error, "kubelet connection ended");
            }
        });
    }
}

async fn serve(
    socket: TcpStream,
    tls: TlsAcceptor,
    router: Router,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream =
        tokio::time::timeout(HANDSHAKE, tls.accept(socket)).await.map_err(io::Error::other)??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let administrator =
        Administrator(certificate.is_some_and(|certificate| administers(certificate)));
    let service = TowerToHyperService::new(router.layer(Extension(administrator)));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    connection.with_upgrades().await.map_err(Into::into)
}

fn administers(certificate: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let mut groups =
        certificate.subject().iter_organization().filter_map(|group| group.as_str().ok());
    groups.any(|group| ADMINISTRATORS.contains(&group))
}

fn router(node: Arc<Node>) -> Router {
    let protected = Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/exec/{namespace}/{pod}/{container}", any(streams::exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(streams::exec))
        .route("/attach/{namespace}/{pod}/{container}", any(streams::attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", any(streams::attach))
        .route("/portForward/{namespace}/{pod}", any(streams::port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", any(streams::port_forward))
        .route("/pods", get(pods))
        .fallback(|request: Request| async move {
            Refusal::new(
                StatusCode::NOT_IMPLEMENTED,
                format!(
                    "{} is not implemented by the node agent of a lab cluster",
                    request.uri().path()
                ),
            )
        })
        .layer(middleware::from_fn(only_administrators));
    Router::new().route("/healthz", get(|| async { "ok" })).merge(protected).with_state(node)
}

async fn only_administrators(request: Request, next: Next) -> Response {
    if matches!(request.extensions().get(), Some(Administrator(true))) {
        return next.run(request).await;
    }
    let groups = ADMINISTRATORS.join(" or ");
    Refusal::new(
        StatusCode::FORBIDDEN,
        format!("the client certificate must be of the group {groups}"),
    )
    .into_response()
}

/// Why a request is not served. The text goes to the user by way of the API server.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refusal {
    status: StatusCode,
    text: String,
    header: Option<(HeaderName, String)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), header: None }
    }

    /// The refusal with a header.
    pub(crate) fn with(self, name: HeaderName, value: &str) -> Self {
        Self { header: Some((name, value.to_owned())), ..self }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, AppendHeaders(self.header), self.text).into_response()
    }
}

/// A container that a request names.
pub(crate) struct Target {
    pub namespace: String,
    pub pod: String,
    container: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        state: &S,
    ) -> Result<Self, Self::Rejection> {
        let path = Path::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let path = path.map_err(IntoResponse::into_response)?.0;
        let get = |key: &str| {
            path.iter()
                .find(|(known, _)| known == key)
                .map(|(_, value)| value.clone())
                .unwrap_or_default()
        };
        Ok(Self { namespace: get("namespace"), pod: get("pod"), container: get("container") })
    }
}

impl Target {
    pub(crate) fn live(
        &self,
        node: &Node,
    ) -> Result<(Arc<k8s_openapi::api::core::v1::Pod>, Arc<Live>), Refusal> {
        let pods = node.pods.lock();
        let found = pods.get(&(self.namespace.clone(), self.pod.clone()));
        let found =
            found.map(|(wanted, live)| (Arc::clone(&wanted.borrow().pod), Arc::clone(live)));
        found.ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                format!("pod \"{}_{}\" does not exist on this node", self.pod, self.namespace),
            )
        })
    }

    /// The container's state as the pod's status tells it.
    fn state<'a>(
        &self,
        pod: &'a k8s_openapi::api::core::v1::Pod,
    ) -> Option<&'a k8s_openapi::api::core::v1::ContainerState> {
        let statuses = pod.status.iter().flat_map(|status| {
            status.container_statuses.iter().chain(&status.init_container_statuses).flatten()
        });
        statuses
            .into_iter()
            .find(|status| status.name == self.container)
            .and_then(|status| status.state.as_ref())
    }

    pub(crate) fn process(&self, node: &Node) -> Result<Arc<Process>, Refusal> {
        let (_, live) = self.live(node)?;
        let process = live.running.lock().get(&self.container).cloned();
        process.ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                format!(
                    "container not found (\"{}\" of pod {}_{} is not running)",
                    self.container, self.pod, self.namespace
                ),
            )
        })
    }
}

async fn container_logs(
    State(node): State<Arc<Node>>,
    target: Target,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, Refusal> {
    let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, text);
    let wanted = Wanted::parse(&query, Timestamp::now()).map_err(bad)?;
    let (pod, live) = target.live(&node)?;
    let folder = Folder::new(&live.folder, &target.container);
    let runs = folder.runs();
    let process = live.running.lock().get(&target.container).cloned();
    let run = if wanted.previous {
        let between = process.is_none() && target.state(&pod).is_some_and(|s| s.waiting.is_some());
        previous(&runs, between)
    } else {
        runs.last().copied()
    };
    let Some(run) = run else { return Err(bad(no_log(&pod, &target, wanted.previous))) };
    let process = process.filter(|_| !wanted.previous);
    let writing =
        process.map(|process| Writing { lines: process.log.follow(), ending: process.ending() });
    let stream = logs::read(folder.log(run), wanted, writing);
    let stream = stream.map_err(|error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("read the log: {error}"))
    })?;
    Ok(([("content-type", "text/plain")], Body::from_stream(stream)).into_response())
}

/// The run that Kubernetes calls the previous one: that of `lastState`. While the container waits
/// `between` two runs this is the newest one, else the one before it.
fn previous(runs: &[i32], between: bool) -> Option<i32> {
    runs.iter().rev().nth(usize::from(!between)).copied()
}

/// Why a container has no log.
fn no_log(pod: &k8s_openapi::api::core::v1::Pod, target: &Target, previous: bool) -> String {
    let Target { container, pod: name, .. } = target;
    let spec = pod
        .spec
        .iter()
        .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    if !spec.into_iter().any(|known| known.name == *container) {
        return format!("container {container} is not valid for pod {name}");
    }
    if previous {
        return format!(
            "previous terminated container \"{container}\" in pod \"{name}\" not found"
        );
    }
    let state = target.state(pod);
    let reason =
        state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.clone());
    format!(
        "container \"{container}\" in pod \"{name}\" is waiting to start: {}",
        reason.unwrap_or_else(|| "ContainerCreating".into())
    )
}

async fn pods(State(node): State<Arc<Node>>) -> Json<serde_json::Value> {
    let pods = node.pods.lock();
    let items: Vec<_> = pods.values().map(|(wanted, _)| Arc::clone(&wanted.borrow().pod)).collect();
    Json(
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items.iter().map(AsRef::as_ref).collect::<Vec<&k8s_openapi::api::core::v1::Pod>>()}),
    )
}
