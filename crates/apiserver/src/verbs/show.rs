//! Turning stored objects into answers: version, view (object, table, metadata) and encoding.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::convert;
use crate::negotiate::{self, Format, View};
use crate::operation::Operation;
use crate::resources::ResourceType;
use crate::respond::{self, Response};
use crate::status::Status;
use crate::table;

/// An object as the requested version shows it.
pub fn in_version<'a>(resource: &ResourceType, stored: &'a Value) -> Cow<'a, Value> {
    let is_same = stored["apiVersion"].as_str() == Some(&resource.api_version())
        && stored["kind"].as_str() == Some(&resource.kind);
    if is_same {
        return Cow::Borrowed(stored);
    }
    let mut value = stored.clone();
    convert::from_storage(resource, &mut value);
    Cow::Owned(value)
}

/// An object (or a `Status`, or a subresource's own kind) as the answer.
///
/// # Errors
/// 406 when the client takes nothing we have.
pub fn object(operation: &Operation, code: u16, value: &Value) -> Result<Response, Status> {
    let format = negotiate::format(&operation.call.parts.headers)?;
    let is_own = value["kind"].as_str() == Some(&operation.resource.kind);
    let mut response = match format.view {
        View::Table if is_own => {
            let include = operation.call.query.get("includeObject").unwrap_or_default();
            let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
            encode(format, code, &table::render(&operation.resource, &[value], include, metadata))
        }
        View::Metadata if is_own => encode(format, code, &table::partial(value)),
        _ => encode(format, code, value),
    };
    add_warnings(&mut response, &operation.warnings.lock());
    Ok(response)
}

/// Encodes a value.
pub fn encode(format: Format, code: u16, value: &Value) -> Response {
    if format.yaml { respond::yaml(code, value) } else { respond::json(code, value) }
}

/// Adds `Warning` headers, as clients print them.
pub fn add_warnings(response: &mut Response, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(HeaderName::from_static("warning"), value);
        }
    }
}
