//! Admission webhooks: which are asked about a request, in which order, and what their answers do.
//!
//! Mutating webhooks are asked one after the other, and some again when a later one changed the
//! object; validating webhooks are asked at once. A webhook that cannot be asked refuses the
//! request unless its failure policy is `Ignore`.

use serde_json::{Value, json};

use super::Action;
use super::call::{self, Answer, CallError};
use super::matching::{self, Matched};
use crate::operation::Operation;
use crate::status::Status;

const MUTATING: &str = "admissionregistration.k8s.io/mutatingwebhookconfigurations";
const VALIDATING: &str = "admissionregistration.k8s.io/validatingwebhookconfigurations";

/// One request in front of admission.
#[derive(Debug)]
pub struct Attempt<'a> {
    pub operation: &'a Operation,
    pub action: Action,
    pub old: Option<&'a Value>,
    /// Kind of the object, which differs from the resource's for some subresources.
    pub kind: (&'a str, &'a str, &'a str),
    pub dry_run: bool,
}

/// Asks mutating webhooks. `again` brings the server's own plugins' part up to date after changes.
///
/// # Errors
/// The refusal of a webhook.
pub async fn mutate(
    attempt: &Attempt<'_>,
    object: Value,
    again: impl Fn(&mut Value) -> Result<(), Status>,
) -> Result<Value, Status> {
    let hooks = hooks(attempt.operation, MUTATING);
    if hooks.is_empty() {
        return Ok(object);
    }
    let mut object = object;
    // Webhooks that want to be asked again, and whether the object changed after they were.
    let mut reinvocable: Vec<(usize, bool)> = Vec::new();
    let mut changed = false;
    for (at, hook) in hooks.iter().enumerate() {
        let Some(matched) = matching::matches(attempt, hook, &object)? else { continue };
        if ask(attempt, hook, &matched, &mut object).await? {
            changed = true;
            reinvocable.iter_mut().for_each(|(_, stale)| *stale = true);
        }
        if hook["reinvocationPolicy"] == "IfNeeded" {
            reinvocable.push((at, false));
        }
    }
    if !changed {
        return Ok(object);
    }
    let before = object.clone();
    again(&mut object)?;
    let all = object != before;
    for (at, stale) in reinvocable {
        if !stale && !all {
            continue;
        }
        if let Some(matched) = matching::matches(attempt, &hooks[at], &object)? {
            ask(attempt, &hooks[at], &matched, &mut object).await?;
        }
    }
    again(&mut object)?;
    Ok(object)
}

/// Asks validating webhooks.
///
/// # Errors
/// The refusal of a webhook.
pub async fn validate(attempt: &Attempt<'_>, object: &Value) -> Result<(), Status> {
    let hooks = hooks(attempt.operation, VALIDATING);
    let mut asked = Vec::new();
    for hook in &hooks {
        if let Some(matched) = matching::matches(attempt, hook, object)? {
            asked.push(async move {
                let answer = question(attempt, hook, &matched, object, false).await;
                settle(attempt, hook, answer).map(drop)
            });
        }
    }
    for outcome in futures::future::join_all(asked).await {
        outcome?;
    }
    Ok(())
}

/// All webhooks of a kind, in order of configuration name. They are not asked about themselves.
fn hooks(operation: &Operation, storage: &str) -> Vec<Value> {
    if operation.resource.group == "admissionregistration.k8s.io" {
        return Vec::new();
    }
    let list = operation.api.store.list(storage, None);
    let configurations = list.objects.iter();
    configurations
        .flat_map(|stored| stored.value["webhooks"].as_array().into_iter().flatten().cloned())
        .collect()
}

/// Asks a mutating webhook; says whether it changed the object.
async fn ask(
    attempt: &Attempt<'_>,
    hook: &Value,
    matched: &Matched,
    object: &mut Value,
) -> Result<bool, Status> {
    let answer = question(attempt, hook, matched, object, true).await;
    let Some(answer) = settle(attempt, hook, answer)? else { return Ok(false) };
    let Some(patch) = answer.patch.filter(|patch| !patch.is_empty()) else { return Ok(false) };
    let name = hook["name"].as_str().unwrap_or_default();
    if object.is_null() {
        return Err(Status::internal(format!(
            "admission webhook \"{name}\" attempted to modify the object, which is not supported for this operation"
        )));
    }
    let before = object.clone();
    json_patch::patch(object, &patch).map_err(Status::internal)?;
    crate::incoming::admitted(attempt.operation, attempt.kind, object)
        .map_err(|status| Status::internal(status.message()))?;
    Ok(*object != before)
}

async fn question(
    attempt: &Attempt<'_>,
    hook: &Value,
    matched: &Matched,
    object: &Value,
    mutating: bool,
) -> Result<Answer, CallError> {
    let name = hook["name"].as_str().unwrap_or_default();
    if attempt.dry_run && !matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")) {
        return Err(CallError::Refused(Status::bad_request(format!(
            "admission webhook \"{name}\" does not support dry run"
        ))));
    }
    let versions = crate::object::strings(&hook["admissionReviewVersions"]);
    let Some(version) = versions.iter().find(|v| matches!(v.as_str(), "v1" | "v1beta1")) else {
        return Err(CallError::Failed(
            "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)".to_owned(),
        ));
    };
    let uid = uuid::Uuid::new_v4().to_string();
    let request = request(attempt, matched, object, &uid);
    let review = json!({
        "kind": "AdmissionReview",
        "apiVersion": format!("admission.k8s.io/{version}"),
        "request": request,
    });
    let response = call::post(&attempt.operation.api, hook, &review).await?;
    call::read(&response, &uid, version, mutating)
}

fn request(attempt: &Attempt<'_>, matched: &Matched, object: &Value, uid: &str) -> Value {
    let operation = attempt.operation;
    let (info, resource) = (&operation.call.info, &operation.resource);
    let (group, version, kind) = attempt.kind;
    let named = if info.name.is_empty() { crate::object::name(object) } else { &info.name };
    let is_namespace = resource.storage == "/namespaces";
    let namespace = if is_namespace { named } else { &info.namespace };
    let shown = |value: &Value| {
        let mut value = value.clone();
        if let (Some(version), Some(map)) = (&matched.version, value.as_object_mut()) {
            map.insert("apiVersion".to_owned(), version.clone().into());
        }
        value
    };
    let wanted = matched.version.as_deref().and_then(|v| v.rsplit('/').next()).unwrap_or(version);
    let mut request = json!({
        "uid": uid,
        "kind": {"group": group, "version": wanted, "kind": kind},
        "resource": {"group": resource.group, "version": wanted, "resource": resource.plural},
        "requestKind": {"group": group, "version": version, "kind": kind},
        "requestResource": {
            "group": resource.group,
            "version": resource.version,
            "resource": resource.plural,
        },
        "operation": attempt.action.name(),
        "userInfo": crate::user::user_info(&operation.call.user),
        "object": shown(object),
        "oldObject": attempt.old.map_or(Value::Null, shown),
        "dryRun": attempt.dry_run,
        "options": options(attempt),
    });
    for (field, text) in [
        ("name", named),
        ("namespace", namespace),
        ("subResource", &info.subresource),
        ("requestSubResource", &info.subresource),
    ] {
        if !text.is_empty() {
            request[field] = text.into();
        }
    }
    request
}

fn options(attempt: &Attempt<'_>) -> Value {
    let kind = match attempt.action {
        Action::Create => "CreateOptions",
        Action::Update if attempt.operation.call.info.verb == "patch" => "PatchOptions",
        Action::Update => "UpdateOptions",
        Action::Delete => "DeleteOptions",
        Action::Connect => return Value::Null,
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if attempt.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    if attempt.operation.options.has_manager {
        options["fieldManager"] = attempt.operation.options.manager.clone().into();
    }
    options
}

/// What an answer means: nothing when the webhook could not be asked and that is to be ignored.
fn settle(
    attempt: &Attempt<'_>,
    hook: &Value,
    answer: Result<Answer, CallError>,
) -> Result<Option<Answer>, Status> {
    let name = hook["name"].as_str().unwrap_or_default();
    let answer = match answer {
        Ok(answer) => answer,
        Err(CallError::Refused(status)) => return Err(status),
        Err(CallError::Failed(why)) if hook["failurePolicy"] == "Ignore" => {
            tracing::warn!(webhook = name, why, "failed calling webhook, failing open");
            return Ok(None);
        }
        Err(CallError::Failed(why)) => {
            return Err(Status::internal(format!("failed calling webhook \"{name}\": {why}")));
        }
    };
    answer.warnings.iter().for_each(|warning| attempt.operation.warn(warning.clone()));
    if answer.allowed {
        return Ok(Some(answer));
    }
    Err(denied(name, &answer.result))
}

fn denied(name: &str, result: &Value) -> Status {
    let message = result["message"].as_str().unwrap_or_default();
    let reason = result["reason"].as_str().unwrap_or_default();
    let deny = format!("admission webhook \"{name}\" denied the request");
    let text = match (message, reason) {
        ("", "") => format!("{deny} without explanation"),
        ("", reason) => format!("{deny}: {reason}"),
        (message, _) => format!("{deny}: {message}"),
    };
    let code = result["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
    Status::from_webhook(code.max(400), reason, text, &result["details"])
}
