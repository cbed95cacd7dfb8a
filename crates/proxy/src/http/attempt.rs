//! One try of a request at one endpoint.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, Response, request};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tombolo_runtime::shutdown::Shutdown;

use crate::config::upstream::{Protocol, Use};
use crate::connect::dial::{Dialled, dial};
use crate::connect::pool::{Facts, Http1, Permit, Place, Stream, Turn};
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
    most: Use,
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
        let (endpoint, most) = (self.endpoint, self.most);
        if connection.sender.is_ready() {
            return endpoint.pool.put_http1(*connection, most);
        }
        shutdown.spawn("upstream connection reuse", async move {
            let ready = tokio::time::timeout(REUSE_WAIT, connection.sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                endpoint.pool.put_http1(*connection, most);
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
    let working = endpoint.work();
    let request = Request::from_parts(head, body);
    let target = At { proxy, upstream, endpoint };
    let (response, connection, facts, permit) = match spoken {
        Spoken::Http2 => {
            let (response, stream, permit) = target.send_http2(request).await?;
            let facts = stream.facts();
            (response, Held::Http2(stream), facts, permit)
        }
        Spoken::Http1 | Spoken::Bytes => {
            let (response, connection, permit) = target.send_http1(request).await?;
            let facts = connection.facts.clone();
            (response, Held::Http1(Box::new(connection)), facts, permit)
        }
    };
    let lease = Lease {
        connection,
        endpoint: endpoint.clone(),
        most: upstream.config.connections,
        _working: working,
        _request: permit,
    };
    Ok(Answer { response, lease, facts })
}

/// Where a request goes.
#[derive(Clone, Copy)]
struct At<'a> {
    proxy: &'a Proxy,
    upstream: &'a Arc<Upstream>,
    endpoint: &'a Arc<Endpoint>,
}

impl At<'_> {
    async fn send_http1(
        self,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Http1, Permit), Failure> {
        let safe = request.method().is_safe();
        loop {
            let (mut connection, reused) = self.http1().await?;
            let Some(permit) = self.request() else {
                self.endpoint.pool.put_http1(connection, self.upstream.config.connections);
                return Err(self.overflow());
            };
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, connection, permit)),
                Err(error) => request = again(error, reused, safe)?,
            }
        }
    }

    async fn send_http2(
        self,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Stream, Permit), Failure> {
        let safe = request.method().is_safe();
        loop {
            let (stream, reused) = self.http2().await?;
            let permit = self.request().ok_or_else(|| self.overflow())?;
            match stream.sender().try_send_request(request).await {
                Ok(response) => return Ok((response, stream, permit)),
                Err(error) => request = again(error, reused, safe)?,
            }
        }
    }

    /// A connection, and whether it was used before.
    async fn http1(self) -> Result<(Http1, bool), Failure> {
        let (pool, most) = (&self.endpoint.pool, self.upstream.config.connections);
        if let Some(connection) = pool.take_http1(most) {
            return Ok((connection, true));
        }
        let _pending = self.pending()?;
        match pool.turn_http1(self.upstream.room(), most).await {
            Turn::Kept(connection) => Ok((connection, true)),
            Turn::Open(place) => {
                let (dialled, facts) = self.open(Spoken::Http1, place).await?;
                let connection = pool.start_http1(dialled, facts, &self.proxy.shutdown).await?;
                Ok((connection, false))
            }
        }
    }

    /// A place on a connection, and whether the connection was used before.
    async fn http2(self) -> Result<(Stream, bool), Failure> {
        let (pool, most) = (&self.endpoint.pool, self.upstream.config.connections);
        if let Some(stream) = pool.take_http2(most) {
            return Ok((stream, true));
        }
        let _pending = self.pending()?;
        let (place, opener) = match pool.turn_http2(self.upstream.room(), most).await? {
            Turn::Kept(stream) => return Ok((stream, true)),
            Turn::Open(leave) => leave,
        };
        let opened = async {
            let (dialled, facts) = self.open(Spoken::Http2, place).await?;
            pool.start_http2(dialled, facts, &self.proxy.shutdown).await
        };
        let opened = opened.await;
        opener.tell(opened.as_ref().map(drop));
        Ok((opened?, false))
    }

    async fn open(self, spoken: Spoken, place: Place) -> Result<(Dialled, Arc<Facts>), Failure> {
        self.upstream.totals.connections.fetch_add(1, Ordering::Relaxed);
        let target = self.upstream.target(self.endpoint, &self.proxy.credentials, spoken);
        let dialled = dial(&target).await.inspect_err(|_| {
            self.upstream.totals.connect_failures.fetch_add(1, Ordering::Relaxed);
            self.endpoint.totals.connect_failures.fetch_add(1, Ordering::Relaxed);
        })?;
        let facts = Facts::new(&dialled, place);
        Ok((dialled, facts))
    }

    /// A place among those who wait for a connection.
    fn pending(self) -> Result<Permit, Failure> {
        let pending = Permit::take(&self.upstream.pending, self.upstream.config.limits.pending);
        pending.ok_or_else(|| self.overflow())
    }

    /// A place among the requests that are being worked on.
    fn request(self) -> Option<Permit> {
        let permit = Permit::take(&self.upstream.requests, self.upstream.config.limits.requests)?;
        self.upstream.totals.requests.fetch_add(1, Ordering::Relaxed);
        Some(permit)
    }

    fn overflow(self) -> Failure {
        self.upstream.totals.overflows.fetch_add(1, Ordering::Relaxed);
        Failure::new(Kind::Overflow)
    }
}

/// The request, for another connection: a kept one had died and has sent nothing, and the next one
/// may work.
fn again(
    mut error: TrySendError<Request<RequestBody>>,
    reused: bool,
    safe: bool,
) -> Result<Request<RequestBody>, Failure> {
    match error.take_message() {
        Some(unsent) if reused => Ok(unsent),
        unsent => {
            let untouched = unsent.is_some() || (reused && safe);
            Err(Failure { untouched, ..Failure::new(kind_of(&error.into_error())) })
        }
    }
}

/// What an error of the HTTP engine means.
fn kind_of(error: &hyper::Error) -> Kind {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(h2) = inner.downcast_ref::<h2::Error>() {
            return match h2.reason() {
                Some(h2::Reason::REFUSED_STREAM) => Kind::RefusedStream,
                Some(h2::Reason::PROTOCOL_ERROR) if h2.is_library() => Kind::Protocol,
                Some(_) if h2.is_reset() => Kind::Reset,
                _ => Kind::Terminated,
            };
        }
        cause = inner.source();
    }
    if error.is_parse() {
        return Kind::Protocol;
    }
    if error.is_user() {
        // The request's body broke off: the client has gone.
        return Kind::Downstream;
    }
    Kind::Terminated
}
