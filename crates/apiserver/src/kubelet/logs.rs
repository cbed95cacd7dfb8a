//! `pods/NAME/log`: the output of a container, streamed as the kubelet sends it.

use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};

use super::{container, find_pod, kubelet_address, query_string, relayed, text};
use crate::api::Api;
use crate::request::Call;
use crate::respond::{self, Response};
use crate::status::{Cause, Status};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// Streams the log that the query asks for.
///
/// # Errors
/// 404 without the pod, 400 for an unknown container, 422 for options out of bounds, and whatever
/// the kubelet answers.
pub async fn serve(api: &Api, call: &Call) -> Result<Response, Status> {
    let options = options(call)?;
    let pod = find_pod(api, &call.info)?;
    let container = container(&pod.value, call.query.get("container"))?;
    let node = text(&pod.value, "/spec/nodeName");
    if node.is_empty() {
        return Ok(respond::raw(200, "text/plain", ""));
    }
    let (host, port) = kubelet_address(api, node)?;
    let path = format!(
        "/containerLogs/{}/{}/{container}?{}",
        call.info.namespace,
        call.info.name,
        query_string(&options)
    );
    let request = Request::get(path)
        .header(header::HOST, format!("{host}:{port}"))
        .body(Empty::new())
        .map_err(Status::internal)?;
    let answer = api.kubelet.send((&host, port), request).await?;
    let (parts, body) = answer.into_parts();
    if !parts.status.is_success() {
        let bytes = body.collect().await.map_err(Status::internal)?.to_bytes();
        let message = String::from_utf8_lossy(&bytes);
        return Err(relayed(parts.status.as_u16(), &message));
    }
    let mut response = Response::new(body.map_err(Into::into).boxed_unsync());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    Ok(response)
}

/// The options that the kubelet is told, checked as Kubernetes checks them.
fn options(call: &Call) -> Result<Vec<(&'static str, String)>, Status> {
    let query = &call.query;
    let mut causes = Vec::new();
    let mut invalid = |field: &str, value: i64, why: &str| {
        causes.push(Cause {
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {value}: {why}"),
            field: field.to_owned(),
        });
    };
    let mut options = Vec::new();
    let limits = [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ];
    for (name, least, why) in limits {
        if let Some(number) = query.number(name)? {
            if number < least {
                invalid(name, number, why);
            }
            options.push((name, number.to_string()));
        }
    }
    let since_time = query.get("sinceTime").filter(|time| !time.is_empty());
    if let Some(time) = since_time {
        if query.get("sinceSeconds").is_some_and(|seconds| !seconds.is_empty()) {
            causes.push(Cause {
                reason: "FieldValueForbidden",
                message: "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"
                    .to_owned(),
                field: String::new(),
            });
        }
        time.parse::<jiff::Timestamp>().map_err(|error| {
            Status::bad_request(format!("sinceTime {time:?} is not a time: {error}"))
        })?;
        options.push(("sinceTime", time.to_owned()));
    }
    if !causes.is_empty() {
        return Err(Status::invalid("", "PodLogOptions", &call.info.name, causes));
    }
    for name in ["follow", "previous", "timestamps"] {
        if query.flag(name) {
            options.push((name, "true".to_owned()));
        }
    }
    Ok(options)
}
