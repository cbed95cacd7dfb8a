//! Small clients of the agent: wait until it is ready, or send it one request.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Why a request had no good answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{0}` is not a URL of the form http://HOST:PORT/PATH")]
    Url(String),
    #[error("request {url}")]
    Request { url: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{url} answered {status}: {body}")]
    Answer { url: String, status: u16, body: String },
    #[error("{url} was not ready within {limit:?}: {last}")]
    Timeout { url: String, limit: Duration, last: String },
}

/// Sends one request and returns the body of its answer, which must be a success.
///
/// # Errors
/// When the URL cannot be used, nobody answers, or the answer is no success.
pub async fn request(method: &str, url: &str) -> Result<String, Error> {
    request_with(method, url, String::new()).await
}

/// Sends one request with a body, as [`request`] does.
///
/// # Errors
/// As [`request`].
pub async fn request_with(method: &str, url: &str, body: String) -> Result<String, Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Request {
        url: url.to_owned(),
        source,
    };
    let bad = || Error::Url(url.to_owned());
    let rest = url.strip_prefix("http://").ok_or_else(bad)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let address =
        if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let tcp = TcpStream::connect(&address).await.map_err(|error| failed(error.into()))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(error.into()))?;
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, authority)
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| failed(error.into()))?;
    // The sender goes when the answer is there, which ends the connection: it would be kept open
    // for more requests.
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>((status, body))
    };
    let (exchanged, _) = tokio::join!(exchange, connection);
    let (status, body) = exchanged.map_err(|error| failed(error.into()))?;
    let body = String::from_utf8_lossy(&body).into_owned();
    if status.is_success() {
        return Ok(body);
    }
    Err(Error::Answer { url: url.to_owned(), status: status.as_u16(), body })
}

/// Asks again and again until the answer is a success.
///
/// # Errors
/// When it was none within `limit`.
pub async fn until_ready(url: &str, limit: Duration, every: Duration) -> Result<(), Error> {
    let end = Instant::now() + limit;
    loop {
        let error = match tokio::time::timeout_at(end, request("GET", url)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error @ Error::Url(_))) => return Err(error),
            Ok(Err(error)) => tombolo_runtime::errors::chain(&error).to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() + every > end {
            return Err(Error::Timeout { url: url.to_owned(), limit, last: error });
        }
        tokio::time::sleep(every).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_returned_although_the_server_keeps_the_connection_open() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/logging?level=info", server.local_addr().unwrap());
        let serve = async {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"hello") {
                assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes").await.unwrap();
            // Until the client closes.
            assert_eq!(stream.read_buf(&mut seen).await.unwrap(), 0);
            String::from_utf8(seen).unwrap()
        };
        let both = async { tokio::join!(request_with("POST", &url, "hello".to_owned()), serve) };
        let both = tokio::time::timeout(Duration::from_secs(10), both).await;
        let (answer, seen) = both.expect("the request ends");
        assert_eq!(answer.unwrap(), "yes");
        assert!(seen.starts_with("POST /logging?level=info HTTP/1.1\r\n"), "{seen}");
    }
}
