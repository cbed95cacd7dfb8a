//! From a parsed body to an object in full: unknown fields dealt with, defaults filled in.

use serde_json::Value;

use crate::crd;
use crate::defaults;
use crate::operation::Operation;
use crate::operation::options::FieldValidation;
use crate::schema::{self, decode};
use crate::status::Status;

/// Decodes a body as the operation's resource.
///
/// # Errors
/// 400 for wrong types, and for unknown fields when the client is strict.
pub fn decode(operation: &Operation, object: &mut Value) -> Result<(), Status> {
    let resource = &operation.resource;
    let unknown = if let Some(custom) = &resource.custom {
        check_metadata(operation, object)?;
        crd::values::prune(&custom.open_api, object)
    } else if let Some(schema) = &resource.schema {
        decode::decode(schema, &resource.kind, object)
            .map_err(|error| cannot_be_handled(operation, &error.to_string()))?
    } else {
        Vec::new()
    };
    report(operation, &unknown)?;
    complete(operation, object)
}

/// Fills in defaults; done again after admission, which may have added parts.
///
/// # Errors
/// 400 when admission made the object something else.
pub fn complete(operation: &Operation, object: &mut Value) -> Result<(), Status> {
    let resource = &operation.resource;
    if let Some(custom) = &resource.custom {
        crd::values::default(&custom.open_api, object);
    } else {
        defaults::apply(resource, object);
    }
    Ok(())
}

/// Decodes an object that admission changed; what is unknown is dropped without a word.
///
/// # Errors
/// 400 for wrong types.
pub fn admitted(
    operation: &Operation,
    kind: (&str, &str, &str),
    object: &mut Value,
) -> Result<(), Status> {
    if let Some(custom) = &operation.resource.custom {
        crd::values::prune(&custom.open_api, object);
        return complete(operation, object);
    }
    if let Some(schema) = schema::builtin(kind.0, kind.1, kind.2) {
        decode::decode(&schema, kind.2, object)
            .map_err(|error| cannot_be_handled(operation, &error.to_string()))?;
    }
    if kind.2 == operation.resource.kind { complete(operation, object) } else { Ok(()) }
}

fn check_metadata(operation: &Operation, object: &mut Value) -> Result<(), Status> {
    let Some(metadata) = object.get_mut("metadata") else { return Ok(()) };
    let unknown = decode::decode(schema::object_meta(), "ObjectMeta", metadata)
        .map_err(|error| cannot_be_handled(operation, &error.to_string()))?;
    let unknown: Vec<String> = unknown.iter().map(|path| format!("metadata.{path}")).collect();
    report(operation, &unknown)
}

fn report(operation: &Operation, unknown: &[String]) -> Result<(), Status> {
    let duplicates = std::mem::take(&mut *operation.duplicates.lock());
    let duplicates = duplicates.iter().map(|path| format!("duplicate field \"{path}\""));
    let unknown = unknown.iter().map(|path| format!("unknown field \"{path}\""));
    let texts: Vec<String> = duplicates.chain(unknown).collect();
    match operation.options.validation {
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            texts.into_iter().for_each(|text| operation.warn(text));
            Ok(())
        }
        FieldValidation::Strict if texts.is_empty() => Ok(()),
        FieldValidation::Strict => {
            let why = format!("strict decoding error: {}", texts.join(", "));
            Err(cannot_be_handled(operation, &why))
        }
    }
}

fn cannot_be_handled(operation: &Operation, why: &str) -> Status {
    let resource = &operation.resource;
    if resource.custom.is_some() {
        return Status::bad_request(why.to_owned());
    }
    Status::bad_request(format!(
        "{kind} in version \"{version}\" cannot be handled as a {kind}: {why}",
        kind = resource.kind,
        version = resource.version,
    ))
}
