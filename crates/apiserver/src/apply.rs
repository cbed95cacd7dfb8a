//! Server-side apply.

use bytes::Bytes;

use crate::status::Status;
use crate::verbs::Operation;
use crate::verbs::update::Written;

/// Applies a configuration.
///
/// # Errors
/// The refusal that the client gets.
#[expect(clippy::unused_async, reason = "writes wait for the store")]
pub async fn apply(_: &Operation, _: &str, _: &Bytes) -> Result<Written, Status> {
    Err(Status::not_implemented("server-side apply is not served"))
}
