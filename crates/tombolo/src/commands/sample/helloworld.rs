//! The sample service: HTTP/1.1 and HTTP/2 without TLS on one port.
//!
//! `GET /hello` answers with version and instance, `GET /health` with 200, `GET /headers` with the
//! request's headers as JSON. Every answer repeats, in the header `tombolo-peer`, what the proxy in
//! front of this server said about the client's certificate, or `none`, so that a client can tell
//! how it was seen.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tombolo_runtime::listen::accept;
use tombolo_runtime::logs;
use tombolo_runtime::shutdown::Shutdown;

/// What the proxy in front says about the client's certificate.
const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const PEER: HeaderName = HeaderName::from_static("tombolo-peer");

/// Serve `GET /hello`, which says which version and which pod answers.
#[derive(Debug, Args)]
pub struct Flags {
    /// Where to listen.
    #[arg(long, default_value = "0.0.0.0:5000", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// The version that answers name.
    #[arg(long, env = "SERVICE_VERSION", default_value = "v1", value_name = "VERSION")]
    service_version: String,
    /// The instance that answers name [default: the host's name].
    #[arg(long, env = "HOSTNAME", value_name = "NAME")]
    instance: Option<String>,
}

/// What answers name.
#[derive(Debug)]
struct Identity {
    version: String,
    instance: String,
}

impl Flags {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        logs::init(logs::Format::Text, "info");
        let instance = match self.instance.filter(|name| !name.is_empty()) {
            Some(name) => name,
            None => {
                let name = nix::unistd::gethostname().context("read the host's name")?;
                name.to_string_lossy().into_owned()
            }
        };
        let identity = Arc::new(Identity { version: self.service_version, instance });
        let listener = TcpListener::bind(self.listen)
            .await
            .with_context(|| format!("listen on {}", self.listen))?;
        tracing::info!(address = %listener.local_addr()?, ?identity, "helloworld serves");
        let shutdown = Shutdown::default();
        let accepting = accept_all(listener, identity, shutdown.clone());
        shutdown.spawn_essential("accept", accepting);
        shutdown.run_until_asked(Duration::from_secs(5)).await?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn accept_all(listener: TcpListener, identity: Arc<Identity>, shutdown: Shutdown) {
    while let Some((stream, _)) = accept(&listener, "helloworld", &shutdown).await {
        let connection = serve(stream, identity.clone(), shutdown.clone());
        shutdown.spawn("connection", connection);
    }
}

async fn serve(stream: TcpStream, identity: Arc<Identity>, shutdown: Shutdown) {
    let builder = auto::Builder::new(TokioExecutor::new());
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&identity, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

fn answer<B>(identity: &Identity, request: &Request<B>) -> Response<Full<Bytes>> {
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    let json = HeaderValue::from_static("application/json");
    let known = matches!(request.uri().path(), "/hello" | "/health" | "/headers");
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, kind, body) = match request.uri().path() {
        _ if known && !reads => {
            (StatusCode::METHOD_NOT_ALLOWED, text, "only GET is served here\n".to_owned())
        }
        "/hello" => {
            let Identity { version, instance } = identity;
            (StatusCode::OK, text, format!("Hello version: {version}, instance: {instance}\n"))
        }
        "/health" => (StatusCode::OK, text, "Helloworld is healthy\n".to_owned()),
        "/headers" => (StatusCode::OK, json, headers(request)),
        _ => (StatusCode::NOT_FOUND, text, "there is /hello, /health and /headers\n".to_owned()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    let peer = request.headers().get(CLIENT_CERTIFICATE).cloned();
    response.headers_mut().insert(PEER, peer.unwrap_or(HeaderValue::from_static("none")));
    response
}

/// The request's headers by name; values of a repeated header in order.
fn headers<B>(request: &Request<B>) -> String {
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(name.as_str()).or_default().push(value);
    }
    let document = serde_json::json!({
        "method": request.method().as_str(),
        "path": request.uri().to_string(),
        "protocol": format!("{:?}", request.version()),
        "headers": headers,
    });
    format!("{document}\n")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn ask(request: http::request::Builder) -> (u16, Option<String>, String) {
        let identity = Identity { version: "v2".into(), instance: "pod-1".into() };
        let response = answer(&identity, &request.body(()).unwrap());
        let peer = response.headers().get(PEER).map(|v| v.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, peer, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn hello_names_version_and_instance_and_repeats_how_the_client_was_seen() {
        let seen = "By=spiffe://cluster.local/ns/sample/sa/helloworld";
        let request = Request::get("/hello").header(CLIENT_CERTIFICATE, seen);
        let want = "Hello version: v2, instance: pod-1\n";
        assert_eq!(ask(request).await, (200, Some(seen.into()), want.into()));
        assert_eq!(ask(Request::get("/hello")).await, (200, Some("none".into()), want.into()));
    }

    #[tokio::test]
    async fn headers_come_back_as_json_and_other_paths_do_not_exist() {
        let (status, _, body) = ask(Request::get("/headers?x=1").header("a", "b")).await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let want = serde_json::json!({"method": "GET", "path": "/headers?x=1",
            "protocol": "HTTP/1.1", "headers": {"a": ["b"]}});
        assert_eq!((status, body), (200, want));
        assert_eq!(ask(Request::get("/other")).await.0, 404);
        assert_eq!(ask(Request::post("/hello")).await.0, 405);
    }
}
