//! Forwarded ports: connections that end at a port of a pod, inside its network namespace.
//!
//! [`spdy`] carries many over one SPDY connection, [`tunnel`] that connection inside a WebSocket,
//! and [`websocket`] one connection per port on a WebSocket's channels.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::node::network::sandbox::Namespace;

pub(crate) mod spdy;
pub(crate) mod tunnel;
pub(crate) mod websocket;

/// How long a connection inside a pod may take.
const CONNECT: Duration = Duration::from_secs(10);

/// How long the client's direction goes on when the pod's has ended, as in containerd.
const GRACE: Duration = Duration::from_secs(1);

/// The most that is read at once.
const CHUNK: usize = 16 << 10;

/// A pod whose ports are forwarded.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    /// Its full name, as the kubelet's messages have it.
    pub name: String,
    pub uid: String,
    /// None when it shares the node's network.
    pub namespace: Option<Namespace>,
}

/// Where a forwarded connection's data goes.
pub(crate) trait Outlet: Send {
    /// Sends data to the client; false when it wants no more.
    fn send(&mut self, bytes: Bytes) -> impl Future<Output = bool> + Send;
    /// Says that nothing more comes.
    fn finish(&mut self) -> impl Future<Output = ()> + Send;
}

/// Why no connection to a port of a pod came about, in the words of Kubernetes.
pub(crate) fn refusal(pod: &Pod, port: u16, error: &str) -> String {
    format!("error forwarding port {port} to pod {}, uid {}: {error}", pod.name, pod.uid)
}

/// Connects to a port on the pod's loopback: IPv4 first and then IPv6, as container runtimes do.
pub(crate) async fn connect(pod: &Pod, port: u16) -> Result<TcpStream, String> {
    let failed = |address: SocketAddr, network: &str, error: &io::Error| {
        format!("dial {network} {address}: connect: {}", reason(error))
    };
    let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port);
    let first = match dial(pod, v4, Domain::IPV4).await {
        Ok(stream) => return Ok(stream),
        Err(error) => failed(v4, "tcp4", &error),
    };
    let second = match dial(pod, v6, Domain::IPV6).await {
        Ok(stream) => return Ok(stream),
        Err(error) => failed(v6, "tcp6", &error),
    };
    Err(format!(
        "failed to connect to localhost:{port} inside namespace \"{}\", IPv4: {first} IPv6: {second}",
        pod.name
    ))
}

/// A socket belongs to the namespace it was made in, wherever it is used.
async fn dial(pod: &Pod, address: SocketAddr, domain: Domain) -> io::Result<TcpStream> {
    let make = move || {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket: io::Result<Socket> = match &pod.namespace {
        Some(namespace) => namespace.inside(make).await?,
        None => make(),
    };
    let socket = TcpSocket::from_std_stream(socket?.into());
    tokio::time::timeout(CONNECT, socket.connect(address)).await?
}

/// An error as the C library words it, without its number.
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// Moves data in both directions until both have ended, or the client is gone.
///
/// # Errors
/// When the connection inside the pod breaks.
pub(crate) async fn copy(
    stream: TcpStream,
    mut input: mpsc::Receiver<Bytes>,
    outlet: &mut impl Outlet,
    gone: &CancellationToken,
) -> io::Result<()> {
    let (mut read, mut write) = stream.into_split();
    let mut to_pod = std::pin::pin!(async {
        while let Some(bytes) = input.recv().await {
            write.write_all(&bytes).await?;
        }
        write.shutdown().await
    });
    let mut to_client = std::pin::pin!(async {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = read.read(&mut buffer).await?;
            let chunk = buffer.get(..count).unwrap_or_default();
            if chunk.is_empty() {
                break;
            }
            if !outlet.send(Bytes::copy_from_slice(chunk)).await {
                return Ok(());
            }
        }
        outlet.finish().await;
        Ok::<(), io::Error>(())
    });
    let mut sent_all = false;
    loop {
        tokio::select! {
            sent = &mut to_pod, if !sent_all => {
                // A pod that reads no more may still write.
                if let Err(error) = sent {
                    tracing::debug!(%error, "a forwarded port reads no more");
                }
                sent_all = true;
            }
            ended = &mut to_client => {
                ended?;
                break;
            }
            // What the client has sent before it went still reaches the pod.
            () = gone.cancelled() => break,
        }
    }
    if !sent_all && let Ok(sent) = tokio::time::timeout(GRACE, to_pod).await {
        sent?;
    }
    Ok(())
}

/// Reads ports as the `port` parameters of a WebSocket's request give them.
///
/// # Errors
/// A text that says which port does not parse, or that there is none.
pub(crate) fn ports(query: &[(String, String)]) -> Result<Vec<u16>, String> {
    let given = query.iter().filter(|(key, _)| matches!(key.as_str(), "port" | "ports"));
    let mut ports = Vec::new();
    for (_, value) in given {
        if value.is_empty() {
            return Err("query parameter \"port\" cannot be empty".into());
        }
        for part in value.split(',') {
            ports.push(port(part)?);
        }
    }
    match ports.len() {
        0 => Err("query parameter \"port\" is required".into()),
        1..=MOST_PORTS => Ok(ports),
        _ => Err(format!("at most {MOST_PORTS} ports can be forwarded at once")),
    }
}

/// Each port takes two of 256 channels.
const MOST_PORTS: usize = 128;

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) => Err(format!("port {text:?} must be > 0")),
        Ok(port) => Ok(port),
        Err(error) => Err(format!("unable to parse {text:?} as a port: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(values: &[&str]) -> Vec<(String, String)> {
        values.iter().map(|value| ("port".to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn ports_come_in_several_ways() {
        assert_eq!(ports(&query(&["80,81", "65535"])), Ok(vec![80, 81, 65535]));
        assert_eq!(ports(&[]), Err("query parameter \"port\" is required".into()));
        assert_eq!(ports(&query(&["0"])), Err("port \"0\" must be > 0".into()));
        let error = ports(&query(&["80,x"])).unwrap_err();
        assert!(error.starts_with("unable to parse \"x\" as a port"), "{error}");
        let many = vec!["1"; MOST_PORTS + 1];
        assert!(ports(&query(&many)).is_err());
    }

    fn here() -> Pod {
        Pod { name: "p_default".into(), uid: "1".into(), namespace: None }
    }

    #[tokio::test]
    async fn a_closed_port_is_explained() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = connect(&here(), port).await.unwrap_err();
        assert!(
            error.starts_with(&format!(
                "failed to connect to localhost:{port} inside namespace \"p_default\", IPv4: \
                 dial tcp4 127.0.0.1:{port}: connect: connection refused IPv6: dial tcp6 [::1]:"
            )),
            "{error}"
        );
    }

    struct Kept(Vec<u8>, bool);

    impl Outlet for Kept {
        async fn send(&mut self, bytes: Bytes) -> bool {
            self.0.extend(bytes);
            true
        }
        async fn finish(&mut self) {
            self.1 = true;
        }
    }

    /// The client's end of its direction reaches the pod, and the answer still comes back.
    #[tokio::test]
    async fn one_direction_may_end_before_the_other() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = String::new();
            stream.read_to_string(&mut asked).await.unwrap();
            stream.write_all(format!("heard {asked}").as_bytes()).await.unwrap();
        };
        let mut kept = Kept(Vec::new(), false);
        let client = async {
            let stream = connect(&here(), port).await.unwrap();
            let (sender, input) = mpsc::channel(1);
            sender.send(Bytes::from_static(b"question")).await.unwrap();
            drop(sender);
            copy(stream, input, &mut kept, &CancellationToken::new()).await.unwrap();
        };
        tokio::join!(server, client);
        assert_eq!((kept.0.as_slice(), kept.1), (b"heard question".as_slice(), true));
    }
}
