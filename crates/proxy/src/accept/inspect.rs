//! Looks at the first bytes of a connection without consuming them.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::accept::detect::{Detected, detect};
use crate::accept::hello::{self, Reading};
use crate::stream::io::Sniffed;

/// A client that has begun a TLS hello or a request line must go on within this time.
const BEGUN_DEADLINE: Duration = Duration::from_secs(5);

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub tls: bool,
    pub http: bool,
    /// How long a client may be silent.
    pub timeout: Option<Duration>,
    /// Whether a client that stays silent is served nevertheless.
    pub continue_on_timeout: bool,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub tls: bool,
    pub server_name: Option<String>,
    pub alpn: Vec<String>,
}

/// Why a connection goes no further.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the client said nothing in time")]
    Silent,
    #[error("the TLS hello is broken or too large")]
    BrokenHello,
    #[error("the client closed the connection before it said what it speaks")]
    Closed,
    #[error("read the first bytes")]
    Read(#[from] io::Error),
}

/// Reads until everything wanted is known. The result gives the same bytes again.
pub async fn inspect(mut tcp: TcpStream, wanted: Wanted) -> Result<(Sniffed, Seen), Refused> {
    let mut seen = Seen::default();
    if !wanted.tls && !wanted.http {
        return Ok((Sniffed::new(tcp, bytes::Bytes::new()), seen));
    }
    // Waiting needs no buffer: most connections that are open say nothing.
    let mut deadline = wanted.timeout.map(|timeout| Instant::now() + timeout);
    match by(deadline, tcp.readable()).await {
        None if wanted.continue_on_timeout => {
            return Ok((Sniffed::new(tcp, bytes::Bytes::new()), seen));
        }
        None => return Err(Refused::Silent),
        Some(readable) => readable?,
    }
    let mut bytes = BytesMut::with_capacity(1024);
    let (mut hello_begun, mut line_begun) = (false, false);
    loop {
        let read = match by(deadline, tcp.read_buf(&mut bytes)).await {
            Some(read) => read?,
            None if (wanted.continue_on_timeout || line_begun) && !hello_begun => break,
            None => return Err(Refused::Silent),
        };
        if wanted.tls {
            match hello::read(&bytes) {
                Reading::Incomplete if read == 0 => return Err(Refused::Closed),
                Reading::Incomplete => {
                    begin(&mut hello_begun, &mut deadline);
                    bytes.reserve(1024);
                    continue;
                }
                Reading::Broken => return Err(Refused::BrokenHello),
                Reading::Hello(hello) => {
                    seen.tls = true;
                    seen.server_name = hello.server_name;
                    seen.alpn = hello.alpn;
                    break;
                }
                Reading::NotTls => {}
            }
        }
        if !wanted.http {
            break;
        }
        match detect(&bytes) {
            Detected::Incomplete if read == 0 => break,
            Detected::Incomplete => {
                begin(&mut line_begun, &mut deadline);
                bytes.reserve(1024);
            }
            found => {
                seen.alpn = found.protocol().map(str::to_owned).into_iter().collect();
                break;
            }
        }
    }
    Ok((Sniffed::new(tcp, bytes.freeze()), seen))
}

/// The first time, brings the deadline nearer.
fn begin(begun: &mut bool, deadline: &mut Option<Instant>) {
    if !std::mem::replace(begun, true) {
        let latest = Instant::now() + BEGUN_DEADLINE;
        *deadline = Some(deadline.map_or(latest, |deadline| deadline.min(latest)));
    }
}

/// The result of a future, or none if the deadline comes first.
async fn by<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}
