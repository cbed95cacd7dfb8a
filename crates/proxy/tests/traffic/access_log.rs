//! The access log that the multi-cluster tutorial configures, field by field.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use tombolo_proxy::snapshot::Kind;

use crate::support::*;

const FIELDS: &[(&str, &str)] = &[
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("istio_policy_status", "%DYNAMIC_METADATA(istio.mixer:status)%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("trace_id", "%REQ(X-B3-TRACEID)%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// The lines of a log, once there are `count`.
async fn lines(path: &std::path::Path, count: usize) -> Vec<Value> {
    eventually("the log lines", || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

/// Replaces a value that differs from run to run, and checks its form.
fn settle(line: &mut Value, field: &str, check: impl Fn(&Value) -> bool) {
    assert!(check(&line[field]), "{field} is {}", line[field]);
    line[field] = "SET".into();
}

#[tokio::test]
async fn every_field_of_the_tutorial_is_as_envoy_prints_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let authority = Authority::new();
    let app = app(|_| Response::new(Bytes::from_static(b"hello"))).await;
    let mut node = client_sidecar(&authority, SLEEP, &[]);
    node.apply(Kind::Endpoints, SERVICE, &assignment(SERVICE, &[app], false));
    let mut manager = manager(named_routes("5000"));
    manager.access_log = vec![json_log(path.to_str().unwrap(), FIELDS)];
    let listener = listener("logged", vec![chain(http_filter(&manager))]);
    node.apply(Kind::Listener, "logged", &listener);
    let address = node.address("logged").await;
    let headers = [
        ("host", "helloworld.sample:5000"),
        ("user-agent", "curl/8 \"quoted\""),
        ("x-request-id", "id-1"),
    ];
    send(address, "POST", "/hello?x=1", &headers, "four".into()).await;
    get(address, "/", &[("host", "nobody.example")]).await;
    let mut lines = lines(&path, 2).await;
    let is_address = |value: &Value| value.as_str().is_some_and(|t| t.starts_with("127.0.0.1:"));
    let is_time = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        text.len() == 24 && text.ends_with('Z') && text.as_bytes()[19] == b'.'
    };
    for line in &mut lines {
        settle(line, "downstream_remote_address", is_address);
        settle(line, "start_time", is_time);
        settle(line, "duration", Value::is_u64);
    }
    settle(&mut lines[0], "upstream_local_address", is_address);
    settle(&mut lines[0], "upstream_service_time", |v| {
        v.as_str().is_some_and(|t| t.parse::<u32>().is_ok())
    });
    settle(&mut lines[1], "request_id", |v| v.as_str().is_some_and(|t| t.len() == 36));
    let local = address.to_string();
    assert_eq!(
        lines[0],
        json!({
            "authority": "helloworld.sample:5000", "bytes_received": 4, "bytes_sent": 5,
            "downstream_local_address": local, "downstream_remote_address": "SET",
            "duration": "SET", "istio_policy_status": null, "method": "POST",
            "path": "/hello?x=1", "protocol": "HTTP/1.1", "request_id": "id-1",
            "requested_server_name": null, "response_code": 200, "response_flags": "-",
            "route_name": "default", "start_time": "SET", "trace_id": null,
            "upstream_cluster": SERVICE, "upstream_host": app.to_string(),
            "upstream_local_address": "SET", "upstream_service_time": "SET",
            "upstream_transport_failure_reason": null, "user_agent": "curl/8 \"quoted\"",
            "x_forwarded_for": null,
        })
    );
    assert_eq!(
        lines[1],
        json!({
            "authority": "nobody.example", "bytes_received": 0, "bytes_sent": 0,
            "downstream_local_address": local, "downstream_remote_address": "SET",
            "duration": "SET", "istio_policy_status": null, "method": "GET",
            "path": "/", "protocol": "HTTP/1.1", "request_id": "SET",
            "requested_server_name": null, "response_code": 404, "response_flags": "NR",
            "route_name": null, "start_time": "SET", "trace_id": null,
            "upstream_cluster": null, "upstream_host": null,
            "upstream_local_address": null, "upstream_service_time": null,
            "upstream_transport_failure_reason": null, "user_agent": null,
            "x_forwarded_for": null,
        })
    );
}
