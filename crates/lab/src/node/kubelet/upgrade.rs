//! How a client leaves HTTP: what its request offers, and the answer that takes it up.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tombolo_runtime::errors::chain;
use tombolo_runtime::shutdown::Shutdown;

use crate::node::kubelet::server::Refusal;

/// The older of the two protocols, as the `Upgrade` header has it.
const SPDY: &str = "SPDY/3.1";

/// What both sides speak on top of SPDY: offered by the client, chosen by the server.
const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What the server speaks, in a refusal.
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// Whether the request is to become a SPDY connection.
pub(crate) fn is_spdy(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(SPDY))
}

/// The names in a header that may come several times and hold several names.
pub(crate) fn names(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).map(str::trim);
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The first of our protocols that a client of SPDY offers.
///
/// # Errors
/// 403 in the words of Kubernetes, with what is accepted, when there is none.
pub(crate) fn negotiate(
    headers: &HeaderMap,
    ours: &[&'static str],
) -> Result<&'static str, Refusal> {
    let theirs = names(headers, &PROTOCOL);
    let chosen = ours.iter().find(|protocol| theirs.iter().any(|known| known == *protocol));
    chosen.copied().ok_or_else(|| {
        Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "unable to upgrade: unable to negotiate protocol: client supports [{}], server \
                 accepts [{}]",
                theirs.join(" "),
                ours.join(" ")
            ),
        )
        .with(ACCEPTED, &ours.join(", "))
    })
}

/// Answers that the connection changes to SPDY, and gives it to `serve` when it has.
///
/// # Errors
/// 400 when the connection cannot change.
pub(crate) fn to_spdy<F>(
    mut request: Request,
    protocol: &'static str,
    shutdown: &Shutdown,
    serve: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
) -> Result<Response, Refusal>
where
    F: Future<Output = ()> + Send,
{
    let upgrade = hyper::upgrade::on(&mut request);
    shutdown.spawn("spdy connection", async move {
        match upgrade.await {
            Ok(socket) => serve(TokioIo::new(socket)).await,
            Err(error) => tracing::debug!(error = %chain(&error), "no upgrade to SPDY"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
    headers.insert(PROTOCOL, HeaderValue::from_static(protocol));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_best_protocol_is_chosen() {
        let mut headers = HeaderMap::new();
        let ours = ["v4.channel.k8s.io", "v3.channel.k8s.io"];
        headers.append(PROTOCOL, HeaderValue::from_static("v5.channel.k8s.io"));
        let refused = negotiate(&headers, &ours).unwrap_err().to_string();
        assert!(refused.contains("client supports [v5.channel.k8s.io]"), "{refused}");
        headers.append(PROTOCOL, HeaderValue::from_static("v3.channel.k8s.io, v4.channel.k8s.io"));
        assert_eq!(negotiate(&headers, &ours).unwrap(), "v4.channel.k8s.io");
    }
}
