//! What a request asks for: its verb, resource and options, read from method and path exactly as
//! Kubernetes does.

use http::Method;
use http::request::Parts;

use crate::status::Status;
use crate::user::User;

/// A request's meaning. `verb` is Kubernetes' (`get`, `list`, `watch`, ...) for resources and the
/// lower-case method for other paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub is_resource: bool,
    pub path: String,
    pub verb: String,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
}

/// A parsed query string; the first value of a name counts, except where all are asked for.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

/// A request on its way through the server, without its body.
#[derive(Debug)]
pub struct Call {
    pub parts: Parts,
    pub info: RequestInfo,
    pub query: Query,
    pub user: User,
}

impl Query {
    pub fn parse(text: &str) -> Self {
        Self(
            text.split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// Whether a boolean option is set, as Kubernetes reads it: anything but `false` and `0`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "false" | "0"))
    }

    /// An integer option.
    ///
    /// # Errors
    /// When it is not a number.
    pub fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax"))
        })
    }
}

impl RequestInfo {
    /// Reads method, path and the few options that change the verb.
    pub fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let mut info =
            Self { path: path.to_owned(), verb: method.as_str().to_lowercase(), ..Self::default() };
        let segments: Vec<String> =
            path.split('/').filter(|segment| !segment.is_empty()).map(decode_path).collect();
        let mut rest = match segments.first().map(String::as_str) {
            Some("api") if segments.len() >= 3 => {
                info.version.clone_from(&segments[1]);
                &segments[2..]
            }
            Some("apis") if segments.len() >= 4 => {
                info.group.clone_from(&segments[1]);
                info.version.clone_from(&segments[2]);
                &segments[3..]
            }
            _ => return info,
        };
        info.is_resource = true;
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
        let watch_path = rest.first().is_some_and(|first| first == "watch");
        if watch_path {
            rest = &rest[1..];
        }
        if rest.first().is_some_and(|first| first == "namespaces") && rest.len() > 1 {
            info.namespace.clone_from(&rest[1]);
            // `namespaces/NAME/status` is about the namespace itself, not about a type `status`.
            let own = rest.len() > 2 && matches!(rest[2].as_str(), "status" | "finalize");
            if rest.len() > 2 && !own {
                rest = &rest[2..];
            }
        }
        if let Some(resource) = rest.first() {
            info.resource.clone_from(resource);
        }
        if let Some(name) = rest.get(1) {
            info.name.clone_from(name);
        }
        if rest.len() > 2 {
            info.subresource = rest[2].clone();
        }
        info.settle_verb(query, watch_path);
        info
    }

    fn settle_verb(&mut self, query: &Query, watch_path: bool) {
        if watch_path {
            "watch".clone_into(&mut self.verb);
        } else if self.name.is_empty() && self.verb == "get" {
            let verb = if query.flag("watch") { "watch" } else { "list" };
            verb.clone_into(&mut self.verb);
        } else if self.name.is_empty() && self.verb == "delete" {
            "deletecollection".clone_into(&mut self.verb);
        }
        // `list ...?fieldSelector=metadata.name=x` counts as a request for x.
        if self.name.is_empty()
            && matches!(self.verb.as_str(), "list" | "watch" | "deletecollection")
            && let Some(name) =
                query.get("fieldSelector").and_then(|text| text.strip_prefix("metadata.name="))
            && !name.contains([',', '=', '!'])
        {
            name.clone_into(&mut self.name);
        }
    }
}

/// Undoes percent encoding of a query component, where `+` is a space.
pub fn decode(text: &str) -> String {
    decode_path(&text.replace('+', " "))
}

fn decode_path(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(hex.unwrap_or(bytes[at]));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: Method, target: &str) -> (String, String, String, String, String) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let info = RequestInfo::parse(&method, path, &Query::parse(query));
        (info.verb, info.namespace, info.resource, info.name, info.subresource)
    }

    fn tuple(parts: [&str; 5]) -> (String, String, String, String, String) {
        let [a, b, c, d, e] = parts.map(str::to_owned);
        (a, b, c, d, e)
    }

    #[test]
    fn paths_are_read_as_kubernetes_reads_them() {
        let get = Method::GET;
        let cases = [
            ("/api/v1/namespaces", ["list", "", "namespaces", "", ""]),
            ("/api/v1/namespaces/a", ["get", "a", "namespaces", "a", ""]),
            ("/api/v1/namespaces/a/status", ["get", "a", "namespaces", "a", "status"]),
            ("/api/v1/namespaces/a/pods/p/log", ["get", "a", "pods", "p", "log"]),
            ("/api/v1/pods?watch=1", ["watch", "", "pods", "", ""]),
            ("/api/v1/watch/namespaces/a/pods", ["watch", "a", "pods", "", ""]),
            (
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                ["get", "a", "deployments", "d", "scale"],
            ),
            ("/api/v1/nodes?fieldSelector=metadata.name%3Dx", ["list", "", "nodes", "x", ""]),
        ];
        for (target, expected) in cases {
            assert_eq!(info(get.clone(), target), tuple(expected), "{target}");
        }
        assert_eq!(
            info(Method::DELETE, "/api/v1/namespaces/a/pods"),
            tuple(["deletecollection", "a", "pods", "", ""])
        );
        assert_eq!(info(get, "/version"), tuple(["get", "", "", "", ""]));
    }
}
