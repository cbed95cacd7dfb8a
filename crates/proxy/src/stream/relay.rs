//! Passes bytes both ways between two connections until both have ended.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

/// How much is moved at once, in each direction.
const CHUNK: usize = 16 * 1024;

/// What passed, and how it ended.
#[derive(Debug)]
pub struct Relayed {
    /// Bytes from the client, and bytes to the client.
    pub received: u64,
    pub sent: u64,
    pub end: End,
}

/// How a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both sides finished.
    Finished,
    /// Nothing moved for too long.
    Idle,
    /// The client's connection failed.
    Downstream(io::Error),
    /// The upstream's connection failed.
    Upstream(io::Error),
}

enum Failed {
    Read(io::Error),
    Write(io::Error),
}

/// Relays until both directions have ended. The end of one direction is passed on by closing the
/// other side for writing, while the opposite direction may go on.
pub async fn relay<D, U>(downstream: D, upstream: U, idle: Option<Duration>) -> Relayed
where
    D: AsyncRead + AsyncWrite,
    U: AsyncRead + AsyncWrite,
{
    let (received, sent, moved) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (down_read, down_write) = tokio::io::split(downstream);
    let (up_read, up_write) = tokio::io::split(upstream);
    let end = {
        let forth = async {
            pump(down_read, up_write, &received, &moved).await.map_err(|failed| match failed {
                Failed::Read(error) => End::Downstream(error),
                Failed::Write(error) => End::Upstream(error),
            })
        };
        let back = async {
            pump(up_read, down_write, &sent, &moved).await.map_err(|failed| match failed {
                Failed::Read(error) => End::Upstream(error),
                Failed::Write(error) => End::Downstream(error),
            })
        };
        let both = async {
            match tokio::try_join!(forth, back) {
                Ok(_) => End::Finished,
                Err(end) => end,
            }
        };
        tokio::select! {
            end = both => end,
            () = idle_for(idle, &moved) => End::Idle,
        }
    };
    Relayed { received: received.into_inner(), sent: sent.into_inner(), end }
}

async fn pump<R, W>(
    mut read: R,
    mut write: W,
    count: &AtomicU64,
    moved: &AtomicU64,
) -> Result<(), Failed>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = read.read(&mut chunk).await.map_err(Failed::Read)?;
        if length == 0 {
            return match write.shutdown().await {
                // The other side has already gone: there is nothing left to tell it.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
                ended => ended.map_err(Failed::Write),
            };
        }
        write.write_all(&chunk[..length]).await.map_err(Failed::Write)?;
        // TLS keeps what it could not send yet until it is flushed.
        write.flush().await.map_err(Failed::Write)?;
        count.fetch_add(length as u64, Ordering::Relaxed);
        moved.fetch_add(1, Ordering::Relaxed);
    }
}

/// Returns when `moved` has stood still for `idle`.
async fn idle_for(idle: Option<Duration>, moved: &AtomicU64) {
    let Some(idle) = idle else { return std::future::pending().await };
    let mut seen = moved.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep_until(Instant::now() + idle).await;
        let now = moved.load(Ordering::Relaxed);
        if now == seen {
            return;
        }
        seen = now;
    }
}
