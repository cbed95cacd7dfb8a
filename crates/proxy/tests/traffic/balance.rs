//! Which endpoint answers, and what happens when one does not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::Response;
use tombolo_proxy::snapshot::Kind;
use tombolo_xds::proto::envoy::config::cluster::v3 as cds;
use tombolo_xds::proto::envoy::config::route::v3 as rds;
use tombolo_xds::proto::google::protobuf::UInt32Value;

use crate::support::*;

async fn named(name: &'static str) -> SocketAddr {
    app(move |_| Response::new(Bytes::from_static(name.as_bytes()))).await
}

/// A proxy in the clear, in front of `endpoints`.
fn plain(endpoints: &[SocketAddr]) -> Node {
    let mut node = client_sidecar(&Authority::new(), SLEEP, &[]);
    node.apply(Kind::Endpoints, SERVICE, &assignment(SERVICE, endpoints, false));
    node
}

async fn answers(node: &Node, count: usize) -> BTreeMap<String, usize> {
    let address = node.address("0.0.0.0_5000").await;
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        let response = get(address, "/", &[("host", "helloworld.sample")]).await;
        let body = String::from_utf8(response.body().to_vec()).unwrap();
        *answers.entry(body).or_default() += 1;
    }
    answers
}

#[tokio::test]
async fn round_robin_takes_turns() {
    let node = plain(&[named("a").await, named("b").await]);
    let want = BTreeMap::from([("a".to_owned(), 10), ("b".to_owned(), 10)]);
    assert_eq!(answers(&node, 20).await, want);
}

#[tokio::test]
async fn weights_are_shares() {
    let mut node = plain(&[]);
    let mut weighted = assignment(SERVICE, &[named("a").await, named("b").await], false);
    weighted.endpoints[0].lb_endpoints[0].load_balancing_weight = Some(UInt32Value { value: 3 });
    node.apply(Kind::Endpoints, SERVICE, &weighted);
    let want = BTreeMap::from([("a".to_owned(), 15), ("b".to_owned(), 5)]);
    assert_eq!(answers(&node, 20).await, want);
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_not_noticed_by_clients() {
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let node = plain(&[closed, named("a").await]);
    assert_eq!(answers(&node, 10).await, BTreeMap::from([("a".to_owned(), 10)]));
}

#[tokio::test]
async fn a_lower_priority_serves_only_when_the_first_has_nobody() {
    let mut node = plain(&[]);
    let mut both = assignment(SERVICE, &[named("near").await], false);
    let mut far = assignment(SERVICE, &[named("far").await], false).endpoints.remove(0);
    far.priority = 1;
    both.endpoints.push(far);
    node.apply(Kind::Endpoints, SERVICE, &both);
    assert_eq!(answers(&node, 5).await, BTreeMap::from([("near".to_owned(), 5)]));
    both.endpoints[0].lb_endpoints.clear();
    node.apply(Kind::Endpoints, SERVICE, &both);
    assert_eq!(answers(&node, 5).await, BTreeMap::from([("far".to_owned(), 5)]));
}

#[tokio::test]
async fn a_status_that_is_listed_is_tried_again_with_the_same_body() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let flaky = app(move |request| {
        assert_eq!(request.body(), "a body");
        let mut response = Response::new(Bytes::from_static(b"answer"));
        if counted.fetch_add(1, Ordering::SeqCst) < 2 {
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    })
    .await;
    let mut node = plain(&[flaky]);
    let mut routes = routes("5000", SERVICE);
    set_retriable(&mut routes, 503);
    node.apply(Kind::Routes, "5000", &routes);
    let address = node.address("0.0.0.0_5000").await;
    let headers = [("host", "helloworld.sample")];
    let response = send(address, "POST", "/", &headers, "a body".into()).await;
    assert_eq!((response.status().as_u16(), response.body().as_ref()), (200, &b"answer"[..]));
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_cookie_is_given_once_and_leads_back() {
    let mut node = plain(&[]);
    let endpoints = [named("a").await, named("b").await, named("c").await];
    let mut upstream = fixed(SERVICE, &endpoints);
    upstream.lb_policy = cds::cluster::LbPolicy::RingHash.into();
    node.apply(Kind::Upstream, SERVICE, &upstream);
    let mut routes = routes("5000", SERVICE);
    let cookie = rds::route_action::hash_policy::Cookie {
        name: "user".to_owned(),
        ttl: Some(seconds(60)),
        path: "/shop".to_owned(),
        ..Default::default()
    };
    forwarding(&mut routes).hash_policy = vec![rds::route_action::HashPolicy {
        policy_specifier: Some(rds::route_action::hash_policy::PolicySpecifier::Cookie(cookie)),
        ..Default::default()
    }];
    node.apply(Kind::Routes, "5000", &routes);
    let address = node.address("0.0.0.0_5000").await;
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let first = get(address, "/", &[("host", "helloworld.sample")]).await;
        let given = first.headers()["set-cookie"].to_str().unwrap().to_owned();
        let (pair, attributes) = given.split_once("; ").unwrap();
        assert_eq!(attributes, "Max-Age=60; Path=/shop; HttpOnly");
        for _ in 0..3 {
            let headers = [("host", "helloworld.sample"), ("cookie", pair)];
            let next = get(address, "/", &headers).await;
            assert_eq!(next.body(), first.body());
            assert!(!next.headers().contains_key("set-cookie"));
        }
        seen.insert(first.into_body());
    }
    assert!(seen.len() > 1, "all clients went to {seen:?}");
}

fn set_retriable(routes: &mut rds::RouteConfiguration, status: u32) {
    let action = forwarding(routes);
    action.retry_policy.as_mut().unwrap().retriable_status_codes = vec![status];
}
