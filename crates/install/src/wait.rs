//! Waiting for a condition on a value, with a limit and a message. Nothing here waits for time.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use tokio::time::Instant;

use crate::cluster::{CallError, Cluster};
use crate::progress::Step;

/// How often a condition is looked at.
const PACE: Duration = Duration::from_millis(150);

/// What a look at a condition found.
#[derive(Debug)]
pub enum Look<T> {
    /// It holds.
    Holds(T),
    /// Not yet, and what is missing.
    Missing(String),
}

/// Why waiting ended without the condition.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    #[error("cluster {cluster}: waited {seconds} s for {what}; last seen: {last}")]
    TooLong { cluster: String, what: String, seconds: u64, last: String },
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Looks until the condition holds or `limit` is over.
///
/// Calls that fail are looked at again within the limit: an API server may be restarting.
///
/// # Errors
/// When the limit is over; the message holds what was missing last.
pub async fn until<T, F, Fut>(
    cluster: &Cluster,
    what: &str,
    limit: Duration,
    step: Option<&Step>,
    mut look: F,
) -> Result<T, WaitError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Look<T>, CallError>>,
{
    let started = Instant::now();
    loop {
        let missing = match look().await {
            Ok(Look::Holds(value)) => return Ok(value),
            Ok(Look::Missing(missing)) => missing,
            Err(error) => tombolo_runtime::errors::chain(&error).to_string(),
        };
        if let Some(step) = step {
            step.waits_for(&missing);
        }
        if started.elapsed() >= limit {
            return Err(WaitError::TooLong {
                cluster: cluster.name().to_owned(),
                what: what.to_owned(),
                seconds: limit.as_secs(),
                last: missing,
            });
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Waits until a definition is served.
///
/// # Errors
/// When it is not within the limit.
pub async fn established(cluster: &Cluster, name: &str, limit: Duration) -> Result<(), WaitError> {
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client().clone());
    let what = format!("CustomResourceDefinition/{name} to be established");
    until(cluster, &what, limit, None, || async {
        let found =
            api.get_opt(name).await.map_err(|e| cluster.failed("get", name.to_owned(), e))?;
        let conditions = found
            .and_then(|crd| crd.status)
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        let holds = conditions.iter().any(|c| c.type_ == "Established" && c.status == "True");
        Ok(if holds { Look::Holds(()) } else { Look::Missing("not established".to_owned()) })
    })
    .await
}

/// Waits until a Deployment's current generation is rolled out and available.
///
/// # Errors
/// When it is not within the limit; the message says how far it came.
pub async fn rolled_out(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    limit: Duration,
    step: Option<&Step>,
) -> Result<(), WaitError> {
    let api: Api<Deployment> = cluster.namespaced(namespace);
    let what = format!("Deployment/{namespace}/{name} to roll out");
    until(cluster, &what, limit, step, || async {
        let found = api
            .get_opt(name)
            .await
            .map_err(|e| cluster.failed("get", format!("Deployment/{name}"), e))?;
        let Some(deployment) = found else {
            return Ok(Look::Missing("it does not exist".to_owned()));
        };
        let want = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let status = deployment.status.unwrap_or_default();
        let seen = status.observed_generation >= deployment.metadata.generation;
        let (updated, available) =
            (status.updated_replicas.unwrap_or(0), status.available_replicas.unwrap_or(0));
        let total = status.replicas.unwrap_or(0);
        if seen && updated == want && available == want && total == want {
            return Ok(Look::Holds(()));
        }
        let why = pod_trouble(cluster, namespace, name).await.unwrap_or_default();
        Ok(Look::Missing(format!("{available} of {want} available{why}")))
    })
    .await
}

/// What keeps the pods of a Deployment from being ready, in the words of their statuses.
async fn pod_trouble(cluster: &Cluster, namespace: &str, deployment: &str) -> Option<String> {
    let pods: Api<k8s_openapi::api::core::v1::Pod> = cluster.namespaced(namespace);
    let list = pods.list(&kube::api::ListParams::default()).await.ok()?;
    let prefix = format!("{deployment}-");
    let mut found = Vec::new();
    for pod in list.items {
        let name = pod.metadata.name.unwrap_or_default();
        if !name.starts_with(&prefix) {
            continue;
        }
        let status = pod.status.unwrap_or_default();
        let containers = status
            .init_container_statuses
            .into_iter()
            .flatten()
            .chain(status.container_statuses.into_iter().flatten());
        for container in containers {
            let waiting = container.state.and_then(|state| state.waiting);
            if let Some(waiting) = waiting {
                let reason = waiting.reason.unwrap_or_default();
                let message = waiting.message.unwrap_or_default();
                found.push(format!(
                    "; pod {name}, container {}: {reason} {message}",
                    container.name
                ));
            }
        }
        for condition in status.conditions.into_iter().flatten() {
            if condition.type_ == "PodScheduled" && condition.status == "False" {
                found.push(format!("; pod {name}: {}", condition.message.unwrap_or_default()));
            }
        }
    }
    Some(found.concat())
}

/// Waits until a Service of type LoadBalancer has an address, and returns it.
///
/// # Errors
/// When it has none within the limit.
pub async fn load_balancer_address(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    limit: Duration,
    step: Option<&Step>,
) -> Result<String, WaitError> {
    let api: Api<Service> = cluster.namespaced(namespace);
    let what = format!("Service/{namespace}/{name} to get a load-balancer address");
    until(cluster, &what, limit, step, || async {
        let found = api
            .get_opt(name)
            .await
            .map_err(|e| cluster.failed("get", format!("Service/{name}"), e))?;
        Ok(match found.and_then(assigned_address) {
            Some(address) => Look::Holds(address),
            None => Look::Missing("no address is assigned yet".to_owned()),
        })
    })
    .await
}

/// The address that a load balancer has given a Service: an IP address, else a host name.
pub fn assigned_address(service: Service) -> Option<String> {
    let ingress = service.status?.load_balancer?.ingress?.into_iter().next()?;
    ingress.ip.or(ingress.hostname)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_load_balancer_is_found_by_address_else_by_name() {
        let address = |ingress| {
            let service = json!({"status": {"loadBalancer": {"ingress": ingress}}});
            assigned_address(serde_json::from_value(service).unwrap())
        };
        let (ip, name) = (json!({"ip": "192.0.2.1"}), json!({"hostname": "a.elb.example.org"}));
        assert_eq!(address(json!([ip, name])).as_deref(), Some("192.0.2.1"));
        assert_eq!(address(json!([name])).as_deref(), Some("a.elb.example.org"));
        assert_eq!(address(json!([])), None);
        assert_eq!(assigned_address(Service::default()), None);
    }
}
