//! Opens a connection to an endpoint: TCP, then TLS where the endpoint wants it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::config::upstream::Keepalive;
use crate::failure::{Failure, Kind};
use crate::stream::io::{Io, Sniffed};

/// Where to connect, and how.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub bind: Option<IpAddr>,
    pub timeout: Duration,
    pub keepalive: Option<Keepalive>,
    pub tls: Option<TlsTarget>,
}

/// How TLS is started.
#[derive(Clone, Debug)]
pub struct TlsTarget {
    pub config: Arc<ClientConfig>,
    pub sni: String,
}

/// A fresh connection, with what is known about its other end.
#[derive(Debug)]
pub struct Dialled {
    pub io: Io,
    pub local: Option<SocketAddr>,
    /// The identity in the endpoint's certificate.
    pub peer: Option<Arc<str>>,
    /// The application protocol that TLS agreed on.
    pub alpn: Option<Vec<u8>>,
}

/// Connects within the target's time limit.
pub async fn dial(target: &Target) -> Result<Dialled, Failure> {
    match tokio::time::timeout(target.timeout, open(target)).await {
        Ok(dialled) => dialled,
        Err(_) => Err(Failure::transport(Kind::ConnectTimeout, "connect timeout")),
    }
}

async fn open(target: &Target) -> Result<Dialled, Failure> {
    let tcp = connect(target).await.map_err(|error| {
        let text = format!("delayed connect error: {}", plain_text(&error));
        Failure::transport(Kind::Connect, text)
    })?;
    let local = tcp.local_addr().ok();
    if local == Some(target.address) {
        // A TCP self-connect: the kernel gave us the port that nobody listens on.
        return Err(Failure::transport(Kind::Connect, "connected to itself"));
    }
    let sniffed = Sniffed::new(tcp, Bytes::new());
    let Some(tls) = target.tls.as_ref() else {
        return Ok(Dialled { io: Io::Plain(sniffed), local, peer: None, alpn: None });
    };
    let name = match tls.sni.as_str() {
        "" => ServerName::IpAddress(target.address.ip().into()),
        sni => ServerName::try_from(sni.to_owned()).map_err(|error| {
            Failure::transport(Kind::Connect, format!("TLS_error: SNI `{sni}`: {error}"))
        })?,
    };
    let stream = TlsConnector::from(tls.config.clone()).connect(name, sniffed).await;
    let stream = stream.map_err(|error| {
        Failure::transport(Kind::Connect, format!("TLS_error: {}", plain_text(&error)))
    })?;
    let session = stream.get_ref().1;
    let peer = tombolo_tls::mesh::peer_identity(session.peer_certificates());
    let peer = peer.ok().flatten().map(|id| id.to_string().into());
    let alpn = session.alpn_protocol().map(<[u8]>::to_vec);
    Ok(Dialled { io: Io::Tls(Box::new(stream.into())), local, peer, alpn })
}

/// The text of an I/O error without the number of the operating system.
fn plain_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

async fn connect(target: &Target) -> std::io::Result<TcpStream> {
    let domain = Domain::for_address(target.address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if let Some(ip) = target.bind {
        // The source address marks traffic that the capture rules let pass. It applies only to
        // the family it belongs to.
        if ip.is_ipv4() == target.address.is_ipv4() {
            // Let many connections share the source address: the port is chosen on connect.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(ip, 0).into())?;
        }
    }
    if let Some(keepalive) = target.keepalive {
        let mut settings = TcpKeepalive::new();
        if let Some(time) = keepalive.time {
            settings = settings.with_time(time);
        }
        if let Some(interval) = keepalive.interval {
            settings = settings.with_interval(interval);
        }
        if let Some(probes) = keepalive.probes {
            settings = settings.with_retries(probes);
        }
        socket.set_tcp_keepalive(&settings)?;
    }
    let stream = TcpSocket::from_std_stream(socket.into()).connect(target.address).await?;
    SockRef::from(&stream).set_tcp_nodelay(true)?;
    Ok(stream)
}
