//! One try of a request at one endpoint.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, Response, request};
use hyper::body::Incoming;
use tombolo_runtime::shutdown::Shutdown;

use crate::config::upstream::Protocol;
use crate::connect::dial::{Dialled, dial};
use crate::connect::pool::{Facts, Http1, Permit, Stream};
use crate::connect::tls::Spoken;
use crate::connect::upstream::{Endpoint, Upstream, Working};
use crate::failure::{Failure, Kind};
use crate::proxy::Proxy;
use crate::stream::body::RequestBody;

/// How long an HTTP/1.1 connection may take to be ready for its next request.
const REUSE_WAIT: Duration = Duration::from_secs(5);

/// What a request holds of its upstream until its answer has ended.
#[derive(Debug)]
pub struct Lease {
    connection: Held,
    endpoint: Arc<Endpoint>,
    most_uses: Option<u32>,
    _working: Working,
    _request: Permit,
}

#[derive(Debug)]
enum Held {
    Http1(Box<Http1>),
    /// Kept only for its drop: it gives the place on the connection back.
    Http2(#[expect(dead_code, reason = "held, not read")] Stream),
}

impl Lease {
    /// Lets the connection serve others.
    pub fn give_back(self, shutdown: &Shutdown) {
        let Held::Http1(mut connection) = self.connection else { return };
        let (endpoint, most_uses) = (self.endpoint, self.most_uses);
        if connection.sender.is_ready() {
            return endpoint.pool.put_http1(*connection, most_uses);
        }
        shutdown.spawn("upstream connection reuse", async move {
            let ready = tokio::time::timeout(REUSE_WAIT, connection.sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                endpoint.pool.put_http1(*connection, most_uses);
            }
        });
    }
}

/// An answer, with what is known about where it came from.
#[derive(Debug)]
pub struct Answer {
    pub response: Response<Incoming>,
    pub lease: Lease,
    pub facts: Arc<Facts>,
}

/// Which protocol is spoken to the upstream, for a client that speaks `downstream`.
pub fn spoken(upstream: &Upstream, downstream: http::Version, upgrade: bool) -> Spoken {
    // An upgrade of an HTTP/1.1 connection goes on as HTTP/1.1.
    if upgrade {
        return Spoken::Http1;
    }
    match upstream.config.protocol {
        Protocol::Http1 => Spoken::Http1,
        Protocol::Http2 => Spoken::Http2,
        Protocol::Downstream if downstream == http::Version::HTTP_2 => Spoken::Http2,
        Protocol::Downstream => Spoken::Http1,
    }
}

/// Sends a request to an endpoint and waits for the head of its answer.
///
/// # Cancel safety
/// Dropping the future resets the stream, or closes the HTTP/1.1 connection.
pub async fn send(
    proxy: &Proxy,
    upstream: &Arc<Upstream>,
    endpoint: &Arc<Endpoint>,
    spoken: Spoken,
    head: request::Parts,
    body: RequestBody,
) -> Result<Answer, Failure> {
    let Some(permit) = Permit::take(&upstream.requests, upstream.config.limits.requests) else {
        upstream.totals.overflows.fetch_add(1, Ordering::Relaxed);
        return Err(Failure::new(Kind::Overflow));
    };
    upstream.totals.requests.fetch_add(1, Ordering::Relaxed);
    let working = endpoint.work();
    let request = Request::from_parts(head, body);
    let (response, connection, facts) = match spoken {
        Spoken::Http2 => {
            let (response, stream) = send_http2(proxy, upstream, endpoint, request).await?;
            let facts = stream.facts();
            (response, Held::Http2(stream), facts)
        }
        Spoken::Http1 | Spoken::Bytes => {
            let (response, connection) = send_http1(proxy, upstream, endpoint, request).await?;
            let facts = connection.facts.clone();
            (response, Held::Http1(Box::new(connection)), facts)
        }
    };
    let most_uses = upstream.config.requests_per_connection;
    let lease = Lease {
        connection,
        endpoint: endpoint.clone(),
        most_uses,
        _working: working,
        _request: permit,
    };
    Ok(Answer { response, lease, facts })
}

async fn open(
    proxy: &Proxy,
    upstream: &Arc<Upstream>,
    endpoint: &Arc<Endpoint>,
    spoken: Spoken,
) -> Result<(Dialled, Arc<Facts>), Failure> {
    let Some(permit) = Permit::take(&upstream.connections, upstream.config.limits.connections)
    else {
        upstream.totals.overflows.fetch_add(1, Ordering::Relaxed);
        return Err(Failure::new(Kind::Overflow));
    };
    let Some(_pending) = Permit::take(&upstream.pending, upstream.config.limits.pending) else {
        upstream.totals.overflows.fetch_add(1, Ordering::Relaxed);
        return Err(Failure::new(Kind::Overflow));
    };
    upstream.totals.connections.fetch_add(1, Ordering::Relaxed);
    let dialled = dial(&upstream.target(endpoint, &proxy.credentials, spoken)).await;
    let dialled = dialled.inspect_err(|_| {
        upstream.totals.connect_failures.fetch_add(1, Ordering::Relaxed);
        endpoint.totals.connect_failures.fetch_add(1, Ordering::Relaxed);
    })?;
    let facts = Facts::new(&dialled, permit);
    Ok((dialled, facts))
}

async fn send_http1(
    proxy: &Proxy,
    upstream: &Arc<Upstream>,
    endpoint: &Arc<Endpoint>,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Http1), Failure> {
    loop {
        let kept =
            endpoint.pool.take_http1(upstream.config.idle_timeout, upstream.config.connection_age);
        let reused = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let (dialled, facts) = open(proxy, upstream, endpoint, Spoken::Http1).await?;
                endpoint.pool.start_http1(dialled, facts, &proxy.shutdown).await?
            }
        };
        match connection.sender.try_send_request(request).await {
            Ok(response) => return Ok((response, connection)),
            Err(mut error) => match error.take_message() {
                // The kept connection had died and has sent nothing: the next one may work.
                Some(unsent) if reused => request = unsent,
                _ => return Err(classify(&error.into_error())),
            },
        }
    }
}

async fn send_http2(
    proxy: &Proxy,
    upstream: &Arc<Upstream>,
    endpoint: &Arc<Endpoint>,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Stream), Failure> {
    loop {
        let kept = endpoint
            .pool
            .take_http2(upstream.config.requests_per_connection, upstream.config.connection_age);
        let reused = kept.is_some();
        let stream = match kept {
            Some(stream) => stream,
            None => {
                let (dialled, facts) = open(proxy, upstream, endpoint, Spoken::Http2).await?;
                endpoint.pool.start_http2(dialled, facts, &proxy.shutdown).await?
            }
        };
        match stream.sender().try_send_request(request).await {
            Ok(response) => return Ok((response, stream)),
            Err(mut error) => match error.take_message() {
                Some(unsent) if reused => request = unsent,
                _ => return Err(classify(&error.into_error())),
            },
        }
    }
}

/// What an error of the HTTP engine means.
fn classify(error: &hyper::Error) -> Failure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(h2) = inner.downcast_ref::<h2::Error>() {
            return match h2.reason() {
                Some(h2::Reason::REFUSED_STREAM) => Failure::new(Kind::RefusedStream),
                Some(h2::Reason::PROTOCOL_ERROR) if h2.is_library() => Failure::new(Kind::Protocol),
                Some(_) if h2.is_reset() => Failure::new(Kind::Reset),
                _ => Failure::new(Kind::Terminated),
            };
        }
        cause = inner.source();
    }
    if error.is_parse() {
        return Failure::new(Kind::Protocol);
    }
    if error.is_user() {
        // The request's body broke off: the client has gone.
        return Failure::new(Kind::Downstream);
    }
    Failure::new(Kind::Terminated)
}
