//! Asking a container something: over HTTP, TCP, gRPC or by a command in it.
//!
//! Probes and lifecycle hooks both do it. Requests leave from the node's namespace, as kubelet's
//! do, so that a pod's traffic capture does not see them as its own.

use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use crate::node::container::order::{Order, Place};
use crate::node::container::spawn::{self, Output};
use crate::node::pod::process::Process;

/// The most of an answer that is read.
const MOST: usize = 10 << 10;

/// The answer to a question: whether it was the good one, and what was said.
pub(crate) type Answer = Result<String, String>;

/// Who is asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub container: Container,
    pub process: Arc<Process>,
    pub pod_ip: String,
    pub program: std::path::PathBuf,
}

impl Asked {
    /// The number of a port that is given by number or name.
    pub(crate) fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => match name.parse() {
                Ok(number) => Some(number),
                Err(_) => self
                    .container
                    .ports
                    .iter()
                    .flatten()
                    .find(|port| port.name.as_ref() == Some(name))
                    .map(|port| port.container_port),
            },
        };
        number
            .and_then(|number| u16::try_from(number).ok())
            .ok_or_else(|| format!("the container has no port {port:?}"))
    }

    /// Runs a command in the container; the answer is good when it exits with 0.
    pub(crate) async fn exec(&self, action: &ExecAction) -> Answer {
        let order = Order {
            argv: action.command.clone().unwrap_or_default(),
            stdin: None,
            tty: false,
            place: Place::Beside(self.process.pid),
            ..self.process.order.clone()
        };
        let output = Output { stdout: Stdio::piped(), stderr: Stdio::piped() };
        let child = spawn::start(&self.program, &order, output, &[])
            .await
            .map_err(|error| tombolo_runtime::errors::chain(&error).to_string())?;
        let mut child = KillOnDrop(child);
        let (stdout, stderr) = (child.0.stdout.take(), child.0.stderr.take());
        let (out, err) = tokio::join!(read_some(stdout), read_some(stderr));
        let status = child.0.wait().await.map_err(|error| error.to_string())?;
        let text = format!("{out}{err}");
        if status.success() {
            Ok(text)
        } else {
            Err(format!("{text} (exit code {})", status.code().unwrap_or(137)))
        }
    }

    /// Sends a GET; the answer is good when its status is 200 to 399.
    pub(crate) async fn http(&self, action: &HTTPGetAction) -> Answer {
        let host = action
            .host
            .clone()
            .filter(|host| !host.is_empty())
            .unwrap_or_else(|| self.pod_ip.clone());
        let port = self.port(&action.port)?;
        let socket = connect(&host, port).await?;
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(action.path.clone().filter(|path| !path.is_empty()).map_or_else(
                || "/".into(),
                |path| if path.starts_with('/') { path } else { format!("/{path}") },
            ))
            .header("connection", "close");
        let headers = || action.http_headers.iter().flatten();
        for (name, value) in [
            ("host", format!("{host}:{port}")),
            ("user-agent", "kube-probe/1.36".into()),
            ("accept", "*/*".into()),
        ] {
            if !headers().any(|header| header.name.eq_ignore_ascii_case(name)) {
                request = request.header(name, value);
            }
        }
        for header in headers().filter(|header| !header.value.is_empty()) {
            request = request.header(&header.name, &header.value);
        }
        let request = request.body(Full::<Bytes>::default()).map_err(|error| error.to_string())?;
        if action.scheme.as_deref() == Some("HTTPS") {
            let stream = crate::node::tls::connect_unverified(socket, &host)
                .await
                .map_err(|error| error.to_string())?;
            send(stream, request).await
        } else {
            send(socket, request).await
        }
    }

    pub(crate) async fn tcp(&self, host: Option<&str>, port: &IntOrString) -> Answer {
        let host = host.filter(|host| !host.is_empty()).unwrap_or(&self.pod_ip);
        connect(host, self.port(port)?).await.map(|_| String::new())
    }

    /// Asks `grpc.health.v1.Health/Check`.
    pub(crate) async fn grpc(&self, port: i32, service: &str) -> Answer {
        let port = u16::try_from(port).map_err(|_| format!("{port} is not a port"))?;
        let socket = connect(&self.pod_ip, port).await?;
        let say = |error: hyper::Error| tombolo_runtime::errors::chain(&error).to_string();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(
            hyper_util::rt::TokioExecutor::new(),
            TokioIo::new(socket),
        )
        .await
        .map_err(say)?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}:{port}/grpc.health.v1.Health/Check", self.pod_ip))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(health_request(service)))
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(say)?;
        let early = response.headers().get("grpc-status").cloned();
        let body = Limited::new(response.into_body(), MOST)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        driver.abort();
        let status =
            body.trailers().and_then(|trailers| trailers.get("grpc-status").cloned()).or(early);
        if status.as_ref().is_none_or(|status| status.as_bytes() != b"0") {
            return Err(format!("service unhealthy (grpc-status {status:?})"));
        }
        // One message: a flag, a length of four bytes, then field 1 with the value SERVING (1).
        if body.to_bytes().get(5..) == Some(&[0x08, 0x01]) {
            Ok("SERVING".into())
        } else {
            Err("service unhealthy (responded with another status than SERVING)".into())
        }
    }

    /// Does what a postStart or preStop hook says.
    pub(crate) async fn hook(&self, handler: &LifecycleHandler) -> Answer {
        if let Some(exec) = &handler.exec {
            return self.exec(exec).await;
        }
        if let Some(get) = &handler.http_get {
            return self.http(get).await;
        }
        if let Some(tcp) = &handler.tcp_socket {
            return self.tcp(tcp.host.as_deref(), &tcp.port).await;
        }
        if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)))
                .await;
        }
        Ok(String::new())
    }
}

/// A command that nobody waits for any more is killed.
struct KillOnDrop(tokio::process::Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // Fails when it has ended, which is what is wanted.
        let _ended = self.0.start_kill();
    }
}

async fn read_some(source: Option<impl AsyncRead + Unpin>) -> String {
    let mut text = Vec::new();
    if let Some(source) = source
        && let Err(error) = source.take(MOST as u64).read_to_end(&mut text).await
    {
        return format!("(its output could not be read: {error})");
    }
    String::from_utf8_lossy(&text).into_owned()
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("dial tcp {host}:{port}: {}", plain(&error)))
}

fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        _ => error.to_string(),
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Answer {
    let say = |error: hyper::Error| tombolo_runtime::errors::chain(&error).to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(say)?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(say)?;
    let status = response.status();
    // The body only adds to the message, so one that is too long or cut short is no failure.
    let body = Limited::new(response.into_body(), MOST)
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    driver.abort();
    let text = String::from_utf8_lossy(&body).into_owned();
    if (200..400).contains(&status.as_u16()) {
        Ok(text)
    } else {
        Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
    }
}

/// A `HealthCheckRequest` in a gRPC frame.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}
