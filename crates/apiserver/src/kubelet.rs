//! What only a pod's node can answer: logs, commands in containers, attached terminals, and
//! forwarded ports.
//!
//! The request is relayed to the kubelet of the pod's node, over TLS with this server's client
//! certificate. Streams are passed on as raw bytes of the upgraded connection, so both ends speak
//! the same protocol and this server looks into neither.

use std::sync::Arc;

use serde_json::Value;

use crate::api::Api;
use crate::request::{Call, RequestInfo};
use crate::respond::Response;
use crate::status::Status;
use crate::store::{Key, Stored};

mod logs;
mod streams;

/// Whether the request is one for the pod's node.
pub fn serves(info: &RequestInfo) -> bool {
    info.is_resource
        && info.group.is_empty()
        && matches!(
            (info.resource.as_str(), info.subresource.as_str()),
            ("pods", "log" | "exec" | "attach" | "portforward" | "proxy")
                | ("nodes" | "services", "proxy")
        )
}

/// Answers such a request.
///
/// # Errors
/// The refusal that the client gets.
pub async fn serve(api: &Arc<Api>, call: Call) -> Result<Response, Status> {
    match call.info.subresource.as_str() {
        "log" => logs::serve(api, &call).await,
        "exec" | "attach" | "portforward" => streams::serve(api, call).await,
        other => Err(Status::not_implemented(format!(
            "{}/{other} is not supported by this API server; use port-forward, or reach the address \
             of the pod or service from a pod",
            call.info.resource
        ))),
    }
}

fn find_pod(api: &Api, info: &RequestInfo) -> Result<Arc<Stored>, Status> {
    api.store
        .get(&Key::new("/pods", &info.namespace, &info.name))
        .ok_or_else(|| Status::not_found("", "pods", &info.name))
}

/// The container that a request is about: the one it names, or the only one.
fn container<'a>(pod: &'a Value, named: Option<&'a str>) -> Result<&'a str, Status> {
    let pod_name = text(pod, "/metadata/name");
    let names = |field: &str| {
        let list = pod.pointer(&format!("/spec/{field}")).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|container| container["name"].as_str())
    };
    let all: Vec<&str> = names("initContainers")
        .chain(names("containers"))
        .chain(names("ephemeralContainers"))
        .collect();
    match named.filter(|name| !name.is_empty()) {
        Some(name) if all.contains(&name) => Ok(name),
        Some(name) => {
            Err(Status::bad_request(format!("container {name} is not valid for pod {pod_name}")))
        }
        None => {
            let mut own = names("containers");
            match (own.next(), own.next()) {
                (Some(only), None) => Ok(only),
                (None, _) => Err(Status::bad_request(format!(
                    "a container name must be specified for pod {pod_name}"
                ))),
                _ => Err(Status::bad_request(format!(
                    "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                    all.join(" ")
                ))),
            }
        }
    }
}

/// Where the kubelet of a node listens.
fn kubelet_address(api: &Api, node: &str) -> Result<(String, u16), Status> {
    let stored = api
        .store
        .get(&Key::new("/nodes", "", node))
        // In the words of Kubernetes, which speaks of the subresource's own kind.
        .ok_or_else(|| Status::not_found("", "pods", node))?;
    let addresses = stored.value.pointer("/status/addresses").and_then(Value::as_array);
    let address = addresses
        .into_iter()
        .flatten()
        .find(|address| address["type"] == "InternalIP")
        .and_then(|address| address["address"].as_str())
        .ok_or_else(|| Status::internal(format!("node {node} has no InternalIP address")))?;
    let port = stored
        .value
        .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
        .and_then(Value::as_u64)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .unwrap_or(10250);
    Ok((address.to_owned(), port))
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A query string of names and values.
fn query_string(pairs: &[(&str, String)]) -> String {
    let encoded: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    encoded.join("&")
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The refusal that an answer of the kubelet stands for.
fn relayed(code: u16, body: &str) -> Status {
    let body = body.trim_end();
    match code {
        400 => Status::bad_request(body),
        404 => Status::new(404, "NotFound", body),
        500 => Status::internal(body),
        _ => Status::new(code, "", body),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_only_container_needs_no_name_and_several_do() {
        let pod = |names: &[&str]| {
            let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            json!({"metadata": {"name": "p"}, "spec": {
                "initContainers": [{"name": "init"}], "containers": containers}})
        };
        let choose = |pod: &Value, name: Option<&str>| {
            container(pod, name).map(str::to_owned).map_err(|s| s.message().to_owned())
        };
        assert_eq!(choose(&pod(&["a"]), None), Ok("a".to_owned()));
        assert_eq!(choose(&pod(&["a", "b"]), Some("init")), Ok("init".to_owned()));
        assert_eq!(
            choose(&pod(&["a", "b"]), None),
            Err("a container name must be specified for pod p, choose one of: [init a b]"
                .to_owned())
        );
        assert_eq!(
            choose(&pod(&["a"]), Some("x")),
            Err("container x is not valid for pod p".to_owned())
        );
    }

    #[test]
    fn query_values_are_escaped() {
        let pairs = [("command", "echo a&b".to_owned()), ("tty", "1".to_owned())];
        assert_eq!(query_string(&pairs), "command=echo%20a%26b&tty=1");
    }
}
