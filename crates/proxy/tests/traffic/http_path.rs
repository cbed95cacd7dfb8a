//! HTTP from a client sidecar to a server sidecar.

use bytes::Bytes;
use http::Response;

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
