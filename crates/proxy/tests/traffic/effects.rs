//! Faults on purpose, cross-origin answers, redirects, rewrites and answers without an upstream.

use bytes::Bytes;
use http::Response;
use tombolo_proxy::snapshot::Kind;
use tombolo_xds::proto::envoy::config::route::v3 as rds;
use tombolo_xds::proto::envoy::config::route::v3::route::Action;
use tombolo_xds::proto::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use tombolo_xds::proto::envoy::extensions::filters::http::fault::v3::{
    FaultAbort, HttpFault, fault_abort,
};
use tombolo_xds::proto::envoy::r#type::matcher::v3 as matcher;
use tombolo_xds::proto::envoy::r#type::v3::FractionalPercent;

use crate::support::*;

/// A proxy in front of an application that answers with the path it saw.
async fn with_route(change: impl FnOnce(&mut rds::Route)) -> (Node, std::net::SocketAddr) {
    let app = app(|request| Response::new(Bytes::from(request.uri().to_string()))).await;
    let mut node = client_sidecar(&Authority::new(), SLEEP, &[]);
    node.apply(Kind::Endpoints, SERVICE, &assignment(SERVICE, &[app], false));
    let mut routes = routes("5000", SERVICE);
    change(&mut routes.virtual_hosts[0].routes[0]);
    node.apply(Kind::Routes, "5000", &routes);
    let address = node.address("0.0.0.0_5000").await;
    (node, address)
}

fn forward(route: &mut rds::Route) -> &mut rds::RouteAction {
    match route.action.as_mut() {
        Some(Action::Route(action)) => action,
        other => panic!("{other:?}"),
    }
}

const HOST: (&str, &str) = ("host", "helloworld.sample");

#[tokio::test]
async fn a_fault_answers_instead_of_the_application() {
    let abort = FaultAbort {
        error_type: Some(fault_abort::ErrorType::HttpStatus(418)),
        percentage: Some(FractionalPercent { numerator: 100, denominator: 0 }),
        ..Default::default()
    };
    let fault = HttpFault { abort: Some(abort), ..Default::default() };
    let name = "envoy.filters.http.fault".to_owned();
    let (_node, address) =
        with_route(|route| drop(route.typed_per_filter_config.insert(name, any(&fault)))).await;
    let response = get(address, "/", &[HOST]).await;
    assert_eq!(
        (response.status().as_u16(), response.body().as_ref()),
        (418, &b"fault filter abort"[..])
    );
}

#[tokio::test]
async fn browsers_are_told_which_origins_may_call() {
    let exact = matcher::string_matcher::MatchPattern::Exact("https://a.example".to_owned());
    let policy = CorsPolicy {
        allow_origin_string_match: vec![matcher::StringMatcher {
            match_pattern: Some(exact),
            ..Default::default()
        }],
        allow_methods: "GET,POST".to_owned(),
        ..Default::default()
    };
    let name = "envoy.filters.http.cors".to_owned();
    let (_node, address) =
        with_route(|route| drop(route.typed_per_filter_config.insert(name, any(&policy)))).await;
    let ask = [HOST, ("origin", "https://a.example"), ("access-control-request-method", "POST")];
    let response = send(address, "OPTIONS", "/", &ask, Bytes::new()).await;
    assert_eq!(response.headers()["access-control-allow-methods"], "GET,POST");
    assert_eq!(response.body(), "", "the application was not asked");
    let response = get(address, "/", &[HOST, ("origin", "https://a.example")]).await;
    assert_eq!(response.headers()["access-control-allow-origin"], "https://a.example");
    let response = get(address, "/", &[HOST, ("origin", "https://b.example")]).await;
    assert!(!response.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_prefix_is_rewritten_and_the_original_kept() {
    let (_node, address) = with_route(|route| {
        route.r#match = Some(rds::RouteMatch {
            path_specifier: Some(rds::route_match::PathSpecifier::Prefix("/old/".to_owned())),
            ..Default::default()
        });
        forward(route).prefix_rewrite = "/new/".to_owned();
    })
    .await;
    let response = get(address, "/old/thing?x=1", &[HOST]).await;
    assert_eq!(response.body(), "/new/thing?x=1");
    assert_eq!(get(address, "/other", &[HOST]).await.status(), 404);
}

#[tokio::test]
async fn a_redirect_names_the_new_place() {
    let redirect = rds::RedirectAction {
        host_redirect: "new.example".to_owned(),
        path_rewrite_specifier: Some(rds::redirect_action::PathRewriteSpecifier::PathRedirect(
            "/there".to_owned(),
        )),
        response_code: 1,
        ..Default::default()
    };
    let (_node, address) =
        with_route(|route| route.action = Some(Action::Redirect(redirect))).await;
    let response = get(address, "/here?x=1", &[HOST]).await;
    assert_eq!(response.status(), 302);
    assert_eq!(response.headers()["location"], "http://new.example/there?x=1");
}

#[tokio::test]
async fn a_route_that_is_not_understood_is_rejected_by_its_path() {
    let mut node = client_sidecar(&Authority::new(), SLEEP, &[]);
    let mut routes = routes("5000", SERVICE);
    forward(&mut routes.virtual_hosts[0].routes[0]).request_mirror_policies =
        vec![rds::route_action::RequestMirrorPolicy::default()];
    let want = "5000: virtual_hosts.routes.route.request_mirror_policies: is not supported";
    assert_eq!(node.try_apply(Kind::Routes, "5000", &routes), [want]);
}
