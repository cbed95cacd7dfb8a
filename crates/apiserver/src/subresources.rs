//! Paths below an object: `status`, `scale`, `binding`, `eviction` and the others.

use hyper::body::Incoming;

use crate::body;
use crate::operation::Operation;
use crate::respond::Response;
use crate::status::Status;
use crate::verbs::{patch, read, update};

pub mod binding;
mod eviction;
mod scale;

/// Parts of an object that are read and written like the object itself. What a write may change
/// there is settled in [`crate::kinds::prepare_update`].
const PARTS: &[&str] = &["status", "finalize", "ephemeralcontainers", "resize", "approval"];

/// Answers a request to a subresource.
///
/// # Errors
/// The refusal that the client gets.
pub async fn serve(operation: Operation, incoming: Incoming) -> Result<Response, Status> {
    let (name, verb) = (operation.subresource().to_owned(), operation.call.info.verb.clone());
    let Some(sub) = operation.resource.subresource(&name) else {
        // Kinds of definitions could have these; this one does not.
        return Err(match name.as_str() {
            "status" | "scale" if operation.resource.custom.is_some() => {
                operation.not_found(&operation.call.info.name)
            }
            _ => Status::no_such_path(),
        });
    };
    if !sub.verbs.contains(&verb) {
        return Err(Status::method_not_allowed());
    }
    if verb == "get" && PARTS.contains(&name.as_str()) {
        return read::get(&operation);
    }
    let bytes = body::read(incoming).await?;
    match (name.as_str(), verb.as_str()) {
        (part, "update") if PARTS.contains(&part) => update::update(&operation, &bytes).await,
        (part, "patch") if PARTS.contains(&part) => patch::patch(&operation, &bytes).await,
        ("scale", "get") => scale::get(&operation),
        ("scale", "update") => scale::update(&operation, &bytes).await,
        ("scale", "patch") => scale::patch(&operation, &bytes).await,
        ("binding", _) => binding::create(&operation, &bytes).await,
        ("eviction", _) => eviction::create(&operation, &bytes).await,
        _ => Err(Status::not_implemented(format!(
            "the subresource \"{name}\" of {} is not served by this API server",
            operation.resource.plural
        ))),
    }
}
