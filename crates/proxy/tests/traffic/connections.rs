//! How many connections an upstream gets, how long they are used, and who waits for one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tombolo_proxy::connect::upstream::Upstream;
use tombolo_proxy::snapshot::Kind;
use tombolo_xds::proto::envoy::config::cluster::v3 as cds;
use tombolo_xds::proto::envoy::config::core::v3 as core;
use tombolo_xds::proto::google::protobuf as wkt;

use crate::support::*;

const HOST: [(&str, &str); 1] = [("host", "helloworld.sample")];

/// A proxy before one application, which answers a request for each permit of the gate.
struct Gated {
    node: Node,
    gate: Arc<Semaphore>,
}

impl Gated {
    async fn new(upstream: cds::Cluster, permits: usize) -> Self {
        let gate = Arc::new(Semaphore::new(permits));
        let app = app_behind(gate.clone(), |_| Response::new(Bytes::new())).await;
        let mut node = client_sidecar(&Authority::new(), SLEEP, &[]);
        let load_assignment = Some(assignment(SERVICE, &[app], false));
        node.apply(Kind::Upstream, SERVICE, &cds::Cluster { load_assignment, ..upstream });
        Self { node, gate }
    }

    async fn get(&self) -> (u16, Bytes) {
        let response = get(self.node.address("0.0.0.0_5000").await, "/", &HOST).await;
        (response.status().as_u16(), response.into_body())
    }

    fn upstream(&self) -> Arc<Upstream> {
        self.node.proxy.snapshot.load().upstreams[SERVICE].clone()
    }

    fn opened(&self) -> u64 {
        self.upstream().totals.connections.load(Ordering::Relaxed)
    }

    async fn count(&self, what: &str, count: impl Fn(&Upstream) -> &AtomicU32, want: u32) {
        let upstream = self.upstream();
        eventually(what, || (count(&upstream).load(Ordering::Acquire) == want).then_some(())).await;
    }
}

/// The upstream with and without HTTP/2.
fn both() -> [cds::Cluster; 2] {
    [fixed(SERVICE, &[]), http2(fixed(SERVICE, &[]))]
}

fn limits(connections: u32, pending: u32, requests: u32) -> cds::CircuitBreakers {
    let limit = |value| Some(wkt::UInt32Value { value });
    let thresholds = cds::circuit_breakers::Thresholds {
        max_connections: limit(connections),
        max_pending_requests: limit(pending),
        max_requests: limit(requests),
        ..Default::default()
    };
    cds::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() }
}

#[tokio::test]
async fn connections_are_used_until_they_are_too_old() {
    for mut upstream in both() {
        for (age, connections) in [(None, 1), (Some(200_000_000), 2)] {
            #[expect(deprecated, reason = "the older form is accepted too")]
            {
                upstream.common_http_protocol_options = Some(core::HttpProtocolOptions {
                    max_connection_duration: age.map(|nanos| wkt::Duration { seconds: 0, nanos }),
                    ..Default::default()
                });
            }
            let gated = Gated::new(upstream.clone(), 3).await;
            for pause in [0, 20, 300] {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                assert_eq!(gated.get().await.0, 200);
            }
            assert_eq!(gated.opened(), connections, "{age:?}, {:?}", gated.upstream().config);
        }
    }
}

#[tokio::test]
async fn connections_that_lie_idle_are_closed() {
    for mut upstream in both() {
        #[expect(deprecated, reason = "the older form is accepted too")]
        {
            upstream.common_http_protocol_options = Some(core::HttpProtocolOptions {
                idle_timeout: Some(wkt::Duration { seconds: 0, nanos: 100_000_000 }),
                ..Default::default()
            });
        }
        let gated = Gated::new(upstream, 2).await;
        assert_eq!(gated.get().await.0, 200);
        gated.count("a connection", |u| &u.connections, 1).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        gated.node.proxy.prune();
        gated.count("no connection", |u| &u.connections, 0).await;
        assert_eq!((gated.get().await.0, gated.opened()), (200, 2));
    }
}

/// Answers `/hello` and hangs up on everything else; returns how often it was called for that.
async fn hangs_up() -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let counted = counted.clone();
            tokio::spawn(async move {
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = tcp.read_u8().await else { return };
                        head.push(byte);
                    }
                    if !head.starts_with(b"GET /hello") {
                        counted.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    tcp.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (address, calls)
}

#[tokio::test]
async fn only_what_an_application_has_not_seen_is_sent_again() {
    let (app, calls) = hangs_up().await;
    let mut node = client_sidecar(&Authority::new(), SLEEP, &[]);
    node.apply(Kind::Upstream, SERVICE, &fixed(SERVICE, &[app]));
    let mut routes = routes("5000", SERVICE);
    let retry = forwarding(&mut routes).retry_policy.as_mut().unwrap();
    "reset-before-request".clone_into(&mut retry.retry_on);
    node.apply(Kind::Routes, "5000", &routes);
    let address = node.address("0.0.0.0_5000").await;
    // On a new connection, and on one that was used before.
    for (method, kept, times) in
        [("POST", false, 1), ("POST", true, 1), ("GET", false, 1), ("GET", true, 2)]
    {
        if kept {
            assert_eq!(get(address, "/hello", &HOST).await.status(), 200);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        calls.store(0, Ordering::SeqCst);
        let answer = send(address, method, "/run", &HOST, Bytes::new()).await;
        assert_eq!(answer.status(), 503);
        assert_eq!(calls.load(Ordering::SeqCst), times, "{method}, kept connection: {kept}");
    }
}

#[tokio::test]
async fn requests_wait_for_the_only_connection_up_to_a_limit() {
    let mut upstream = fixed(SERVICE, &[]);
    upstream.circuit_breakers = Some(limits(1, 1, 100));
    let gated = Gated::new(upstream, 0).await;
    let second = async {
        gated.count("a request on the connection", |u| &u.requests, 1).await;
        gated.get().await
    };
    let (first, second, ()) = tokio::join!(gated.get(), second, async {
        gated.count("a request on the connection", |u| &u.requests, 1).await;
        gated.count("a request that waits", |u| &u.pending, 1).await;
        let (status, text) = gated.get().await;
        assert_eq!(status, 503, "{text:?}");
        assert!(text.ends_with(b"reset reason: overflow"), "{text:?}");
        gated.gate.add_permits(2);
    });
    assert_eq!((first.0, second.0, gated.opened()), (200, 200, 1));
    gated.count("nobody who waits", |u| &u.pending, 0).await;
}

#[tokio::test]
async fn requests_that_come_together_share_a_connection_where_they_can() {
    let [http1, http2] = both();
    for (upstream, connections) in [(http1, 20), (http2.clone(), 1)] {
        let gated = Gated::new(upstream, 0).await;
        let requests = join_all((0..20).map(|_| gated.get()));
        let (answers, ()) = tokio::join!(requests, async {
            gated.count("all requests", |u| &u.requests, 20).await;
            gated.gate.add_permits(20);
        });
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
        assert_eq!(gated.opened(), connections);
    }
    let mut narrow = http2.clone();
    #[expect(deprecated, reason = "the older form is accepted too")]
    {
        narrow.http2_protocol_options = Some(core::Http2ProtocolOptions {
            max_concurrent_streams: Some(wkt::UInt32Value { value: 5 }),
            ..Default::default()
        });
    }
    let gated = Gated::new(narrow, 0).await;
    let requests = join_all((0..20).map(|_| gated.get()));
    let (answers, ()) = tokio::join!(requests, async {
        gated.count("all requests", |u| &u.requests, 20).await;
        gated.gate.add_permits(20);
    });
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert_eq!(gated.opened(), 4);
    let mut few = http2;
    few.circuit_breakers = Some(limits(1, 100, 5));
    let gated = Gated::new(few, 0).await;
    let requests = join_all((0..20).map(|_| gated.get()));
    let (answers, ()) = tokio::join!(requests, async {
        gated.count("as many requests as may be", |u| &u.requests, 5).await;
        gated.gate.add_permits(5);
    });
    let served = answers.iter().filter(|(status, _)| *status == 200).count();
    assert_eq!((served, gated.opened()), (5, 1), "{answers:?}");
}

#[tokio::test]
async fn a_connection_that_cannot_be_opened_fails_all_who_wait_for_it() {
    for upstream in both() {
        let mut node = client_sidecar(&Authority::new(), SLEEP, &[]);
        let nobody = assignment(SERVICE, &["127.0.0.1:1".parse().unwrap()], false);
        let load_assignment = Some(nobody);
        node.apply(Kind::Upstream, SERVICE, &cds::Cluster { load_assignment, ..upstream });
        let address = node.address("0.0.0.0_5000").await;
        let answers = join_all((0..10).map(|_| get(address, "/", &HOST))).await;
        assert!(answers.iter().all(|answer| answer.status() == 503), "{answers:?}");
    }
}
