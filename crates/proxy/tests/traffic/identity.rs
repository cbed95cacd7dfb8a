//! Who may talk to whom: wrong identities, other roots and plain text are refused.

use bytes::Bytes;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tombolo_proxy::snapshot::Kind;

use crate::support::*;

async fn status(client: &Node) -> (u16, String) {
    let address = client.address("0.0.0.0_5000").await;
    let response = get(address, "/", &[("host", "helloworld.sample")]).await;
    (response.status().as_u16(), String::from_utf8(response.body().to_vec()).unwrap())
}

#[tokio::test]
async fn a_server_with_another_identity_is_refused() {
    let authority = Authority::new();
    let server = server_sidecar(&authority, app(|_| Response::new(Bytes::new())).await);
    let endpoint = server.address("virtualInbound").await;
    let mut client = client_sidecar(&authority, SLEEP, &[endpoint]);
    assert_eq!(status(&client).await.0, 200);
    let other = "spiffe://cluster.local/ns/sample/sa/other";
    client.apply(Kind::Upstream, SERVICE, &discovered(SERVICE, other, SNI));
    let (status, body) = status(&client).await;
    assert_eq!(status, 503);
    let want = "upstream connect error or disconnect/reset before headers. retried and the latest \
                reset reason: remote connection failure, transport failure reason: TLS_error: ";
    assert!(body.starts_with(want), "{body}");
    assert!(body.contains(HELLO) && body.contains(other), "{body}");
}

#[tokio::test]
async fn a_peer_under_another_root_is_refused() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = server_sidecar(&theirs, app(|_| Response::new(Bytes::new())).await);
    let endpoint = server.address("virtualInbound").await;
    let client = client_sidecar(&ours, SLEEP, &[endpoint]);
    assert_eq!(status(&client).await.0, 503);
}

#[tokio::test]
async fn plain_text_to_a_strict_server_is_closed_without_an_answer() {
    let authority = Authority::new();
    let server = server_sidecar(&authority, app(|_| Response::new(Bytes::new())).await);
    let mut tcp = TcpStream::connect(server.address("virtualInbound").await).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: helloworld.sample\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // The connection may end in order or by a reset; nothing is said in any case.
    drop(tcp.read_to_end(&mut answer).await);
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn a_request_to_the_capture_port_itself_does_not_loop() {
    let authority = Authority::new();
    let mut node = Node::start(authority.credentials(SLEEP));
    let name = "PassthroughCluster";
    let mut passthrough = fixed(name, &[]);
    passthrough.load_assignment = None;
    passthrough.lb_policy = 6;
    passthrough.cluster_discovery_type = Some(
        tombolo_xds::proto::envoy::config::cluster::v3::cluster::ClusterDiscoveryType::Type(4),
    );
    node.apply(Kind::Upstream, name, &passthrough);
    let mut listener = listener("virtualOutbound", vec![chain(tcp_filter(name))]);
    listener.listener_filters.clear();
    node.apply(Kind::Listener, "virtualOutbound", &listener);
    let mut tcp = TcpStream::connect(node.address("virtualOutbound").await).await.unwrap();
    let mut answer = Vec::new();
    drop(tcp.read_to_end(&mut answer).await);
    assert_eq!(answer, b"");
    let accepted = node.proxy.totals.connections.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(accepted, 1, "the proxy did not connect to itself");
}
