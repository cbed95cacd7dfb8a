//! A gateway between two networks: TLS passes by server name and is never opened.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tombolo_proxy::snapshot::Kind;
use tombolo_xds::proto::envoy::config::listener::v3 as lds;

use crate::support::*;

const MESH: [&str; 5] =
    ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

fn text(list: &[&str]) -> Vec<String> {
    list.iter().map(|item| (*item).to_owned()).collect()
}

/// A gateway that exports the service, whose endpoint is `endpoint`.
async fn gateway(authority: &Authority, endpoint: std::net::SocketAddr) -> Node {
    let id = "spiffe://cluster.local/ns/istio-system/sa/istio-eastwestgateway";
    let mut node = Node::start_as(authority.credentials(id), true);
    let mut upstream = discovered(SNI, HELLO, "");
    upstream.transport_socket_matches.clear();
    node.apply(Kind::Upstream, SNI, &upstream);
    node.apply(Kind::Endpoints, SNI, &assignment(SNI, &[endpoint], true));
    let mut chain = chain(tcp_filter(SNI));
    chain.filter_chain_match = Some(lds::FilterChainMatch {
        server_names: text(&[SNI]),
        application_protocols: text(&MESH),
        ..Default::default()
    });
    let mut listener = listener("0.0.0.0_15443", vec![chain]);
    listener.listener_filters.truncate(1);
    node.apply(Kind::Listener, "0.0.0.0_15443", &listener);
    node
}

#[tokio::test]
async fn mutual_tls_passes_through_a_gateway_from_end_to_end() {
    let authority = Authority::new();
    let app = app(|request| {
        let peer = request.headers()["x-forwarded-client-cert"].to_str().unwrap().to_owned();
        Response::new(Bytes::from(peer))
    });
    let server = server_sidecar(&authority, app.await);
    let gateway = gateway(&authority, server.address("virtualInbound").await).await;
    let entrance = gateway.address("0.0.0.0_15443").await;
    let client = client_sidecar(&authority, SLEEP, &[entrance]);
    let address = client.address("0.0.0.0_5000").await;
    let response = get(address, "/", &[("host", "helloworld.sample")]).await;
    assert_eq!(response.status(), 200);
    let body = String::from_utf8(response.body().to_vec()).unwrap();
    assert!(body.ends_with(&format!("URI={SLEEP}")), "the server sees the client itself: {body}");
}

/// A ClientHello in records of at most `record` bytes.
fn hello(name: &str, alpn: &[&str], record: usize) -> Vec<u8> {
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let mut extensions = Vec::new();
    let entry = [&[0][..], &length(name.as_bytes()), name.as_bytes()].concat();
    let list = [&length(&entry)[..], &entry].concat();
    extensions.extend([&[0, 0][..], &length(&list), &list].concat());
    let names: Vec<u8> =
        alpn.iter().flat_map(|n| [&[n.len() as u8], n.as_bytes()].concat()).collect();
    let list = [&length(&names)[..], &names].concat();
    extensions.extend([&[0, 16][..], &length(&list), &list].concat());
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend([&length(&extensions)[..], &extensions].concat());
    let message = [&[1, 0][..], &length(&body), &body].concat();
    let records = message.chunks(record);
    records.flat_map(|part| [&[22, 3, 1][..], &length(part), part].concat()).collect()
}

/// Sends bytes one by one; whether the gateway passed them on to a server that echoes.
async fn passes(entrance: std::net::SocketAddr, bytes: &[u8]) -> bool {
    let mut tcp = TcpStream::connect(entrance).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    for byte in bytes {
        if tcp.write_all(&[*byte]).await.is_err() {
            return false;
        }
    }
    let mut echoed = vec![0; bytes.len()];
    let read = tokio::time::timeout(Duration::from_secs(10), tcp.read_exact(&mut echoed)).await;
    read.unwrap().is_ok() && echoed == bytes
}

/// A server that sends back what it gets.
async fn echo_server() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = tcp.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    address
}

#[tokio::test]
async fn only_exported_names_with_mesh_protocols_pass() {
    let authority = Authority::new();
    let gateway = gateway(&authority, echo_server().await).await;
    let entrance = gateway.address("0.0.0.0_15443").await;
    for record in [1, 5, 16384] {
        assert!(passes(entrance, &hello(SNI, &["istio"], record)).await, "record {record}");
    }
    assert!(passes(entrance, &hello(&SNI.to_uppercase(), &["istio-h2"], 16384)).await);
    let istiod = "outbound_.15012_._.istiod.istio-system.svc.cluster.local";
    for (name, alpn) in [
        (SNI, &["h2"][..]),
        (SNI, &[]),
        ("", &["istio"]),
        (istiod, &["istio"]),
        ("outbound_.5001_._.helloworld.sample.svc.cluster.local", &["istio"]),
        ("outbound_.5000_._.helloworld.sample.svc.cluster.local.", &["istio"]),
        ("helloworld.sample.svc.cluster.local", &["istio"]),
    ] {
        assert!(!passes(entrance, &hello(name, alpn, 16384)).await, "{name} {alpn:?}");
    }
    assert!(!passes(entrance, b"GET / HTTP/1.1\r\nhost: helloworld.sample\r\n\r\n").await);
}
