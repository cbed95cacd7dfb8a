//! HTTP/2, gRPC with trailers, WebSockets and raw TCP.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tombolo_proxy::snapshot::Kind;
use tombolo_xds::proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as hcm;

use crate::support::*;

/// A gRPC server that answers with the request's message and a status in trailers.
async fn grpc_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let service = service_fn(async |request: Request<Incoming>| {
                let version = format!("{:?}", request.version());
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
                let body =
                    StreamBody::new(futures::stream::iter::<[Result<_, Infallible>; 2]>(frames));
                let response = Response::builder().header("content-type", "application/grpc");
                Ok::<_, Infallible>(response.header("version", version).body(body).unwrap())
            });
            tokio::spawn(async move {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                drop(builder.serve_connection(TokioIo::new(tcp), service).await);
            });
        }
    });
    address
}

#[tokio::test]
async fn grpc_keeps_its_trailers_over_two_sidecars() {
    let authority = Authority::new();
    let mut server = server_sidecar(&authority, "127.0.0.1:1".parse().unwrap());
    let app = grpc_server().await;
    server.apply(Kind::Upstream, "inbound|5000||", &http2(fixed("inbound|5000||", &[app])));
    let endpoint = server.address("virtualInbound").await;
    let mut client = client_sidecar(&authority, SLEEP, &[endpoint]);
    client.apply(Kind::Upstream, SERVICE, &http2(discovered(SERVICE, HELLO, SNI)));
    let address = client.address("0.0.0.0_5000").await;
    let tcp = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://helloworld.sample:5000/Greeter/Hello")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(b"message")))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.headers()["version"], "HTTP/2.0");
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "message");

    // A failure of the proxy's own is told in gRPC's terms.
    client.apply(Kind::Endpoints, SERVICE, &assignment(SERVICE, &[], true));
    let request = Request::post("http://helloworld.sample:5000/Greeter/Hello")
        .header("content-type", "application/grpc")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["grpc-message"], "no healthy upstream");
}

#[tokio::test]
async fn a_websocket_leaves_http_behind_in_both_directions() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.unwrap());
        }
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        tcp.write_all(answer).await.unwrap();
        let mut word = [0; 4];
        tcp.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"ping");
        tcp.write_all(b"pong").await.unwrap();
    });
    let mut node = Node::start(authority.credentials(SLEEP));
    node.apply(Kind::Upstream, SERVICE, &fixed(SERVICE, &[app]));
    let mut manager = manager(hcm::RouteSpecifier::RouteConfig(routes("inline", SERVICE)));
    manager.upgrade_configs =
        vec![hcm::UpgradeConfig { upgrade_type: "websocket".to_owned(), ..Default::default() }];
    node.apply(
        Kind::Listener,
        "http",
        &crate::support::listener("http", vec![chain(http_filter(&manager))]),
    );
    let mut tcp = TcpStream::connect(node.address("http").await).await.unwrap();
    let ask = b"GET /ws HTTP/1.1\r\nhost: helloworld.sample\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    tcp.write_all(ask).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    tcp.write_all(b"ping").await.unwrap();
    let mut word = [0; 4];
    tcp.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"pong");
}

#[tokio::test]
async fn tcp_passes_both_ways_and_closes_by_halves() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut question = Vec::new();
        tcp.read_to_end(&mut question).await.unwrap();
        tcp.write_all(format!("you said {}", question.len()).as_bytes()).await.unwrap();
    });
    let mut node = Node::start(authority.credentials(SLEEP));
    node.apply(Kind::Upstream, "tcp", &fixed("tcp", &[app]));
    node.apply(
        Kind::Listener,
        "tcp",
        &crate::support::listener("tcp", vec![chain(tcp_filter("tcp"))]),
    );
    let mut tcp = TcpStream::connect(node.address("tcp").await).await.unwrap();
    tcp.write_all(&vec![b'x'; 100_000]).await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "you said 100000");
}
