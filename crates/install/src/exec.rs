//! Runs a command in a container and collects what it prints.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::AttachParams;
use tokio::io::AsyncReadExt;

use crate::cluster::Cluster;

/// How long one command may take: a few hundred requests that all run into their own limits.
const LIMIT: Duration = Duration::from_secs(120);
/// The most that one command may print: the dump of a proxy in a large mesh has tens of MiB.
const MOST_OUTPUT: u64 = 256 << 20;

/// Where a command runs.
#[derive(Clone, Debug)]
pub struct Container {
    pub namespace: String,
    pub pod: String,
    pub container: String,
}

/// Why a command did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("cluster {cluster}: exec in pod {pod}, container {container}")]
    Start { cluster: String, pod: String, container: String, source: kube::Error },
    #[error("cluster {cluster}: exec in pod {pod}: read output")]
    Read { cluster: String, pod: String, source: std::io::Error },
    #[error("cluster {cluster}: `{command}` in pod {pod} did not end within {seconds} s")]
    TooLong { cluster: String, pod: String, command: String, seconds: u64 },
    #[error("cluster {cluster}: `{command}` in pod {pod} printed more than {} MiB", MOST_OUTPUT >> 20)]
    TooMuch { cluster: String, pod: String, command: String },
    #[error("cluster {cluster}: `{command}` in pod {pod} failed: {message}")]
    Failed { cluster: String, pod: String, command: String, message: String },
}

/// Standard output of `command`. With `any_exit` the command may fail and what it printed counts.
///
/// # Errors
/// When the command cannot be started, does not end in time, or fails.
pub async fn output(
    cluster: &Cluster,
    place: &Container,
    command: &[String],
    any_exit: bool,
) -> Result<String, ExecError> {
    let run = run(cluster, place, command, any_exit);
    match tokio::time::timeout(LIMIT, run).await {
        Ok(result) => result,
        Err(_) => Err(ExecError::TooLong {
            cluster: cluster.name().to_owned(),
            pod: place.pod.clone(),
            command: command.join(" "),
            seconds: LIMIT.as_secs(),
        }),
    }
}

async fn run(
    cluster: &Cluster,
    place: &Container,
    command: &[String],
    any_exit: bool,
) -> Result<String, ExecError> {
    let pods: Api<Pod> = cluster.namespaced(&place.namespace);
    let params =
        AttachParams::default().container(place.container.as_str()).stdout(true).stderr(true);
    let mut process =
        pods.exec(&place.pod, command, &params).await.map_err(|source| ExecError::Start {
            cluster: cluster.name().to_owned(),
            pod: place.pod.clone(),
            container: place.container.clone(),
            source,
        })?;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let status = process.take_status();
    let (out, err) = tokio::join!(read(stdout), read(stderr));
    let failed = |source| ExecError::Read {
        cluster: cluster.name().to_owned(),
        pod: place.pod.clone(),
        source,
    };
    let (out, err) = (out.map_err(failed)?, err.map_err(failed)?);
    if out.len() as u64 >= MOST_OUTPUT {
        return Err(ExecError::TooMuch {
            cluster: cluster.name().to_owned(),
            pod: place.pod.clone(),
            command: command.join(" "),
        });
    }
    let ended = match status {
        Some(status) => status.await,
        None => None,
    };
    match ended {
        Some(status) if status.status.as_deref() == Some("Success") || any_exit => Ok(out),
        other => Err(ExecError::Failed {
            cluster: cluster.name().to_owned(),
            pod: place.pod.clone(),
            command: command.join(" "),
            message: match other.and_then(|status| status.message) {
                Some(message) => format!("{message} {}", err.trim()).trim().to_owned(),
                None => "the connection ended before the command did".to_owned(),
            },
        }),
    }
}

async fn read(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(MOST_OUTPUT).read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
