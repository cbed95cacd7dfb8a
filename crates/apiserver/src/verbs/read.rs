//! Reading one object or a list.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use crate::negotiate::{self, View};
use crate::object;
use crate::operation::Operation;
use crate::respond::{self, Response};
use crate::selector::Labels;
use crate::selector::fields::Fields;
use crate::status::{Cause, Status};
use crate::store::{Expired, Snapshot, Stored};
use crate::table;
use crate::verbs::show;

/// What selects objects of a list or watch.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    pub labels: Labels,
    pub fields: Fields,
}

impl Selection {
    /// Reads `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// 400 for selectors that cannot be read.
    pub fn read(operation: &Operation) -> Result<Self, Status> {
        let query = &operation.call.query;
        Ok(Self {
            labels: Labels::parse(query.get("labelSelector").unwrap_or_default())?,
            fields: Fields::parse(
                query.get("fieldSelector").unwrap_or_default(),
                &operation.resource,
            )?,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub fn matches(&self, object: &Value) -> bool {
        self.labels.matches(&object["metadata"]["labels"]) && self.fields.matches(object)
    }
}

/// Answers GET of one object.
///
/// # Errors
/// The refusal that the client gets.
pub fn get(operation: &Operation) -> Result<Response, Status> {
    let name = &operation.call.info.name;
    check_get_version(operation)?;
    let stored =
        operation.api.store.get(&operation.key(name)).ok_or_else(|| operation.not_found(name))?;
    let format = negotiate::format(&operation.call.parts.headers)?;
    let value = show::in_version(&operation.resource, &stored.value);
    if format.view == View::Object
        && operation.warnings.lock().is_empty()
        && !format.yaml
        && matches!(value, std::borrow::Cow::Borrowed(_))
    {
        return Ok(respond::raw(200, "application/json", stored.json()));
    }
    show::object(operation, 200, &value)
}

fn check_get_version(operation: &Operation) -> Result<(), Status> {
    let Some(asked) = version(operation)? else { return Ok(()) };
    let newest = operation.api.store.revision();
    if asked > newest {
        return Err(too_large(Expired::Future { asked, newest }));
    }
    Ok(())
}

/// The request's `resourceVersion`, if it gives one; "0" counts as zero.
///
/// # Errors
/// 400 when it is not a number.
pub fn version(operation: &Operation) -> Result<Option<u64>, Status> {
    let text = operation.call.query.get("resourceVersion").unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Status::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
        ))
    })
}

/// The status for a version that is not there: 410 when gone, 504 when yet to come.
pub fn too_large(expired: Expired) -> Status {
    match expired {
        Expired::Old { .. } => Status::expired(expired.to_string()),
        Expired::Future { .. } => Status::new(504, "Timeout", format!("Timeout: {expired}"))
            .with_causes(vec![Cause {
                reason: "ResourceVersionTooLarge",
                message: "Too large resource version".into(),
                field: String::new(),
            }])
            .with_retry_after(1),
    }
}

/// The namespace a list is limited to.
pub fn namespace(operation: &Operation) -> Option<&str> {
    let namespace = operation.call.info.namespace.as_str();
    (operation.resource.namespaced && !namespace.is_empty()).then_some(namespace)
}

/// Where a list goes on: the revision it shows and the last key it gave.
struct Continue {
    revision: Option<u64>,
    after: (String, String),
}

/// Answers GET of a list.
///
/// # Errors
/// The refusal that the client gets.
pub fn list(operation: &Operation) -> Result<Response, Status> {
    let selection = Selection::read(operation)?;
    let query = &operation.call.query;
    if query.get("sendInitialEvents").is_some() {
        let cause = Cause {
            reason: "FieldValueForbidden",
            message: "Forbidden: sendInitialEvents is forbidden for list".into(),
            field: "sendInitialEvents".into(),
        };
        return Err(Status::invalid("meta.k8s.io", "ListOptions", "", vec![cause]));
    }
    let limit = usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(0);
    let from = query.get("continue").filter(|t| !t.is_empty()).map(read_token).transpose()?;
    let snapshot = snapshot(operation, from.as_ref())?;
    let start = match &from {
        Some(token) => snapshot.objects.partition_point(|o| place(o) <= token.after),
        None => 0,
    };
    let mut chosen = Vec::new();
    let mut rest = snapshot.objects[start..].iter().peekable();
    while let Some(stored) = rest.next_if(|_| limit == 0 || chosen.len() < limit) {
        let value = show::in_version(&operation.resource, &stored.value);
        if selection.matches(&value) {
            chosen.push(stored);
        }
    }
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), snapshot.revision.to_string().into());
    if rest.peek().is_some()
        && let Some(last) = chosen.last()
    {
        let token = write_token(snapshot.revision, &place(last));
        metadata.insert("continue".to_owned(), token.into());
        if selection.is_empty() {
            metadata.insert("remainingItemCount".to_owned(), rest.len().into());
        }
    }
    if operation.resource.custom.is_some() {
        metadata.entry("continue").or_insert_with(|| "".into());
    }
    answer(operation, &chosen, Value::Object(metadata))
}

fn place(stored: &Arc<Stored>) -> (String, String) {
    (stored.key.namespace.clone(), stored.key.name.clone())
}

fn snapshot(operation: &Operation, from: Option<&Continue>) -> Result<Snapshot, Status> {
    let store = &operation.api.store;
    let (storage, namespace) = (&operation.resource.storage, namespace(operation));
    let rule = operation.call.query.get("resourceVersionMatch").unwrap_or_default();
    let asked = version(operation)?;
    if let Some(token) = from {
        if asked.is_some_and(|version| version != 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        return match token.revision {
            None => Ok(store.list(storage, namespace)),
            Some(revision) => store.list_at(storage, namespace, revision).map_err(|_| {
                Status::expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
                )
            }),
        };
    }
    check_match(rule, asked)?;
    match asked {
        Some(revision) if rule == "Exact" => {
            store.list_at(storage, namespace, revision).map_err(too_large)
        }
        Some(asked) => {
            let newest = store.list(storage, namespace);
            if asked > newest.revision {
                return Err(too_large(Expired::Future { asked, newest: newest.revision }));
            }
            Ok(newest)
        }
        None => Ok(store.list(storage, namespace)),
    }
}

fn check_match(rule: &str, asked: Option<u64>) -> Result<(), Status> {
    let refuse = |message: &str| {
        let reason = if message.starts_with("Forbidden") {
            "FieldValueForbidden"
        } else {
            "FieldValueNotSupported"
        };
        let field = "resourceVersionMatch".to_owned();
        let cause = Cause { reason, message: message.to_owned(), field };
        Err(Status::invalid("meta.k8s.io", "ListOptions", "", vec![cause]))
    };
    match rule {
        "" => Ok(()),
        "Exact" | "NotOlderThan" if asked.is_none() => refuse(
            "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        "Exact" if asked == Some(0) => refuse(
            "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        "Exact" | "NotOlderThan" => Ok(()),
        other => refuse(&format!(
            "Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\", \"\""
        )),
    }
}

fn answer(
    operation: &Operation,
    chosen: &[&Arc<Stored>],
    metadata: Value,
) -> Result<Response, Status> {
    let resource = &operation.resource;
    let format = negotiate::format(&operation.call.parts.headers)?;
    let values: Vec<_> =
        chosen.iter().map(|stored| show::in_version(resource, &stored.value)).collect();
    let value = match format.view {
        View::Table => {
            let include = operation.call.query.get("includeObject").unwrap_or_default();
            let objects: Vec<&Value> = values.iter().map(AsRef::as_ref).collect();
            table::render(resource, &objects, include, metadata)
        }
        View::Metadata => {
            let items: Vec<Value> = values.iter().map(|value| table::partial(value)).collect();
            let items = if items.is_empty() { Value::Null } else { Value::Array(items) };
            json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": items,
            })
        }
        View::Object => {
            let items = values.into_iter().map(|value| item(resource.custom.is_some(), value));
            json!({
                "kind": resource.list_kind,
                "apiVersion": resource.api_version(),
                "metadata": metadata,
                "items": items.collect::<Vec<_>>(),
            })
        }
    };
    let mut response = show::encode(format, 200, &value);
    show::add_warnings(&mut response, &operation.warnings.lock());
    Ok(response)
}

/// Items of built-in lists do not repeat kind and version.
fn item(is_custom: bool, value: std::borrow::Cow<'_, Value>) -> Value {
    let mut value = value.into_owned();
    if !is_custom {
        object::remove(&mut value, "kind");
        object::remove(&mut value, "apiVersion");
    }
    value
}

fn write_token(revision: u64, (namespace, name): &(String, String)) -> String {
    let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "ns": namespace, "start": name});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn read_token(text: &str) -> Result<Continue, Status> {
    let wrong = || Status::bad_request("invalid continue token: continue key is not valid");
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
    let token: Value = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    let text = |field: &str| token[field].as_str().map(str::to_owned).ok_or_else(wrong);
    Ok(Continue { revision: token["rv"].as_u64(), after: (text("ns")?, text("start")?) })
}
