//! HTTP from a client sidecar to a server sidecar.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tombolo_proxy::snapshot::Kind;
use tombolo_xds::proto::envoy::config::cluster::v3 as cds;
use tombolo_xds::proto::envoy::config::core::v3 as core;
use tombolo_xds::proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as hcm;
use tombolo_xds::proto::google::protobuf as wkt;

use crate::support::*;

/// Answers with the headers it got, one per line.
fn echo(request: http::Request<Bytes>) -> Response<Bytes> {
    let mut lines: Vec<String> = request
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    lines.insert(0, format!("{} {} {:?}", request.method(), request.uri(), request.version()));
    lines.push(String::from_utf8_lossy(request.body()).into_owned());
    Response::new(lines.join("\n").into())
}

#[tokio::test]
async fn a_request_reaches_the_application_through_two_sidecars() {
    let authority = Authority::new();
    let server = server_sidecar(&authority, app(echo).await);
    let endpoint = server.address("virtualInbound").await;
    let client = client_sidecar(&authority, SLEEP, &[endpoint]);
    let response = send(
        client.address("0.0.0.0_5000").await,
        "POST",
        "/hello?x=1",
        &[
            ("host", "helloworld.sample:5000"),
            ("x-request-id", "id-1"),
            ("x-forwarded-client-cert", "By=spoofed"),
        ],
        "a body".into(),
    )
    .await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["server"], "istio-envoy");
    assert!(response.headers().contains_key("x-envoy-upstream-service-time"));
    let body = String::from_utf8(response.body().to_vec()).unwrap();
    let hash = body.split("Hash=").nth(1).unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(hash.len(), 64, "{hash}");
    let want = format!(
        "POST /hello?x=1 HTTP/1.1\n\
         content-length: 6\n\
         host: helloworld.sample:5000\n\
         x-forwarded-client-cert: By={HELLO};Hash={hash};Subject=\"\";URI={SLEEP}\n\
         x-forwarded-proto: http\n\
         x-request-id: id-1\n\
         a body"
    );
    assert_eq!(body, want);
}

#[tokio::test]
async fn a_host_without_a_route_is_not_found() {
    let authority = Authority::new();
    let client = client_sidecar(&authority, SLEEP, &[]);
    let address = client.address("0.0.0.0_5000").await;
    assert_eq!(get(address, "/", &[("host", "other.example")]).await.status(), 404);
    let response = get(address, "/", &[("host", "helloworld.sample")]).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.body(), "no healthy upstream");
}

/// One request on a connection that is kept: what came, and whether the connection goes on.
async fn ask(
    sender: &mut hyper::client::conn::http1::SendRequest<Full<Bytes>>,
) -> (u16, Option<String>, bool) {
    let request = http::Request::get("/").header("host", "helloworld.sample:5000");
    let response = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    body.collect().await.unwrap();
    let closes = parts.headers.get("connection").map(|value| value.to_str().unwrap().to_owned());
    (parts.status.as_u16(), closes, sender.ready().await.is_ok())
}

async fn kept(
    address: std::net::SocketAddr,
) -> hyper::client::conn::http1::SendRequest<Full<Bytes>> {
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn a_gateway_that_retires_lets_connections_end_and_serves_new_ones_once() {
    let authority = Authority::new();
    let server = server_sidecar(&authority, app(echo).await);
    let endpoint = server.address("virtualInbound").await;
    // A client's listener, entered from outside as a gateway's is.
    let client = client_sidecar_as(&authority, SLEEP, &[endpoint], true);
    let entrance = client.address("0.0.0.0_5000").await;
    let mut early = kept(entrance).await;
    assert_eq!(ask(&mut early).await, (200, None, true));
    let mut idle = kept(entrance).await;
    assert_eq!(ask(&mut idle).await, (200, None, true));
    client.proxy.retire();
    eventually("the end of idle connections", || {
        (early.is_closed() && idle.is_closed()).then_some(())
    })
    .await;
    let mut late = kept(entrance).await;
    assert_eq!(ask(&mut late).await, (200, Some("close".to_owned()), false));
}

#[tokio::test]
async fn a_sidecar_that_retires_still_serves_its_own_application() {
    let authority = Authority::new();
    let server = server_sidecar(&authority, app(echo).await);
    let endpoint = server.address("virtualInbound").await;
    let client = client_sidecar(&authority, SLEEP, &[endpoint]);
    let mut sender = kept(client.address("0.0.0.0_5000").await).await;
    client.proxy.retire();
    for _ in 0..2 {
        assert_eq!(ask(&mut sender).await, (200, None, true));
    }
    // The server's connections end after each answer, which the client's application never sees.
    server.proxy.retire();
    for _ in 0..2 {
        assert_eq!(ask(&mut sender).await, (200, None, true));
    }
}

/// Asks twice, and once more after `pause`; returns how many connections that took.
async fn connections_for(upstream: cds::Cluster, pause: Duration) -> u64 {
    let app = app(echo).await;
    let mut node = Node::start(Authority::new().credentials(SLEEP));
    let load_assignment = Some(assignment(SERVICE, &[app], false));
    node.apply(Kind::Upstream, SERVICE, &cds::Cluster { load_assignment, ..upstream });
    let manager = manager(hcm::RouteSpecifier::RouteConfig(routes("inline", SERVICE)));
    node.apply(Kind::Listener, "http", &listener("http", vec![chain(http_filter(&manager))]));
    let mut sender = kept(node.address("http").await).await;
    let upstream = node.proxy.snapshot.load().upstreams[SERVICE].clone();
    let opened = || upstream.totals.connections.load(Ordering::Relaxed);
    for wait in [Duration::ZERO, Duration::from_millis(20), pause] {
        tokio::time::sleep(wait).await;
        assert_eq!(ask(&mut sender).await, (200, None, true));
    }
    opened()
}

#[tokio::test]
async fn connections_to_an_upstream_are_used_until_they_are_too_old() {
    let pause = Duration::from_millis(300);
    for second_version in [false, true] {
        let mut upstream = fixed(SERVICE, &[]);
        if second_version {
            upstream = http2(upstream);
        }
        assert_eq!(connections_for(upstream.clone(), pause).await, 1);
        #[expect(deprecated, reason = "the older form is accepted too")]
        {
            upstream.common_http_protocol_options = Some(core::HttpProtocolOptions {
                max_connection_duration: Some(wkt::Duration { seconds: 0, nanos: 200_000_000 }),
                ..Default::default()
            });
        }
        assert_eq!(connections_for(upstream, pause).await, 2, "HTTP/2: {second_version}");
    }
}
