//! One request to one resource, on its way through the verbs.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use crate::api::Api;
use crate::body;
use crate::request::{Call, Query, RequestInfo};
use crate::resources::ResourceType;
use crate::status::{Cause, Status};
use crate::store::Key;
use crate::user::{MASTERS, User};

pub mod options;

use options::{FieldValidation, WriteOptions};

/// The name under which the server acts on its own behalf.
const SERVER: &str = "system:apiserver";

/// One request to one resource. Write verbs also carry options and gather warnings.
#[derive(Debug)]
pub struct Operation {
    pub api: Arc<Api>,
    pub call: Call,
    pub resource: Arc<ResourceType>,
    pub options: WriteOptions,
    pub warnings: parking_lot::Mutex<Vec<String>>,
    /// Fields that the body gives twice.
    pub duplicates: parking_lot::Mutex<Vec<String>>,
}

impl Operation {
    /// Where the named object is kept.
    pub fn key(&self, name: &str) -> Key {
        let namespace = if self.resource.namespaced { &self.call.info.namespace } else { "" };
        Key::new(&self.resource.storage, namespace, name)
    }

    /// An operation that the server itself does on an object.
    pub fn by_server(api: &Arc<Api>, resource: &Arc<ResourceType>, key: &Key) -> Self {
        let (parts, ()) = http::Request::new(()).into_parts();
        let info = RequestInfo {
            is_resource: true,
            verb: "delete".to_owned(),
            group: resource.group.clone(),
            version: resource.version.clone(),
            namespace: key.namespace.clone(),
            resource: resource.plural.clone(),
            name: key.name.clone(),
            ..RequestInfo::default()
        };
        let user =
            User { name: SERVER.to_owned(), groups: vec![MASTERS.to_owned()], ..User::default() };
        let options = WriteOptions {
            dry_run: false,
            manager: "kube-apiserver".to_owned(),
            has_manager: true,
            validation: FieldValidation::Ignore,
            force: false,
        };
        Self {
            api: Arc::clone(api),
            call: Call { parts, info, query: Query::default(), user },
            resource: Arc::clone(resource),
            options,
            warnings: parking_lot::Mutex::default(),
            duplicates: parking_lot::Mutex::default(),
        }
    }

    /// 404 for the named object.
    pub fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.resource.group, &self.resource.plural, name)
    }

    /// 409 for a lost race over the named object.
    pub fn modified(&self, name: &str) -> Status {
        Status::modified(&self.resource.group, &self.resource.plural, name)
    }

    /// 403 for the named object.
    pub fn forbidden(&self, name: &str, why: impl std::fmt::Display) -> Status {
        Status::forbidden(&self.resource.group, &self.resource.plural, name, why)
    }

    /// Adds a warning that the client prints.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// The subresource, or "".
    pub fn subresource(&self) -> &str {
        &self.call.info.subresource
    }

    /// An object in the form in which it is kept.
    pub fn newest(&self, name: &str) -> Option<Arc<crate::store::Stored>> {
        self.api.store.newest(&self.key(name))
    }

    /// Parses the body as an object of this resource.
    ///
    /// # Errors
    /// 400 and 415 for bodies that cannot be read.
    pub fn parse(&self, bytes: &Bytes) -> Result<Value, Status> {
        let kind = &self.resource.kind;
        let (value, duplicates) =
            body::parse_noting(&self.call.parts.headers, bytes).map_err(|status| {
                match status.message().strip_prefix("couldn't get version/kind") {
                    Some(_) => Status::bad_request(format!(
                        "the object provided is unrecognized (must be of type {kind}): {} ({})",
                        status.message(),
                        String::from_utf8_lossy(bytes)
                    )),
                    None => status,
                }
            })?;
        *self.duplicates.lock() = duplicates;
        if self.resource.custom.is_some() && value["kind"].as_str().unwrap_or_default().is_empty() {
            let text = String::from_utf8_lossy(bytes);
            return Err(Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): Object 'Kind' is missing in '{text}' ({text})"
            )));
        }
        Ok(value)
    }

    /// Checks a body's kind and version, filling them in where they are missing.
    ///
    /// # Errors
    /// 400 when they are others.
    pub fn check_kind(&self, object: &mut Value) -> Result<(), Status> {
        let (version, kind) = (self.resource.api_version(), &self.resource.kind);
        if self.resource.custom.is_some() {
            self.check_custom_kind(object)?;
        }
        check_kind(object, &version, kind)
    }
}

impl Operation {
    /// Custom kinds are refused in other words than built-in ones.
    fn check_custom_kind(&self, object: &Value) -> Result<(), Status> {
        let resource = &self.resource;
        let version = resource.api_version();
        let have = object["apiVersion"].as_str().unwrap_or(&version);
        if have != version {
            return Err(Status::bad_request(format!(
                "the API version in the data ({have}) does not match the expected API version ({version})"
            )));
        }
        let kind = object["kind"].as_str().unwrap_or(&resource.kind);
        if kind == resource.kind {
            return Ok(());
        }
        let cause = Cause {
            reason: "FieldValueInvalid",
            message: format!("Invalid value: \"{kind}\": must be {}", resource.kind),
            field: "kind".into(),
        };
        let name = crate::object::name(object);
        Err(Status::invalid(&resource.group, kind, name, vec![cause]))
    }
}

/// Checks a body's kind and version, filling them in where they are missing.
///
/// # Errors
/// 400 when they are others.
pub fn check_kind(object: &mut Value, version: &str, kind: &str) -> Result<(), Status> {
    let Some(map) = object.as_object_mut() else {
        return Err(Status::bad_request(
            "couldn't get version/kind; json parse error: json: cannot unmarshal into Go value of \
             type struct",
        ));
    };
    let (group, short) = version.rsplit_once('/').unwrap_or(("core", version));
    let group = group.split('.').next().unwrap_or(group);
    for (field, wanted, what) in [("kind", kind, "kind"), ("apiVersion", version, "API version")] {
        match map.get(field).and_then(Value::as_str) {
            None | Some("") => drop(map.insert(field.to_owned(), wanted.into())),
            Some(have) if have == wanted => (),
            Some(have) if what == "kind" => {
                return Err(Status::bad_request(format!(
                    "{have} in version \"{short}\" cannot be handled as a {kind}: converting ({short}.{have}) to ({group}.{kind}): unknown conversion"
                )));
            }
            Some(have) => {
                return Err(Status::bad_request(format!(
                    "{kind} in version \"{}\" cannot be handled as a {kind}: no kind \"{kind}\" is registered for version \"{have}\" in scheme \"pkg/runtime/scheme.go:111\"",
                    have.rsplit('/').next().unwrap_or(have)
                )));
            }
        }
    }
    Ok(())
}
