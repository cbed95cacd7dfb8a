//! Tries a request at one endpoint after the other, as its retry policy allows.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Response, Uri, Version, request};
use hyper::body::Incoming;
use rand::RngExt;

use crate::config::retry::RetryPolicy;
use crate::config::upstream::Policy;
use crate::connect::pool::Permit;
use crate::connect::tls::Spoken;
use crate::connect::upstream::{Endpoint, Upstream};
use crate::failure::{Failure, Kind};
use crate::http::attempt::{Answer, send, spoken};
use crate::http::entry::Entry;
use crate::http::exchange::Exchange;
use crate::http::head;
use crate::http::reply::Reply;
use crate::observe::flags::Flags;
use crate::stream::body::RequestSource;

impl Exchange<'_> {
    /// Sends the request until there is an answer to keep, or a reason to give up.
    pub async fn tries(
        &self,
        entry: &mut Entry,
        upstream: &Arc<Upstream>,
        parts: &request::Parts,
        source: &Arc<RequestSource>,
    ) -> Result<Answer, Reply> {
        let policy = self.forward.retry.as_ref();
        let spoken = spoken(upstream, parts.version, self.head.upgrade.is_some());
        let mut deadline = pin!(self.expire(source));
        let mut previous: Vec<SocketAddr> = Vec::new();
        let mut retrying: Option<Permit> = None;
        loop {
            let tries = previous.len() + 1;
            let endpoint = match self.pick(entry, upstream, policy, &previous) {
                Ok(endpoint) => endpoint,
                Err(failure) => return Err(Reply::failure(failure, entry.record.attempts)),
            };
            previous.push(endpoint.config.address);
            entry.record.attempts = u32::try_from(tries).unwrap_or(u32::MAX);
            entry.record.upstream_host = Some(endpoint.config.address);
            entry.upstream = Some((upstream.clone(), endpoint.clone()));
            let head = self.upstream_head(entry, parts, spoken);
            let proxy = entry.connection.proxy.clone();
            let outcome = {
                let sending = send(&proxy, upstream, &endpoint, spoken, head, source.body());
                let limited = within(policy.and_then(|policy| policy.per_try_timeout), sending);
                tokio::select! {
                    outcome = limited => outcome,
                    kind = deadline.as_mut() => Err(Failure::new(kind)),
                }
            };
            let status = outcome.as_ref().ok().map(|answer| answer.response.status().as_u16());
            if !matches!(&outcome, Err(failure) if !failure.kind.is_of_endpoint()) {
                upstream.learn(&endpoint, status);
            }
            let wanted = policy.is_some_and(|policy| match &outcome {
                Ok(answer) => wants_retry_of(policy, &answer.response),
                Err(failure) => wants_retry_after(policy, failure),
            });
            drop(retrying.take());
            if let Some(policy) =
                policy.filter(|_| wanted && source.can_replay() && !source.is_broken())
            {
                if tries > usize::try_from(policy.retries).unwrap_or(usize::MAX) {
                    entry.record.flags.add(Flags::RETRY_LIMIT);
                } else if let Some(permit) =
                    Permit::take(&upstream.retries, upstream.config.limits.retries)
                {
                    retrying = Some(permit);
                    upstream.totals.retries.fetch_add(1, Ordering::Relaxed);
                    drop(outcome);
                    tokio::select! {
                        () = tokio::time::sleep(delay(policy, tries)) => continue,
                        kind = deadline.as_mut() => {
                            return Err(Reply::failure(Failure::new(kind), entry.record.attempts));
                        }
                    }
                } else {
                    entry.record.flags.add(Flags::OVERFLOW);
                }
            }
            return match outcome {
                Ok(answer) => {
                    source.forget();
                    Ok(answer)
                }
                Err(failure) => {
                    tracing::debug!(upstream = upstream.config.name, endpoint = %endpoint.config.address,
                        error = %failure, transport = failure.transport, "request failed");
                    Err(Reply::failure(failure, entry.record.attempts))
                }
            };
        }
    }

    /// Returns when one of the route's limits is reached, and which.
    async fn expire(&self, source: &Arc<RequestSource>) -> Kind {
        let answer = async {
            // The time that an upstream has begins when it has the whole request. One that does
            // not even begin to take it has no more time than that.
            tokio::select! {
                () = source.finished() => after(self.forward.timeout).await,
                () = untaken(source, self.forward.timeout) => (),
            }
        };
        tokio::select! {
            () = answer => Kind::Timeout,
            () = after(self.idle_timeout()) => Kind::StreamIdle,
            () = after(self.forward.max_duration) => Kind::MaxDuration,
            () = after(self.settings.request_timeout), if !source.is_finished() => Kind::StreamIdle,
        }
    }

    fn pick(
        &self,
        entry: &Entry,
        upstream: &Arc<Upstream>,
        policy: Option<&RetryPolicy>,
        previous: &[SocketAddr],
    ) -> Result<Arc<Endpoint>, Failure> {
        let connection = &entry.connection;
        if upstream.config.policy == Policy::OriginalDestination {
            if connection.proxy.is_own(connection.destination) {
                return Err(Failure::new(Kind::NoHealthyUpstream));
            }
            return Ok(upstream.original(connection.destination));
        }
        let endpoints = upstream.endpoints();
        let usable = |endpoint: &Endpoint| !upstream.is_ejected(endpoint);
        let hash = self.hash(entry);
        let mut random = rand::rng();
        let repicks =
            policy.filter(|policy| policy.avoid_previous).map_or(0, |policy| policy.repicks);
        let mut picked = endpoints.pick(&mut random, hash, &usable);
        for _ in 0..repicks {
            let again = picked.as_ref().is_some_and(|p| previous.contains(&p.config.address));
            if !again {
                break;
            }
            picked = endpoints.pick(&mut random, None, &usable);
        }
        picked.ok_or_else(|| Failure::new(Kind::NoHealthyUpstream))
    }

    /// The head as this upstream's protocol wants it.
    fn upstream_head(
        &self,
        entry: &Entry,
        parts: &request::Parts,
        spoken: Spoken,
    ) -> request::Parts {
        let path = entry.record.path.as_deref().unwrap_or("/");
        let authority = entry.record.authority.as_deref().unwrap_or_default();
        let mut head = parts.clone();
        if self.found.host.attempt_count {
            head.headers.insert(head::ATTEMPT_COUNT, HeaderValue::from(entry.record.attempts));
        }
        head.headers.remove(header::HOST);
        if spoken == Spoken::Http2 {
            head.version = Version::HTTP_2;
            let uri =
                Uri::builder().scheme(self.head.scheme).authority(authority).path_and_query(path);
            head.uri = uri.build().unwrap_or_else(|_| parts.uri.clone());
            return head;
        }
        head.version = Version::HTTP_11;
        head.uri =
            Uri::builder().path_and_query(path).build().unwrap_or_else(|_| parts.uri.clone());
        if let Ok(host) = HeaderValue::from_str(authority) {
            head.headers.insert(header::HOST, host);
        }
        if let Some(protocol) = self.head.upgrade.as_deref()
            && let Ok(protocol) = HeaderValue::from_str(protocol)
        {
            head.headers.insert(header::UPGRADE, protocol);
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        head
    }
}

/// Returns after `limit`, or never.
async fn after(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Returns after `limit` if nobody has begun to read the request's body by then.
async fn untaken(source: &RequestSource, limit: Option<Duration>) {
    after(limit).await;
    if source.is_begun() {
        std::future::pending::<()>().await;
    }
}

async fn within(
    timeout: Option<Duration>,
    sending: impl Future<Output = Result<Answer, Failure>>,
) -> Result<Answer, Failure> {
    match timeout {
        None => sending.await,
        Some(timeout) => tokio::time::timeout(timeout, sending)
            .await
            .unwrap_or_else(|_| Err(Failure::new(Kind::TryTimeout))),
    }
}

/// A growing delay with jitter.
fn delay(policy: &RetryPolicy, tries: usize) -> Duration {
    let steps = 1_u32.checked_shl(u32::try_from(tries).unwrap_or(16).min(16)).unwrap_or(1) - 1;
    let most = (policy.first_delay * steps).min(policy.most_delay);
    most.mul_f64(rand::rng().random_range(0.0..=1.0))
}

fn wants_retry_of(policy: &RetryPolicy, response: &Response<Incoming>) -> bool {
    let (on, status) = (policy.on, response.status().as_u16());
    let by_status = (on.server_error && status >= 500)
        || (on.gateway_error && (502..=504).contains(&status))
        || (on.client_error && status == 409)
        || (on.listed_statuses && policy.statuses.contains(&status));
    let grpc = response.headers().get("grpc-status").and_then(|status| status.to_str().ok());
    let by_grpc = match grpc {
        Some("1") => on.grpc.cancelled,
        Some("4") => on.grpc.deadline_exceeded,
        Some("8") => on.grpc.resource_exhausted,
        Some("13") => on.grpc.internal,
        Some("14") => on.grpc.unavailable,
        _ => false,
    };
    by_status || by_grpc
}

fn wants_retry_after(policy: &RetryPolicy, failure: &Failure) -> bool {
    let on = policy.on;
    match failure.kind {
        Kind::Connect | Kind::ConnectTimeout => {
            on.connect_failure
                || on.gateway_error
                || on.server_error
                || on.reset
                || on.reset_before_request
        }
        Kind::RefusedStream => on.refused_stream || on.server_error || on.reset,
        Kind::Terminated | Kind::Reset | Kind::Protocol => {
            on.reset
                || on.server_error
                || on.gateway_error
                || (on.reset_before_request && failure.untouched)
        }
        Kind::TryTimeout => on.gateway_error || on.server_error,
        _ => false,
    }
}
