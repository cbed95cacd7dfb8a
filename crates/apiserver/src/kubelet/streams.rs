//! `pods/NAME/exec` and `attach`: an upgraded connection, passed on byte by byte.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::{container, find_pod, kubelet_address, query_string, relayed, text};
use crate::api::Api;
use crate::request::Call;
use crate::respond::{self, Response};
use crate::status::Status;

/// The WebSocket subprotocols that kubelets here speak.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// What the client's handshake and the kubelet's answer consist of.
const HANDSHAKE: [HeaderName; 4] =
    [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_KEY, header::SEC_WEBSOCKET_VERSION];
const ANSWER: [HeaderName; 4] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_PROTOCOL,
];

/// Upgrades the connection and joins it with the kubelet's.
///
/// # Errors
/// 404 without the pod, 400 for an unknown container, a finished pod or a request that is no
/// WebSocket handshake, and whatever the kubelet answers.
pub async fn serve(api: &Arc<Api>, mut call: Call) -> Result<Response, Status> {
    authorize(api, &call)?;
    let pod = find_pod(api, &call.info)?;
    let container = container(&pod.value, call.query.get("container"))?;
    let phase = text(&pod.value, "/status/phase");
    if matches!(phase, "Succeeded" | "Failed") {
        let what = if call.info.subresource == "exec" { "exec" } else { "attach" };
        return Err(Status::bad_request(format!(
            "cannot {what} into a container in a completed pod; current phase is {phase}"
        )));
    }
    let node = text(&pod.value, "/spec/nodeName");
    if node.is_empty() {
        let name = &call.info.name;
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let (host, port) = kubelet_address(api, node)?;
    let protocols = handshake(&call.parts.headers)?;
    let path = format!(
        "/{}/{}/{}/{container}?{}",
        call.info.subresource,
        call.info.namespace,
        call.info.name,
        query_string(&options(&call)?)
    );
    let mut request = Request::get(path).header(header::HOST, format!("{host}:{port}"));
    for name in &HANDSHAKE {
        if let Some(value) = call.parts.headers.get(name) {
            request = request.header(name, value);
        }
    }
    let request = request
        .header(header::SEC_WEBSOCKET_PROTOCOL, protocols.join(", "))
        .body(Empty::new())
        .map_err(Status::internal)?;
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

/// The subprotocols that both sides may choose from.
fn handshake(headers: &HeaderMap) -> Result<Vec<&'static str>, Status> {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    match upgrade {
        Some(protocol) if protocol.eq_ignore_ascii_case("websocket") => (),
        Some(protocol) => {
            return Err(Status::bad_request(format!(
                "unable to upgrade: {protocol} is not supported, use WebSocket with subprotocol \
                 {} (kubectl 1.31 or newer does)",
                PROTOCOLS.join(" or ")
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
    let both: Vec<&str> =
        PROTOCOLS.into_iter().filter(|protocol| offered.contains(protocol)).collect();
    if both.is_empty() {
        return Err(Status::bad_request(format!(
            "unable to upgrade: none of the subprotocols {offered:?} is supported, use {}",
            PROTOCOLS.join(" or ")
        )));
    }
    Ok(both)
}

/// A command changes things although the request is a GET, so it takes the right to create too.
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
