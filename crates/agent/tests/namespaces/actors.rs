//! What this program is when it is started as one of the processes of the scenario.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tombolo_agent::capture::options::{Options, Texts};
use tombolo_agent::capture::{apply, rules};
use tombolo_agent::settings::{Role, Settings};
use tombolo_runtime::logs::{self, Format};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The control plane's discovery and certificate service.
pub fn control_plane() {
    logs::init(Format::Text, "info");
    runtime().block_on(crate::control_plane::serve(Path::new(&variable("WORLD"))));
}

/// A sidecar or gateway, exactly as the command runs it.
pub fn proxy() {
    logs::init(Format::Text, "info,tombolo_proxy=debug");
    let role = if variable("ROLE") == "router" { Role::Router } else { Role::Sidecar };
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let root = variable("ROOT");
    let settings = Settings::read(role, None, &environment, Path::new(&root)).unwrap();
    tombolo_agent::run::run(settings).unwrap();
}

/// The init container with the injector's default options.
pub fn capture() {
    let texts = Texts {
        uids: "1337",
        mode: "REDIRECT",
        inbound: "*",
        excluded_inbound: "15090,15021,15020",
        ranges: "*",
        ..Texts::default()
    };
    let options = Options::parse(&texts, 15001, 15006, 15008).unwrap();
    apply::apply(&rules::script(&options)).unwrap();
}

/// Answers with its version and what it knows of the client; `/canary` has a secret in it.
pub fn application() {
    let version = variable("VERSION");
    runtime().block_on(async move {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:5000").await.unwrap();
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let version = version.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let peer = request.headers().get("x-forwarded-client-cert");
                let peer = peer.map_or("nobody", |peer| peer.to_str().unwrap()).to_owned();
                let secret =
                    if request.uri().path() == "/canary" { crate::world::CANARY } else { "" };
                let answer = format!("{version} {peer} {secret}");
                async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answer)))) }
            });
            tokio::spawn(async move {
                let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                drop(http.serve_connection(TokioIo::new(tcp), service).await);
            });
        }
    });
}
