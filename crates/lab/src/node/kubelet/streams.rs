//! The routes whose answers are streams: exec, attach and portForward.

use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Query, Request, State};
use axum::response::Response;
use http::{StatusCode, header};

use crate::node::Node;
use crate::node::kubelet::forward::{self, Pod, tunnel};
use crate::node::kubelet::server::{Refusal, Target};
use crate::node::kubelet::session::{self, Request as SessionRequest, Streams};
use crate::node::kubelet::spdy::connection;
use crate::node::kubelet::{remote_command, upgrade, websocket};
use crate::node::pod::work::Entrance;

type Pairs = Query<Vec<(String, String)>>;

pub(crate) async fn exec(
    State(node): State<Arc<Node>>,
    target: Target,
    Query(query): Pairs,
    request: Request,
) -> Result<Response, Refusal> {
    let process = target.process(&node)?;
    let wanted = SessionRequest::parse(&query);
    if wanted.command.is_empty() {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 command for the container",
        ));
    }
    let program = node.program.clone();
    let run = move |wanted: SessionRequest, streams: Streams| async move {
        session::outcome(session::exec(&program, &process, &wanted, streams).await)
    };
    carry(&node, wanted, request, run).await
}

pub(crate) async fn attach(
    State(node): State<Arc<Node>>,
    target: Target,
    Query(query): Pairs,
    request: Request,
) -> Result<Response, Refusal> {
    let process = target.process(&node)?;
    let wanted = SessionRequest::parse(&query);
    let run = move |wanted: SessionRequest, streams: Streams| async move {
        session::outcome(session::attach(process, &wanted, streams).await)
    };
    carry(&node, wanted, request, run).await
}

/// Answers with whichever protocol the client upgrades to.
async fn carry<F, R>(
    node: &Arc<Node>,
    wanted: SessionRequest,
    request: Request,
    run: F,
) -> Result<Response, Refusal>
where
    F: FnOnce(SessionRequest, Streams) -> R + Send + 'static,
    R: Future<Output = serde_json::Value> + Send,
{
    let shutdown = node.shutdown.clone();
    if upgrade::is_spdy(request.headers()) {
        let protocol = upgrade::negotiate(request.headers(), &remote_command::PROTOCOLS)?;
        return upgrade::to_spdy(request, protocol, &node.shutdown, move |socket| async move {
            let connection = connection::serve(socket, &shutdown);
            let session = |streams| run(wanted.clone(), streams);
            let carried =
                remote_command::carry(connection, protocol, wanted.clone(), shutdown, session);
            Box::pin(carried).await;
        });
    }
    let upgrade = websocket_upgrade(request, &websocket::PROTOCOLS).await?;
    Ok(upgrade.on_upgrade(move |socket| async move {
        Box::pin(websocket::carry(socket, shutdown, |streams| run(wanted, streams))).await;
    }))
}

/// A client's WebSocket with one of our protocols.
async fn websocket_upgrade(
    request: Request,
    protocols: &[&'static str],
) -> Result<WebSocketUpgrade, Refusal> {
    if !request.headers().contains_key(header::UPGRADE) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "Upgrade request required"));
    }
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("upgrade to a WebSocket: {error}"))
    })?;
    let upgrade = upgrade.protocols(protocols.iter().copied());
    if upgrade.selected_protocol().is_none() {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            format!("the client must speak one of {}", protocols.join(", ")),
        ));
    }
    Ok(upgrade)
}

pub(crate) async fn port_forward(
    State(node): State<Arc<Node>>,
    target: Target,
    Query(query): Pairs,
    request: Request,
) -> Result<Response, Refusal> {
    let pod = forwarded(&node, &target)?;
    let shutdown = node.shutdown.clone();
    if upgrade::is_spdy(request.headers()) {
        let protocol = upgrade::negotiate(request.headers(), &[forward::spdy::PROTOCOL])?;
        return upgrade::to_spdy(request, protocol, &node.shutdown, move |socket| async move {
            let connection = connection::serve(socket, &shutdown);
            Box::pin(forward::spdy::serve(connection, pod, shutdown)).await;
        });
    }
    let ours = [tunnel::PROTOCOL, forward::websocket::PROTOCOL];
    let offered = upgrade::names(request.headers(), &header::SEC_WEBSOCKET_PROTOCOL);
    // A tunnel names its ports inside.
    let tunnelled = offered.iter().any(|protocol| protocol == tunnel::PROTOCOL);
    let ports = if tunnelled || !request.headers().contains_key(header::UPGRADE) {
        Vec::new()
    } else {
        forward::ports(&query).map_err(|text| Refusal::new(StatusCode::BAD_REQUEST, text))?
    };
    let ours = if tunnelled { &ours[..1] } else { &ours[1..] };
    let upgrade = websocket_upgrade(request, ours).await?;
    Ok(upgrade.on_upgrade(move |socket| async move {
        if tunnelled {
            let connection = connection::serve(tunnel::open(socket), &shutdown);
            Box::pin(forward::spdy::serve(connection, pod, shutdown)).await;
        } else {
            Box::pin(forward::websocket::serve(socket, pod, ports, shutdown)).await;
        }
    }))
}

/// The pod whose ports are wanted, with the way into its network.
fn forwarded(node: &Node, target: &Target) -> Result<Pod, Refusal> {
    let (pod, live) = target.live(node)?;
    let name = format!("{}_{}", target.pod, target.namespace);
    let entrance = live.entrance.lock().clone();
    let namespace = match entrance {
        Some(Entrance::Own(namespace)) => Some(namespace),
        Some(Entrance::Host) => None,
        None => {
            let text = format!("pod not found ({name:?}): it has no network now");
            return Err(Refusal::new(StatusCode::NOT_FOUND, text));
        }
    };
    Ok(Pod { name, uid: pod.metadata.uid.clone().unwrap_or_default(), namespace })
}
