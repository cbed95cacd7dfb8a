//! One request: checked, authorized, routed, sent on, answered.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{HeaderMap, Request, Response, Version, request};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use crate::accept::connection::Connection;
use crate::config::http::{HttpSettings, RouteSource};
use crate::config::rbac::Verdict;
use crate::config::routes::{Action, Forward, HashSource, HostRewrite, Route, Routes, Targets};
use crate::failure::Kind;
use crate::http::attempt::Answer;
use crate::http::effects;
use crate::http::entry::{Entry, GivenCookie};
use crate::http::head::{self, Head};
use crate::http::lifetime::Open;
use crate::http::reply::Reply;
use crate::http::upgrade;
use crate::observe::flags::Flags;
use crate::route::{self, Found};
use crate::stream::body::{Limits, RequestSource, ResponseBody};

/// Serves a request, whatever happens.
pub async fn handle(
    connection: Arc<Connection>,
    open: Open,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let mut entry = Box::new(Entry::new(connection.clone(), open));
    let Some(settings) = Entry::settings(&connection) else {
        return local(entry, None, Reply::new(500, "internal_error", Flags::NONE), None);
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let (mut parts, incoming) = request.into_parts();
    begin(&mut entry, &parts);
    let head = match head::receive(&connection, settings, &mut parts) {
        Ok(head) => head,
        Err(reply) => return local(entry, Some(settings), *reply, None),
    };
    describe(&mut entry, &head, &parts.headers);
    let routes = routes(&connection, settings);
    let found = routes.as_ref().and_then(|routes| route::find(routes, head.view(&parts.headers)));
    entry.record.route = found.as_ref().and_then(|found| found.route.name.clone());
    // Whoever is not allowed to ask learns nothing about routes.
    if let Some(reply) = denied(&connection, settings, &head, &parts.headers) {
        return local(entry, Some(settings), reply, None);
    }
    let (Some(routes), Some(found)) = (routes, found) else {
        let reply = Reply::new(404, "route_not_found", Flags::NO_ROUTE);
        return local(entry, Some(settings), reply, None);
    };
    if found.host.require_tls && head.scheme != "https" {
        let location = format!("https://{}{}", head.authority, head.path);
        let reply = Reply::redirect(301, &location, "direct_response");
        return local(entry, Some(settings), reply, Some((&routes, &found)));
    }
    let effects = &found.route.effects;
    if let Some(reply) = effects::before(effects, &mut entry, &head, &parts.headers).await {
        return local(entry, Some(settings), reply, Some((&routes, &found)));
    }
    match &found.route.action {
        Action::Direct { status, body } => {
            let reply = Reply::new(*status, "direct_response", Flags::NONE).text(body.clone());
            local(entry, Some(settings), reply, Some((&routes, &found)))
        }
        Action::Redirect(redirect) => {
            let view = head.view(&parts.headers);
            let location = route::location(redirect, &found.route.condition, view);
            let reply = Reply::redirect(redirect.status, &location, "direct_response");
            local(entry, Some(settings), reply, Some((&routes, &found)))
        }
        Action::Forward(forward) => {
            let keep = forward.retry.as_ref().is_some_and(|retry| retry.retries > 0);
            let source = RequestSource::new(incoming, keep);
            entry.source = Some(source.clone());
            let exchange = Exchange { settings, routes: &routes, found: &found, forward, head };
            exchange.run(entry, parts, source, upgraded).await
        }
    }
}

fn begin(entry: &mut Entry, parts: &request::Parts) {
    let record = &mut entry.record;
    record.protocol = Some(match parts.version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    });
    record.method = Some(parts.method.as_str().to_owned());
    record.path = parts.uri.path_and_query().map(|path| path.as_str().to_owned());
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    record.authority = authority.or(host).map(str::to_owned);
}

fn describe(entry: &mut Entry, head: &Head, headers: &HeaderMap) {
    entry.grpc = route::is_grpc(head.view(headers));
    let record = &mut entry.record;
    record.path = Some(head.path.clone());
    record.authority = Some(head.authority.clone());
    record.scheme = Some(head.scheme);
    record.remote.set_ip(head.remote);
    if record.remote.ip() != record.direct_remote.ip() {
        // An address that a header named has no port.
        record.remote.set_port(0);
    }
    record.request_headers = headers.clone();
}

fn routes(connection: &Connection, settings: &HttpSettings) -> Option<Arc<Routes>> {
    match &settings.routes {
        RouteSource::Inline(routes) => Some(routes.clone()),
        RouteSource::Named(name) => connection.proxy.snapshot.load().routes.get(name).cloned(),
    }
}

fn denied(
    connection: &Connection,
    settings: &HttpSettings,
    head: &Head,
    headers: &HeaderMap,
) -> Option<Reply> {
    let mut question = connection.question();
    question.head = Some(head.view(headers));
    question.remote = head.remote;
    let policy = settings.authorize.iter().find_map(|rules| match rules.decide(question) {
        Verdict::Allowed => None,
        Verdict::Denied { policy } => Some(policy),
    })?;
    connection.proxy.totals.denied.fetch_add(1, Ordering::Relaxed);
    let details = format!("rbac_access_denied_matched_policy[{policy}]");
    Some(Reply::new(403, details, Flags::NONE).text("RBAC: access denied"))
}

/// Sends an answer of our own.
fn local(
    mut entry: Box<Entry>,
    settings: Option<&HttpSettings>,
    reply: Reply,
    route: Option<(&Routes, &Found)>,
) -> Response<ResponseBody> {
    let (status, mut headers, body) = reply.parts(entry.grpc);
    let record = &mut entry.record;
    record.status = status.as_u16();
    record.flags.add(reply.flags);
    record.details = Some(reply.details);
    record.transport_failure = reply.transport_failure.or(record.transport_failure.take());
    record.response_duration = Some(entry.started.elapsed());
    if let Some((routes, found)) = route {
        change_response(routes, found, None, &mut headers, record);
    }
    if let Some(settings) = settings {
        head::set_server(settings, &mut headers);
    }
    record.response_headers = headers.clone();
    let mut response = Response::new(ResponseBody::full(body, Some(entry)));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Applies the header changes for an answer, from the most specific to the most general, or the
/// other way round if the most specific ones are to win.
fn change_response(
    routes: &Routes,
    found: &Found,
    target: Option<&crate::config::headers::HeaderChanges>,
    headers: &mut HeaderMap,
    record: &crate::observe::record::Record,
) {
    let mut changes =
        vec![&found.route.response_headers, &found.host.response_headers, &routes.response_headers];
    if let Some(target) = target {
        changes.insert(0, target);
    }
    if routes.most_specific_wins {
        changes.reverse();
    }
    changes.into_iter().filter(|c| !c.is_empty()).for_each(|c| c.apply(headers, record));
}

/// A request on its way to an upstream.
#[derive(Debug)]
pub struct Exchange<'a> {
    pub settings: &'a HttpSettings,
    pub routes: &'a Routes,
    pub found: &'a Found,
    pub forward: &'a Forward,
    pub head: Head,
}

/// The upstream that was chosen, with what its entry in a weighted list adds.
#[derive(Debug)]
pub struct Chosen<'a> {
    pub name: Arc<str>,
    target: Option<&'a crate::config::routes::Target>,
}

impl Exchange<'_> {
    async fn run(
        self,
        mut entry: Box<Entry>,
        mut parts: request::Parts,
        source: Arc<RequestSource>,
        upgraded: OnUpgrade,
    ) -> Response<ResponseBody> {
        let chosen = self.choose(&parts.headers);
        entry.record.upstream = Some(chosen.name.clone());
        let snapshot = entry.connection.proxy.snapshot.load_full();
        let route = Some((self.routes, self.found));
        let Some(upstream) = snapshot.upstreams.get(&chosen.name) else {
            let status = self.forward.not_found_status;
            let reply = Reply::new(status, "cluster_not_found", Flags::NO_UPSTREAM);
            return local(entry, Some(self.settings), reply, route);
        };
        self.give_cookie(&mut entry, &parts.headers);
        self.rewrite(&mut entry, &chosen, &mut parts);
        let answered = self.tries(&mut entry, upstream, &parts, &source).await;
        match answered {
            Ok(answer) => self.answer(entry, &chosen, answer, upgraded),
            Err(reply) => local(entry, Some(self.settings), reply, route),
        }
    }

    fn choose(&self, headers: &HeaderMap) -> Chosen<'_> {
        use rand::RngExt;
        match &self.forward.targets {
            Targets::One(name) => Chosen { name: name.clone(), target: None },
            Targets::Header(header) => {
                let name = self.head.view(headers).value(header).unwrap_or_default();
                Chosen { name: name.as_ref().into(), target: None }
            }
            Targets::Weighted { total, targets } => {
                let mut point = rand::rng().random_range(0..*total);
                let chosen =
                    targets.iter().find(|target| match point.checked_sub(target.weight.into()) {
                        Some(rest) => {
                            point = rest;
                            false
                        }
                        None => true,
                    });
                let chosen = chosen.or(targets.last());
                Chosen {
                    name: chosen.map_or_else(|| "".into(), |target| target.upstream.clone()),
                    target: chosen,
                }
            }
        }
    }

    /// Changes the head as the route says. The access log then shows what the upstream saw.
    fn rewrite(&self, entry: &mut Entry, chosen: &Chosen<'_>, parts: &mut request::Parts) {
        let forward = self.forward;
        let mut path = self.head.path.clone();
        if let Some(changed) = route::rewritten_path(forward, &self.found.route.condition, &path) {
            if let Ok(original) = HeaderValue::from_str(&path) {
                parts.headers.insert(head::ORIGINAL_PATH, original);
            }
            path = changed;
        }
        let own = chosen.target.and_then(|target| target.host_rewrite.clone());
        let rewritten = own.or_else(|| match forward.host_rewrite.as_ref()? {
            HostRewrite::Literal(host) => Some(host.clone()),
            HostRewrite::Header(name) => {
                self.head.view(&parts.headers).value(name).map(std::borrow::Cow::into_owned)
            }
        });
        let authority = match rewritten {
            Some(host) => {
                if forward.append_forwarded_host
                    && let Ok(before) = HeaderValue::from_str(&self.head.authority)
                {
                    parts.headers.append("x-forwarded-host", before);
                }
                host
            }
            None => self.head.authority.clone(),
        };
        let mut changes = vec![
            &self.found.route.request_headers,
            &self.found.host.request_headers,
            &self.routes.request_headers,
        ];
        if let Some(target) = chosen.target {
            changes.insert(0, &target.request_headers);
        }
        if self.routes.most_specific_wins {
            changes.reverse();
        }
        let changes = changes.into_iter().filter(|changes| !changes.is_empty());
        changes.for_each(|changes| changes.apply(&mut parts.headers, &entry.record));
        if let Some(timeout) = forward.timeout.filter(|_| !self.settings.suppress_envoy_headers) {
            let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            parts.headers.insert(head::EXPECTED_TIMEOUT, HeaderValue::from(millis));
        }
        entry.record.path = Some(path);
        entry.record.authority = Some(authority);
        entry.record.request_headers = parts.headers.clone();
    }

    fn answer(
        &self,
        mut entry: Box<Entry>,
        chosen: &Chosen<'_>,
        answer: Answer,
        upgraded: OnUpgrade,
    ) -> Response<ResponseBody> {
        let Answer { mut response, lease, facts } = answer;
        entry.lease = Some(lease);
        let switching = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
        let upstream_upgraded = switching.then(|| hyper::upgrade::on(&mut response));
        let (mut parts, incoming) = response.into_parts();
        let elapsed = entry.started.elapsed();
        let protocol = parts.headers.get(header::UPGRADE).cloned();
        head::respond(self.settings, &mut parts.headers, Some(elapsed.as_millis()));
        let record = &mut entry.record;
        record.status = parts.status.as_u16();
        record.details = Some("via_upstream".into());
        record.response_duration = Some(elapsed);
        record.upstream_local = facts.local;
        record.upstream_peer = facts.peer.clone();
        record.response_headers = parts.headers.clone();
        effects::after(&self.found.route.effects, &record.request_headers, &mut parts.headers);
        if let Some(cookie) = &entry.cookie {
            parts.headers.append(header::SET_COOKIE, cookie.header.clone());
        }
        let target = chosen.target.map(|target| &target.response_headers);
        change_response(self.routes, self.found, target, &mut parts.headers, record);
        if self.found.host.attempt_count_in_response {
            parts.headers.insert(head::ATTEMPT_COUNT, HeaderValue::from(record.attempts));
        }
        if self.settings.request_id_in_response
            && let Some(id) = record.request_headers.get(head::REQUEST_ID)
        {
            parts.headers.insert(head::REQUEST_ID, id.clone());
        }
        parts.version = Version::default();
        let body = match upstream_upgraded {
            Some(upstream) => {
                if let Some(protocol) = protocol {
                    parts.headers.insert(header::UPGRADE, protocol);
                    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                }
                upgrade::join(entry, upgraded, upstream);
                ResponseBody::full("", None)
            }
            None => {
                let limits = self.body_limits(&entry);
                ResponseBody::stream(incoming, entry, limits)
            }
        };
        Response::from_parts(parts, body)
    }

    /// How long nothing may move within the request.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.forward.idle_timeout.unwrap_or(self.settings.stream_idle)
    }

    /// What is left of the route's limits when the head of the answer is there.
    fn body_limits(&self, entry: &Entry) -> Limits {
        // The time begins when the upstream has the whole request.
        let asked = entry.source.as_ref().and_then(|source| source.finished_at());
        let from = asked.unwrap_or_else(Instant::now);
        let answer = self.forward.timeout.map(|limit| (from + limit, Kind::Timeout));
        let all = self.forward.max_duration.map(|limit| (entry.started + limit, Kind::MaxDuration));
        let deadline = match (answer, all) {
            (Some(answer), Some(all)) => Some(if answer.0 < all.0 { answer } else { all }),
            (one, other) => one.or(other),
        };
        Limits { deadline, idle: self.idle_timeout() }
    }

    /// Makes the cookie that the balancer goes by, if the route wants one and the client has none.
    fn give_cookie(&self, entry: &mut Entry, headers: &HeaderMap) {
        let wanted = self.forward.hash.iter().find_map(|source| match source {
            HashSource::Cookie { name, ttl: Some(ttl), path } => Some((name, ttl, path)),
            _ => None,
        });
        let Some((name, ttl, path)) = wanted.filter(|(name, ..)| cookie(headers, name).is_none())
        else {
            return;
        };
        let value = format!("{:016x}", rand::random::<u64>());
        let mut text = format!("{name}=\"{value}\"");
        if !ttl.is_zero() {
            text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
        }
        if !path.is_empty() {
            text.push_str(&format!("; Path={path}"));
        }
        text.push_str("; HttpOnly");
        entry.cookie =
            HeaderValue::from_str(&text).ok().map(|header| GivenCookie { value, header });
    }

    /// What a consistent-hash balancer goes by: the first source that has a value.
    pub fn hash(&self, entry: &Entry) -> Option<u64> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let headers = &entry.record.request_headers;
        let value = self.forward.hash.iter().find_map(|source| match source {
            HashSource::Header(name) => {
                self.head.view(headers).value(name).map(std::borrow::Cow::into_owned)
            }
            HashSource::Cookie { name, .. } => {
                let given = entry.cookie.as_ref().map(|cookie| cookie.value.clone());
                cookie(headers, name).or(given)
            }
            HashSource::SourceIp => Some(self.head.remote.to_string()),
            HashSource::Query(name) => {
                let query = self.head.path.split_once('?').map_or("", |(_, query)| query);
                let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
                pairs.find(|(key, _)| key == name).map(|(_, value)| value.to_owned())
            }
        })?;
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        Some(hasher.finish())
    }

    /// The route's own name in logs, for whoever debugs.
    pub fn route(&self) -> &Route {
        &self.found.route
    }
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        values.flat_map(|value| value.split(';')).filter_map(|pair| pair.split_once('='));
    let found = pairs.find(|(key, _)| key.trim() == name);
    found.map(|(_, value)| value.trim().trim_matches('"').to_owned())
}
