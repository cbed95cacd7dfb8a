//! `pods/NAME/exec`, `attach` and `portforward`: an upgraded connection, passed on byte by byte.
//!
//! Two protocols are passed on: WebSockets, and the older SPDY/3.1. Both ends choose what they
//! speak inside; of a port-forward's tunnel through a WebSocket the kubelet takes out the SPDY.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::{container, find_pod, kubelet_address, query_string, relayed, text};
use crate::api::Api;
use crate::request::Call;
use crate::respond::{self, Response};
use crate::status::Status;
use crate::store::Stored;

/// The WebSocket subprotocols of commands that kubelets here speak.
const COMMANDS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Those of forwarded ports: what kubectl speaks since 1.31, and one connection for each port.
const PORTS: [&str; 2] = ["SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io"];

/// What both ends speak on top of SPDY.
const SPDY_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// What the client's handshake consists of, besides the subprotocols.
const HANDSHAKE: [HeaderName; 5] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    SPDY_PROTOCOL,
];
/// What the kubelet's answer consists of.
const ANSWER: [HeaderName; 5] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_PROTOCOL,
    SPDY_PROTOCOL,
];

/// Upgrades the connection and joins it with the kubelet's.
///
/// # Errors
/// 404 without the pod, 400 for an unknown container, a finished pod or a request that asks for no
/// upgrade, and whatever the kubelet answers.
pub async fn serve(api: &Arc<Api>, mut call: Call) -> Result<Response, Status> {
    authorize(api, &call)?;
    let pod = find_pod(api, &call.info)?;
    let path = path(&call, &pod)?;
    let node = text(&pod.value, "/spec/nodeName");
    if node.is_empty() {
        let name = &call.info.name;
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let (host, port) = kubelet_address(api, node)?;
    let mut request = Request::builder()
        .method(call.parts.method.clone())
        .uri(path)
        .header(header::HOST, format!("{host}:{port}"))
        .body(Empty::new())
        .map_err(Status::internal)?;
    let ours = if call.info.subresource == "portforward" { PORTS } else { COMMANDS };
    *request.headers_mut() = {
        let mut headers = handshake(&call.parts.headers, ours)?;
        headers.extend(std::mem::take(request.headers_mut()));
        headers
    };
    let mut answer = api.kubelet.send((&host, port), request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.map_err(Status::internal)?.to_bytes();
        return Err(relayed(code, &String::from_utf8_lossy(&bytes)));
    }
    let client =
        call.parts.extensions.remove::<OnUpgrade>().ok_or_else(|| {
            Status::bad_request("this connection cannot be upgraded; use HTTP/1.1")
        })?;
    let kubelet = hyper::upgrade::on(&mut answer);
    api.shutdown.spawn("relayed stream", join(client, kubelet));
    let mut response = Response::new(respond::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for name in ANSWER {
        if let Some(value) = answer.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    Ok(response)
}

/// Path and query at the kubelet.
fn path(call: &Call, pod: &Stored) -> Result<String, Status> {
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    if call.info.subresource == "portforward" {
        // Only the WebSocket with a connection for each port names them here.
        let ports: Vec<_> = call.query.all("ports").map(|port| ("port", port.to_owned())).collect();
        return Ok(format!("/portForward/{namespace}/{name}?{}", query_string(&ports)));
    }
    let what = &call.info.subresource;
    let container = container(&pod.value, call.query.get("container"))?;
    let phase = text(&pod.value, "/status/phase");
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Status::bad_request(format!(
            "cannot {what} into a container in a completed pod; current phase is {phase}"
        )));
    }
    Ok(format!("/{what}/{namespace}/{name}/{container}?{}", query_string(&options(call)?)))
}

/// The client's handshake as the kubelet gets it, with the subprotocols that both may choose from.
fn handshake(headers: &HeaderMap, ours: [&'static str; 2]) -> Result<HeaderMap, Status> {
    let mut passed = HeaderMap::new();
    for name in &HANDSHAKE {
        for value in headers.get_all(name) {
            passed.append(name, value.clone());
        }
    }
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    match upgrade {
        Some(protocol) if protocol.eq_ignore_ascii_case("SPDY/3.1") => return Ok(passed),
        Some(protocol) if protocol.eq_ignore_ascii_case("websocket") => (),
        Some(protocol) => {
            return Err(Status::bad_request(format!(
                "unable to upgrade: {protocol} is not supported, use WebSocket with subprotocol \
                 {}, or SPDY/3.1",
                ours.join(" or ")
            )));
        }
        None => return Err(Status::bad_request("Upgrade request required")),
    }
    let offered: Vec<&str> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    let both: Vec<&str> = ours.into_iter().filter(|protocol| offered.contains(protocol)).collect();
    if both.is_empty() {
        return Err(Status::bad_request(format!(
            "unable to upgrade: none of the subprotocols {offered:?} is supported, use {}",
            ours.join(" or ")
        )));
    }
    let both = HeaderValue::from_str(&both.join(", ")).map_err(Status::internal)?;
    passed.insert(header::SEC_WEBSOCKET_PROTOCOL, both);
    Ok(passed)
}

/// These requests change things although they may be a GET, so they take the right to create too.
fn authorize(api: &Api, call: &Call) -> Result<(), Status> {
    if call.info.verb == "create" {
        return Ok(());
    }
    let mut create = call.info.clone();
    "create".clone_into(&mut create.verb);
    api.authorizer.authorize(&call.user, &create)
}

/// The options in the kubelet's names.
fn options(call: &Call) -> Result<Vec<(&'static str, String)>, Status> {
    let names = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
    let mut options: Vec<(&'static str, String)> = names
        .into_iter()
        .filter(|(name, _)| call.query.flag(name))
        .map(|(_, kubelet)| (kubelet, "1".to_owned()))
        .collect();
    if options.iter().all(|(name, _)| *name == "tty") {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if call.info.subresource == "exec" {
        let commands: Vec<_> =
            call.query.all("command").map(|word| ("command", word.to_owned())).collect();
        if commands.is_empty() {
            return Err(Status::bad_request("you must specify a command"));
        }
        options.extend(commands);
    }
    Ok(options)
}

/// Copies in both directions until one side ends.
async fn join(client: OnUpgrade, kubelet: OnUpgrade) {
    let (client, kubelet) = match futures::future::try_join(client, kubelet).await {
        Ok((client, kubelet)) => (client, kubelet),
        Err(error) => return tracing::warn!(%error, "a stream could not be upgraded"),
    };
    let (mut client, mut kubelet) = (TokioIo::new(client), TokioIo::new(kubelet));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut kubelet).await {
        tracing::debug!(%error, "a relayed stream broke");
    }
}
