//! Probes of the application, which the kubelet sends to the agent instead: the application
//! itself may accept only mutual TLS through its sidecar.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::http::{HeaderMap, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tombolo_proxy::connect::dial::{Target, dial};

use crate::settings::{AppMetrics, Settings};

/// The source address that the capture rules let pass.
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));
/// What an application's metrics may amount to.
const METRICS: usize = 16 << 20;

/// Runs a probe as its container declared it, and returns the status to answer with.
pub async fn run(
    settings: &Settings,
    spec: &Value,
    headers: &HeaderMap,
) -> Result<StatusCode, String> {
    let seconds = spec.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(1).max(1);
    let limit = Duration::from_secs(seconds);
    let probing = async {
        if let Some(get) = spec.get("httpGet") {
            return http(settings, get, headers, limit).await;
        }
        if let Some(tcp) = spec.get("tcpSocket") {
            let target = target(settings, port(tcp)?, limit)?;
            return match dial(&target).await {
                Ok(_) => Ok(StatusCode::OK),
                Err(error) => Err(error.to_string()),
            };
        }
        Err("probes other than httpGet and tcpSocket are not supported".to_owned())
    };
    tokio::time::timeout(limit, probing).await.map_err(|_| "timed out".to_owned())?
}

fn port(spec: &Value) -> Result<u16, String> {
    let port = spec.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    port.ok_or_else(|| format!("the probe has no port: {spec}"))
}

fn target(settings: &Settings, port: u16, timeout: Duration) -> Result<Target, String> {
    let ip = settings.ips.first().ok_or("the pod has no address")?;
    let bind = Some(SOURCE);
    Ok(Target { address: SocketAddr::new(*ip, port), bind, timeout, keepalive: None, tls: None })
}

async fn http(
    settings: &Settings,
    spec: &Value,
    headers: &HeaderMap,
    limit: Duration,
) -> Result<StatusCode, String> {
    if spec.get("scheme").and_then(Value::as_str) == Some("HTTPS") {
        return Err("HTTPS probes are not supported".to_owned());
    }
    let path =
        spec.get("path").and_then(Value::as_str).filter(|path| !path.is_empty()).unwrap_or("/");
    let mut request = Request::builder().uri(path);
    let named = spec.get("httpHeaders").and_then(Value::as_array).into_iter().flatten();
    let mut host = None;
    for named in named {
        let text = |key: &str| named.get(key).and_then(Value::as_str).unwrap_or_default();
        match text("name") {
            name if name.eq_ignore_ascii_case("host") => host = Some(text("value").to_owned()),
            name => request = request.header(name, text("value")),
        }
    }
    if let Some(agent) = headers.get(header::USER_AGENT) {
        request = request.header(header::USER_AGENT, agent);
    }
    let target = target(settings, port(spec)?, limit)?;
    let host = host.unwrap_or_else(|| target.address.to_string());
    let request = request.header(header::HOST, host).body(Empty::<Bytes>::new());
    let (status, _) = exchange(&target, request.map_err(|error| error.to_string())?).await?;
    Ok(status)
}

async fn exchange(
    target: &Target,
    request: Request<Empty<Bytes>>,
) -> Result<(StatusCode, Bytes), String> {
    let dialled = dial(target).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(dialled.io))
        .await
        .map_err(|error| error.to_string())?;
    let exchanged = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (parts, body) = response.into_parts();
        let body =
            Limited::new(body, METRICS).collect().await.map_err(|error| error.to_string())?;
        Ok((parts.status, body.to_bytes()))
    };
    // The connection makes progress only while it is polled, and ends with this exchange.
    let mut connection = std::pin::pin!(connection);
    let mut exchanged = std::pin::pin!(exchanged);
    tokio::select! {
        result = &mut exchanged => result,
        ended = &mut connection => match ended {
            Ok(()) => exchanged.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

/// The application's own metrics.
pub async fn metrics(settings: &Settings, app: &AppMetrics) -> Result<String, String> {
    let port: u16 = match app.port.as_str() {
        "" => 80,
        port => port.parse().map_err(|_| format!("`{port}` is not a port"))?,
    };
    let path = if app.path.is_empty() { "/metrics" } else { &app.path };
    let limit = Duration::from_secs(5);
    let target = target(settings, port, limit)?;
    let request = Request::builder()
        .uri(path)
        .header(header::HOST, target.address.to_string())
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    let exchanged = tokio::time::timeout(limit, exchange(&target, request)).await;
    let (status, body) = exchanged.map_err(|_| "timed out".to_owned())??;
    if status != StatusCode::OK {
        return Err(format!("answered {status}"));
    }
    String::from_utf8(body.to_vec()).map_err(|error| error.to_string())
}
