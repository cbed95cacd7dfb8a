//! Everything that is known about one request or one TCP connection when it ends.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;

use crate::observe::flags::Flags;

/// The facts behind an access log line and the metrics.
#[derive(Clone, Debug)]
pub struct Record {
    pub start: Timestamp,
    pub duration: Duration,
    /// Until the last byte of the request came, and until the first byte of the answer did.
    pub request_duration: Option<Duration>,
    pub response_duration: Option<Duration>,
    pub protocol: Option<&'static str>,
    pub method: Option<String>,
    /// The path as the upstream saw it.
    pub path: Option<String>,
    pub authority: Option<String>,
    pub scheme: Option<&'static str>,
    pub request_headers: HeaderMap,
    pub response_headers: HeaderMap,
    pub response_trailers: HeaderMap,
    /// 0 while there is no answer.
    pub status: u16,
    pub details: Option<Cow<'static, str>>,
    pub flags: Flags,
    pub termination: Option<Cow<'static, str>>,
    pub transport_failure: Option<String>,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub attempts: u32,
    pub upstream_host: Option<SocketAddr>,
    pub upstream_local: Option<SocketAddr>,
    pub upstream: Option<Arc<str>>,
    pub upstream_peer: Option<Arc<str>>,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub direct_remote: SocketAddr,
    pub server_name: Option<Arc<str>>,
    pub route: Option<Arc<str>>,
    pub chain: Option<Arc<str>>,
    pub peer: Option<Arc<str>>,
    pub tls_version: Option<&'static str>,
    pub connection: u64,
}

impl Record {
    /// A record of something that just began between these addresses.
    pub fn begin(local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            start: Timestamp::now(),
            duration: Duration::ZERO,
            request_duration: None,
            response_duration: None,
            protocol: None,
            method: None,
            path: None,
            authority: None,
            scheme: None,
            request_headers: HeaderMap::new(),
            response_headers: HeaderMap::new(),
            response_trailers: HeaderMap::new(),
            status: 0,
            details: None,
            flags: Flags::NONE,
            termination: None,
            transport_failure: None,
            bytes_received: 0,
            bytes_sent: 0,
            attempts: 0,
            upstream_host: None,
            upstream_local: None,
            upstream: None,
            upstream_peer: None,
            local,
            remote,
            direct_remote: remote,
            server_name: None,
            route: None,
            chain: None,
            peer: None,
            tls_version: None,
            connection: 0,
        }
    }

    /// A request header or pseudo-header.
    pub fn request_header(&self, name: &str) -> Option<Cow<'_, str>> {
        match name {
            ":method" => self.method.as_deref().map(Cow::Borrowed),
            ":path" => self.path.as_deref().map(Cow::Borrowed),
            ":authority" => self.authority.as_deref().map(Cow::Borrowed),
            ":scheme" => self.scheme.map(Cow::Borrowed),
            name => header(&self.request_headers, name),
        }
    }
}

/// The first value of a header, as text.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cow<'a, str>> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()))
}
