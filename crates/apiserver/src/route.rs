//! Where a request goes.

use std::sync::Arc;

use hyper::body::Incoming;

use crate::api::Api;
use crate::operation::Operation;
use crate::operation::options::WriteOptions;
use crate::request::Call;
use crate::resources::ResourceType;
use crate::respond::Response;
use crate::status::Status;
use crate::verbs::{create, delete, patch, read, update, watch};
use crate::{body, health, kubelet, paths, respond, reviews, subresources};

/// What is kept but has no effect here.
const NOT_ENFORCED: &[(&str, &str)] = &[
    ("/resourcequotas", "resource quotas are kept but not enforced by this API server"),
    ("/limitranges", "limit ranges are kept but not enforced by this API server"),
    (
        "apiregistration.k8s.io/apiservices",
        "API services are kept but requests are not passed on to them by this API server",
    ),
];
const ENDPOINTS_WARNING: &str =
    "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";

/// Answers an authenticated and authorized request.
///
/// # Errors
/// The refusal that the client gets.
pub async fn route(api: &Arc<Api>, mut call: Call, incoming: Incoming) -> Result<Response, Status> {
    if call.info.is_resource && call.parts.method == http::Method::HEAD {
        return Err(Status::method_not_allowed());
    }
    if !call.info.is_resource {
        return health::serve(api, &call)
            .or_else(|| paths::serve(api, &call))
            .ok_or_else(Status::no_such_path);
    }
    if kubelet::serves(&call.info) {
        return Box::pin(kubelet::serve(api, call)).await;
    }
    if !api.catalog.load().types().iter().any(|known| known.group == call.info.group) {
        return Ok(respond::text(404, "404 page not found\n"));
    }
    let resource = resource(api, &call)?;
    if call.parts.method == http::Method::POST
        && !call.info.name.is_empty()
        && call.info.subresource.is_empty()
    {
        return Err(Status::method_not_allowed());
    }
    if reviews::serves(&call.info) {
        return review(api, &call, incoming).await;
    }
    if resource.storage == "/namespaces" && resource.group.is_empty() {
        // The namespace of a request about a namespace only matters to authorization.
        call.info.namespace.clear();
    }
    if resource.namespaced
        && call.info.namespace.is_empty()
        && !matches!(call.info.verb.as_str(), "list" | "watch")
    {
        return Err(Status::method_not_allowed());
    }
    if !resource.namespaced && !call.info.namespace.is_empty() {
        return Err(Status::no_such_path());
    }
    let options = WriteOptions::read(&call)?;
    let operation = Operation {
        api: Arc::clone(api),
        call,
        resource,
        options,
        warnings: parking_lot::Mutex::default(),
        duplicates: parking_lot::Mutex::default(),
    };
    if let Some(warning) =
        operation.resource.custom.as_ref().and_then(|c| c.deprecation_warning.as_ref())
    {
        operation.warn(warning.clone());
    }
    if operation.resource.storage == "/endpoints" {
        operation.warn(ENDPOINTS_WARNING);
    }
    if matches!(operation.call.info.verb.as_str(), "create" | "update" | "patch") {
        for (storage, what) in NOT_ENFORCED {
            if operation.resource.storage == *storage {
                operation.warn(*what);
            }
        }
    }
    if !operation.subresource().is_empty() {
        return subresources::serve(operation, incoming).await;
    }
    serve(operation, incoming).await
}

/// Answers objects that are never stored.
async fn review(api: &Api, call: &Call, incoming: Incoming) -> Result<Response, Status> {
    let object = body::parse(&call.parts.headers, &body::read(incoming).await?)?;
    let answer = reviews::answer(api, &call.user, &call.info, object)?;
    Ok(respond::json(201, &answer))
}

fn resource(api: &Arc<Api>, call: &Call) -> Result<Arc<ResourceType>, Status> {
    let info = &call.info;
    let catalog = api.catalog.load();
    let found = catalog.find(&info.group, &info.version, &info.resource);
    found.cloned().ok_or_else(Status::no_such_path)
}

/// POST of a binding without a pod in its path.
async fn bind(operation: Operation, incoming: Incoming) -> Result<Response, Status> {
    let catalog = operation.api.catalog.load();
    let pods = catalog.find("", "v1", "pods").cloned().ok_or_else(Status::no_such_path)?;
    let operation = Operation { resource: pods, ..operation };
    subresources::binding::create(&operation, &body::read(incoming).await?).await
}

async fn serve(operation: Operation, incoming: Incoming) -> Result<Response, Status> {
    let verb = operation.call.info.verb.clone();
    if !operation.resource.has_verb(&verb) {
        return Err(Status::method_not_allowed());
    }
    match verb.as_str() {
        "create" if operation.resource.kind == "Binding" => bind(operation, incoming).await,
        "get" => read::get(&operation),
        "list" => read::list(&operation),
        "watch" => watch::watch(operation),
        "create" => create::create(&operation, &body::read(incoming).await?).await,
        "update" => update::update(&operation, &body::read(incoming).await?).await,
        "patch" => patch::patch(&operation, &body::read(incoming).await?).await,
        "delete" => delete::delete(&operation, &body::read(incoming).await?).await,
        "deletecollection" => {
            delete::delete_collection(&operation, &body::read(incoming).await?).await
        }
        _ => Err(Status::method_not_allowed()),
    }
}
