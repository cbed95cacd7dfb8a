//! HTTP from a client sidecar to a server sidecar.

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;

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
