//! A connection from a client, with everything that is known about it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sha2::{Digest, Sha256};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tombolo_tls::x509;

use crate::accept::inspect::{Seen, Wanted, inspect};
use crate::config::chains::Facts;
use crate::config::listener::{FilterChain, Listener};
use crate::config::rbac::{Question, Verdict};
use crate::config::tls::Transport;
use crate::observe::flags::Flags;
use crate::observe::record::Record;
use crate::proxy::Proxy;
use crate::snapshot::Snapshot;
use crate::stream::io::{Io, Sniffed};

/// A TLS handshake must be over within this time where the configuration does not say.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A connection whose filter chain is known.
#[derive(Debug)]
pub struct Connection {
    pub number: u64,
    pub proxy: Arc<Proxy>,
    pub listener: Arc<Listener>,
    pub chain: Arc<FilterChain>,
    /// Where the client wanted to go.
    pub destination: SocketAddr,
    pub source: SocketAddr,
    pub server_name: Option<Arc<str>>,
    pub tls: Option<TlsFacts>,
}

/// What a handshake told.
#[derive(Clone, Debug)]
pub struct TlsFacts {
    pub version: &'static str,
    /// The protocol that was agreed on.
    pub alpn: Option<String>,
    /// The client's certificate, if it showed one.
    pub peer: Option<Peer>,
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    pub uri: Arc<str>,
    pub subject: String,
    pub dns_names: Vec<String>,
    /// The SHA-256 digest of the certificate in lower-case hexadecimal digits.
    pub digest: String,
}

/// The destination before the capture rules changed it; the socket's own address if they did not.
pub fn original_destination(tcp: &TcpStream, local: SocketAddr) -> SocketAddr {
    let socket = SockRef::from(tcp);
    let original =
        if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    original.ok().and_then(|address| address.as_socket()).unwrap_or(local)
}

/// The listener for an original destination: its own, or the one of the port on all addresses.
pub fn hand_over(
    snapshot: &Snapshot,
    listener: &Arc<Listener>,
    destination: SocketAddr,
) -> Arc<Listener> {
    let others = || snapshot.listeners.values().filter(|other| !Arc::ptr_eq(other, listener));
    let exact = others().find(|other| other.address == destination);
    let any = || {
        others().find(|other| {
            let address = other.address;
            address.ip().is_unspecified()
                && address.port() == destination.port()
                && address.is_ipv4() == destination.is_ipv4()
        })
    };
    exact.or_else(any).unwrap_or(listener).clone()
}

/// Looks at the first bytes as the listener wants, and finds the filter chain.
pub async fn identify(
    proxy: &Arc<Proxy>,
    listener: Arc<Listener>,
    tcp: TcpStream,
    source: SocketAddr,
    destination: SocketAddr,
) -> Option<(Connection, Sniffed, Seen)> {
    let number = proxy.connection_number();
    let port = destination.port();
    let wants = |filter: &Option<crate::config::listener::PortFilter>| {
        filter.as_ref().is_some_and(|filter| !filter.skips(port))
    };
    let wanted = Wanted {
        tls: wants(&listener.inspect_tls),
        http: wants(&listener.inspect_http),
        timeout: listener.inspect_timeout,
        continue_on_timeout: listener.continue_on_timeout,
    };
    let (sniffed, seen) = match inspect(tcp, wanted).await {
        Ok(inspected) => inspected,
        Err(error) => {
            tracing::debug!(%source, %destination, %error, "connection refused");
            return None;
        }
    };
    let facts = Facts {
        destination,
        source,
        server_name: seen.server_name.as_deref().unwrap_or_default(),
        transport: if seen.tls { "tls" } else { "raw_buffer" },
        alpn: &seen.alpn,
    };
    let server_name: Option<Arc<str>> = seen.server_name.as_deref().map(Into::into);
    let Some(chain) = listener.chains.find(facts).cloned() else {
        proxy.totals.no_chain.fetch_add(1, Ordering::Relaxed);
        let mut record = Record::begin(destination, source);
        record.flags = Flags::NO_ROUTE;
        record.details = Some("filter_chain_not_found".into());
        record.server_name = server_name;
        record.connection = number;
        proxy.logs.log(&listener.access_log, &record);
        return None;
    };
    let connection = Connection {
        number,
        proxy: proxy.clone(),
        listener,
        chain,
        destination,
        source,
        server_name,
        tls: None,
    };
    Some((connection, sniffed, seen))
}

/// Terminates TLS if the chain says so.
pub async fn terminate(connection: &mut Connection, sniffed: Sniffed, seen: &Seen) -> Option<Io> {
    let Transport::Tls(tls) = &connection.chain.tls else { return Some(Io::Plain(sniffed)) };
    let config = connection.proxy.server_configs(tls).get(&seen.alpn);
    let limit = connection.chain.handshake_timeout.unwrap_or(HANDSHAKE);
    let accepted = tokio::time::timeout(limit, TlsAcceptor::from(config).accept(sniffed)).await;
    let failed = match accepted {
        Ok(Ok(stream)) => {
            connection.tls = Some(facts(stream.get_ref().1));
            return Some(Io::Tls(Box::new(stream.into())));
        }
        Ok(Err(error)) => format!("TLS_error: {error}"),
        Err(_) => "transport socket timeout was reached".to_owned(),
    };
    connection.proxy.totals.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(source = %connection.source, error = failed, "TLS handshake failed");
    let mut record = connection.record();
    record.termination = Some(failed.into());
    connection.proxy.logs.log(&connection.listener.access_log, &record);
    None
}

fn facts(session: &rustls::ServerConnection) -> TlsFacts {
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    };
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let peer = leaf.and_then(|leaf| {
        let facts = x509::Facts::read(leaf).ok()?;
        let digest = Sha256::digest(leaf.as_ref());
        Some(Peer {
            uri: facts.uris.first()?.as_str().into(),
            subject: facts.subject,
            dns_names: facts.dns_names,
            digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    });
    let alpn = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    TlsFacts { version, alpn, peer }
}

impl Connection {
    /// A record of this connection, or of something on it, that begins now.
    pub fn record(&self) -> Record {
        let mut record = Record::begin(self.destination, self.source);
        record.server_name = self.server_name.clone();
        record.chain = Some(self.chain.name.clone()).filter(|name| !name.is_empty());
        record.peer = self.peer().map(|peer| peer.uri.clone());
        record.tls_version = self.tls.as_ref().map(|tls| tls.version);
        record.connection = self.number;
        record
    }

    /// The client's identity.
    pub fn peer(&self) -> Option<&Peer> {
        self.tls.as_ref().and_then(|tls| tls.peer.as_ref())
    }

    /// A question to access control about this connection.
    pub fn question(&self) -> Question<'_> {
        Question {
            head: None,
            peer: self.peer().map(|peer| &*peer.uri),
            server_name: self.server_name.as_deref().unwrap_or_default(),
            destination: (self.destination.ip(), self.destination.port()),
            direct: self.source.ip(),
            remote: self.source.ip(),
        }
    }

    /// Whether the chain's network policies let the connection pass.
    pub fn is_authorized(&self) -> bool {
        let denied =
            self.chain.authorize.iter().find_map(|rules| match rules.decide(self.question()) {
                Verdict::Allowed => None,
                Verdict::Denied { policy } => Some(policy),
            });
        let Some(policy) = denied else { return true };
        self.proxy.totals.denied.fetch_add(1, Ordering::Relaxed);
        let mut record = self.record();
        record.details = None;
        record.termination = Some(format!("rbac_access_denied_matched_policy[{policy}]").into());
        self.log(&record);
        false
    }

    /// Writes a record about the connection as a whole to the logs of its chain.
    pub fn log(&self, record: &Record) {
        use crate::config::listener::Terminal;
        let logs = match &self.chain.terminal {
            Terminal::Tcp(tcp) => &tcp.access_log,
            Terminal::Http(http) => &http.access_log,
        };
        self.proxy.logs.log(logs, record);
    }
}
