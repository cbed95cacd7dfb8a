//! Whether what an installation renders is in its cluster and ready: `verify-install`.

use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use serde_json::{Value, json};

use crate::cluster::{CallError, Cluster};
use crate::install::labelled;
use crate::object::Object;
use crate::operator::Operator;
use crate::render::render;

/// What was found about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// `Kind: name.namespace`, as istioctl names it here.
    pub object: String,
    /// What is wrong with it; nothing when it is there and ready.
    pub problem: Option<String>,
}

/// The outcome: every object, in the order of installation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub objects: Vec<Checked>,
    pub definitions: usize,
    pub deployments: usize,
}

impl Report {
    /// Whether everything is there and ready.
    pub fn is_good(&self) -> bool {
        !self.objects.is_empty() && self.objects.iter().all(|it| it.problem.is_none())
    }
}

/// Checks what a document installs.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn of_document(cluster: &Cluster, operator: &Operator) -> Result<Report, CallError> {
    let objects: Vec<Object> =
        render(operator).into_iter().flat_map(|component| component.objects).collect();
    check(cluster, &objects).await
}

/// Checks what is in the cluster of a revision, definitions included.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn of_revision(cluster: &Cluster, revision: &str) -> Result<Report, CallError> {
    let revision = if revision.is_empty() { "default" } else { revision };
    let selector = format!("operator.istio.io/component,istio.io/rev={revision}");
    let mut objects = definitions();
    let found = labelled(cluster, &selector).await?;
    if found.is_empty() {
        return Ok(Report::default());
    }
    objects.extend(found);
    check(cluster, &objects).await
}

fn definitions() -> Vec<Object> {
    let spec = json!({"profile": "empty", "components": {"base": {"enabled": true}}});
    let operator = Operator::from_spec("installed-state".to_owned(), spec);
    let objects = operator.map(|operator| render(&operator)).unwrap_or_default();
    objects
        .into_iter()
        .flat_map(|component| component.objects)
        .filter(|object| object.kind() == "CustomResourceDefinition")
        .collect()
}

async fn check(cluster: &Cluster, objects: &[Object]) -> Result<Report, CallError> {
    let mut report = Report::default();
    for object in objects {
        let live = cluster.get(object).await?;
        let problem = match &live {
            None => Some("it does not exist".to_owned()),
            Some(live) => match object.kind() {
                "Deployment" => not_available(cluster, object).await?,
                kind => not_ready(kind, &live.data),
            },
        };
        match object.kind() {
            "CustomResourceDefinition" if problem.is_none() => report.definitions += 1,
            "Deployment" if problem.is_none() => report.deployments += 1,
            _ => (),
        }
        let name = match object.namespace() {
            Some(namespace) => format!("{}.{namespace}", object.name()),
            None => object.name().to_owned(),
        };
        report.objects.push(Checked { object: format!("{}: {name}", object.kind()), problem });
    }
    Ok(report)
}

async fn not_available(cluster: &Cluster, object: &Object) -> Result<Option<String>, CallError> {
    let api: Api<Deployment> = cluster.namespaced(object.namespace().unwrap_or_default());
    let found = api.get_opt(object.name()).await;
    let found = found.map_err(|error| cluster.failed("get", object.reference(), error))?;
    let Some(deployment) = found else { return Ok(Some("it does not exist".to_owned())) };
    let want = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.unwrap_or_default();
    let available = status.available_replicas.unwrap_or(0);
    let current = status.observed_generation >= deployment.metadata.generation;
    Ok(if current && available >= want && status.updated_replicas.unwrap_or(0) >= want {
        None
    } else {
        Some(format!("{available} of {want} replicas are available"))
    })
}

/// What keeps an object that exists from doing its work.
fn not_ready(kind: &str, live: &Value) -> Option<String> {
    match kind {
        "CustomResourceDefinition" => {
            let conditions = live.pointer("/status/conditions").and_then(Value::as_array);
            let established = conditions.into_iter().flatten().any(|it| {
                it.get("type") == Some(&json!("Established"))
                    && it.get("status") == Some(&json!("True"))
            });
            (!established).then(|| "it is not established".to_owned())
        }
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            let webhooks = live.get("webhooks").and_then(Value::as_array);
            let without = webhooks.into_iter().flatten().any(|it| {
                let bundle = it.pointer("/clientConfig/caBundle").and_then(Value::as_str);
                bundle.is_none_or(str::is_empty)
            });
            without.then(|| {
                "no control plane has put its CA bundle into it yet: is one running, and may it \
                 read this cluster?"
                    .to_owned()
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exists_must_also_work() {
        let crd = |status: &str| json!({"status": {"conditions": [{"type": "Established", "status": status}]}});
        assert_eq!(not_ready("CustomResourceDefinition", &crd("True")), None);
        assert!(not_ready("CustomResourceDefinition", &crd("False")).is_some());
        assert!(not_ready("CustomResourceDefinition", &json!({})).is_some());
        let webhook = |client: Value| json!({"webhooks": [{"clientConfig": client}]});
        let kind = "MutatingWebhookConfiguration";
        assert_eq!(not_ready(kind, &webhook(json!({"caBundle": "Q0E="}))), None);
        assert!(not_ready(kind, &webhook(json!({}))).is_some());
        assert_eq!(not_ready("ConfigMap", &json!({})), None);
        assert!(!Report::default().is_good(), "nothing found is not good");
        assert_eq!(definitions().len(), 15);
    }
}
