//! Finds the route of a request, and changes its path and host as the route says.

use std::sync::Arc;

use rand::RngExt;

use crate::config::matchers::HeadView;
use crate::config::routes::{
    Condition, Forward, PathMatch, Redirect, RedirectPath, Route, Routes, VirtualHost,
};

/// A route that fits, with the virtual host it belongs to.
#[derive(Clone, Debug)]
pub struct Found {
    pub host: Arc<VirtualHost>,
    pub route: Arc<Route>,
}

/// The route of a request.
pub fn find(routes: &Routes, head: HeadView<'_>) -> Option<Found> {
    let host = virtual_host(routes, head.authority)?;
    let route = host.routes.iter().find(|route| fits(&route.condition, head))?;
    Some(Found { host: host.clone(), route: route.clone() })
}

/// The virtual host for an authority: exact, then the longest `*.suffix`, then the longest
/// `prefix.*`, then `*`.
fn virtual_host<'a>(routes: &'a Routes, authority: &str) -> Option<&'a Arc<VirtualHost>> {
    let lowered = authority.to_ascii_lowercase();
    let host = if routes.ignore_port { without_port(&lowered) } else { &lowered };
    let suffix = || routes.suffixes.iter().find(|(s, _)| host.len() > s.len() && host.ends_with(s));
    let prefix =
        || routes.prefixes.iter().find(|(p, _)| host.len() > p.len() && host.starts_with(p));
    let index = routes
        .exact
        .get(host)
        .or_else(|| suffix().map(|(_, index)| index))
        .or_else(|| prefix().map(|(_, index)| index))
        .or(routes.any.as_ref())?;
    routes.hosts.get(*index)
}

/// An authority without its port.
pub fn without_port(authority: &str) -> &str {
    if authority.ends_with(']') {
        return authority;
    }
    match authority.rsplit_once(':') {
        // More than one colon without brackets is an IPv6 address, not a port.
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit())
                && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

fn fits(condition: &Condition, head: HeadView<'_>) -> bool {
    let (path, query) = match head.path.split_once('?') {
        Some((path, query)) => (path, query),
        None => (head.path, ""),
    };
    let path = path.split('#').next().unwrap_or(path);
    path_fits(condition, path)
        && condition.headers.iter().all(|header| header.matches(head))
        && condition.query.iter().all(|parameter| parameter.matches(query))
        && (!condition.grpc || is_grpc(head))
        && condition.fraction.is_none_or(|most| rand::rng().random_range(0..1_000_000) < most)
}

fn path_fits(condition: &Condition, path: &str) -> bool {
    let starts = |prefix: &str| match path.get(..prefix.len()) {
        Some(start) if condition.case_sensitive => start == prefix,
        Some(start) => start.eq_ignore_ascii_case(prefix),
        None => false,
    };
    match &condition.path {
        PathMatch::Prefix(prefix) => starts(prefix),
        PathMatch::Exact(exact) => path.len() == exact.len() && starts(exact),
        PathMatch::Regex(regex) => regex.is_match(path),
        PathMatch::Separated(prefix) => {
            starts(prefix) && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
        }
    }
}

/// Whether a request is gRPC, by its content type.
pub fn is_grpc(head: HeadView<'_>) -> bool {
    let content_type = head.headers.get(http::header::CONTENT_TYPE);
    content_type.is_some_and(|value| {
        let value = value.as_bytes();
        value.starts_with(b"application/grpc") && matches!(value.get(16), None | Some(b'+' | b';'))
    })
}

/// The path that the upstream is to see, if it differs.
pub fn rewritten_path(
    forward: &Forward,
    condition: &Condition,
    path_and_query: &str,
) -> Option<String> {
    let (path, query) = split(path_and_query);
    let changed = match (&forward.prefix_rewrite, &forward.regex_rewrite) {
        (Some(prefix), _) => replace_prefix(condition, path, prefix)?,
        (None, Some(substitution)) => substitution.apply(path),
        (None, None) => return None,
    };
    Some(format!("{changed}{query}"))
}

/// Splits a path from its query; the query keeps its question mark.
fn split(path_and_query: &str) -> (&str, &str) {
    path_and_query.split_at(path_and_query.find('?').unwrap_or(path_and_query.len()))
}

fn replace_prefix(condition: &Condition, path: &str, with: &str) -> Option<String> {
    let length = match &condition.path {
        PathMatch::Prefix(prefix) | PathMatch::Separated(prefix) | PathMatch::Exact(prefix) => {
            prefix.len()
        }
        // A regular expression replaces the whole path.
        PathMatch::Regex(_) => path.len(),
    };
    path.get(length..).map(|rest| format!("{with}{rest}"))
}

/// The `location` of a redirect.
pub fn location(redirect: &Redirect, condition: &Condition, head: HeadView<'_>) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(head.scheme);
    let own_host = without_port(head.authority);
    let own_port = head.authority.get(own_host.len() + 1..).unwrap_or("");
    let host = redirect.host.as_deref().unwrap_or(own_host);
    let port = match redirect.port {
        Some(port) => format!(":{port}"),
        // Another scheme makes its default port superfluous and the other's wrong.
        None if redirect.host.is_some() || own_port.is_empty() => String::new(),
        None if redirect.scheme.is_some() && matches!(own_port, "80" | "443") => String::new(),
        None => format!(":{own_port}"),
    };
    let (path, query) = split(head.path);
    let query = if redirect.strip_query { "" } else { query };
    let path = match &redirect.path {
        None => path.to_owned(),
        // A replacement brings its own query along.
        Some(RedirectPath::Replace(path)) if path.contains('?') => {
            return format!("{scheme}://{host}{port}{path}");
        }
        Some(RedirectPath::Replace(path)) => path.clone(),
        Some(RedirectPath::Prefix(prefix)) => {
            replace_prefix(condition, path, prefix).unwrap_or_else(|| path.to_owned())
        }
        Some(RedirectPath::Regex(substitution)) => substitution.apply(path),
    };
    format!("{scheme}://{host}{port}{path}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_told_from_an_address() {
        for (authority, host) in [
            ("a.example:80", "a.example"),
            ("a.example", "a.example"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("10.0.0.1:8080", "10.0.0.1"),
        ] {
            assert_eq!(without_port(authority), host);
        }
    }
}
