//! Accepting connections, the one way for every listener.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::shutdown::Shutdown;

/// How long to pause after an error, which is usually a lack of file descriptors. Without a pause
/// the loop around would burn a core until there are some again.
const PAUSE: Duration = Duration::from_millis(100);

/// The next connection, or none once the process drains. Errors are logged under `name`.
///
/// *Cancel safety*: no connection is lost.
pub async fn accept(
    listener: &TcpListener,
    name: &str,
    shutdown: &Shutdown,
) -> Option<(TcpStream, SocketAddr)> {
    let accepted = async {
        loop {
            match listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(listener = name, %error, "accept failed");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.draining() => None,
        accepted = accepted => Some(accepted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_come_until_the_process_drains() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::default();
        let client = TcpStream::connect(address).await.unwrap();
        let (_stream, peer) = accept(&listener, "test", &shutdown).await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        let _waiting = TcpStream::connect(address).await.unwrap();
        shutdown.stop(Duration::ZERO).await;
        assert!(accept(&listener, "test", &shutdown).await.is_none());
    }
}
