//! What is checked and changed in the head of a request before it is routed, and in the head of
//! an answer before it is sent on.

use std::net::IpAddr;

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Uri, Version, request};
use uuid::Uuid;

use crate::accept::connection::Connection;
use crate::config::http::{EscapedSlashes, HttpSettings, ServerHeader};
use crate::config::matchers::HeadView;
use crate::http::certificate;
use crate::http::reply::Reply;
use crate::observe::flags::Flags;
use crate::route::without_port;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
pub const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
pub const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
pub const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");

/// Headers that only a trusted peer may set: an edge removes them.
const EDGE_ONLY: &[&str] = &[
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-ip-tags",
    "x-envoy-original-url",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-decorator-operation",
    "x-envoy-attempt-count",
    "x-envoy-original-path",
];

/// The parts of a request that routing looks at, in the forms of HTTP/2.
#[derive(Clone, Debug)]
pub struct Head {
    pub method: Method,
    pub path: String,
    pub authority: String,
    pub scheme: &'static str,
    /// The client's address, as far as trusted headers tell.
    pub remote: IpAddr,
    /// The protocol that the client wants to change to.
    pub upgrade: Option<String>,
}

impl Head {
    /// A view for matching, with the request's headers.
    pub fn view<'a>(&'a self, headers: &'a HeaderMap) -> HeadView<'a> {
        HeadView {
            method: self.method.as_str(),
            path: &self.path,
            authority: &self.authority,
            scheme: self.scheme,
            headers,
        }
    }
}

/// Checks the head of a request and rewrites its headers; the answer if it cannot be served.
pub fn receive(
    connection: &Connection,
    settings: &HttpSettings,
    parts: &mut request::Parts,
) -> Result<Head, Box<Reply>> {
    if parts.version == Version::HTTP_10 && !settings.accept_http_10 {
        return Err(Reply::new(426, "low_version", Flags::NONE).into());
    }
    if parts.method == Method::CONNECT {
        // Nobody here is a forward proxy.
        return Err(Reply::new(403, "upgrade_failed", Flags::NONE).into());
    }
    let authority = authority(parts)?;
    let path = path(settings, &parts.uri)?;
    let upgrade = upgrade(settings, parts)?;
    let own = connection.proxy.credentials.identity();
    let own = own.map(|identity| identity.id().to_string());
    let headers = &mut parts.headers;
    certificate::forward(headers, settings.client_certificate, connection.peer(), own.as_deref());
    remove_hop_by_hop(headers);
    let remote = forwarded(connection, settings, headers);
    if settings.generate_request_id {
        request_id(settings, headers);
    }
    if !settings.via.is_empty()
        && let Ok(via) = HeaderValue::from_str(&settings.via)
    {
        headers.append(header::VIA, via);
    }
    let secure = headers.get(FORWARDED_PROTO).is_some_and(|proto| proto == "https");
    let scheme = if secure { "https" } else { "http" };
    let method = parts.method.clone();
    Ok(Head { method, path, authority: strip(settings, authority), scheme, remote, upgrade })
}

/// The one authority of a request: its target, else its one `host`. Two hosts are refused.
fn authority(parts: &request::Parts) -> Result<String, Box<Reply>> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Reply::new(400, "http1.codec_error", Flags::DOWNSTREAM_PROTOCOL).into());
    }
    let authority = match (parts.uri.authority(), host) {
        // The target of the request line or the pseudo-header counts, as the standards say.
        (Some(authority), _) => authority.as_str().to_owned(),
        (None, Some(host)) => {
            let host = host.to_str().ok().filter(|host| !host.contains(['@', '/', ' ']));
            host.ok_or_else(|| {
                Box::new(Reply::new(400, "http1.codec_error", Flags::DOWNSTREAM_PROTOCOL))
            })?
            .to_owned()
        }
        (None, None) => String::new(),
    };
    if authority.is_empty() {
        return Err(Reply::new(400, "missing_host_header", Flags::NONE).into());
    }
    Ok(authority)
}

fn strip(settings: &HttpSettings, mut authority: String) -> String {
    if settings.strip_port {
        authority.truncate(without_port(&authority).len());
    }
    if settings.strip_dot {
        let host = without_port(&authority);
        if let Some(stripped) = host.strip_suffix('.') {
            authority = format!("{stripped}{}", &authority[host.len()..]);
        }
    }
    authority
}

fn path(settings: &HttpSettings, uri: &Uri) -> Result<String, Box<Reply>> {
    let whole = uri.path_and_query().map_or("/", |path| path.as_str());
    if !settings.normalize_path && !settings.merge_slashes {
        return Ok(whole.to_owned());
    }
    let (path, query) = whole.split_at(whole.find('?').unwrap_or(whole.len()));
    let mut path = path.to_owned();
    match settings.escaped_slashes {
        EscapedSlashes::Keep => {}
        EscapedSlashes::Reject => {
            let lowered = path.to_ascii_lowercase();
            if lowered.contains("%2f") || lowered.contains("%5c") {
                return Err(Reply::new(400, "path_normalization_failed", Flags::NONE).into());
            }
        }
        EscapedSlashes::Forward | EscapedSlashes::Redirect => {
            let unescaped =
                ["%2F", "%2f"].iter().fold(path.clone(), |path, escape| path.replace(escape, "/"));
            let unescaped =
                ["%5C", "%5c"].iter().fold(unescaped, |path, escape| path.replace(escape, "\\"));
            if settings.escaped_slashes == EscapedSlashes::Redirect && unescaped != path {
                let location = format!("{}{query}", normalize(&unescaped).unwrap_or(unescaped));
                return Err(Reply::redirect(307, &location, "path_normalization_failed").into());
            }
            path = unescaped;
        }
    }
    if settings.normalize_path && path != "*" {
        let normal = normalize(&path);
        path = normal
            .ok_or_else(|| Box::new(Reply::new(400, "path_normalization_failed", Flags::NONE)))?;
    }
    if settings.merge_slashes {
        while path.contains("//") {
            path = path.replace("//", "/");
        }
    }
    Ok(format!("{path}{query}"))
}

/// RFC 3986 dot segments away, backslashes to slashes, unreserved characters unescaped.
fn normalize(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return None;
    }
    let path = unescape_unreserved(&path.replace('\\', "/"))?;
    let mut segments: Vec<&str> = Vec::new();
    let mut trailing = false;
    for segment in path.split('/').skip(1) {
        trailing = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    if trailing {
        segments.push("");
    }
    Some(format!("/{}", segments.join("/")))
}

fn unescape_unreserved(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let hex = rest.get(at + 1..at + 3)?;
        let byte = u8::from_str_radix(hex, 16).ok()?;
        if byte == 0 {
            return None;
        }
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            out.push('%');
            out.push_str(&hex.to_ascii_uppercase());
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Some(out)
}

/// The protocol to change to, if the listener allows it.
fn upgrade(settings: &HttpSettings, parts: &request::Parts) -> Result<Option<String>, Box<Reply>> {
    let asks = |value: &HeaderValue| {
        let value = value.to_str().unwrap_or_default();
        value.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
    };
    let asked = parts.headers.get_all(header::CONNECTION).iter().any(asks);
    let wanted = parts.headers.get(header::UPGRADE).filter(|_| asked);
    let Some(wanted) = wanted.and_then(|wanted| wanted.to_str().ok()) else { return Ok(None) };
    let wanted = wanted.to_ascii_lowercase();
    if wanted == "h2c" {
        // An upgrade to cleartext HTTP/2 is optional: the request is served as it is.
        return Ok(None);
    }
    let allowed = settings.upgrades.iter().any(|(kind, enabled)| *kind == wanted && *enabled);
    if parts.version == Version::HTTP_11 && allowed {
        return Ok(Some(wanted));
    }
    Err(Reply::new(403, "upgrade_failed", Flags::NONE).into())
}

/// Removes what concerns only one connection, with every header that `connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        // A client must not take away what its proxies rely on.
        .filter(|name| !name.as_str().starts_with("x-forwarded") && *name != header::HOST)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        headers.remove(name);
    }
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
}

/// Says where the request came from, and returns the client's address.
fn forwarded(connection: &Connection, settings: &HttpSettings, headers: &mut HeaderMap) -> IpAddr {
    let direct = connection.source.ip();
    let secure = connection.tls.is_some();
    let listed = listed(headers);
    let hops = usize::try_from(settings.trusted_hops).unwrap_or(0);
    let remote = if settings.edge {
        let trusted = hops.checked_sub(1).and_then(|hop| from_end(&listed, hop));
        if !settings.skip_forwarded_for {
            append(headers, FORWARDED_FOR, &direct.to_string());
        }
        if hops == 0 {
            headers.remove(FORWARDED_PROTO);
        }
        trusted.unwrap_or(direct)
    } else {
        from_end(&listed, hops).unwrap_or(direct)
    };
    let proto = headers.get(FORWARDED_PROTO);
    if proto.is_none_or(|proto| proto != "http" && proto != "https") {
        let proto = HeaderValue::from_static(if secure { "https" } else { "http" });
        headers.insert(FORWARDED_PROTO, proto);
    }
    let internal = is_internal(settings, remote) && (settings.edge || listed.len() <= 1);
    if settings.edge && !internal {
        EDGE_ONLY.iter().for_each(|name| drop(headers.remove(*name)));
        if let Ok(value) = HeaderValue::from_str(&remote.to_string()) {
            headers.insert(EXTERNAL_ADDRESS, value);
        }
    }
    // Only a proxy may say that a request is internal.
    headers.remove(INTERNAL);
    if settings.edge && internal {
        headers.insert(INTERNAL, HeaderValue::from_static("true"));
    }
    remote
}

/// The addresses of `x-forwarded-for`. One that is none keeps its place: without it an older
/// entry, which the client may have made up, would take it.
fn listed(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let values = headers.get_all(FORWARDED_FOR).iter();
    let entries = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let address = |entry| std::str::from_utf8(entry).ok()?.trim().parse().ok();
    entries.map(address).collect()
}

fn from_end(listed: &[Option<IpAddr>], place: usize) -> Option<IpAddr> {
    listed.iter().rev().nth(place).copied().flatten()
}

fn is_internal(settings: &HttpSettings, address: IpAddr) -> bool {
    if !settings.internal.is_empty() {
        return settings.internal.iter().any(|range| range.contains(&address));
    }
    false
}

fn append(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    let before = headers.get_all(&name).iter().filter_map(|value| value.to_str().ok());
    let mut all: Vec<&str> = before.collect();
    all.push(value);
    if let Ok(joined) = HeaderValue::try_from(all.join(", ").replace(", ", ",")) {
        headers.insert(name, joined);
    }
}

fn request_id(settings: &HttpSettings, headers: &mut HeaderMap) {
    let keep = !settings.edge || settings.preserve_request_id;
    if keep && headers.contains_key(REQUEST_ID) {
        return;
    }
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let text = Uuid::new_v4().hyphenated().encode_lower(&mut text);
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(REQUEST_ID, value);
    }
}

/// Rewrites the headers of an answer from an upstream.
pub fn respond(settings: &HttpSettings, headers: &mut HeaderMap, service_millis: Option<u128>) {
    remove_hop_by_hop(headers);
    if let Some(millis) = service_millis.filter(|_| !settings.suppress_envoy_headers) {
        headers.insert(SERVICE_TIME, HeaderValue::from(u64::try_from(millis).unwrap_or(u64::MAX)));
    }
    set_server(settings, headers);
}

/// Sets the `server` header as configured.
pub fn set_server(settings: &HttpSettings, headers: &mut HeaderMap) {
    let set = match settings.server_header {
        ServerHeader::Overwrite => true,
        ServerHeader::IfAbsent => !headers.contains_key(header::SERVER),
        ServerHeader::PassThrough => false,
    };
    if set && let Ok(name) = HeaderValue::from_str(&settings.server_name) {
        headers.insert(header::SERVER, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_normal() {
        for (path, want) in [
            ("/a/b/../c", Some("/a/c")),
            ("/a/./b/", Some("/a/b/")),
            ("/a/..", Some("/")),
            ("/../../etc", Some("/etc")),
            ("/a\\b", Some("/a/b")),
            ("/%61%2f%2e%2E/b", Some("/a%2F../b")),
            ("/%zz", None),
            ("/%00", None),
            ("//a", Some("//a")),
        ] {
            assert_eq!(normalize(path).as_deref(), want, "{path}");
        }
    }

    #[test]
    fn what_is_no_address_in_forwarded_for_keeps_its_place() {
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "6.6.6.6, 10.0.0.1".parse().unwrap());
        headers.append("x-forwarded-for", "unknown,10.0.0.2".parse().unwrap());
        let at = |place| from_end(&listed(&headers), place).map(|ip| ip.to_string());
        assert_eq!(at(0).as_deref(), Some("10.0.0.2"));
        assert_eq!(at(1), None);
        assert_eq!(at(2).as_deref(), Some("10.0.0.1"));
        assert_eq!(at(4), None);
    }

    #[test]
    fn headers_of_one_connection_do_not_travel() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, x-private, x-forwarded-for"),
            ("x-private", "1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("x-kept", "1"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-forwarded-for", "x-kept"]);
    }
}
