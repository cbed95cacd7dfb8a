//! Paths below an object: `status`, `scale`, `binding`, `eviction` and the others.

use hyper::body::Incoming;

use crate::body;
use crate::respond::Response;
use crate::status::Status;
use crate::verbs::{Operation, patch, read, update};

/// Answers a request to a subresource.
///
/// # Errors
/// The refusal that the client gets.
pub async fn serve(operation: Operation, incoming: Incoming) -> Result<Response, Status> {
    let (name, verb) = (operation.subresource().to_owned(), operation.call.info.verb.clone());
    let Some(sub) = operation.resource.subresource(&name) else {
        return Err(Status::no_such_path());
    };
    if !sub.verbs.contains(&verb) {
        return Err(Status::method_not_allowed());
    }
    match (name.as_str(), verb.as_str()) {
        ("status" | "finalize" | "ephemeralcontainers" | "resize" | "approval", "get") => {
            read::get(&operation)
        }
        ("status" | "finalize" | "ephemeralcontainers" | "resize" | "approval", "update") => {
            update::update(&operation, &body::read(incoming).await?).await
        }
        ("status" | "finalize" | "ephemeralcontainers" | "resize" | "approval", "patch") => {
            patch::patch(&operation, &body::read(incoming).await?).await
        }
        _ => Err(Status::not_implemented(format!(
            "the subresource \"{name}\" of {} is not served by this API server",
            operation.resource.plural
        ))),
    }
}
