//! Reads requests from a connection and hands each to [`crate::http::exchange`].

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;

use crate::accept::connection::Connection;
use crate::config::http::{Codec, HttpSettings};
use crate::config::listener::{Direction, Terminal};
use crate::http::exchange;
use crate::http::lifetime::{Activity, Limits, Noticed, Over};
use crate::stream::body::ResponseBody;
use crate::stream::io::Io;

/// A client must have sent the head of its request within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle client has to agree to the end of its connection.
const GOODBYE: Duration = Duration::from_secs(5);
/// Streams a client may have open at once where the configuration does not say.
const STREAMS: u32 = 1024;
/// Streams that a client may reset before they were looked at, and resets it may provoke.
const RESETS: usize = 100;
/// The last answer of an HTTP/1 connection.
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Serves a connection until it ends.
pub async fn serve(connection: Arc<Connection>, io: Io) {
    let Terminal::Http(settings) = &connection.chain.terminal else { return };
    let builder = builder(&connection, settings);
    let limits = Limits {
        idle: settings.connection_idle,
        head: settings.headers_timeout.unwrap_or(HEAD_TIMEOUT),
        age: settings.connection_age,
        requests: settings.connection_requests,
    };
    let agreed = connection.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    let activity = Activity::new(limits, agreed.map(|protocol| protocol == "h2"));
    let (serving, opening) = (connection.clone(), activity.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (connection, open) = (serving.clone(), opening.open());
        async move {
            let closes = from_outside(&connection) && request.version() <= Version::HTTP_11;
            let mut answer = exchange::handle(connection.clone(), open, request).await;
            let upgraded = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
            if closes && !upgraded && connection.proxy.is_retiring() {
                answer.headers_mut().insert(header::CONNECTION, CLOSE);
            }
            Ok::<Response<ResponseBody>, Infallible>(answer)
        }
    });
    let io = TokioIo::new(Noticed::new(io, activity.clone()));
    let mut served = pin!(builder.serve_connection_with_upgrades(io, service));
    let over = tokio::select! {
        ended = served.as_mut() => return log_end(&connection, ended),
        () = connection.proxy.shutdown.draining() => None,
        () = retired(&connection) => None,
        over = activity.over() => Some(over),
    };
    tracing::debug!(source = %connection.source, ?over, "downstream connection is to end");
    if over == Some(Over::Head) {
        return;
    }
    // Answer what has begun, take nothing new.
    served.as_mut().graceful_shutdown();
    let ended = match over {
        // Nothing has begun. The client may be gone, and then never agrees to the end.
        Some(Over::Idle) => match tokio::time::timeout(GOODBYE, served).await {
            Ok(ended) => ended,
            Err(_) => return,
        },
        _ => served.await,
    };
    log_end(&connection, ended);
}

/// Whether others opened the connection, and not the application of this pod.
fn from_outside(connection: &Connection) -> bool {
    connection.proxy.settings.gateway || connection.listener.direction == Direction::Inbound
}

/// Returns when the proxy retires while the connection is open. One that is opened later is closed
/// by its first answer.
async fn retired(connection: &Connection) {
    if !from_outside(connection) || connection.proxy.is_retiring() {
        return std::future::pending().await;
    }
    connection.proxy.retired().await;
}

fn log_end(connection: &Connection, ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(source = %connection.source, %error, "downstream connection ended");
    }
}

fn builder(connection: &Connection, settings: &HttpSettings) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let header_bytes = usize::try_from(settings.max_header_kib).unwrap_or(60) * 1024;
    builder
        .http1()
        .timer(TokioTimer::new())
        // [`Activity`] keeps this time.
        .header_read_timeout(None)
        .max_buf_size(header_bytes.max(8192))
        .max_headers(settings.max_headers);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20)
        .max_concurrent_streams(settings.max_streams.unwrap_or(STREAMS))
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .max_send_buf_size(64 * 1024)
        .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX));
    if let Some((interval, timeout)) = settings.ping {
        builder.http2().keep_alive_interval(interval).keep_alive_timeout(timeout);
    }
    let agreed = connection.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    match (settings.codec, agreed) {
        (Codec::Http1, _) | (Codec::Auto, Some("http/1.1")) => builder.http1_only(),
        (Codec::Http2, _) | (Codec::Auto, Some("h2")) => builder.http2_only(),
        (Codec::Auto, _) => builder,
    }
}
