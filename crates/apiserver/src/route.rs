//! Where a request goes.

use std::sync::Arc;

use hyper::body::Incoming;

use crate::request::Call;
use crate::respond::Response;
use crate::server::Api;
use crate::status::Status;
use crate::{health, kubelet, paths};

/// Answers an authenticated and authorized request.
///
/// # Errors
/// The refusal that the client gets.
#[expect(clippy::unused_async, reason = "verbs read bodies and wait for the store")]
pub async fn route(api: &Arc<Api>, call: Call, body: Incoming) -> Result<Response, Status> {
    drop(body);
    if !call.info.is_resource {
        return health::serve(api, &call)
            .or_else(|| paths::serve(api, &call))
            .ok_or_else(Status::no_such_path);
    }
    if kubelet::serves(&call.info) {
        return Box::pin(kubelet::serve(api, call)).await;
    }
    let info = &call.info;
    let catalog = api.catalog.load();
    let _resource = catalog
        .find(&info.group, &info.version, &info.resource)
        .ok_or_else(Status::no_such_path)?;
    Err(Status::method_not_allowed())
}
