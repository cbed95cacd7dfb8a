//! Waiting for a cluster: until its API server is ready, until its nodes are.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::time::Instant;

use crate::control::ClusterState;
use crate::directory::ClusterDirectory;
use crate::lab::{Endpoint, LabError, access};

/// How long an API server may take to become ready: real ones are slow on a busy machine.
const API_PATIENCE: Duration = Duration::from_secs(120);

/// How often to ask.
const PAUSE: Duration = Duration::from_millis(100);

/// How long one question may take.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// Returns a client once the API server says that it is ready.
pub(super) async fn api(state: &ClusterState) -> Result<Client, LabError> {
    let client = client(state).await?;
    let give_up = Instant::now() + API_PATIENCE;
    loop {
        let Err(error) = ready(&client).await else { return Ok(client) };
        if Instant::now() > give_up {
            return Err(LabError::NotReady {
                name: state.name().clone(),
                waited: API_PATIENCE,
                why: error.to_string(),
                log: end_of_log(state, "api-server"),
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ready(client: &Client) -> Result<(), kube::Error> {
    let request = http::Request::get("/readyz").body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request_text(request).await.map(drop)
}

async fn client(state: &ClusterState) -> Result<Client, LabError> {
    let refused = |error: &dyn std::fmt::Display| {
        LabError::Refused(format!("the kubeconfig of cluster `{}`: {error}", state.name()))
    };
    let document = access(state, Endpoint::Loopback)?.document();
    let kubeconfig = Kubeconfig::from_yaml(&document).map_err(|error| refused(&error))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|error| refused(&error))?;
    config.connect_timeout = Some(REQUEST_PATIENCE);
    config.read_timeout = Some(REQUEST_PATIENCE);
    Client::try_from(config).map_err(|error| refused(&error))
}

/// Returns once every node of the cluster is registered and ready.
pub(super) async fn nodes(
    client: &Client,
    state: &ClusterState,
    patience: Duration,
) -> Result<(), LabError> {
    let give_up = Instant::now() + patience;
    loop {
        let why = match Api::<Node>::all(client.clone()).list(&ListParams::default()).await {
            Ok(nodes) => {
                let missing: Vec<_> = state
                    .nodes
                    .iter()
                    .filter(|wanted| !nodes.items.iter().any(|node| is_ready(node, &wanted.name)))
                    .map(|node| node.name.as_str())
                    .collect();
                if missing.is_empty() {
                    return Ok(());
                }
                let log = end_of_log(state, &format!("node-{}", missing.first().unwrap_or(&"")));
                format!("{} not ready; the log of the first ends:\n{log}", missing.join(", "))
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() > give_up {
            let name = state.name().clone();
            return Err(LabError::NodesNotReady { name, waited: patience, why });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_ready(node: &Node, name: &str) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    node.metadata.name.as_deref() == Some(name)
        && conditions
            .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// The last lines of a process's log.
fn end_of_log(state: &ClusterState, process: &str) -> String {
    const LINES: usize = 10;
    let file = ClusterDirectory::new(state.folder.clone()).logs().join(format!("{process}.log"));
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) => return format!("  ({} cannot be read: {error})", file.display()),
    };
    let lines: Vec<_> = text.lines().collect();
    let last = lines.iter().skip(lines.len().saturating_sub(LINES));
    last.map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
