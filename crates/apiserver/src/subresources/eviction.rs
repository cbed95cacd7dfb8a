//! `pods/eviction`: a deletion that asks the disruption budgets first.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::body;
use crate::object;
use crate::operation::options::DeleteOptions;
use crate::operation::{Operation, check_kind};
use crate::respond::{self, Response};
use crate::selector::Labels;
use crate::status::{Cause, Status};
use crate::store::{Expect, WriteError};
use crate::verbs::delete;

const BUDGETS: &str = "policy/poddisruptionbudgets";
const ATTEMPTS: usize = 16;

/// Answers POST of an eviction.
///
/// # Errors
/// 429 when a budget does not allow it.
pub async fn create(operation: &Operation, bytes: &Bytes) -> Result<Response, Status> {
    let mut eviction = body::parse(&operation.call.parts.headers, bytes)?;
    check_kind(&mut eviction, "policy/v1", "Eviction")?;
    let name = operation.call.info.name.clone();
    let pod = operation.newest(&name).ok_or_else(|| operation.not_found(&name))?;
    let options = DeleteOptions::read(&eviction["deleteOptions"], &operation.call.query)?;
    if must_ask(&pod.value) {
        spend(operation, &pod.value, options.dry_run || operation.options.dry_run).await?;
    }
    delete::evicted(operation, &pod.key, &options).await?;
    Ok(respond::json(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

/// Pods that serve nobody can go without asking.
fn must_ask(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    !object::is_deleting(pod) && !matches!(phase, "Succeeded" | "Failed" | "Pending")
}

/// Takes one disruption out of the pod's budget.
async fn spend(operation: &Operation, pod: &Value, dry_run: bool) -> Result<(), Status> {
    let store = &operation.api.store;
    let namespace = object::namespace(pod);
    for _ in 0..ATTEMPTS {
        let budgets = store.list(BUDGETS, Some(namespace)).objects;
        let mut own = budgets.into_iter().filter(|budget| {
            let selector = Labels::from_object(&budget.value["spec"]["selector"]);
            selector.is_ok_and(|selector| selector.matches(&pod["metadata"]["labels"]))
        });
        let Some(budget) = own.next() else { return Ok(()) };
        if own.next().is_some() {
            return Err(Status::new(
                500,
                "",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        let allowed = budget.value["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
        if allowed <= 0 {
            return Err(too_many(&budget.value));
        }
        if dry_run {
            return Ok(());
        }
        let mut new = budget.value.clone();
        let status = object::child(&mut new, "status");
        status.insert("disruptionsAllowed".to_owned(), (allowed - 1).into());
        object::as_map(status.entry("disruptedPods").or_insert_with(|| json!({})))
            .insert(object::name(pod).to_owned(), object::now().into());
        match store.put(budget.key.clone(), Expect::Revision(budget.revision), new).await {
            Ok(_) => return Ok(()),
            Err(WriteError::Changed | WriteError::Exists) => (),
            Err(failed) => return Err(Status::internal(failed)),
        }
    }
    Err(Status::new(429, "TooManyRequests", "couldn't update PodDisruptionBudget due to conflicts")
        .with_retry_after(1))
}

fn too_many(budget: &Value) -> Status {
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let message = format!(
        "The disruption budget {} needs {} healthy pods and has {} currently",
        object::name(budget),
        number("desiredHealthy"),
        number("currentHealthy")
    );
    let cause = Cause { reason: "DisruptionBudget", message, field: String::new() };
    Status::new(
        429,
        "TooManyRequests",
        "Cannot evict pod as it would violate the pod's disruption budget.",
    )
    .with_causes(vec![cause])
}
