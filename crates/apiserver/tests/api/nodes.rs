//! Logs and commands: a stand-in for a node's kubelet, and kubectl on the other side.

use std::sync::Arc;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use axum::extract::{Path, RawQuery, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Cluster, Pki, needs};

/// A kubelet that says what it was asked, and echoes what is typed into a command.
struct Kubelet {
    port: u16,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Kubelet {
    async fn start(pki: &Pki) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pki.path("ca.crt")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&provider),
        )
        .build()
        .unwrap();
        let chain = vec![CertificateDer::from_pem_file(pki.path("apiserver.crt")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(pki.path("apiserver.key")).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let router = Router::new()
            .route("/containerLogs/{ns}/{pod}/{container}", get(logs))
            .route("/exec/{ns}/{pod}/{container}", get(exec))
            .route("/portForward/{ns}/{pod}", any(no_ports));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let service = TowerToHyperService::new(router);
                    builder
                        .serve_connection_with_upgrades(TokioIo::new(stream), service)
                        .await
                        .unwrap();
                });
            }
        });
        Self { port, server }
    }
}

async fn logs(
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    if container == "waiting" {
        let text = "container \"waiting\" in pod \"web\" is waiting to start: PodInitializing";
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    format!("{namespace}/{pod}/{container} {}\n", query.unwrap_or_default()).into_response()
}

/// Refuses in either protocol.
async fn no_ports(Path((namespace, pod)): Path<(String, String)>) -> Response {
    let text = format!("the kubelet has no ports of {namespace}/{pod}");
    (StatusCode::NOT_FOUND, text).into_response()
}

async fn exec(upgrade: WebSocketUpgrade, RawQuery(query): RawQuery) -> Response {
    upgrade
        .protocols(["v5.channel.k8s.io", "v4.channel.k8s.io"])
        .on_upgrade(move |socket| converse(socket, query.unwrap_or_default()))
}

/// Says the command on standard output, then echoes standard input until that is closed.
async fn converse(mut socket: WebSocket, query: String) {
    let frame = |channel: u8, text: &[u8]| Message::Binary([&[channel][..], text].concat().into());
    socket.send(frame(1, format!("{query}\n").as_bytes())).await.unwrap();
    while query.contains("input=1") {
        let Some(Ok(message)) = socket.recv().await else { return };
        match message.into_data().as_ref() {
            [0, typed @ ..] => socket.send(frame(1, typed)).await.unwrap(),
            // Channel 255 says which other channel is closed.
            [255, 0] => break,
            _ => {}
        }
    }
    let verdict = if query.contains("command=false") {
        json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": "command terminated with non-zero exit code",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}})
    } else {
        json!({"metadata": {}, "status": "Success"})
    };
    socket.send(frame(3, verdict.to_string().as_bytes())).await.unwrap();
    let done = CloseFrame { code: 1000, reason: "".into() };
    socket.send(Message::Close(Some(done))).await.unwrap();
}

async fn with_pod(cluster: &Cluster, kubelet: &Kubelet) {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port}},
        },
    });
    cluster.kubectl_with("create -f -", &node.to_string()).await;
    cluster.kubectl("create serviceaccount default").await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"nodeName": "n1", "containers": [
            {"name": "a", "image": "i"}, {"name": "waiting", "image": "i"}]},
    });
    cluster.kubectl_with("create -f -", &pod.to_string()).await;
}

#[tokio::test]
async fn logs_come_from_the_pods_node_with_all_options() {
    if !needs(&["kubectl"]) {
        return;
    }
    let cluster = Cluster::start().await;
    let kubelet = Kubelet::start(&cluster.pki).await;
    with_pod(&cluster, &kubelet).await;
    assert_eq!(cluster.kubectl("logs web -c a").await, "default/web/a \n");
    let some = cluster.kubectl("logs web -c a --tail=5 --since=10s --timestamps --previous").await;
    assert_eq!(some, "default/web/a tailLines=5&sinceSeconds=10&previous=true&timestamps=true\n");
    let followed = cluster.kubectl("logs -f web -c a --limit-bytes=9").await;
    assert_eq!(followed, "default/web/a limitBytes=9&follow=true\n");
    let (code, _, err) = cluster.try_kubectl("admin", "logs web -c waiting", "").await;
    assert_eq!(
        (code, err.as_str()),
        (
            1,
            "Error from server (BadRequest): container \"waiting\" in pod \"web\" is waiting to \
             start: PodInitializing\n"
        )
    );
    let (_, _, err) = cluster.try_kubectl("admin", "logs web -c none", "").await;
    assert!(err.contains("container none is not valid for pod web"), "{err}");
}

#[tokio::test]
async fn commands_run_on_the_pods_node_with_input_output_and_exit_code() {
    if !needs(&["kubectl"]) {
        return;
    }
    let cluster = Cluster::start().await;
    let kubelet = Kubelet::start(&cluster.pki).await;
    with_pod(&cluster, &kubelet).await;
    let out = cluster.kubectl("exec web -c a -- echo 'a b'").await;
    assert_eq!(out, "output=1&error=1&command=echo&command=a%20b\n");
    let (code, out, err) = cluster.try_kubectl("admin", "exec -i web -c a -- cat", "typed\n").await;
    assert_eq!((code, out.as_str()), (0, "input=1&output=1&error=1&command=cat\ntyped\n"), "{err}");
    let (code, _, err) = cluster.try_kubectl("admin", "exec web -c a -- false", "").await;
    assert_eq!(code, 3, "{err}");
    let (code, _, err) = cluster.try_kubectl("jane", "exec web -c a -- true", "").await;
    assert_eq!(code, 1);
    assert!(err.contains("cannot get resource \"pods\""), "{err}");
}

#[tokio::test]
async fn what_is_not_there_says_so() {
    if !needs(&["kubectl"]) {
        return;
    }
    let cluster = Cluster::start().await;
    let kubelet = Kubelet::start(&cluster.pki).await;
    with_pod(&cluster, &kubelet).await;
    let path = "/api/v1/namespaces/default/pods/web/proxy";
    let (code, _, err) = cluster.try_kubectl("admin", &format!("get --raw {path}"), "").await;
    assert_eq!(code, 1);
    assert!(err.contains("pods/proxy is not supported by this API server"), "{err}");
    let (code, _, err) = cluster.try_kubectl("admin", "port-forward pod/web 0:80", "").await;
    assert_eq!(code, 1);
    assert!(err.contains("is not running") || err.contains("is not supported"), "{err}");
    cluster
        .kubectl(
            "patch pod web --subresource=status --type=merge -p '{\"status\":{\"phase\":\"Running\"}}'",
        )
        .await;
    let (code, _, err) = cluster.try_kubectl("admin", "port-forward pod/web 0:80", "").await;
    assert_eq!(code, 1);
    assert!(err.contains("the kubelet has no ports"), "{err}");
}
